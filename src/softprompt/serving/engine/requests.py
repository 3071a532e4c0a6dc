"""Requests to the engine, and how their results get from its thread to the event loop that waits for them."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar

from softprompt.serving.engine.ranking import Ranking
from softprompt.serving.engine.sampler import SampledToken, Sampling
from softprompt.serving.engine.sequence import Question

T = TypeVar("T")
Finish = Literal["stop", "length"]
"""Why a generation ended: end of sequence or a stop string; or as many tokens as it may have."""


class Piece(NamedTuple):
    """What was generated since the last piece."""

    text: str
    sampled: tuple[SampledToken, ...] = ()
    """The tokens, where their log-probabilities were requested; their text may come with a later piece."""
    finish: Finish | None = None
    """In the last piece alone."""
    tokens: int = 0
    """Tokens that were generated so far."""


@dataclass(eq=False)
class Request(Generic[T]):
    """Work for the engine, and the queue that its results of type T go to. Made inside a running event loop."""

    question: Question
    owner: str = field(default="", kw_only=True)
    """Who sent it: owners take turns."""
    born: float = field(default_factory=time.monotonic, init=False)
    cancelled: bool = field(default=False, init=False)
    """Set by whoever no longer wants the results."""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop, init=False)
    _results: "asyncio.Queue[T | Exception]" = field(default_factory=asyncio.Queue, init=False)

    @property
    def size(self) -> int:
        """Tokens that go through the network at once."""
        return self.question.length + len(self.question.source)

    def deliver(self, result: T | Exception) -> None:
        """Hand over a result, or the exception that replaces it; from any thread."""
        if not self.cancelled and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._results.put_nowait, result)

    async def take(self) -> T:
        """Wait for the next result. Raises the exception that replaces it."""
        result = await self._results.get()
        if isinstance(result, Exception):
            raise result
        return result


@dataclass(eq=False)
class Rank(Request[list[float]]):
    """Score choices; the result is a list of log-probabilities, in nats."""

    ranking: Ranking

    @property
    def size(self) -> int:
        """Tokens that go through the network at once."""
        return self.question.length + len(self.question.source) + sum(map(len, self.ranking.targets))


@dataclass(eq=False)
class Generate(Request[Piece]):
    """Continue a source; the results are `Piece`s, the last of which has a `finish`."""

    max_tokens: int = 20
    sampling: Sampling = field(default_factory=Sampling)
    stops: Sequence[str] = ()
    strip: bool = True
    """Without blanks at the ends of the text, as `softprompt predict` gives it."""


@dataclass(eq=False)
class Echo(Request[list[SampledToken]]):
    """Report the tokens of the source themselves, then the likeliest one to follow.

    The first token of a source with nothing before it has no log-probability.
    """

    top: int = 0
    """How many likeliest tokens to report beside each."""


AnyRequest = Rank | Generate | Echo
