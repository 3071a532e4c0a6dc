"""Read finished runs on one task, and compare their methods: scores, differences, curves, sizes.

An entry is a method (in one setting) with its runs, one for each seed.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from softprompt.errors import BadArtefact, BadInput, SoftPromptError
from softprompt.evaluation.bootstrap import Difference, differences
from softprompt.evaluation.floors import FLOORS
from softprompt.experiments.tables import MethodRow, PairedDifference
from softprompt.runs.prompt import PromptCard, load_prompt
from softprompt.runs.run_card import RunCard, read_run_card
from softprompt.tasks.metrics import References
from softprompt.tasks.registry import task_again


class Answer(NamedTuple):
    """A record of predictions-test.jsonl."""

    source: str
    target: str
    prediction: str
    group: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class FinishedRun:
    """A finished run whose test was scored, read from its folder."""

    folder: Path
    card: PromptCard
    run_card: RunCard
    answers: list[Answer]

    @property
    def metric(self) -> str:
        """The task's first metric."""
        return self.card.metrics[0]

    def score(self, split: str) -> float:
        """Return the score on a split, in the task's first metric."""
        value: float = self.card.scores[split]["metrics"][self.metric]
        return value

    @property
    def questions(self) -> list[tuple[str, str]]:
        """Sources and targets of test: the same for runs that can be compared."""
        return [(answer.source, answer.target) for answer in self.answers]

    @property
    def predictions(self) -> list[str]:
        """Answers to the test examples."""
        return [answer.prediction for answer in self.answers]

    def curve(self) -> list[tuple[int, float]]:
        """Read steps, and the dev score after them."""
        entries = _read_records(self.folder / "metrics.jsonl")
        return [(entry["step"], entry["dev"][self.metric]) for entry in entries if "dev" in entry]


def read_finished(folder: Path) -> FinishedRun:
    """Read the finished run in `folder`.

    Raises:
      BadArtefact: The folder holds no finished run.
      BadInput: The run's test was not scored.
    """
    card = load_prompt(folder).card
    path = folder / "predictions-test.jsonl"
    if "test" not in card.scores or not path.is_file():
        raise BadInput(
            f"{folder} holds a run without a test score ({path.name}), so there is nothing to compare; a candidate of "
            "a sweep that was not chosen has none."
        )
    return FinishedRun(folder, card, read_run_card(folder), [_parse_answer(one) for one in _read_records(path)])


def _parse_answer(record: dict[str, Any]) -> Answer:
    references = tuple(record.get("references") or (record["target"],))
    return Answer(record["source"], record["target"], record["prediction"], record.get("group", ""), references)


def standings(entries: Mapping[str, Sequence[FinishedRun]], baseline: str, *, paired: bool = True) -> list[MethodRow]:
    """Compare each entry's scores with those of the entry `baseline`.

    All runs must have answered the same examples. `paired`: run i of every entry has the same seed.
    """
    first = next(iter(entries.values()))[0]
    references, groups = _read_references(first)
    found = differences(
        [first.metric], {label: [run.predictions for run in runs] for label, runs in entries.items()}, baseline,
        references, groups, paired=paired,
    )  # fmt: skip
    return [_row(label, runs, None if label == baseline else found[label]) for label, runs in entries.items()]


def _row(label: str, runs: Sequence[FinishedRun], difference: Difference | None) -> MethodRow:
    first, test = runs[0], [run.score("test") for run in runs]
    return MethodRow(
        label=label,
        method=first.card.method,
        options=first.card.options,
        rates=first.run_card.recipe.rates,
        seeds=[run.card.seed for run in runs],
        test=test,
        mean=statistics.mean(test),
        deviation=statistics.stdev(test) if len(test) > 1 else None,
        dev=[run.score("dev") for run in runs],
        difference=None if difference is None else PairedDifference(
            mean=difference.mean, low=difference.low, high=difference.high, verdict=difference.verdict
        ),
        steps=first.run_card.recipe.steps,
        batch=first.run_card.recipe.batch,
        best_steps=[run.card.best["step"] if run.card.best else 0 for run in runs],
        stopped=[run.card.stopped for run in runs],
        trainable=first.card.trainable,
        stored=first.card.stored,
        curves=[run.curve() for run in runs],
        folders=[str(run.folder) for run in runs],
    )  # fmt: skip


def floors_in(runs: Sequence[FinishedRun]) -> dict[str, float]:
    """Return the floors that the runs' cards hold, by name."""
    scores = runs[0].card.scores
    return {name: scores[name]["metrics"][runs[0].metric] for name in FLOORS if name in scores}


def _read_references(run: FinishedRun) -> tuple[References, list[str] | None]:
    """Return the right answers of test, and the groups that are scored together."""
    groups = [answer.group for answer in run.answers]
    if run.card.choices or any(groups):
        return [answer.references for answer in run.answers], groups
    # Free text may have several right answers, and only the data has them.
    try:
        test = task_again(run.run_card.task).examples["test"]
    except SoftPromptError as error:
        raise BadInput(
            f"{run.folder}: the right answers of its test examples must be read again, and that failed: {error}"
        ) from None
    return [example.golds() for example in test], [example.group for example in test]


def _read_records(path: Path) -> list[dict[str, Any]]:
    """Read the lines of JSON in `path`; what they hold (Any) differs from file to file. Raises BadArtefact."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise BadArtefact(
            f"{path} cannot be read: {error}. It is part of a finished run; copy the folder whole."
        ) from None
