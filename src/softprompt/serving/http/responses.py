"""Turn the engine's pieces into response bodies, whole or streamed."""

import asyncio
import json
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar

from starlette.requests import Request as HTTPRequest

from softprompt.serving.engine.engine import Engine
from softprompt.serving.engine.requests import AnyRequest, Generate, Piece, Rank
from softprompt.serving.engine.sampler import SampledToken, Sampling
from softprompt.serving.http.errors import ErrorBody, of_error
from softprompt.serving.http.schema import (
    Classification,
    Classified,
    Completion,
    CompletionBody,
    CompletionChoice,
    Logprobs,
    Usage,
    count_usage,
)
from softprompt.serving.preprocess import PreparedInput

T = TypeVar("T")
DONE = "data: [DONE]\n\n"


class ClientGone(Exception):
    """The client went away before its response."""


async def while_connected(request: HTTPRequest, work: Awaitable[T]) -> T:
    """Wait for `work`, and cancel it when the client goes away: raises ClientGone then."""
    doing = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_wait_until_disconnect(request))
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


async def _wait_until_disconnect(request: HTTPRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def completion_requests(body: CompletionBody, inputs: Sequence[PreparedInput], owner: str = "") -> list[Generate]:
    """Make a request for each text; with a seed, each text gets the tokens that it would get alone."""
    sampling = Sampling(body.temperature or 0.0, 1.0 if body.top_p is None else body.top_p, body.seed, body.logprobs)
    strip = not (body.raw or all(one.question.prompt is None for one in inputs))
    stops = tuple(body.stop or ())
    return [Generate(one.question, one.max_tokens, sampling, stops, strip, owner=owner) for one in inputs]


def rank_requests(inputs: Sequence[PreparedInput], owner: str = "") -> list[Rank]:
    """Make a request for each text whose choices are ranked."""
    return [Rank(one.question, one.ranking, owner=owner) for one in inputs]


def cancel(requests: Sequence[AnyRequest]) -> None:
    """Tell the engine that nobody waits for these any more."""
    for request in requests:
        request.cancelled = True


class Writer:
    """Write the response to one completion request.

    Args:
        engine: It has the requests already.
        body: What the client sent.
        inputs: Its texts.
        requests: The engine's request for each text.
    """

    def __init__(
        self, engine: Engine, body: CompletionBody, inputs: Sequence[PreparedInput], requests: Sequence[Generate]
    ) -> None:
        self.engine, self.body, self.inputs, self.requests = engine, body, inputs, requests
        self.id, self.created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        self._offsets = [0] * len(inputs)
        self._tokens = [0] * len(inputs)

    async def whole(self) -> Completion:
        """Collect all answers in one body."""
        try:
            choices = await asyncio.gather(*(self._collect(i) for i in range(len(self.inputs))))
        finally:
            cancel(self.requests)
        return self._body(choices, self._usage())

    async def stream(self) -> AsyncIterator[str]:
        """Yield server-sent events, the texts' pieces as they come; an error ends them with its body."""
        news: asyncio.Queue[CompletionChoice | Exception | None] = asyncio.Queue()

        async def follow(i: int) -> None:
            try:
                async for choice in self._choices(i):
                    news.put_nowait(choice)
                news.put_nowait(None)
            except Exception as error:  # noqa: BLE001  # it is sent to the client below
                news.put_nowait(error)

        tasks = [asyncio.ensure_future(follow(i)) for i in range(len(self.inputs))]
        try:
            left = len(tasks)
            while left:
                item = await news.get()
                if isinstance(item, Exception):
                    yield _event(of_error(item)[1])
                    break
                left -= item is None
                if item is not None:
                    yield self._chunk(self._body([item]))
            else:
                if self.body.stream_options and self.body.stream_options.include_usage:
                    yield self._chunk(self._body([], self._usage()))
            yield DONE
        finally:
            cancel(self.requests)
            for task in tasks:
                task.cancel()

    async def _collect(self, i: int) -> CompletionChoice:
        """Join all pieces of text i's answer."""
        choices = [choice async for choice in self._choices(i)]
        logprobs = None
        if self.body.logprobs is not None:
            parts = [choice.logprobs for choice in choices if choice.logprobs]
            logprobs = Logprobs(
                tokens=[token for part in parts for token in part.tokens],
                token_logprobs=[value for part in parts for value in part.token_logprobs],
                top_logprobs=[top for part in parts for top in part.top_logprobs or ()] if self.body.logprobs else None,
                text_offset=[at for part in parts for at in part.text_offset],
            )
        text = "".join(choice.text for choice in choices)
        return choices[-1].model_copy(update={"text": text, "logprobs": logprobs})

    async def _choices(self, i: int) -> AsyncIterator[CompletionChoice]:
        async with aclosing(self.engine.generate(self.requests[i])) as pieces:
            async for piece in pieces:
                self._tokens[i] = piece.tokens
                yield self._choice(i, piece)

    def _choice(self, i: int, piece: Piece) -> CompletionChoice:
        return CompletionChoice(
            index=i, text=piece.text, finish_reason=piece.finish, truncated=self.inputs[i].truncated,
            logprobs=None if self.body.logprobs is None else self._logprobs(i, piece.sampled),
        )  # fmt: skip

    def _logprobs(self, i: int, sampled: Sequence[SampledToken]) -> Logprobs:
        """Report tokens as they were sampled; offsets count the tokens' own texts."""
        spelled, offsets = [], []
        for one in sampled:
            spelled.append(self.engine.spell(one.token))
            offsets.append(self._offsets[i])
            self._offsets[i] += len(spelled[-1])
        return Logprobs(
            tokens=spelled,
            token_logprobs=[float(one.logprob or 0.0) for one in sampled],
            top_logprobs=[self._top(one) for one in sampled] if self.body.logprobs else None,
            text_offset=offsets,
        )

    def _top(self, sampled: SampledToken) -> dict[str, float]:
        """Report the likeliest tokens by their text; of several with one text, the likeliest."""
        return {self.engine.spell(token): value for token, value in reversed(sampled.top)}

    def _body(self, choices: Sequence[CompletionChoice], usage: Usage | None = None) -> Completion:
        return Completion(id=self.id, created=self.created, model=self.body.model, choices=list(choices), usage=usage)

    def _usage(self) -> Usage:
        return count_usage(_source_tokens(self.inputs), sum(self._tokens))

    def _chunk(self, body: Completion) -> str:
        """Write one event. A chunk has no usage, but the last one where it was requested."""
        return _event(body.model_dump(exclude={"usage"} if body.usage is None else None))


def _event(body: ErrorBody | dict[str, object]) -> str:
    return f"data: {json.dumps(body)}\n\n"


def _source_tokens(inputs: Sequence[PreparedInput]) -> int:
    return sum(len(one.question.source) for one in inputs)


async def classify_inputs(
    engine: Engine, model: str, inputs: Sequence[PreparedInput], requests: Sequence[Rank]
) -> Classification:
    """Wait for the scores of submitted requests, one for each text, and write the response."""
    try:
        scores = await asyncio.gather(*(engine.rank(request) for request in requests))
    finally:
        cancel(requests)
    data = [_classified(i, one, own) for i, (one, own) in enumerate(zip(inputs, scores, strict=True))]
    return Classification(model=model, data=data, usage=count_usage(_source_tokens(inputs)))


def _classified(index: int, text: PreparedInput, scores: Sequence[float]) -> Classified:
    """Report the choices of one text, whose scores are log-probabilities in nats."""
    shares = _softmax(scores)
    best = max(range(len(scores)), key=scores.__getitem__)
    return Classified(
        index=index,
        prediction=text.choices[best],
        probability=shares[best],
        truncated=text.truncated,
        probabilities=dict(zip(text.choices, shares, strict=True)),
        logprobs=dict(zip(text.choices, scores, strict=True)),
    )


def _softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    shares = [math.exp(score - top) for score in scores]
    return [share / sum(shares) for share in shares]
