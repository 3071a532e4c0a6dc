"""Initialize prompt rows. Every `from_` function returns rows (l,d) in the space the backbone reads.

Vectors are obtained by *calling* the embedding table, because some tables scale what they hold (BART, Gemma).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from softprompt.errors import BadInput


@runtime_checkable
class Vocabulary(Protocol):
    """A backbone's tokens and their embeddings, as far as a start needs to know them."""

    @property
    def d(self) -> int:
        """Hidden size."""

    def ordinary_ids(self) -> list[int]:
        """List the ids of the vocabulary in the tokenizer's order, without special tokens and unused rows."""

    def tokens(self, text: str) -> list[int]:
        """Tokenize `text`, without special tokens."""

    def embed(self, ids: Sequence[int]) -> Float[Tensor, "n d"]:
        """Look up float32 rows of the frozen table for `ids`, as the network receives them."""


@dataclass(frozen=True)
class Blank:
    """A vocabulary of zeros: for a soft prompt whose tensors are put in afterwards."""

    d: int

    def ordinary_ids(self) -> list[int]:
        return list(range(1 << 17))

    def tokens(self, text: str) -> list[int]:
        return [0]

    def embed(self, ids: Sequence[int]) -> Float[Tensor, "n d"]:
        return torch.zeros(len(ids), self.d)


def embedding_scale(vocabulary: Vocabulary) -> float:
    """Measure the root mean square of the embedding entries, as the network receives them: the unit of rates."""
    return float(vocabulary.embed(vocabulary.ordinary_ids()[:5000]).square().mean().sqrt())


def from_noise(length: int, vocabulary: Vocabulary, generator: torch.Generator, scale: float = 0.5) -> Tensor:
    """Draw uniformly in +-scale (Lester et al. 2021, section 3.2: 0.5)."""
    return (torch.rand(length, vocabulary.d, generator=generator) * 2 - 1) * scale


def from_normal(length: int, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
    """Draw from the normal distribution of variance 1: PEFT's random start (torch.nn.Embedding's own)."""
    return torch.randn(length, vocabulary.d, generator=generator)


def from_vocabulary(length: int, vocabulary: Vocabulary, generator: torch.Generator, pool: int | None = 5000) -> Tensor:
    """Embed `length` different tokens drawn from the first `pool` of the vocabulary (None: all of it).

    The first 5,000 are the common ones in a vocabulary sorted by frequency (Lester et al. 2021, section 3.2).
    """
    return vocabulary.embed(sample_ids(length, vocabulary, generator, pool))


def sample_ids(count: int, vocabulary: Vocabulary, generator: torch.Generator, pool: int | None = None) -> list[int]:
    """Draw `count` different token ids, uniformly over the first `pool` ordinary ids (None: over all of them)."""
    ids = vocabulary.ordinary_ids()[:pool]
    if count > len(ids):
        raise BadInput(
            f"{count} different tokens were asked of a pool of {len(ids)}; lower the number or widen the pool."
        )
    return [ids[i] for i in torch.randperm(len(ids), generator=generator)[:count].tolist()]


def from_text(length: int, vocabulary: Vocabulary, text: str) -> Tensor:
    """Embed the tokens of `text`, repeated or cut to `length` (no special tokens in between)."""
    ids = vocabulary.tokens(text)
    if not ids:
        raise BadInput(f"The start text {text!r} gives no tokens; give it at least one word.")
    return vocabulary.embed((ids * (length // len(ids) + 1))[:length])


def from_labels(length: int, vocabulary: Vocabulary, labels: Sequence[str], generator: torch.Generator) -> Tensor:
    """Make one row per label (the mean of its tokens), then sample the vocabulary (Lester et al. 2021, section 3.2)."""
    rows = [vocabulary.embed(vocabulary.tokens(label)).mean(0) for label in labels[:length] if vocabulary.tokens(label)]
    if not rows:
        raise BadInput("A start from labels needs label words; this task has none.")
    return torch.cat([torch.stack(rows), from_vocabulary(length - len(rows), vocabulary, generator)])
