"""What a backbone computes from and what it returns: a batch of examples laid out as rows, and its losses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from softprompt.methods.embedding import IGNORED, Layout


@dataclass(frozen=True)
class Batch:
    """Examples laid out for a backbone: padded ids with their prompts' soft ids in place."""

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
    answer_columns: Int[Tensor, "b t"] | None = None
    """Columns of the answer, where it stands inside the text (masked backbones); 0 where a row has fewer than t."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, without padding."""
        counted: list[int] = self.mask.sum(1).tolist()
        return counted

    def take(self, rows: Sequence[int], *, left: bool) -> "Batch":
        """Return some rows without the columns that are padding in all of them; padding is on the `left` or right."""
        ranks, lengths = list(rows), self.lengths
        n = max(lengths[i] for i in ranks)
        columns = slice(self.ids.shape[1] - n, None) if left else slice(0, n)
        labels, answer = None, None
        if self.labels is not None:
            t = int((self.labels[ranks] != IGNORED).sum(1).max())
            label_columns = slice(self.labels.shape[1] - t, None) if left else slice(0, t)
            labels = self.labels[ranks, label_columns]
            answer = None if self.answer_columns is None else self.answer_columns[ranks, label_columns]
        elif self.answer_columns is not None:
            answer = self.answer_columns[ranks]
        layout = Layout(self.layout.prompt[ranks], self.layout.position[ranks, columns])
        return Batch(
            self.ids[ranks, columns], self.mask[ranks, columns], layout, labels,
            tuple(self.prompts[i] for i in ranks), tuple(self.truncated[i] for i in ranks),
            tuple(self.heads[i] for i in ranks) if self.heads else (), answer,
        )  # fmt: skip


def learn_inputs(batch: Batch, learned: Sequence[bool]) -> Batch:
    """Make the source's tokens labels, too, in the rows that are `learned`; their targets must stand at the right end.

    The first token after the soft tokens is not one: what comes before it is the prompt alone.
    """
    assert batch.labels is not None
    heads = torch.tensor(batch.heads, device=batch.mask.device).unsqueeze(1)
    rows = torch.tensor(list(learned), device=batch.mask.device).unsqueeze(1)
    source = batch.mask & (batch.mask.cumsum(1) > heads + 1)
    left = batch.ids.shape[1] - batch.labels.shape[1]
    labels = nn.functional.pad(batch.labels, (left, 0), value=IGNORED).where(~(source & rows), batch.ids)
    return replace(batch, labels=labels[:, -int((labels != IGNORED).sum(1).max()) :])


class Losses(NamedTuple):
    """Losses of a batch, by row."""

    nll: Float[Tensor, " b"]
    """Negative log-likelihood of each row's target, in nats, summed over its tokens."""
    tokens: Int[Tensor, " b"]
    """Target tokens of each row."""


class Observed(NamedTuple):
    """What losses are computed from: m target tokens in all rows, n source and target tokens."""

    scores: Float[Tensor, "m v"]
    """Log-probabilities at each target token, in nats and float32."""
    labels: Int[Tensor, " m"]
    owner: Int[Tensor, " m"]
    """Row of the batch that each target token belongs to."""
    states: Float[Tensor, "n d"]
    """Last hidden states of source and target tokens, of encoder and decoder where there are both; in float32."""
    row: Int[Tensor, " n"]
    """Row of the batch that each of those belongs to."""


def losses_of(batch: Batch, scores: Float[Tensor, "b t v"]) -> Losses:
    """Compute the losses of a batch's labels under log-probabilities `scores`."""
    assert batch.labels is not None
    real = batch.labels != IGNORED
    picked = scores.gather(2, batch.labels.masked_fill(~real, 0).unsqueeze(2)).squeeze(2)  # (b, t)
    return Losses(-picked.masked_fill(~real, 0).sum(1), real.sum(1))
