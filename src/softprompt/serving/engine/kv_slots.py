"""Keep keys and values of many sequences in one block of memory, a slot each: they come, grow and go one by one.

    data (layers, 2, slots, key heads, columns, head size)         2: keys, values

Token p of a sequence stands in column p of its slot, whatever is beside it, so nothing is moved when a sequence joins
or grows, and what stands after a token's own column is never seen. transformers' own caches are grown by copying all
of them for each token, and know one length for all rows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "softprompt-slots"
"""Name of the attention that reads slots, in transformers' registry; outside `Slots.reading` it is SDPA attention."""
LEAST = 32
"""Columns of the first block."""

_active: ContextVar["Slots | None"] = ContextVar("slots", default=None)


class Slots:
    """Slots for a transformers model; `cache` is what the model takes as its past keys and values.

    Args:
        layers: Layers of the decoder.
        lasting: Whether the content of the slots is kept when the block grows.
    """

    def __init__(self, layers: int, *, lasting: bool = True) -> None:
        self.lasting = lasting
        self.data: Tensor | None = None
        self.cache = Cache(layers=[_Layer(self, i) for i in range(layers)])
        self._rows = slice(0, 0)
        self._columns = torch.empty(0, 0, dtype=torch.long)  # (g, t)
        self._width = 0
        self._wanted = (0, 0)  # slots and columns of the next block

    @property
    def bytes(self) -> int:
        return 0 if self.data is None else self.data.numel() * self.data.element_size()

    @contextmanager
    def reading(self, rows: slice, columns: Tensor, width: int) -> Iterator[None]:
        """Let calls of the model read and write `rows` inside the block.

        Token (i, j) of a call stands in column `columns[i, j]`; `width` is one past the largest of the columns (g, t).
        """
        self._rows, self._columns, self._width = rows, columns, width
        self.reserve(rows.stop, self._width)
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)

    @contextmanager
    def showing(self, rows: slice, width: int) -> Iterator[None]:
        """Let calls of the model read the first `width` columns of `rows` inside the block, and write nothing."""
        assert self.data is not None
        for layer, data in zip(self.cache.layers, self.data, strict=True):
            layer.keys, layer.values = data[0, rows, :, :width], data[1, rows, :, :width]
        yield
        for layer in self.cache.layers:
            layer.keys = layer.values = None

    def reserve(self, slots: int, columns: int) -> None:
        """Provide at least so many slots and columns; what stands in them stays, if it is to last, and nothing beyond.

        A block never has many slots because there were many once, and many columns because one is long now.
        """
        old = self.data
        had = (0, 0) if old is None else (old.shape[2], old.shape[4])
        if slots <= had[0] and columns <= had[1]:
            return
        grown = max(slots, had[0]), max(columns, had[1])
        self._wanted = grown if self.lasting and grown[0] * grown[1] <= 2 * slots * columns else (slots, columns)
        if old is None:
            return  # the shape is known when the model writes for the first time
        self.data = self._block(old.shape[3], old.shape[5], old)
        if self.lasting:
            kept = min(self.data.shape[2], had[0]), min(self.data.shape[4], had[1])
            self.data[:, :, : kept[0], :, : kept[1]] = old[:, :, : kept[0], :, : kept[1]]

    def put(self, slot: int, tensor: Tensor) -> None:
        """Write `tensor` (layers, 2, key heads, l, head size) at the front of a slot."""
        if self.data is None:
            self.data = self._block(tensor.shape[2], tensor.shape[4], tensor)
        self.data[:, :, slot, :, : tensor.shape[3]] = tensor

    def fill(self, layer: int, first: int, column: int, key: Tensor, value: Tensor) -> None:
        """Write keys and values of one layer into slots.

        Args:
            layer: Index of the layer.
            first: First of the g slots.
            column: First of the t columns.
            key: (g, key heads, t, head size).
            value: (g, key heads, t, head size).
        """
        if self.data is None:
            self.data = self._block(key.shape[1], key.shape[3], key)
        rows, columns = slice(first, first + len(key)), slice(column, column + key.shape[2])
        self.data[layer, 0, rows, :, columns] = key
        self.data[layer, 1, rows, :, columns] = value

    def take(self, slot: int, columns: int) -> Tensor:
        """Copy a slot's first columns (layers, 2, key heads, columns, head size)."""
        assert self.data is not None
        return self.data[:, :, slot, :, :columns].clone()

    def move(self, source: int, target: int) -> None:
        """Copy one slot over another."""
        assert self.data is not None
        self.data[:, :, target] = self.data[:, :, source]

    def blank(self, slot: int, column: int = 0) -> None:
        """Zero a slot, from a column on."""
        if self.data is not None:
            self.data[:, :, slot, :, column:] = 0

    def shift(self, columns: int) -> None:
        """Drop the first columns of all slots."""
        assert self.data is not None
        self.data[..., : self.data.shape[4] - columns, :] = self.data[..., columns:, :].clone()

    def clear(self) -> None:
        """Give the memory back."""
        self.data, self._wanted = None, (0, 0)

    def _block(self, heads: int, size: int, like: Tensor) -> Tensor:
        slots, columns = self._wanted
        rounded = LEAST  # doubled, so that growing stays rare
        while rounded < columns:
            rounded *= 2
        return like.new_zeros(len(self.cache.layers), 2, slots, heads, rounded, size)

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (g, key heads, t, head size) of the current call; return all that its rows hold."""
        if self.data is None:
            self.data = self._block(key.shape[1], key.shape[3], key)
        own = self.data[layer, :, self._rows]  # (2, g, key heads, columns, head size)
        at = torch.arange(len(self._columns), device=self._columns.device).unsqueeze(1)
        own[0][at, :, self._columns] = key.transpose(1, 2)
        own[1][at, :, self._columns] = value.transpose(1, 2)
        return own[0, :, :, : self._width], own[1, :, :, : self._width]

    def mask(self, allowed: Callable[..., Tensor]) -> Tensor:
        """Find which columns each token of the call sees (g, 1, t, columns); `allowed` is the layer type's own rule."""
        nothing = self._columns.new_zeros(())
        keys = torch.arange(self._width, device=self._columns.device)
        seen: Tensor = allowed(nothing, nothing, self._columns.unsqueeze(-1), keys)  # (g, t, columns)
        return seen.unsqueeze(1)

    @property
    def width(self) -> int:
        """Columns that the call reads."""
        return self._width

    @property
    def past(self) -> int:
        """Columns before those of the call, where all of its rows begin in the same column."""
        return self._width - self._columns.shape[1]


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer of the slots, in the form of transformers' cache (the methods that its 5.23.0 calls)."""

    def __init__(self, slots: Slots, index: int) -> None:
        super().__init__()
        self.slots, self.index, self.is_initialized = slots, index, True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        return self.slots.write(self.index, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.slots.width, 0

    def get_seq_length(self) -> int:
        return self.slots.past

    def get_max_length(self) -> int:
        return -1


def _mask(*, mask_function: Callable[..., Tensor], **arguments: object) -> Tensor | None:
    """Make the attention mask of a call; transformers names the arguments, of which only `mask_function` is read."""
    slots = _active.get()
    if slots is None:
        mask: Tensor | None = sdpa_mask(mask_function=mask_function, **arguments)
        return mask
    if arguments.get("use_vmap"):
        raise ValueError("its attention mask is made from rows, not from positions")
    return slots.mask(mask_function)


# Without their own name the slots would get transformers' mask (5.23.0), which knows one length for all rows.
AttentionInterface.register(NAME, sdpa_attention_forward)
AttentionMaskInterface.register(NAME, _mask)
