"""Request limits: body size, tokens, texts, concurrency per key."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    """Requests in progress per key or, without keys, per address; more wait for their turn."""
    waiting: int = 1024
    """Requests that wait for their turn, of all keys."""
    arrival: float = 30.0
    """Seconds within which a request's headers, and then its body, must arrive; ten times that for an upload."""


class Places:
    """Places of requests in progress: so many a caller, for whom more wait. One event loop uses it."""

    def __init__(self, limits: Limits) -> None:
        self.each, self.most = limits.concurrent, limits.waiting
        self.waiting = 0
        self._of: dict[str, asyncio.Semaphore] = {}
        self._users: Counter[str] = Counter()

    def full(self, caller: str) -> bool:
        """Return whether a request of `caller` would have to wait, and may not."""
        return self.waiting >= self.most and caller in self._of and self._of[caller].locked()

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Hold a place of `caller`, when one is free, for a block."""
        self._users[caller] += 1
        places = self._of.setdefault(caller, asyncio.Semaphore(self.each))
        try:
            self.waiting += 1
            try:
                await places.acquire()
            finally:
                self.waiting -= 1
            try:
                yield
            finally:
                places.release()
        finally:
            self._users[caller] -= 1
            if not self._users[caller]:
                del self._users[caller], self._of[caller]
