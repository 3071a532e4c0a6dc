"""Choose the next token of a sequence: the likeliest, or one drawn by the sequence's own generator.

Nucleus sampling: Holtzman et al. 2020, https://arxiv.org/abs/1904.09751. A sequence draws on the CPU and one uniform
number a token, so what it draws depends on its seed and its own probabilities alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Temperature 0 takes the likeliest."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    logprobs: int | None = None
    """How many likeliest tokens to report beside each sampled one; None: nothing is reported."""


class SampledToken(NamedTuple):
    """A token, and what is reported of it."""

    token: int
    logprob: float | None = None
    """In nats, under the model's own distribution (temperature 1, all tokens)."""
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Sampler:
    """Sample the tokens of one sequence."""

    sampling: Sampling
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        if self.sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.sampling.seed % 2**63)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token's id is all that is needed."""
        return self.sampling.temperature == 0 and self.sampling.logprobs is None

    def __call__(self, logits: Tensor) -> SampledToken:
        """Sample from logits (v,), float32 on the CPU."""
        token = int(logits.argmax()) if self.sampling.temperature == 0 else self._draw(logits)
        if self.sampling.logprobs is None:
            return SampledToken(token)
        scores = torch.log_softmax(logits, -1)
        best = scores.topk(min(self.sampling.logprobs, len(scores)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return SampledToken(token, float(scores[token]), top)

    def _draw(self, logits: Tensor) -> int:
        below = logits.double() - logits.max()  # 0 at the likeliest, so that no temperature divides it into infinity
        shares, order = torch.softmax(below / self.sampling.temperature, -1).sort(descending=True)
        reached = shares.cumsum(-1)
        # The fewest likeliest tokens whose shares reach top_p, the one that reaches it included.
        kept = int((reached < self.sampling.top_p).sum()) + 1 if self.sampling.top_p < 1 else len(reached)
        drawn = torch.rand((), generator=self.generator, dtype=torch.float64) * reached[:kept][-1]
        return int(order[min(int((reached[:kept] <= drawn).sum()), len(reached) - 1)])


def sample(logits: Tensor, samplers: Sequence[Sampler]) -> list[SampledToken]:
    """Sample the next token of each sequence from logits (b, v)."""
    likeliest = logits.argmax(-1).tolist()
    rows = [i for i, sampler in enumerate(samplers) if not sampler.plain]
    sampled = [SampledToken(token) for token in likeliest]
    if rows:
        for i, row in zip(rows, logits[rows].float().cpu(), strict=True):
            sampled[i] = samplers[i](row)
    return sampled
