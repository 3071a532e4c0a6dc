"""How much a client may ask for."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    body: int = 1_000_000
    """Bytes of a request."""
    prompt_body: int = 64_000_000
    """Bytes of a request that brings a prompt."""
    input_tokens: int = 4096
    """Of each text."""
    output_tokens: int = 1024
    texts: int = 128
    """Texts of a request."""
    choices: int = 256
    stops: int = 8
    concurrent: int = 64
    """Requests that one key has under way at once."""


class Concurrency:
    """Counts the requests under way of each key. One event loop uses it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._under_way: Counter[str] = Counter()

    def enter(self, key: str) -> bool:
        """Count a request; False, and nothing is counted, when the key has as many as it may."""
        if self._under_way[key] >= self.most:
            return False
        self._under_way[key] += 1
        return True

    def leave(self, key: str) -> None:
        self._under_way[key] -= 1
        if not self._under_way[key]:
            del self._under_way[key]
