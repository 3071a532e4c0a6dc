"""The engine: a queue, and one thread that owns the backbone and answers what waits, whatever prompts it names.

Each turn of the thread ranks what waits to be ranked, lets waiting generations join the running batch, and takes one
token further all that run (continuous batching: Yu et al., OSDI 2022, "Orca"). A pass is bounded in tokens; when
nothing runs, it waits a moment for others to come. The engine knows ids and the kinds of prompts, no names and no HTTP.
"""

import copy
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from softprompt.backbones import Backbone
from softprompt.errors import BadInput, RunFailed
from softprompt.evaluation.evaluate import pass_tokens
from softprompt.serving.engine.detokenizer import TextStream
from softprompt.serving.engine.prefix_cache import PromptCache
from softprompt.serving.engine.requests import Generate, Piece, Rank, Request
from softprompt.serving.engine.running_batch import running_batch
from softprompt.serving.engine.sampler import SampledToken, Sampler, choose


class QueueFull(RunFailed):
    """There are as many requests waiting as may; `retry_after` says in how many seconds to ask again."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"{waiting} requests are waiting already; ask again in {retry_after} s.")


class Closing(RunFailed):
    """The server is ending; it finishes what it has begun and takes nothing new."""


@dataclass(frozen=True)
class Batching:
    """How much is done at a time."""

    rows: int
    """Most generations that run together."""
    tokens: int
    """Most tokens that running generations hold keys and values of: rows times the longest row."""
    pass_tokens: int
    """Most tokens that are read at a time."""
    wait: float = 0.004
    """Seconds that the first of a batch waits for others."""
    queue: int = 1024
    """Most requests that wait."""
    cache: int = 1_000_000_000
    """Most bytes of prompts' keys and values."""

    @classmethod
    def on(cls, device: torch.device, **settings: Any) -> "Batching":
        """What suits a device, with `settings` that are not None instead."""
        cpu = device.type == "cpu"
        told = {name: value for name, value in settings.items() if value is not None}
        return cls(
            **{"rows": 32 if cpu else 128, "tokens": 8192 if cpu else 131072, "pass_tokens": pass_tokens(device)} | told
        )


class Watch:
    """What the engine tells of its work; this one listens to nothing."""

    def ranked(self, rows: int) -> None:
        """A pass ranked choices of so many questions."""

    def joined(self, rows: int) -> None:
        """So many generations joined the running batch."""

    def stepped(self, rows: int) -> None:
        """A step gave so many generations a token."""

    def waited(self, seconds: float) -> None:
        """A request's time in the queue."""


@dataclass(eq=False)
class _Running:
    job: Generate
    chooser: Sampler
    stream: TextStream
    tokens: int = 0
    last: int = -1
    finish: str | None = field(default=None)


