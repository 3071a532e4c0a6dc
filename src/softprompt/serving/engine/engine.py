"""The engine: a queue, and one thread that owns the backbone and computes what waits, whatever prompts it uses.

Each turn of the thread ranks what waits to be ranked, lets waiting generations join the running batch, and takes all
running ones a token further (continuous batching: Yu et al., OSDI 2022, "Orca"). A pass is bounded in tokens; when
nothing runs, it waits a moment for more requests. The engine knows ids and the kinds of prompts, no names and no HTTP.
"""

import copy
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch

from softprompt.backbones import Backbone
from softprompt.errors import BadInput, NotFinite
from softprompt.serving.engine.batching import Batching
from softprompt.serving.engine.causal import OVERGROWN, CausalBatch
from softprompt.serving.engine.constraint import Constraints
from softprompt.serving.engine.detokenizer import TextStream
from softprompt.serving.engine.fair_queue import FairQueue
from softprompt.serving.engine.generation import Generation, end_tokens
from softprompt.serving.engine.prefix_cache import PromptCache
from softprompt.serving.engine.refusals import Closing, QueueFull
from softprompt.serving.engine.requests import AnyRequest, Echo, Generate, Piece, Rank, Request
from softprompt.serving.engine.running_batch import make_running_batch
from softprompt.serving.engine.sampler import SampledToken, Sampler, Sampling, sample
from softprompt.serving.engine.watch import Watch
from softprompt.serving.memory import out_of_memory

R = TypeVar("R", Rank | Echo, Generate)
T = TypeVar("T")
Work = Generator[None, None, Sequence[list[float] | list[SampledToken]]]
FOR_OTHERS = 8
"""One place in so many of the queue is kept for other owners."""
TOGETHER = 3
"""Groups of rankings that take turns, a pass each, so that a long one delays no short one for long."""


class _Ranking(NamedTuple):
    """Requests whose choices are being ranked together, or whose sources are reported."""

    requests: Sequence[Rank | Echo]
    work: Work
    begun: bool = False
    """Whether it has had a pass."""

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not all(request.cancelled for request in self.requests)


