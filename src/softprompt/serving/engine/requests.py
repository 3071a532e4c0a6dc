"""What the engine is asked to do, and how an answer gets from its thread to the event loop of whoever asked."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from softprompt.serving.engine.sampler import SampledToken, Sampling
from softprompt.serving.engine.sequence import Question, Ranking


class Piece(NamedTuple):
    """What came of a generation since the last piece."""

    text: str
    chosen: tuple[SampledToken, ...] = ()
    """The tokens, where their log-probabilities were asked for; their text may come with a later piece."""
    finish: str | None = None
    """In the last piece: "stop" (end of sequence, or a stop string) or "length"."""
    tokens: int = 0
    """Tokens that were generated so far."""


@dataclass(eq=False)
class Request:
    """Something to do, and the box its answers go to. Made inside a running event loop."""

    question: Question
    born: float = field(default_factory=time.monotonic, init=False)
    cancelled: bool = field(default=False, init=False)
    """Set by whoever does not want the answer any more."""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop, init=False)
    _box: "asyncio.Queue[Any]" = field(default_factory=asyncio.Queue, init=False)

    @property
    def size(self) -> int:
        """Tokens that go through the network at once."""
        return self.question.length + len(self.question.source)

    def deliver(self, item: Any) -> None:
        """Put an answer, or the exception that came instead, into the box; from any thread."""
        if not self.cancelled and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._box.put_nowait, item)

    async def take(self) -> Any:
        """The next answer. Raises what came instead."""
        item = await self._box.get()
        if isinstance(item, Exception):
            raise item
        return item


@dataclass(eq=False)
class Rank(Request):
    """Score choices; the answer is a list of log-probabilities, in nats."""

    ranking: Ranking

    @property
    def size(self) -> int:
        source = self.question.length + len(self.question.source)
        return sum(source + len(target) for target in self.ranking.targets)


@dataclass(eq=False)
class Generate(Request):
    """Continue a source; the answers are `Piece`s, the last of which has a `finish`."""

    max_tokens: int = 20
    sampling: Sampling = field(default_factory=Sampling)
    stops: Sequence[str] = ()
    strip: bool = True
    """Without blanks at the ends of the text, as `softprompt predict` gives it."""
