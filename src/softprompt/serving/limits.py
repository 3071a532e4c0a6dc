"""Request limits: body size, tokens, texts, concurrency per key."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bound what one request, and one key, may take."""

    body: int = 1_000_000
    """Bytes of a request body."""
    prompt_body: int = 64_000_000
    """Bytes of a request body that uploads a prompt."""
    input_tokens: int = 4096
    """Tokens per text."""
    token_characters: int = 16
    """Characters per text for each of those tokens: longer ones are refused before they are tokenized."""
    output_tokens: int = 1024
    """Tokens per answer."""
    texts: int = 128
    """Texts per request."""
    choices: int = 256
    """Choices per request."""
    stops: int = 8
    """Stop strings per request."""
    concurrent: int = 64
    """Requests in progress per key."""


class Concurrency:
    """Count the requests in progress per key. One event loop uses it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._in_progress: Counter[str] = Counter()

    def enter(self, key: str) -> bool:
        """Count a request; return False, and count nothing, when the key has as many as it may."""
        if self._in_progress[key] >= self.most:
            return False
        self._in_progress[key] += 1
        return True

    def leave(self, key: str) -> None:
        """Count a request as ended."""
        self._in_progress[key] -= 1
        if not self._in_progress[key]:
            del self._in_progress[key]
