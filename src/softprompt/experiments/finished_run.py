"""Read a finished run whose test was scored: its answers, its scores, its curves."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from softprompt.errors import BadArtefact, BadInput, SoftPromptError
from softprompt.evaluation.evaluate import answer_loss
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
    loss: float | None
    """Negative log-likelihood of the right answer among the choices, in nats, where they were ranked."""


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

    def answer_losses(self) -> list[float] | None:
        """Return each test example's negative log-likelihood of the right answer, in nats; None without ranking."""
        losses = [answer.loss for answer in self.answers]
        return [loss for loss in losses if loss is not None] if None not in losses else None

    def loss_curve(self) -> list[tuple[int, float]]:
        """Read steps, and the dev loss after them in nats; empty where choices are not ranked."""
        entries = _read_records(self.folder / "metrics.jsonl")
        return [(entry["step"], entry["dev_loss"]) for entry in entries if entry.get("dev_loss") is not None]

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
    scores = record.get("scores")
    loss = answer_loss(scores, references[0]) if scores and references[0] in scores else None
    return Answer(record["source"], record["target"], record["prediction"], record.get("group", ""), references, loss)


def read_references(run: FinishedRun) -> tuple[References, list[str] | None]:
    """Return the right answers of test, and the groups that are scored together."""
    groups = [answer.group for answer in run.answers]
    references = [answer.references for answer in run.answers]
    if run.card.choices or any(groups) or any(answer.references != (answer.target,) for answer in run.answers):
        return references, groups
    # Free text may have several right answers: runs of version 0.1 did not write them down, and only the data has them.
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
