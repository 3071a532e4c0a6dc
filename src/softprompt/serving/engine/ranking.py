"""Which log-probabilities rank choices, and how they are collected, pass by pass."""

from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LOGITS = 1 << 24
"""Most logits that are in memory at a time: 64 MiB in float32."""

Scoring = Generator[None, None, list[list[float]]]
"""Scores the choices of questions: it pauses between two passes of the network, and returns the log-probability of each
choice of each question, in nats."""


class Pick(NamedTuple):
    """A term of the score of `choice`: that of token `id` after the first `column` tokens of target `row`."""

    row: int
    column: int
    id: int
    choice: int


class Ranking(NamedTuple):
    """The targets that are computed to rank choices, and what is read of each."""

    targets: list[list[int]]
    picks: list[Pick]
    choices: int


def plan_ranking(choices: Sequence[Sequence[int]]) -> Ranking:
    """Plan how to score choices: one target where they differ in their last token only, else one for each."""
    first = list(choices[0])
    if all(len(ids) == len(first) and list(ids[:-1]) == first[:-1] for ids in choices):
        picks = [Pick(0, j, token, i) for i, ids in enumerate(choices) for j, token in enumerate(ids)]
        return Ranking([first], picks, len(choices))
    picks = [Pick(i, j, token, i) for i, ids in enumerate(choices) for j, token in enumerate(ids)]
    return Ranking([list(ids) for ids in choices], picks, len(choices))


class ChoiceScores:
    """Add up the scores of choices, as the log-probabilities of their tokens come in."""

    def __init__(self, rankings: Sequence[Ranking]) -> None:
        self.found = [[0.0] * ranking.choices for ranking in rankings]
        self._picks: list[dict[tuple[int, int], list[Pick]]] = []
        for ranking in rankings:
            by_place: dict[tuple[int, int], list[Pick]] = defaultdict(list)
            for pick in ranking.picks:
                by_place[pick.row, pick.column].append(pick)
            self._picks.append(by_place)

    def picks(self, question: int, row: int, column: int) -> list[Pick]:
        """List what is read after the first `column` tokens of target `row` of a question."""
        return self._picks[question].get((row, column), [])

    def add(self, owners: Sequence[tuple[int, Sequence[Pick]]], scores: Tensor) -> None:
        """Add what is read of log-probabilities (m, v), each row with the index of its question and its picks."""
        terms = [(at, pick.id, i, pick.choice) for at, (i, picks) in enumerate(owners) for pick in picks]
        rows, ids = (torch.tensor([term[k] for term in terms], device=scores.device, dtype=torch.long) for k in (0, 1))
        for (_, _, question, choice), value in zip(terms, scores[rows, ids].double().cpu().tolist(), strict=True):
            self.found[question][choice] += value


def finish(scoring: Scoring) -> list[list[float]]:
    """Take a scoring to its end, without pauses."""
    while True:
        try:
            next(scoring)
        except StopIteration as end:
            found: list[list[float]] = end.value
            return found


def in_runs(sizes: Sequence[tuple[int, ...]], most: Sequence[float]) -> Iterator[slice]:
    """Yield runs of neighbors whose sizes, added up kind by kind, stay within `most`, or that are one alone."""
    begin, held = 0, [0] * len(most)
    for i, size in enumerate(sizes):
        wanted = [a + b for a, b in zip(held, size, strict=True)]
        if i > begin and any(a > b for a, b in zip(wanted, most, strict=True)):
            yield slice(begin, i)
            begin, wanted = i, list(size)
        held = wanted
    if begin < len(sizes):
        yield slice(begin, len(sizes))
