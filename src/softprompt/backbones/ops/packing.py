"""Pack a batch into one row without padding: its examples one after another, each prompt once in front.

    [prompt 0][prompt 1] ... [example][example][example] ...

Every token attends to its own segment; an example's tokens also attend to their prompt's rows. A prompt that
does not look at the input has the same states for every example, so this is exact, not an approximation. What
stands before the prompt in every example alike (BOS, where prompts are placed after it) belongs to its segment.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from softprompt.backbones.ops.length_groups import group_lengths

Memory = dict[object, tuple[Tensor, Tensor]]
"""Keys and values (key heads, l, head size) of prompts, by the attention module they belong to."""

GROUP_COST = 4000
"""What one more group costs, in query-key pairs: measured with SmolLM2 on two cores."""


class Unpackable(Exception):
    """A backbone cannot read packed rows; caught by softprompt.backbones.packing_check, never shown as an error."""


class Group(NamedTuple):
    """g neighboring segments of like length, padded to s tokens only where they attend to themselves."""

    start: int
    """Column of the first token in the row."""
    lengths: list[int]
    columns: Int[Tensor, "g s"] | None
    """Column of each token, some column at padding; None when nothing is padded."""
    padding: Bool[Tensor, "g s"] | None
    real: Int[Tensor, " m"] | None
    """The tokens that are not padding, as indices into g * s; None when nothing is padded."""

    @property
    def size(self) -> int:
        return max(self.lengths)

    def padded(self, row: Shaped[Tensor, "n *rest"]) -> Shaped[Tensor, "g s *rest"]:
        """Cut the tokens of this group out of a row's (n, ...), padded."""
        if self.columns is not None:
            return row[self.columns]
        g, s = len(self.lengths), self.size
        return row[self.start : self.start + g * s].reshape(g, s, *row.shape[1:])

    def unpadded(self, made: Float[Tensor, "g s *rest"]) -> Float[Tensor, "m *rest"]:
        flat = made.flatten(0, 1)
        return flat if self.real is None else flat[self.real]


class SharedRows(NamedTuple):
    """Neighboring examples of one prompt: columns `queries` attend to the prompts' rows `keys`."""

    queries: slice
    keys: slice


class Own(NamedTuple):
    """How the tokens of a group see their own segment."""

    hidden: Float[Tensor, "g s s"]
    """-inf where a query does not see a key, else 0; g is 1 where all segments of the group are alike."""
    causal: bool
    """Every earlier token is seen."""


@dataclass(frozen=True)
class Packing:
    """How the rows of a batch lie in one row of n tokens."""

    gather: Int[Tensor, " n"]
    """Where each column comes from, as an index into the padded batch (b * columns)."""
    position: Int[Tensor, " n"]
    """Position of each token in its own sequence, its prompt's rows included."""
    groups: list[Group]
    """Every segment, in the order of the row."""
    shared: list[SharedRows]
    prompts: int
    """Columns in front that are prompt rows; 0 where `memory` holds their keys and values."""
    predicting: Int[Tensor, " m"]
    """Columns whose next token is a label."""
    owner: Int[Tensor, " m"]
    """Row of the batch that each of those labels belongs to."""
    memory: Memory | None = None
    """Keys and values of the prompts that are not in the row."""
    recorded: Memory | None = None
    """Where a forward leaves the keys and values of the prompts in the row, if it is asked to."""

    def masked(self, allowed: Callable[[Tensor, Tensor], Tensor]) -> "MaskedRows":
        """Apply a mask: `allowed` says which (query position, key position) may attend. Raises Unpackable."""
        own = []
        for group in self.groups:
            position = group.padded(self.position)[:, :1] + torch.arange(group.size, device=self.position.device)
            may = allowed(position.unsqueeze(2), position.unsqueeze(1))  # (g, s, s)
            if bool(may.triu(1).any()):
                raise Unpackable("its tokens attend to later ones")
            may = may[:1] if bool((may == may[:1]).all()) else may
            hidden = torch.zeros(may.shape, device=may.device).masked_fill_(~may, -torch.inf)
            own.append(Own(hidden, causal=bool((may | torch.ones_like(may).triu(1)).all())))
        shared: list[Tensor | None] = []
        for queries, keys in self.shared:
            rows = torch.arange(keys.stop - keys.start, device=self.position.device)
            may = allowed(self.position[queries].unsqueeze(1), rows.unsqueeze(0))  # (m, l)
            out = torch.zeros(may.shape, device=may.device).masked_fill_(~may, -torch.inf)
            shared.append(None if bool(may.all()) else out)
        return MaskedRows(self, own, shared)


