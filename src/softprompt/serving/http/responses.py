"""From the engine's pieces to the bodies of answers, whole or streamed."""

import asyncio
import json
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request as HTTPRequest

from softprompt.serving.engine.engine import Engine
from softprompt.serving.engine.requests import Generate, Piece, Rank, Request
from softprompt.serving.engine.sampler import SampledToken, Sampling
from softprompt.serving.http.errors import of_error
from softprompt.serving.http.schema import (
    Classification,
    Classified,
    Completion,
    CompletionBody,
    CompletionChoice,
    Logprobs,
    usage,
)
from softprompt.serving.preprocess import PreparedInput, ranked

T = TypeVar("T")
DONE = "data: [DONE]\n\n"


class ClientGone(Exception):
    """The client went away before its answer."""


async def while_connected(request: HTTPRequest, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes away: raises ClientGone then."""
    doing = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientGone
    finally:
        for task in (doing, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _disconnected(request: HTTPRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def completion_jobs(body: CompletionBody, asked: Sequence[PreparedInput]) -> list[Generate]:
    """A job for each text; a seed makes each text's tokens those it would get alone."""
    sampling = Sampling(body.temperature or 0.0, 1.0 if body.top_p is None else body.top_p, body.seed, body.logprobs)
    strip = not (body.raw or all(one.question.prompt is None for one in asked))
    return [Generate(one.question, one.max_tokens, sampling, tuple(body.stop or ()), strip) for one in asked]


def rank_jobs(asked: Sequence[PreparedInput]) -> list[Rank]:
    return [Rank(one.question, ranked(one)) for one in asked]


def cancel(jobs: Sequence[Request]) -> None:
    for job in jobs:
        job.cancelled = True


class Writer:
    """Writes the completions of one request."""

    def __init__(
        self, engine: Engine, body: CompletionBody, asked: Sequence[PreparedInput], jobs: Sequence[Generate]
    ) -> None:
        self.engine, self.body, self.asked, self.jobs = engine, body, asked, jobs
        self.id, self.created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        self._offsets = [0] * len(asked)
        self._tokens = [0] * len(asked)

    async def whole(self) -> Completion:
        try:
            choices = await asyncio.gather(*(self._collected(i) for i in range(len(self.asked))))
        finally:
            cancel(self.jobs)
        return self._body(choices, usage=self._usage())

    async def streamed(self) -> AsyncIterator[str]:
        """Server-sent events, the texts' pieces as they come; an error ends them with its body."""
        news: asyncio.Queue[CompletionChoice | Exception | None] = asyncio.Queue()

        async def follow(i: int) -> None:
            try:
                async for choice in self._choices(i):
                    news.put_nowait(choice)
                news.put_nowait(None)
            except Exception as error:  # noqa: BLE001  # it is told below
                news.put_nowait(error)

        tasks = [asyncio.ensure_future(follow(i)) for i in range(len(self.asked))]
        try:
            left = len(tasks)
            while left:
                item = await news.get()
                if isinstance(item, Exception):
                    yield f"data: {json.dumps(of_error(item)[1])}\n\n"
                    break
                left -= item is None
                if item is not None:
                    yield self._event(self._body([item]))
            else:
                if self.body.stream_options and self.body.stream_options.include_usage:
                    yield self._event(self._body([], usage=self._usage()))
            yield DONE
        finally:
            cancel(self.jobs)
            for task in tasks:
                task.cancel()

    async def _collected(self, i: int) -> CompletionChoice:
        """All of text i's answer in one."""
        told = [choice async for choice in self._choices(i)]
        logprobs = None
        if self.body.logprobs is not None:
            parts = [choice.logprobs for choice in told if choice.logprobs]
            logprobs = Logprobs(
                tokens=[token for part in parts for token in part.tokens],
                token_logprobs=[value for part in parts for value in part.token_logprobs],
                top_logprobs=[top for part in parts for top in part.top_logprobs or ()] if self.body.logprobs else None,
                text_offset=[at for part in parts for at in part.text_offset],
            )
        text = "".join(choice.text for choice in told)
        return told[-1].model_copy(update={"text": text, "logprobs": logprobs})

    async def _choices(self, i: int) -> AsyncIterator[CompletionChoice]:
        async with aclosing(self.engine.generate(self.jobs[i])) as pieces:
            async for piece in pieces:
                self._tokens[i] = piece.tokens
                yield self._choice(i, piece)

    def _choice(self, i: int, piece: Piece) -> CompletionChoice:
        return CompletionChoice(
            index=i, text=piece.text, finish_reason=piece.finish, truncated=self.asked[i].truncated,
            logprobs=None if self.body.logprobs is None else self._logprobs(i, piece.chosen),
        )  # fmt: skip

    def _logprobs(self, i: int, chosen: Sequence[SampledToken]) -> Logprobs:
        """Of tokens as they were chosen; offsets count the tokens' own texts."""
        spelled, offsets = [], []
        for one in chosen:
            spelled.append(self.engine.spell(one.token))
            offsets.append(self._offsets[i])
            self._offsets[i] += len(spelled[-1])
        return Logprobs(
            tokens=spelled,
            token_logprobs=[float(one.logprob or 0.0) for one in chosen],
            top_logprobs=[self._top(one) for one in chosen] if self.body.logprobs else None,
            text_offset=offsets,
        )

    def _top(self, chosen: SampledToken) -> dict[str, float]:
        """By text; of tokens that are spelled alike, the likeliest."""
        return {self.engine.spell(token): value for token, value in reversed(chosen.top)}

    def _body(self, choices: Sequence[CompletionChoice], **more: Any) -> Completion:
        return Completion(id=self.id, created=self.created, model=self.body.model, choices=list(choices), **more)

    def _usage(self) -> Any:
        return usage(sum(len(one.question.source) for one in self.asked), sum(self._tokens))

    def _event(self, body: Completion) -> str:
        """One event. A chunk has no usage, but the last one where it was asked for."""
        return f"data: {json.dumps(body.model_dump(exclude={'usage'} if body.usage is None else None))}\n\n"


async def classified(
    engine: Engine, model: str, asked: Sequence[PreparedInput], jobs: Sequence[Rank]
) -> Classification:
    try:
        scores = await asyncio.gather(*(engine.rank(job) for job in jobs))
    finally:
        cancel(jobs)
    data = []
    for i, (one, own) in enumerate(zip(asked, scores, strict=True)):
        shares = _softmax(own)
        best = max(range(len(own)), key=own.__getitem__)
        data.append(
            Classified(
                index=i,
                prediction=one.choices[best],
                probability=shares[best],
                truncated=one.truncated,
                probabilities=dict(zip(one.choices, shares, strict=True)),
                logprobs=dict(zip(one.choices, own, strict=True)),
            )
        )
    return Classification(model=model, data=data, usage=usage(sum(len(one.question.source) for one in asked)))


def _softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    shares = [math.exp(score - top) for score in scores]
    return [share / sum(shares) for share in shares]
