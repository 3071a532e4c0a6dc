"""What is asked of a backbone, as ids; and which log-probabilities rank its choices."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from softprompt.soft import SoftPrompt


@dataclass(frozen=True, eq=False)
class Question:
    """A source and the soft prompt it is asked with. It keeps its prompt, whatever the bank holds by then."""

    source: tuple[int, ...]
    prompt: SoftPrompt | None = None
    key: Hashable = None
    """Of the prompt's name and version: what is known of the prompt is remembered under it."""

    @property
    def length(self) -> int:
        return 0 if self.prompt is None else self.prompt.length

    @property
    def kind(self) -> str:
        return "none" if self.prompt is None else self.prompt.kind


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