@dataclass(frozen=True)
class MaskedRows:
    """A packing and what is added to its scores: the mask of one type of layer."""

    packing: Packing
    own: list[Own]
    """By group."""
    shared: list[Float[Tensor, "_ _"] | None]  # of each group of shared rows (m, l)


def pack(
    mask: Bool[Tensor, "b n"],
    prompts: Sequence[int],
    lengths: Sequence[int],
    labels: Sequence[int],
    memory: Memory | None = None,
) -> Packing:
    """Lay out the left-padded rows of a batch without their padding.

    The last target token predicts nothing that is needed, so it is left out.

    Args:
        mask: (b, n), where row i has tokens.
        prompts: (b,), the prompt of each row.
        lengths: (b,), tokens at a row's start that it shares with all rows of its prompt; 0: none.
        labels: (b,), target tokens at a row's end.
        memory: Keys and values of what is shared, in the order of `used`; it is then left out of the row.
    """
    device, (b, n) = mask.device, mask.shape
    total: list[int] = mask.sum(1).tolist()
    body = [t - length - (asked > 0) for t, length, asked in zip(total, lengths, labels, strict=True)]
    first = {p: next(i for i in range(b) if prompts[i] == p and lengths[i]) for p in used(prompts, lengths)}
    begins = dict(zip(first, accumulate((lengths[i] for i in first.values()), initial=0), strict=False))
    rows = sorted(range(b), key=lambda i: (prompts[i], body[i]))

    # Segments: where each starts in the padded batch, its first position, its tokens
    heads = [] if memory is not None else [(i * n + n - total[i], 0, lengths[i]) for i in first.values()]
    segments = heads + [(i * n + n - total[i] + lengths[i], lengths[i], body[i]) for i in rows]
    gather = torch.cat([torch.arange(at, at + size) for at, _, size in segments])
    position = torch.cat([torch.arange(at, at + size) for _, at, size in segments])
    sizes = [size for _, _, size in segments]
    starts = list(accumulate(sizes, initial=0))
    begin = dict(zip(rows, starts[len(heads) :], strict=False))  # column where each row of the batch begins

    shared: list[SharedRows] = []
    for i in rows:
        if lengths[i]:
            keys = slice(begins[prompts[i]], begins[prompts[i]] + lengths[i])
            start = shared.pop().queries.start if shared and shared[-1].keys == keys else begin[i]
            shared.append(SharedRows(slice(start, begin[i] + body[i]), keys))

    predicting = [begin[i] + body[i] - labels[i] + j for i in range(b) for j in range(labels[i])]
    owner = [i for i in range(b) for _ in range(labels[i])]
    return Packing(
        gather.to(device),
        position.to(device),
        [_group(sizes[a:z], starts[a], device) for a, z in group_lengths(sizes, lambda g, s: g * s * s + GROUP_COST)],
        shared,
        starts[len(heads)],
        torch.tensor(predicting, dtype=torch.long, device=device),
        torch.tensor(owner, dtype=torch.long, device=device),
        memory,
    )


def pack_prompt(length: int, device: torch.device) -> Packing:
    """Lay out one prompt's rows alone; a forward leaves their keys and values in `recorded`."""
    columns, nothing = torch.arange(length, device=device), torch.empty(0, dtype=torch.long, device=device)
    return Packing(columns, columns, [_group([length], 0, device)], [], length, nothing, nothing, recorded={})


def used(prompts: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """List the prompts that rows name and that have rows themselves, in the order in which they are packed."""
    return sorted({p for p, length in zip(prompts, lengths, strict=True) if length})


def _group(lengths: list[int], start: int, device: torch.device) -> Group:
    if min(lengths) == max(lengths):
        return Group(start, lengths, None, None, None)
    own = torch.arange(max(lengths)).expand(len(lengths), -1)
    sizes = torch.tensor(lengths).unsqueeze(1)
    begins = start + torch.tensor(list(accumulate(lengths[:-1], initial=0))).unsqueeze(1)
    columns, padding = begins + torch.minimum(own, sizes - 1), own >= sizes
    real = (~padding).flatten().nonzero().squeeze(1)
    return Group(start, lengths, columns.to(device), padding.to(device), real.to(device))
