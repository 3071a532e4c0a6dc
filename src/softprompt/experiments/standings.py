"""What finished runs on one task say about their methods: scores, differences, curves, sizes.

An entry is a method (in one setting) with its runs, one a seed; a standing is one entry's row, as plain JSON.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.errors import BadArtefact, BadInput, SoftPromptError
from softprompt.evaluation.bootstrap import differences
from softprompt.runs.prompt import PromptCard, load_prompt
from softprompt.runs.run_card import RunCard, read_run_card
from softprompt.tasks.metrics import References
from softprompt.tasks.registry import task_again


@dataclass(frozen=True)
class FinishedRun:
    """A finished run whose test was scored, read from its folder."""

    folder: Path
    card: PromptCard
    told: RunCard
    answers: list[dict[str, Any]]
    """The records of predictions-test.jsonl."""

    @property
    def metric(self) -> str:
        return self.card.metrics[0]

    def score(self, split: str) -> float:
        value: float = self.card.scores[split]["metrics"][self.metric]
        return value

    @property
    def questions(self) -> list[tuple[str, str]]:
        """What was asked of test, and what was to be answered: the same for runs that can be compared."""
        return [(answer["source"], answer["target"]) for answer in self.answers]

    @property
    def predictions(self) -> list[str]:
        return [answer["prediction"] for answer in self.answers]

    def curve(self) -> list[tuple[int, float]]:
        """Steps, and the dev metric after them."""
        entries = _read_lines(self.folder / "metrics.jsonl")
        return [(entry["step"], entry["dev"][self.metric]) for entry in entries if "dev" in entry]


def read_finished(folder: Path) -> FinishedRun:
    """Raises BadArtefact for a folder without a finished run, BadInput for a run whose test was not scored."""
    card = load_prompt(folder).card
    path = folder / "predictions-test.jsonl"
    if "test" not in card.scores or not path.is_file():
        raise BadInput(
            f"{folder} holds a run without a test score ({path.name}), so there is nothing to compare; a candidate of "
            "a sweep that was not chosen has none."
        )
    return FinishedRun(folder, card, read_run_card(folder), _read_lines(path))


def standings(
    entries: Mapping[str, Sequence[FinishedRun]], baseline: str, *, paired: bool = True
) -> list[dict[str, Any]]:
    """A row for each entry: its scores, and how they differ from those of the entry `baseline`.

    All runs must have been asked the same. `paired`: run i of every entry has the same seed.
    """
    first = next(iter(entries.values()))[0]
    references, groups = _references(first)
    found = differences(
        [first.metric], {label: [run.predictions for run in runs] for label, runs in entries.items()}, baseline,
        references, groups, paired=paired,
    )  # fmt: skip
    rows = []
    for label, runs in entries.items():
        test, difference = [run.score("test") for run in runs], found[label]
        rows.append({
            "label": label,
            "method": runs[0].card.method,
            "options": runs[0].card.options,
            "rates": runs[0].told.recipe.rates,
            "seeds": [run.card.seed for run in runs],
            "test": test,
            "mean": statistics.mean(test),
            "deviation": statistics.stdev(test) if len(test) > 1 else None,
            "dev": [run.score("dev") for run in runs],
            "difference": None if label == baseline else {
                "mean": difference.mean, "low": difference.low, "high": difference.high, "verdict": difference.verdict,
            },
            "steps": runs[0].told.recipe.steps,
            "batch": runs[0].told.recipe.batch,
            "best_steps": [run.card.best["step"] if run.card.best else 0 for run in runs],
            "stopped": [run.card.stopped for run in runs],
            "trainable": runs[0].card.trainable,
            "stored": runs[0].card.stored,
            "curves": [run.curve() for run in runs],
            "folders": [str(run.folder) for run in runs],
        })  # fmt: skip
    return rows


def floors_in(runs: Sequence[FinishedRun]) -> dict[str, float]:
    """The floors that the runs' cards hold, by name."""
    scores = runs[0].card.scores
    return {name: scores[name]["metrics"][runs[0].metric] for name in ("majority", "zero_shot") if name in scores}


def _references(run: FinishedRun) -> tuple[References, list[str] | None]:
    """What was right on test, and the groups that are scored together."""
    groups = [answer.get("group", "") for answer in run.answers]
    if run.card.choices or any(groups):
        return [tuple(a.get("references") or (a["target"],)) for a in run.answers], groups
    # Free text may have several right answers, and only the data says which.
    try:
        test = task_again(run.told.task).examples["test"]
    except SoftPromptError as error:
        raise BadInput(
            f"{run.folder}: the right answers of its test examples must be read again, and that failed: {error}"
        ) from None
    return [example.golds() for example in test], [example.group for example in test]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise BadArtefact(
            f"{path} cannot be read: {error}. It is part of a finished run; copy the folder whole."
        ) from None
