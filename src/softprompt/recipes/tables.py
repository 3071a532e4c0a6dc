"""Tables: papers' results beside the recipes that should give them, and ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from softprompt.errors import UnknownName
from softprompt.recipes.plan import Plan

Score = float | str
"""As it is printed, in percent; text where the paper prints more than a number: "79.1/83.3", "0†"."""


def as_number(score: Score | None) -> float | None:
    """The number that enters a mean: of two metrics their mean, without daggers and deviations."""
    if score is None or isinstance(score, float | int):
        return score
    parts = [part.split("±")[0].strip("† ") for part in score.split("/")]
    return sum(map(float, parts)) / len(parts) if all(parts) and "-" not in parts else None


@dataclass(frozen=True)
class Column:
    task: str
    metric: str
    """Of softprompt.tasks.metrics; "pearson+spearman" is the mean of both, as papers average pairs; "f1" is that of the
    class the task names."""
    heading: str


@dataclass(frozen=True)
class Line:
    name: str
    """As in a folder and in --lines."""
    title: str
    plan: Callable[[str], Plan] | None = None
    """The recipe for a task by name; None for a line that is only quoted."""
    published: Mapping[str, Score] = field(default_factory=dict)
    """By task."""
    parameters: str = ""


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    source: str
    """Where the published numbers stand."""
    backbone: str
    """The paper's, as the hub has it."""
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    seeds: int
    """Runs of each cell."""
    notes: tuple[str, ...] = ()

    def chosen(self, tasks: list[str] | None, lines: list[str] | None) -> "tuple[list[Column], list[Line]]":
        """Columns and lines by name, all that can be run without names. Raises UnknownName."""
        columns, runnable = list(self.columns), [line for line in self.lines if line.plan]
        if tasks is not None:
            columns = list(dict.fromkeys(self._column(task) for task in tasks))
        if lines is not None:
            by_name = {line.name: line for line in runnable}
            for name in lines:
                if name not in by_name:
                    raise UnknownName(f"line of {self.name}", name, by_name)
            runnable = [by_name[name] for name in dict.fromkeys(lines)]
        return columns, runnable

    def _column(self, task: str) -> Column:
        found = [column for column in self.columns if task in (column.task, column.task.split("/")[1])]
        if not found:
            known = [column.task if "/" in task else column.task.split("/")[1] for column in self.columns]
            raise UnknownName(f"task of {self.name}", task, known)
        return found[0]
