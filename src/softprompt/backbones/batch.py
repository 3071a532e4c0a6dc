"""What a backbone is given and what it gives: a batch of posed examples, and what is computed of it."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from softprompt.methods.embedding import Layout


@dataclass(frozen=True)
class Batch:
    """Examples posed to a backbone: padded ids with their prompts' soft ids in place."""

    ids: Int[Tensor, "b n"]
    mask: Bool[Tensor, "b n"]
    layout: Layout
    labels: Int[Tensor, "b t"] | None
    """Target ids, IGNORED elsewhere; None when the batch was posed without targets."""
    prompts: tuple[int, ...]
    """Index of each row's prompt in the bank, -1 for none."""
    truncated: tuple[bool, ...]
    """Whether each source lost tokens to the length limit."""
    heads: tuple[int, ...] = ()
    """Tokens of each row, from its start to its last soft token, that are the same whatever the example; 0: none."""
    asked: Int[Tensor, "b t"] | None = None
    """Columns of the answer, where it stands inside the text (masked backbones); 0 where a row has fewer than t."""


class Losses(NamedTuple):
    nll: Float[Tensor, " b"]
    """Negative log-likelihood of each row's target, in nats, summed over its tokens."""
    tokens: Int[Tensor, " b"]
    """Target tokens of each row."""


class Observed(NamedTuple):
    """What a backbone computes on the way to its losses: m target tokens in all rows, n tokens of the rows' own."""

    scores: Float[Tensor, "m v"]
    """log-probabilities at each target token, in float32."""
    labels: Int[Tensor, " m"]
    owner: Int[Tensor, " m"]
    """Row of the batch that each target token belongs to."""
    states: Float[Tensor, "n d"]
    """Last hidden states of source and target tokens, of encoder and decoder where there are both; in float32."""
    row: Int[Tensor, " n"]
    """Row of the batch that each of those belongs to."""
