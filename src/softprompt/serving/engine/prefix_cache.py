"""Keys and values of prompts, by name and version; the least recently used give way when memory is full."""

from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor


class PromptCache:
    """At most `most` bytes of tensors. One thread uses it."""

    def __init__(self, most: int) -> None:
        self.most, self.bytes, self.hits, self.misses = most, 0, 0, 0
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Hashable) -> Tensor | None:
        found = self._held.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._held.move_to_end(key)
        return found

    def put(self, key: Hashable, held: Tensor) -> None:
        """Keep `held`, unless it alone is more than fits."""
        size = _bytes(held)
        if size > self.most:
            return
        if key in self._held:
            self.bytes -= _bytes(self._held.pop(key))
        while self.bytes + size > self.most:
            _, oldest = self._held.popitem(last=False)
            self.bytes -= _bytes(oldest)
        self._held[key] = held
        self.bytes += size

    def clear(self) -> None:
        """Forget all, and the counts too."""
        self._held.clear()
        self.bytes = self.hits = self.misses = 0


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