class Engine:
    """Compute requests: `start` it, `submit` to it, `close` it."""

    def __init__(self, backbone: Backbone, batching: Batching | None = None, watch: Watch | None = None) -> None:
        self.backbone = backbone
        self.batching = batching or Batching.on(backbone.device)
        self.watch = watch or Watch()
        self.cache = PromptCache(self.batching.cache)
        self.batch = make_running_batch(backbone, self.cache, self.batching)
        self.ends = end_tokens(backbone)
        self.constraints = Constraints(backbone, sorted(self.ends))
        self._tokenizer = copy.deepcopy(backbone.tokenizer)  # the other one tokenizes in another thread
        self._ranks: FairQueue[Rank | Echo] = FairQueue()
        self._joins: FairQueue[Generate] = FairQueue()
        self._running: list[Generation] = []
        self._rankings: deque[_Ranking] = deque()
        self._in_hand: list[AnyRequest] = []  # of the turn that is taken: whatever happens in it, they get an answer
        self._news = threading.Condition()
        self._closing = self._aborted = False
        self._thread = threading.Thread(target=self._work, name="softprompt-engine", daemon=True)
        self._rate = 1.0  # requests that end per second, lately
        self._ended_at = time.monotonic()

    # For clients, in any thread

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._closing

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._ranks) + len(self._joins)

    @property
    def running(self) -> int:
        """Generations in the running batch."""
        return len(self._running)

    def check(self, request: AnyRequest) -> None:
        """Raise BadInput for a request that never fits."""
        if isinstance(request, Generate):
            columns = self._columns(request)
            if columns > self.batching.tokens:
                raise BadInput(
                    f"The prompt, the input and max_tokens come to {columns} tokens; at most {self.batching.tokens} "
                    "fit. Ask for fewer."
                )
        elif isinstance(request, Echo) and not isinstance(self.batch, CausalBatch):
            raise BadInput(
                f"echo reports what {self.backbone.name} says of the input's own tokens, which only a decoder-only "
                "backbone that keeps keys and values does here. Leave it out."
            )
        elif request.size > self.batching.tokens:
            raise BadInput(
                f"The prompt, the input and its choices come to {request.size} tokens; at most "
                f"{self.batching.tokens} are ranked at once. Give fewer or shorter choices."
            )

    def submit(self, *requests: AnyRequest) -> None:
        """Queue requests, all or none. Raises BadInput, QueueFull or Closing."""
        for request in requests:
            self.check(request)
        with self._news:
            if self._closing or not self._thread.is_alive():
                raise Closing("The server is ending and takes no more requests.")
            most = self.batching.queue
            own = max(self._ranks.count(one.owner) + self._joins.count(one.owner) for one in requests)
            if self.waiting + len(requests) > most or own + len(requests) > most - most // FOR_OTHERS:
                raise QueueFull(self.waiting, self.retry_after())
            for request in requests:
                if isinstance(request, Generate):
                    self._joins.append(request)
                else:
                    self._ranks.append(request)
            self._news.notify()

    def spell(self, token: int) -> str:
        """Decode one token."""
        text: str = self._tokenizer.decode([token])
        return text

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode tokens, special ones too."""
        text: str = self._tokenizer.decode(list(tokens))
        return text

    def retry_after(self, more: int = 0) -> int:
        """Estimate in how many seconds half of what waits, and `more` beside it, is done: 1 to 60."""
        return min(max(math.ceil((self.waiting + more) / 2 / max(self._rate, 1e-3)), 1), 60)

    async def rank(self, request: Request[T]) -> T:
        """Wait for the one result of a submitted Rank or Echo. Cancels it when its caller leaves."""
        try:
            return await request.take()
        finally:
            request.cancelled = True

    async def generate(self, request: Generate) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of a submitted request. Cancels it when its caller leaves."""
        try:
            while True:
                piece = await request.take()
                yield piece
                if piece.finish is not None:
                    return
        finally:
            request.cancelled = True

    def close(self, grace: float = 30.0) -> None:
        """Take no new requests, finish those there are, and end; what is not finished in `grace` seconds fails."""
        with self._news:
            self._closing = True
            self._news.notify()
        if self._thread.ident is not None:
            self._thread.join(grace)
        if self._thread.is_alive():
            self._aborted = True
            self._thread.join(grace)

    # For the engine's own thread

    @torch.no_grad()
    def _work(self) -> None:
        try:
            while (turn := self._next_turn()) is not None:
                ranks, joins = turn
                self._in_hand = [*ranks, *joins]
                if ranks:
                    self._begin_ranking(ranks)
                if self._rankings:
                    self._in_hand += self._rankings[0].requests
                    self._rank(self._rankings.popleft())
                if joins:
                    self._join(joins)
                if self._running:
                    self._step()
        finally:
            error = Closing("The server ended before this was answered.")
            with self._news:
                self._closing = True
                begun = [request for one in self._rankings for request in one.requests]
                left: list[AnyRequest] = [*self._in_hand, *begun, *self._ranks, *self._joins]
                left += [one.request for one in self._running]
                self._ranks.clear()
                self._joins.clear()
                self._running.clear()
                self._rankings.clear()
            for request in dict.fromkeys(left):
                request.deliver(error)

    def _next_turn(self) -> tuple[list[Rank | Echo], list[Generate]] | None:
        """Wait for work, and take what fits into a turn; None at the end."""
        with self._news:
            while True:
                self._remove_cancelled_requests()
                busy = bool(self._running or self._rankings)
                if self._aborted or (self._closing and not self.waiting and not busy):
                    return None
                if busy or (self.waiting and (self._closing or self._has_waited())):
                    break
                self._news.wait(self._patience())
            ranks: list[Rank | Echo] = []
            size = 0
            # What has begun has its first pass before more begins: one that fits into a pass is done with it.
            fresh = all(one.begun for one in self._rankings) and len(self._rankings) < TOGETHER
            while self._ranks and fresh:
                size += self._ranks.first().size
                if ranks and size > self.batching.pass_tokens:
                    break
                ranks.append(self._ranks.popleft())
            joins = self._take_joins()
        now = time.monotonic()
        requests: list[AnyRequest] = [*ranks, *joins]
        for request in requests:
            self.watch.on_leave_queue(request.question, now - request.born)
        return ranks, joins

    def _take_joins(self) -> list[Generate]:
        """Take from the queue the generations that fit into a pass and beside the running ones."""
        joins: list[Generate] = []
        size = 0
        together = [one.request for one in self._running]
        widest = max(map(self._columns, together), default=0)
        while self._joins and len(together) < self.batching.rows:
            request = self._joins.first()
            widest = max(widest, self._columns(request))
            size += request.size
            too_many = (len(together) + 1) * widest > self.batching.tokens
            if together and (too_many or (joins and size > self.batching.pass_tokens)):
                break
            joins.append(self._joins.popleft())
            together.append(request)
        return joins

    def _columns(self, request: Generate) -> int:
        """Count the columns that a generation takes in the end."""
        return self.batch.tokens(request.question, request.max_tokens)

    def _remove_cancelled_requests(self) -> None:
        self._ranks.prune()
        self._joins.prune()

    def _oldest(self) -> float:
        return min(waiting.oldest() for waiting in (self._ranks, self._joins) if waiting)

    def _has_waited(self) -> bool:
        """Check whether the first of a batch has waited long enough for others, or there are enough of them."""
        size = sum(request.size for request in self._ranks) + sum(request.size for request in self._joins)
        return size >= self.batching.pass_tokens or time.monotonic() >= self._oldest() + self.batching.wait

    def _patience(self) -> float | None:
        return max(self._oldest() + self.batching.wait - time.monotonic(), 0) if self.waiting else None

    def _begin_ranking(self, requests: Sequence[Rank | Echo]) -> None:
        ranks = [request for request in requests if isinstance(request, Rank)]
        if ranks:
            self._begin(
                ranks, lambda: self.batch.score([one.question for one in ranks], [one.ranking for one in ranks])
            )
        for top in dict.fromkeys(request.top for request in requests if isinstance(request, Echo)):
            echoes = [request for request in requests if isinstance(request, Echo) and request.top == top]
            assert isinstance(self.batch, CausalBatch)
            self._begin(echoes, partial(self.batch.echo, [one.question for one in echoes], top))

    def _begin(self, requests: Sequence[Rank | Echo], work: Callable[[], Work]) -> None:
        try:
            self._rankings.append(_Ranking(requests, work()))
        except Exception as error:  # noqa: BLE001
            self._begin_halves(requests, error)

    def _begin_halves(self, requests: Sequence[Rank | Echo], error: Exception) -> None:
        for half in self._halves(requests, error):
            self._begin_ranking(half)

    def _rank(self, ranking: _Ranking) -> None:
        """Take a ranking a pass further; it goes on after the others, if somebody still waits for it."""
        requests, work = ranking.requests, ranking.work
        if not ranking.wanted:
            work.close()
            return
        try:
            next(work)
        except StopIteration as end:
            self.watch.on_rank(len(requests))
            for request, own in zip(requests, end.value, strict=True):
                request.deliver(own if _are_numbers(own) else NotFinite(OVERGROWN))
            self._update_rate(len(requests))
        except Exception as error:  # noqa: BLE001  # one bad request, or too little memory, must not fail the others
            self._begin_halves(requests, error)
        else:
            self._rankings.append(ranking._replace(begun=True))

    def _join(self, requests: Sequence[Generate]) -> None:
        requests = sorted(requests, key=lambda one: len(one.question.source))  # similar lengths are read together
        try:
            logits = self.batch.join([one.question for one in requests])
        except Exception as error:  # noqa: BLE001
            for half in self._halves(requests, error):
                self._join(half)
            return
        self.watch.on_join(len(requests))
        new = [
            Generation(one, self._sampler(one.sampling), TextStream(self._tokenizer, one.stops, strip=one.strip))
            for one in requests
        ]
        self._running += new
        self._sample(new, logits)
        now = time.monotonic()
        for one in new:
            one.began = now
            self.watch.on_first_token(one.request.question, now - one.request.born)

    def _sampler(self, sampling: Sampling) -> Sampler:
        constraint = None if sampling.grammar is None else self.constraints.make(sampling.grammar)
        return Sampler(sampling, self.ends | sampling.stop_tokens, constraint)

    def _halves(self, requests: Sequence[R], error: Exception) -> list[Sequence[R]]:
        """Halve what failed, to try each half; a request that fails alone gets the error."""
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        if len(requests) == 1:
            requests[0].deliver(_public(error))
            return []
        return [requests[: len(requests) // 2], requests[len(requests) // 2 :]]

    def _step(self) -> None:
        try:
            logits = self.batch.step([one.last for one in self._running])
        except Exception as error:  # noqa: BLE001  # what the batch holds now is unknown: all that run in it fail
            for one in self._running:
                one.request.deliver(_public(error))
            self._running.clear()
            self.batch.clear()
            return
        self.watch.on_step(len(self._running))
        self._sample(self._running, logits)

    def _sample(self, ones: Sequence[Generation], logits: torch.Tensor) -> None:
        """Sample the next token of `ones`, and remove from the batch those that are finished, or have no logits."""
        numbers = logits.amax(-1).isfinite().tolist()
        for one, number in zip(ones, numbers, strict=True):
            if not number:
                one.request.deliver(NotFinite(OVERGROWN))
                one.request.cancelled = True
        good = [i for i, one in enumerate(ones) if not one.request.cancelled]
        sampled = sample(logits if len(good) == len(ones) else logits[good], [ones[i].sampler for i in good])
        for i, token in zip(good, sampled, strict=True):
            ones[i].take(token, ones[i].sampler.ends)
        gone = [i for i, one in enumerate(self._running) if one.finish is not None or one.request.cancelled]
        now = time.monotonic()
        for i in reversed(gone):
            one = self._running[i]
            self.watch.on_end(one.request.question, one.tokens, max(now - one.began, 0.0))
            self.batch.leave(i)
            self._running[i] = self._running[-1]
            self._running.pop()
        self._update_rate(len(gone))

    def _update_rate(self, ended: int) -> None:
        if ended:
            now = time.monotonic()
            share = min((now - self._ended_at) / 10, 1.0)  # the mean of about the last ten seconds
            self._rate += share * (ended / max(now - self._ended_at, 1e-3) - self._rate)
            self._ended_at = now


def _are_numbers(found: Sequence[float | SampledToken]) -> bool:
    values = [one if isinstance(one, float) else one.logprob for one in found]
    return all(math.isfinite(value) for value in values if value is not None)


def _public(error: Exception) -> Exception:
    """Turn torch's out-of-memory error into the package's own."""
    return out_of_memory(error) if isinstance(error, torch.OutOfMemoryError) else error
