"""The results of sweep, compare and reproduce: table.json as objects.

Every class is a part of a table.json; its fields are the keys, in the order of the file. `as_json` gives back exactly
what the file holds, so a key that a table lacks (a comparison of finished runs has no costs) is None here and absent
there. Scores lie between 0 and 1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from softprompt.errors import BadArtefact, UnknownName
from softprompt.tasks.metrics import percent

Part = TypeVar("Part", bound="TablePart")


class TablePart(BaseModel):
    """A part of a table.json; keys that another version added are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def as_json(self) -> dict[str, object]:
        """Return the keys and values that table.json holds."""
        return self.model_dump(mode="json", exclude_unset=True)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a table.json, or that of the folder `path`. Raises BadArtefact."""
        file = Path(path) / "table.json" if Path(path).is_dir() else Path(path)
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise BadArtefact(f"{file} is not a valid table.json: {place}: {first['msg']}.") from None
        except (OSError, ValueError) as error:
            raise BadArtefact(f"{file} cannot be read: {error}.") from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()})"

    __str__ = __repr__

    def summary(self) -> str:
        """Return what `repr` shows between the brackets."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in type(self).model_fields)


# sweep


class SettingRow(TablePart):
    """A setting of a sweep, with all its seeds."""

    label: str
    values: dict[str, object]
    """The searched recipe fields and method options, by name."""
    method: str
    rates: dict[str, float]
    """Learning rates by parameter group."""
    dev: list[float]
    """Best dev score of each seed."""
    mean: float
    deviation: float | None
    """Standard deviation over seeds; None with one seed."""
    best_steps: list[int]
    stopped: list[str | None]
    """Why each seed's run ended before its last step; None where it did not."""
    trainable: int
    folders: list[str]

    def summary(self) -> str:
        return f"{self.label!r}, dev {percent(self.mean)}"


class ChosenSetting(SettingRow):
    """The setting that dev chose, with its test scores."""

    recipe: dict[str, object]
    test: list[float]
    """Test score of each seed."""
    test_mean: float
    test_deviation: float | None
    test_metrics: list[dict[str, float]]


class Rung(TablePart):
    """A rung of successive halving."""

    step: int
    dev: dict[str, float]
    """Mean dev score of each setting, by label."""
    kept: list[str]


class Halving(TablePart):
    """Successive halving: one in `eta` settings goes on at each rung."""

    eta: int
    rungs: list[Rung]


class SweepTable(TablePart):
    """The result of a sweep."""

    format: int
    task: str
    metric: str
    backbone: str
    examples: dict[str, int]
    """Examples of each split."""
    seeds: int
    runs: int
    halving: Halving | None
    settings: list[SettingRow]
    chosen: ChosenSetting
    tested: list[str]
    """Labels of all settings whose test was ever scored in this folder."""
    floors: dict[str, float]
    """Test score of the majority answer and of the backbone without a prompt (zero_shot)."""
    versions: dict[str, str]

    def summary(self) -> str:
        return (
            f"{self.task!r}, {len(self.settings)} settings, {self.seeds} seeds, chosen {self.chosen.label!r}: dev "
            f"{percent(self.chosen.mean)}, test {percent(self.chosen.test_mean)}"
        )


# compare


class PairedDifference(TablePart):
    """The difference of a method's mean test score to the baseline's, with its 95 % interval."""

    mean: float
    low: float
    high: float
    verdict: str
    """better or worse than the baseline, or tie where the interval contains 0."""


class EndpointDifference(PairedDifference):
    """The difference in another endpoint than the score (softprompt.experiments.endpoints), or in a mean over tasks."""

    detectable: float
    """The smallest true difference that four of five such experiments would have found."""


class OverallRow(TablePart):
    """How a method differs from the baseline in the mean over tasks."""

    label: str
    difference: EndpointDifference


class OverallEndpoint(TablePart):
    """The methods of a comparison by one endpoint, in the mean over tasks."""

    endpoint: str
    title: str
    tasks: list[str]
    rows: list[OverallRow]


class MethodCosts(TablePart):
    """Costs of training a method alone."""

    seconds_per_step: float
    tokens_per_second: float
    peak_memory_mib: float | None
    minutes: float
    """Of all training steps of one run, without evaluations."""


class TriedSetting(TablePart):
    """A setting that a method tried on seed 0."""

    factor: float
    """Multiplies all learning rates of the method."""
    rates: dict[str, float]
    dev: float
    stopped: str | None


