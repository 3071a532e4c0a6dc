"""Example order: which examples a step takes, from the step and the seed alone, so a resumed run takes the same."""

from collections.abc import Callable
from functools import lru_cache

import torch


class ExampleOrder:
    """Example indices by step: every pass over `size` examples has its own permutation; a step may span two.

    A step takes `batch` examples or, with `tokens`, as many as hold at most that many tokens together
    (at least one); `size_of(i)` then gives the tokens of example i.
    """

    def __init__(
        self, size: int, seed: int, batch: int, tokens: int | None = None, size_of: Callable[[int], int] | None = None
    ) -> None:
        assert tokens is None or size_of is not None
        self.size, self.seed, self.batch, self.tokens, self.size_of = size, seed, batch, tokens, size_of
        self._permutation = lru_cache(maxsize=2)(self._permuted)
        self._starts = [0]  # place where each step begins, as far as it is known

    def indices(self, step: int) -> list[int]:
        """Return the indices of the examples of step `step` (0 is the first)."""
        return [self._at(place) for place in range(self._start(step), self._start(step + 1))]

    def _start(self, step: int) -> int:
        if self.tokens is None:
            return step * self.batch
        while len(self._starts) <= step:
            self._starts.append(self._end_of(self._starts[-1], self.tokens))
        return self._starts[step]

    def _end_of(self, place: int, tokens: int) -> int:
        """Return the place where the step that begins at `place` is full."""
        assert self.size_of is not None
        end, total = place, 0
        while end == place or total + self.size_of(self._at(end)) <= tokens:
            total += self.size_of(self._at(end))
            end += 1
        return end

    def _at(self, place: int) -> int:
        epoch, at = divmod(place, self.size)
        return self._permutation(epoch)[at]

    def _permuted(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return list(torch.randperm(self.size, generator=generator).tolist())
