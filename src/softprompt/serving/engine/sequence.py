"""What is asked of a backbone, as ids; and which log-probabilities rank its choices."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from softprompt.backbones import Backbone
from softprompt.backbones.batch import Batch
from softprompt.methods.bank import Bank
from softprompt.methods.embedding import IGNORED, Layout
from softprompt.methods.soft_prompt import SoftPrompt


@dataclass(frozen=True, eq=False)
class Question:
    """A source and the soft prompt it is asked with. It keeps its prompt, whatever the bank holds by then."""

    source: tuple[int, ...]
    prompt: SoftPrompt | None = None
    key: Hashable = None
    """Of the prompt's name and version: what is known of the prompt is remembered under it."""
    before: int = 0
    """Source tokens that stand before the prompt (softprompt.backbones.placement)."""

    @property
    def length(self) -> int:
        return 0 if self.prompt is None else self.prompt.length

    def head(self) -> "Question | None":
        """What this begins with whatever its text, the prompt last; None where there is nothing of the kind."""
        fixed = self.prompt is not None and self.length > 0 and self.prompt.can_pack and self.before < len(self.source)
        return (
            Question(self.source[: self.before], self.prompt, (self.key, self.before), self.before) if fixed else None
        )

    def ids(self, soft: Sequence[int], tail: Sequence[int] = ()) -> list[int]:
        """Its tokens: those of the source around the prompt's `soft` ids, and a target's behind."""
        return [*self.source[: self.before], *soft, *self.source[self.before :], *tail]

    def ranks(self, tail: Sequence[int] = ()) -> list[int]:
        """Of each of these tokens its rank in the source, -1 for those that are not in it."""
        n = len(self.source)
        return [*range(self.before), *[-1] * self.length, *range(self.before, n), *[-1] * len(tail)]


def bank_of(questions: Sequence[Question]) -> tuple[Bank, list[int]]:
    """The prompts of questions, each once, and the index of each question's own; -1 for none."""
    prompts = dict.fromkeys(question.prompt for question in questions if question.prompt is not None)
    index = {prompt: i for i, prompt in enumerate(prompts)}
    bank = Bank({str(i): prompt for prompt, i in index.items()})
    return bank, [-1 if question.prompt is None else index[question.prompt] for question in questions]


def lay(
    backbone: Backbone, questions: Sequence[Question], targets: Sequence[Sequence[int]] | None = None
) -> tuple[Bank, Batch]:
    """Questions as `backbone.lay` would lay them, but each with its prompt where it was tuned to stand."""
    bank, named = bank_of(questions)
    left = backbone.labels_on_right()
    tails = targets if left and targets is not None else [()] * len(questions)
    asked = list(zip(questions, named, tails, strict=True))
    ids = [question.ids(bank.soft_ids(i, backbone.v), tail) for question, i, tail in asked]
    ranks = backbone.pad_rows([question.ranks(tail) for question, _, tail in asked], -1, left=left)
    real = backbone.pad_rows([[1] * len(row) for row in ids], 0, left=left).bool()
    labels = None if targets is None else backbone.pad_rows(targets, IGNORED, left=left)
    layout = Layout(torch.tensor(named, device=backbone.device), ranks)
    padded = backbone.pad_rows(ids, backbone.pad, left=left)
    return bank, Batch(padded, real, layout, labels, tuple(named), (False,) * len(ids))


class Pick(NamedTuple):
    """The log-probability of token `id` behind the first `column` tokens of target `row` counts for choice `choice`."""

    row: int
    column: int
    id: int
    choice: int


class Ranking(NamedTuple):
    """The targets that are computed to rank choices, and what is read of them."""

    targets: list[list[int]]
    picks: list[Pick]
    choices: int


def ranking(choices: Sequence[Sequence[int]]) -> Ranking:
    """One target serves choices that differ in their last token only; others take a target each."""
    first = list(choices[0])
    if all(len(ids) == len(first) and list(ids[:-1]) == first[:-1] for ids in choices):
        picks = [Pick(0, j, token, i) for i, ids in enumerate(choices) for j, token in enumerate(ids)]
        return Ranking([first], picks, len(choices))
    picks = [Pick(i, j, token, i) for i, ids in enumerate(choices) for j, token in enumerate(ids)]
    return Ranking([list(ids) for ids in choices], picks, len(choices))


def read_picks(scores: Tensor, places: Sequence[int], ids: Sequence[int]) -> list[float]:
    """Entries (place, id) of log-probabilities (m, v), in one transfer."""
    at = torch.tensor(places, device=scores.device)
    found: list[float] = scores[at, torch.tensor(ids, device=scores.device)].double().cpu().tolist()
    return found


def summed(rankings: Sequence[Ranking], picked: Sequence[float]) -> list[list[float]]:
    """Log-probability of each choice, of each ranking, from its picks' in order."""
    found, at = [], 0
    for asked in rankings:
        scores = [0.0] * asked.choices
        for pick in asked.picks:
            scores[pick.choice] += picked[at]
            at += 1
        found.append(scores)
    return found
