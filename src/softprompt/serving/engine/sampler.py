"""Choose the next token of a sequence: the likeliest, or one drawn by the sequence's own generator.

Nucleus sampling: Holtzman et al. 2020, https://arxiv.org/abs/1904.09751. A sequence draws on the CPU and one uniform
number a token, so what it draws depends on its seed and its own probabilities alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from softprompt.serving.engine.constraint import Constraint


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Temperature 0 takes the likeliest."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    logprobs: int | None = None
    """How many likeliest tokens to report beside each sampled one; None: nothing is reported."""
    presence_penalty: float = 0.0
    """Taken from the logit of each token that was sampled before."""
    frequency_penalty: float = 0.0
    """Taken from it for each time that it was sampled before."""
    bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens."""
    stop_tokens: frozenset[int] = frozenset()
    """Tokens that end the text, beside the model's own."""
    min_tokens: int = 0
    """Tokens before the text may end."""
    grammar: str | None = None
    """What the text must be (softprompt.serving.engine.constraint)."""

    @property
    def changes(self) -> bool:
        """Whether the model's logits are changed before a token is chosen."""
        penalties = self.presence_penalty or self.frequency_penalty
        return bool(penalties or self.bias or self.min_tokens or self.grammar is not None)


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
    ends: frozenset[int] = frozenset()
    """Tokens that end the text."""
    constraint: Constraint | None = None
    counts: Counter[int] = field(default_factory=Counter)
    """How often each token was sampled."""
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        if self.sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.sampling.seed % 2**63)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token's id is all that is needed."""
        return self.sampling.temperature == 0 and self.sampling.logprobs is None and not self.sampling.changes

    def __call__(self, logits: Tensor) -> SampledToken:
        """Sample from logits (v,), float32 on the CPU."""
        changed = self._change(logits) if self.sampling.changes else logits
        token = int(changed.argmax()) if self.sampling.temperature == 0 else self._draw(changed)
        if self.sampling.changes:
            self.counts[token] += 1
            if self.constraint is not None:
                self.constraint.accept(token)
        return self.report(token, logits)

    def report(self, token: int, logits: Tensor) -> SampledToken:
        """Report a token under the logits (v,) that the model gave."""
        if self.sampling.logprobs is None:
            return SampledToken(token)
        scores = torch.log_softmax(logits, -1)
        best = scores.topk(min(self.sampling.logprobs, len(scores)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return SampledToken(token, float(scores[token]), top)

    def _change(self, logits: Tensor) -> Tensor:
        """Apply penalties, biases, the least number of tokens and the grammar to logits (v,)."""
        sampling, logits = self.sampling, logits.clone()
        for token, count in self.counts.items():
            logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * count
        for token, bias in sampling.bias.items():
            logits[token] += bias
        if self.counts.total() < sampling.min_tokens:
            logits[list(self.ends)] = -torch.inf
        if self.constraint is not None:
            logits[~self.constraint.allowed()] = -torch.inf
        return logits

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
