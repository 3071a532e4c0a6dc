"""Task and Example: a source and its target, in three splits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from softprompt.tasks.chat import Chat

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Scoring = Literal["ranked", "generated"]
"""How an answer is read where there are choices: the likeliest choice, or generated text that must be one of them."""


@dataclass(frozen=True)
class Example:
    """One input of a backbone and its right answer.

    `source` is the text, `cue` its end, which is kept even when the source is truncated ("\\nTeam:").
    `choices` are all allowed answers when there is a fixed set; `references` the right answers when there is
    more than one. Examples of one `group` are scored together by the metrics that need groups.
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
    answer_limit: int | None = None
    """Most tokens of a right answer, with end-of-sequence: learned, and scored as they read back. None: as written."""

    def golds(self) -> tuple[str, ...]:
        """Return the right answers."""
        return self.references or (self.target,)


@dataclass(frozen=True)
class Task:
    """Named examples by split. `metrics` are names in softprompt.tasks.metrics; the first selects checkpoints."""

    name: str
    examples: dict[Split, Sequence[Example]]
    choices: tuple[str, ...]
    metrics: tuple[str, ...]
    template: str
    origin: dict[str, object] = field(default_factory=dict)
    """Where the examples come from, as run.json records it."""
    version: str = "1"
    scoring: Scoring = "ranked"
    """Scoring that selects on dev and is reported on test."""
    strict: bool = False
    """Whether one generated answer outside the choices makes the whole score 0."""
    answer_tokens: int = 20
    """Maximum tokens of a generated answer where there are no choices."""
    chat: Chat | None = None
    """The chat template that its template was put into, to write further conversations."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What users should know before they trust a score: how columns were read, texts in two splits, odd labels."""