class MethodRow(TablePart):
    """A method on one task: its scores, its difference to the baseline, its size and costs."""

    label: str
    method: str
    options: dict[str, object]
    rates: dict[str, float]
    seeds: list[int | None]
    test: list[float]
    """Test score of each seed."""
    mean: float
    deviation: float | None
    dev: list[float]
    difference: PairedDifference | None
    """None for the baseline."""
    steps: int
    batch: int
    best_steps: list[int]
    stopped: list[str | None]
    trainable: int
    stored: int
    curves: list[list[tuple[int, float]]]
    """For each seed: steps, and the dev score after them."""
    folders: list[str]
    costs: MethodCosts | None = None
    endpoints: dict[str, list[float]] | None = None
    """For each endpoint: the value of each seed; steps_to_90 as a logarithm."""
    endpoint_differences: dict[str, EndpointDifference] | None = None
    factor: float | None = None
    """The factor of the learning rates that dev chose."""
    tried: list[TriedSetting] | None = None

    def summary(self) -> str:
        verdict = "baseline" if self.difference is None else self.difference.verdict
        return f"{self.label!r}, test {percent(self.mean)}, {verdict}"


class TaskComparison(TablePart):
    """The methods of a comparison on one task."""

    task: str
    metric: str
    baseline: str
    train_examples: int | None = None
    dev_examples: int | None = None
    test_examples: int
    floors: dict[str, float]
    rows: list[MethodRow]
    seconds: float | None = None
    """Spent on the task by all calls so far."""

    def row(self, label: str) -> MethodRow:
        """Return the row of a method. Raises UnknownName."""
        return _find({row.label: row for row in self.rows}, label, f"method on {self.task}")

    def summary(self) -> str:
        return f"{self.task!r}, {', '.join(f'{row.label} {percent(row.mean)}' for row in self.rows)}"


class ComparisonTable(TablePart):
    """The result of a comparison."""

    format: int
    title: str
    backbone: str
    setting: dict[str, object] | None = None
    budget: int | None
    """Settings that each method tried; None: not known, of finished runs."""
    factors: list[float] | None = None
    seeds: int | None = None
    baseline: str | None = None
    steps: int | None = None
    epochs: int | None = None
    batch: int | None = None
    methods: list[str] | None = None
    notes: list[str]
    """How to read the scores."""
    tasks: list[TaskComparison]
    overall: list[OverallEndpoint] | None = None
    """Means over tasks, where there are several."""
    versions: dict[str, str]

    def task(self, name: str) -> TaskComparison:
        """Return the comparison on one task. Raises UnknownName."""
        return _find({part.task: part for part in self.tasks}, name, "task of the comparison")

    def summary(self) -> str:
        return f"{self.title!r}, tasks {', '.join(part.task for part in self.tasks)}"


# reproduce


class SplitScores(TablePart):
    """Scores on one split, and how many answers were cut, empty or none of the choices."""

    metrics: dict[str, float]
    n: int
    truncated: int
    empty: int
    unparsable: int


class TableColumn(TablePart):
    """A column of a reproduced table: a task."""

    task: str
    metric: str
    heading: str


class TableLine(TablePart):
    """A line that was run."""

    line: str
    title: str


class PublishedLine(TableLine):
    """A line with published scores, in percent, as they are printed."""

    parameters: str
    scores: dict[str, int | float | str]
    """By task."""


class Cell(TablePart):
    """A line of a table on one task, with all its seeds."""

    line: str
    task: str
    metric: str
    scores: list[float]
    """Test score of each seed."""
    dev: list[float]
    other: list[float]
    """Test scores read the other way: generated where the score ranks the choices, and the reverse."""
    unparsable: float
    """Share of generated test answers that were none of the choices, mean over seeds."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval of the mean; None where each seed has other test examples."""
    steps: list[int]
    """Steps of the checkpoints that dev chose."""
    stopped: list[str | None]
    """Why a run ended before its last step: not finite, or out of patience."""
    trainable: int
    published: int | float | str | None
    mean: float
    deviation: float | None

    def summary(self) -> str:
        return f"{self.line!r}, {self.task!r}, test {percent(self.mean)}, published {self.published}"


class ReproductionTable(TablePart):
    """The result of a reproduction: a paper's table, what was published and what came out."""

    table: str
    title: str
    source: str
    backbone: str
    protocol: str
    protocol_seeds: int
    """Seeds that the protocol asks for."""
    seeds: int
    changes: dict[str, object]
    """Recipe fields and method options that differ from the paper's."""
    spec: dict[str, object]
    """Fields of the task that differ."""
    setting: dict[str, object]
    """Fields of the setting that differ."""
    columns: list[TableColumn]
    rows: dict[str, dict[str, int]]
    """Examples of each split, by task."""
    floors: dict[str, dict[str, SplitScores]]
    """Scores of `majority` and `zero_shot`, by task."""
    published: list[PublishedLine]
    lines: list[TableLine]
    cells: list[Cell]
    versions: dict[str, str]

    def cell(self, line: str, task: str) -> Cell:
        """Return the cell of a line on a task. Raises UnknownName."""
        own = {cell.line: cell for cell in self.cells if cell.task == task}
        return _find(own, line, f"line of {self.table} on {task}")

    def summary(self) -> str:
        return f"{self.title!r}, {len(self.cells)} of {len(self.lines) * len(self.columns)} cells, {self.seeds} seeds"


def _find(parts: Mapping[str, Part], name: str, what: str) -> Part:
    if name not in parts:
        raise UnknownName(what, name, parts)
    return parts[name]
