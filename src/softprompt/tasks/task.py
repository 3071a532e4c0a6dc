"""What a task is: examples with a source and a target, in three splits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Scoring = Literal["ranked", "generated"]
"""How an answer is read where there are choices: the likeliest of them, or free text that must be one of them."""


@dataclass(frozen=True)
class Example:
    """One thing to ask a backbone.

    `source` is the text, `cue` what must stand at its end even when the source is cut ("\\nTeam:").
    `choices` are the answers allowed, all of them, when there is a fixed set; `references` the right answers
    when there is more than one. Examples of one `group` are scored together by the metrics that do so.
    """

    source: str
    target: str = ""
    cue: str = ""
    choices: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    id: str = ""
    group: str = ""
    answer_at: int | None = None
    """Characters of source and cue before the answer; None: it follows them. Only masked backbones answer inside."""

    def golds(self) -> tuple[str, ...]:
        return self.references or (self.target,)


@dataclass(frozen=True)
class Task:
    """Named examples by split. `metrics` names functions of softprompt.tasks.metrics; the first one selects."""

    name: str
    examples: dict[Split, Sequence[Example]]
    choices: tuple[str, ...]
    metrics: tuple[str, ...]
    template: str
    origin: dict[str, object] = field(default_factory=dict)
    """Where the examples came from, as run.json records it."""
    version: str = "1"
    scoring: Scoring = "ranked"
    """What selects on dev and is the score of test."""
    strict: bool = False
    """Whether one generated answer outside the choices makes the whole score 0."""
    answer_tokens: int = 20
    """Most tokens of a generated answer where there are no choices."""
