"""Inject soft prompts as ids past the vocabulary.

`SoftEmbedding` stands in for a frozen model's input embedding. Id v + i reads row i of the bank instead
of the table, and real source tokens get their prompt's offset. Placement is then where the ids stand, a
batch of mixed prompts is ordinary ids, and forward, generate, caches, positions and padding need no code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from softprompt.methods.bank import Bank
from softprompt.methods.soft_prompt import Text

IGNORED = -100
"""The label of positions that are not learned (PyTorch's own default)."""


class Layout(NamedTuple):
    """What the ids alone cannot say: whose row it is, and which tokens are source."""

    prompt: Int[Tensor, " b"]
    """Index of each row's prompt in the bank, -1 for none."""
    position: Int[Tensor, "b s"]
    """Rank of each real source token in its row, -1 at soft tokens, padding and targets."""


class SoftEmbedding(nn.Module):
    """Embed ids (b, n) to (b, n, d): the frozen table below v, the bank's rows from v on.

    Without a layout (see `laid_out`) one is read off the ids: the first soft token of a row names its
    prompt, and every id that is neither soft nor `pad` is source. A backbone that trains on targets, or
    whose padding id also occurs in text, gives the layout itself.
    """

    def __init__(self, table: nn.Module, bank: Bank, pad: int) -> None:
        super().__init__()
        self.table, self.bank, self.pad = table, bank, pad
        self.penalties: dict[int, Tensor] = {}  # of the last forward, by the index of their prompt
        self._layout: Layout | None = None
        self._fresh = False
        self._given: tuple[Tensor, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        weight = self.table.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def num_embeddings(self) -> int:
        return int(self.weight.shape[0])

    @property
    def embedding_dim(self) -> int:
        return int(self.weight.shape[1])

    @property
    def is_laid_out(self) -> bool:
        return self._layout is not None

    @contextmanager
    def laid_out(self, layout: Layout | None) -> Iterator[None]:
        """Use `layout` for the model calls inside, `generate` and its later steps included. None: it is read off."""
        self._layout, self._fresh = layout, True
        try:
            yield
        finally:
            self._layout = None

    @contextmanager
    def giving(self, ids: Int[Tensor, "b n"], made: Float[Tensor, "b n d"]) -> Iterator[None]:
        """Give `made` for `ids` in the model calls inside, so that the network reads its ids as it always does.

        A model may scale what it looks up, or look at the ids besides; with embeddings in their place it would not.
        What else it looks up, such as padding of its own, comes from the table.
        """
        self._given = ids, made
        try:
            yield
        finally:
            self._given = None

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        if self._given is not None:
            known, made = self._given
            own, more = ids[:, : known.shape[1]], ids[:, known.shape[1] :]
            if own.shape != known.shape or not bool((own == known).all()):
                rows: Tensor = self.table(ids)
                return rows
            return torch.cat([made, self.table(more)], dim=1) if more.shape[1] else made
        v = self.num_embeddings
        soft = ids >= v
        embeds: Tensor = self.table(ids.masked_fill(soft, self.pad))
        layout = self._layout_of(ids)
        self.penalties = {}
        if layout is None or not bool((layout.prompt >= 0).any()):
            return embeds
        parts: list[tuple[Tensor, Tensor]] = []
        for index in torch.unique(layout.prompt).tolist():
            if index >= 0:
                rows = (layout.prompt == index).nonzero().squeeze(1)
                parts.append((rows, self._embed(index, ids[rows], embeds[rows], layout.position[rows])))
        for rows, made in parts:
            embeds = embeds.index_copy(0, rows, made)
        return embeds

    def _embed(self, index: int, ids: Tensor, embeds: Tensor, position: Tensor) -> Tensor:
        """Embed rows that share prompt `index`: ids (b, n), embeds (b, n, d) -> (b, n, d)."""
        mask = position >= 0
        prompt, offset, penalty = self.bank[index](Text(ids, embeds, mask, position))
        if penalty is not None:
            self.penalties[index] = penalty
        if offset is not None:
            embeds = torch.where(mask.unsqueeze(-1), embeds + offset.to(embeds.dtype), embeds)
        soft = ids >= self.num_embeddings
        if not bool(soft.any()):
            return embeds
        rank = (ids - self.num_embeddings - self.bank.starts[index]).clamp(0, max(prompt.shape[-2] - 1, 0))
        if prompt.ndim == 2:
            rows = prompt[rank]  # (b, n, d)
        else:
            rows = prompt.gather(1, rank.unsqueeze(-1).expand(-1, -1, prompt.shape[-1]))  # (b, n, d)
        return torch.where(soft.unsqueeze(-1), rows.to(embeds.dtype), embeds)

    def _layout_of(self, ids: Tensor) -> Layout | None:
        if self._layout is None:
            return self.read_off(ids, ids != self.pad)
        prompt, position = self._layout
        (b, n), columns = position.shape, ids.shape[1]
        fresh, self._fresh = self._fresh, False
        # A cached generation step brings one new column. Where the text itself is one column wide, only
        # the first call of that width is the text.
        if not fresh and columns < n + (n == 1):
            return None
        # A model may pad its text once more on the right; what it puts in front would move the text off its layout.
        moved = fresh and columns > n and not bool((ids[:, n:] == ids[0, n]).all())
        if columns < n or ids.shape[0] % b or moved:
            raise ValueError(f"ids of shape {tuple(ids.shape)} do not fit a layout of shape {(b, n)}.")
        beams = ids.shape[0] // b  # generate repeats each row for its beams
        position = torch.cat([position, position.new_full((b, columns - n), -1)], dim=1)
        return Layout(prompt.repeat_interleave(beams, 0), position.repeat_interleave(beams, 0))

    def read_off(self, ids: Int[Tensor, "b n"], text: Bool[Tensor, "b n"]) -> Layout | None:
        """Read the layout off ids, of which those in `text` that are not soft are source; None without soft tokens."""
        soft = ids >= self.num_embeddings
        if not bool(soft.any()):
            return None
        ends = torch.tensor([*self.bank.starts[1:], self.bank.size], device=ids.device)
        first = ids.gather(1, soft.int().argmax(1, keepdim=True)).squeeze(1) - self.num_embeddings  # (b,)
        prompt = torch.bucketize(first, ends, right=True).masked_fill(~soft.any(1), -1)
        mask = ~soft & text
        return Layout(prompt, (mask.cumsum(1) - 1).masked_fill(~mask, -1))
