"""Sources with their soft prompts, as token ids."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from softprompt.backbones import Backbone
from softprompt.backbones.batch import Batch
from softprompt.methods.bank import Bank
from softprompt.methods.embedding import IGNORED, Layout
from softprompt.methods.soft_prompt import SoftPrompt


@dataclass(frozen=True, eq=False)
class Question:
    """A source and its soft prompt. It keeps its prompt, whatever the store holds by then."""

    source: tuple[int, ...]
    prompt: SoftPrompt | None = None
    key: Hashable = None
    """The prompt's name and version: what is computed of the prompt is cached under it."""
    before: int = 0
    """Source tokens that stand before the prompt (softprompt.backbones.placement)."""

    @property
    def length(self) -> int:
        """Rows of the prompt."""
        return 0 if self.prompt is None else self.prompt.length

    def head(self) -> "Question | None":
        """Return what this begins with whatever its text, the prompt last; None where that depends on the text."""
        fixed = self.prompt is not None and self.length > 0 and self.prompt.can_pack and self.before < len(self.source)
        return (
            Question(self.source[: self.before], self.prompt, (self.key, self.before), self.before) if fixed else None
        )

    def ids(self, soft: Sequence[int], tail: Sequence[int] = ()) -> list[int]:
        """Join the tokens: the source's around the prompt's `soft` ids, then a target's."""
        return [*self.source[: self.before], *soft, *self.source[self.before :], *tail]

    def ranks(self, tail: Sequence[int] = ()) -> list[int]:
        """Give each of these tokens its rank in the source, -1 for those that are not in it."""
        n = len(self.source)
        return [*range(self.before), *[-1] * self.length, *range(self.before, n), *[-1] * len(tail)]


def bank_of(questions: Sequence[Question]) -> tuple[Bank, list[int]]:
    """Collect the prompts of questions, each once, and the index of each question's own; -1 for none."""
    prompts = dict.fromkeys(question.prompt for question in questions if question.prompt is not None)
    index = {prompt: i for i, prompt in enumerate(prompts)}
    bank = Bank({str(i): prompt for prompt, i in index.items()})
    return bank, [-1 if question.prompt is None else index[question.prompt] for question in questions]


def lay(
    backbone: Backbone, questions: Sequence[Question], targets: Sequence[Sequence[int]] | None = None
) -> tuple[Bank, Batch]:
    """Lay out questions as `backbone.lay` does, but each with its prompt where it was trained to stand."""
    bank, named = bank_of(questions)
    left = backbone.labels_on_right()
    tails = targets if left and targets is not None else [()] * len(questions)
    rows = list(zip(questions, named, tails, strict=True))
    ids = [question.ids(bank.soft_ids(i, backbone.v), tail) for question, i, tail in rows]
    ranks = backbone.pad_rows([question.ranks(tail) for question, _, tail in rows], -1, left=left)
    real = backbone.pad_rows([[1] * len(row) for row in ids], 0, left=left).bool()
    labels = None if targets is None else backbone.pad_rows(targets, IGNORED, left=left)
    layout = Layout(torch.tensor(named, device=backbone.device), ranks)
    padded = backbone.pad_rows(ids, backbone.pad, left=left)
    return bank, Batch(padded, real, layout, labels, tuple(named), (False,) * len(ids))