class Engine:
    """Answers jobs. `start` it, `submit` to it, `close` it."""

    def __init__(self, backbone: Backbone, batching: Batching | None = None, watch: Watch | None = None) -> None:
        self.backbone = backbone
        self.batching = batching or Batching.on(backbone.device)
        self.watch = watch or Watch()
        self.cache = PromptCache(self.batching.cache)
        self.batch = running_batch(backbone, self.cache)
        self.ends = end_tokens(backbone)
        self._tokenizer = copy.deepcopy(backbone.tokenizer)  # the other one tokenises in another thread
        self._ranks: deque[Rank] = deque()
        self._joins: deque[Generate] = deque()
        self._running: list[_Running] = []
        self._news = threading.Condition()
        self._closing = self._aborted = False
        self._thread = threading.Thread(target=self._work, name="softprompt-engine", daemon=True)
        self._rate = 1.0  # jobs ended a second, lately
        self._ended_at = time.monotonic()

    # Whoever asks, in any thread

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    @property
    def waiting(self) -> int:
        return len(self._ranks) + len(self._joins)

    @property
    def running(self) -> int:
        return len(self._running)

    def check(self, job: Request) -> None:
        """Raise BadInput for a job that never fits."""
        if isinstance(job, Generate):
            columns = self.batch.tokens(job.question, job.max_tokens)
            if columns > self.batching.tokens:
                raise BadInput(
                    f"The prompt, the input and max_tokens come to {columns} tokens; at most {self.batching.tokens} "
                    "fit. Ask for fewer."
                )

    def submit(self, *jobs: Request) -> None:
        """Queue jobs, all or none. Raises BadInput, QueueFull or Closing."""
        for job in jobs:
            self.check(job)
        with self._news:
            if self._closing or not self._thread.is_alive():
                raise Closing("The server is ending and takes no more requests.")
            if self.waiting + len(jobs) > self.batching.queue:
                raise QueueFull(self.waiting, self.retry_after())
            for job in jobs:
                if isinstance(job, Rank):
                    self._ranks.append(job)
                elif isinstance(job, Generate):
                    self._joins.append(job)
            self._news.notify()

    def spell(self, token: int) -> str:
        """The text of one token."""
        text: str = self._tokenizer.decode([token])
        return text

    def retry_after(self) -> int:
        """Seconds in which the queue may have become short, 1 to 60."""
        return min(max(math.ceil(self.waiting / 2 / max(self._rate, 1e-3)), 1), 60)

    async def rank(self, job: Rank) -> list[float]:
        """The log-probabilities of a submitted job's choices. Whoever goes away cancels it."""
        try:
            scores: list[float] = await job.take()
            return scores
        finally:
            job.cancelled = True

    async def generate(self, job: Generate) -> AsyncGenerator[Piece, None]:
        """The pieces of a submitted job. Whoever goes away cancels it."""
        try:
            while True:
                piece: Piece = await job.take()
                yield piece
                if piece.finish is not None:
                    return
        finally:
            job.cancelled = True

    def close(self, grace: float = 30.0) -> None:
        """Take nothing new, finish what was taken, and end; what is not finished in `grace` seconds fails."""
        with self._news:
            self._closing = True
            self._news.notify()
        if self._thread.ident is not None:
            self._thread.join(grace)
        if self._thread.is_alive():
            self._aborted = True
            self._thread.join(grace)

    # The engine's own thread

    @torch.no_grad()
    def _work(self) -> None:
        try:
            while (turn := self._next()) is not None:
                ranks, joins = turn
                if ranks:
                    self._rank(ranks)
                if joins:
                    self._join(joins)
                if self._running:
                    self._step()
        finally:
            error = Closing("The server ended before this was answered.")
            with self._news:
                self._closing = True
                left: list[Request] = [*self._ranks, *self._joins, *(one.job for one in self._running)]
                self._ranks.clear()
                self._joins.clear()
                self._running.clear()
            for job in left:
                job.deliver(error)

    def _next(self) -> tuple[list[Rank], list[Generate]] | None:
        """What to do in this turn; None at the end. Waits for something to do."""
        with self._news:
            while True:
                self._forget_cancelled()
                if self._aborted or (self._closing and not self.waiting and not self._running):
                    return None
                if self._running or (self.waiting and (self._closing or self._waited())):
                    break
                self._news.wait(self._patience())
            ranks: list[Rank] = []
            size = 0
            while self._ranks and (not ranks or size + self._ranks[0].size <= self.batching.pass_tokens):
                size += self._ranks[0].size
                ranks.append(self._ranks.popleft())
            joins = self._fitting()
        now = time.monotonic()
        for job in [*ranks, *joins]:
            self.watch.waited(now - job.born)
        return ranks, joins

    def _fitting(self) -> list[Generate]:
        """Take from the queue the generations that fit into a pass and beside those that run."""
        joins: list[Generate] = []
        size = 0
        jobs = [one.job for one in self._running]
        widest = max((self.batch.tokens(job.question, job.max_tokens) for job in jobs), default=0)
        while self._joins and len(jobs) < self.batching.rows:
            job = self._joins[0]
            widest = max(widest, self.batch.tokens(job.question, job.max_tokens))
            size += job.size
            too_many = (len(jobs) + 1) * widest > self.batching.tokens
            if jobs and (too_many or (joins and size > self.batching.pass_tokens)):
                break
            joins.append(self._joins.popleft())
            jobs.append(job)
        return joins

    def _forget_cancelled(self) -> None:
        for waiting in (self._ranks, self._joins):
            if any(job.cancelled for job in waiting):
                kept = [job for job in waiting if not job.cancelled]
                waiting.clear()
                waiting.extend(kept)  # type: ignore[arg-type]

    def _oldest(self) -> float:
        return min(waiting[0].born for waiting in (self._ranks, self._joins) if waiting)

    def _waited(self) -> bool:
        """Whether the first of a batch has waited for others long enough, or there are enough of them."""
        sizes = sum(job.size for job in [*self._ranks, *self._joins])
        return sizes >= self.batching.pass_tokens or time.monotonic() >= self._oldest() + self.batching.wait

    def _patience(self) -> float | None:
        return max(self._oldest() + self.batching.wait - time.monotonic(), 0) if self.waiting else None

    def _rank(self, jobs: Sequence[Rank]) -> None:
        try:
            scores = self.batch.score([job.question for job in jobs], [job.ranking for job in jobs])
        except Exception as error:  # noqa: BLE001  # one bad job, or too little memory, must not fail its neighbours
            self._halve(jobs, error, self._rank)
            return
        self.watch.ranked(len(jobs))
        for job, own in zip(jobs, scores, strict=True):
            job.deliver(own)
        self._ended(len(jobs))

    def _join(self, jobs: Sequence[Generate]) -> None:
        jobs = sorted(jobs, key=lambda job: len(job.question.source))  # those of like length are read together
        try:
            logits = self.batch.join([job.question for job in jobs])
        except Exception as error:  # noqa: BLE001
            self._halve(jobs, error, self._join)
            return
        self.watch.joined(len(jobs))
        new = [
            _Running(job, Sampler(job.sampling), TextStream(self._tokenizer, job.stops, strip=job.strip))
            for job in jobs
        ]
        self._running += new
        self._accept(new, logits)

    def _halve(self, jobs: Sequence[Any], error: Exception, again: Any) -> None:
        """Try halves of what failed; a job that fails alone is told so."""
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        if len(jobs) == 1:
            jobs[0].deliver(error)
            return
        again(jobs[: len(jobs) // 2])
        again(jobs[len(jobs) // 2 :])

    def _step(self) -> None:
        try:
            logits = self.batch.step([one.last for one in self._running])
        except Exception as error:  # noqa: BLE001  # nobody knows what the batch holds now: all that run in it fail
            for one in self._running:
                one.job.deliver(error)
            self._running.clear()
            self.batch.clear()
            return
        self.watch.stepped(len(self._running))
        self._accept(self._running, logits)

    def _accept(self, ones: Sequence[_Running], logits: torch.Tensor) -> None:
        """Choose the next token of `ones`, hand on what it says, and let those that are finished leave."""
        for one, chosen in zip(ones, choose(logits, [one.chooser for one in ones]), strict=True):
            if not one.job.cancelled:
                self._take(one, chosen)
        gone = [i for i, one in enumerate(self._running) if one.finish is not None or one.job.cancelled]
        for i in reversed(gone):
            self.batch.leave(i)
            self._running[i] = self._running[-1]
            self._running.pop()
        self._ended(len(gone))

    def _take(self, one: _Running, chosen: SampledToken) -> None:
        one.tokens, one.last = one.tokens + 1, chosen.token
        text: str = ""
        told: tuple[SampledToken, ...] = () if chosen.logprob is None else (chosen,)
        if chosen.token in self.ends:
            one.finish, told = "stop", ()
        else:
            text = one.stream.add(chosen.token)
            one.finish = "length" if one.tokens >= one.job.max_tokens else None
        if one.finish:
            text += one.stream.end()
        if one.stream.stopped:
            one.finish = "stop"
        if text or told or one.finish:
            one.job.deliver(Piece(text, told, one.finish, one.tokens))

    def _ended(self, jobs: int) -> None:
        if jobs:
            now = time.monotonic()
            share = min((now - self._ended_at) / 10, 1.0)  # the mean of about the last ten seconds
            self._rate += share * (jobs / max(now - self._ended_at, 1e-3) - self._rate)
            self._ended_at = now


def end_tokens(backbone: Backbone) -> frozenset[int]:
    """Ids that end a generated text, as transformers' generate reads them."""
    told = getattr(getattr(backbone.model, "generation_config", None), "eos_token_id", None)
    return frozenset([told] if isinstance(told, int) else told or [])
