"""Keys and values of prompts, by name and version; the least recently used are dropped when memory is full."""

from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor


class PromptCache:
    """Keep at most `most` bytes of tensors. One thread uses it."""

    def __init__(self, most: int) -> None:
        self.most, self.bytes, self.hits, self.misses = most, 0, 0, 0
        self._tensors: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tensors)

    def get(self, key: Hashable) -> Tensor | None:
        """Look up a tensor, and count a hit or a miss."""
        found = self._tensors.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._tensors.move_to_end(key)
        return found

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Keep `tensor`, unless it alone is more than fits."""
        size = _bytes(tensor)
        if size > self.most:
            return
        if key in self._tensors:
            self.bytes -= _bytes(self._tensors.pop(key))
        while self.bytes + size > self.most:
            _, oldest = self._tensors.popitem(last=False)
            self.bytes -= _bytes(oldest)
        self._tensors[key] = tensor
        self.bytes += size

    def clear(self) -> None:
        """Forget all, and the counts too."""
        self._tensors.clear()
        self.bytes = self.hits = self.misses = 0


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
