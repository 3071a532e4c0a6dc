"""Turn the engine's pieces into response bodies, whole or streamed."""

import asyncio
import json
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Generic, TypedDict, TypeVar

from starlette.requests import Request as HTTPRequest

from softprompt.serving.engine.engine import Engine
from softprompt.serving.engine.requests import AnyRequest, Echo, Finish, Generate, Piece, Rank
from softprompt.serving.engine.sampler import SampledToken
from softprompt.serving.http.errors import ErrorBody, of_error
from softprompt.serving.http.schema import (
    ChatBody,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatPart,
    ChatText,
    Classification,
    Classified,
    Completion,
    CompletionBody,
    CompletionChoice,
    Logprobs,
    SamplingBody,
    TokenLogprob,
    TopToken,
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


def cancel(requests: Sequence[AnyRequest]) -> None:
    """Tell the engine that nobody waits for these any more."""
    for request in requests:
        request.cancelled = True


class Writer(Generic[T]):
    """Write the response to one request for answers.

    Args:
        engine: It has the requests already.
        body: What the client sent.
        inputs: Its texts.
        requests: The engine's requests: as many for each text as the client wants answers.
    """

    def __init__(
        self, engine: Engine, body: SamplingBody, inputs: Sequence[PreparedInput], requests: Sequence[Generate]
    ) -> None:
        self.engine, self.body, self.inputs, self.requests = engine, body, inputs, requests
        self.created = int(time.time())
        self.each = len(requests) // len(inputs)
        self._tokens = [0] * len(requests)
        self.on_end: Callable[[Usage], None] = lambda usage: None
        """Called with what was used, however it ended."""

    async def whole(self) -> T:
        """Collect all answers in one body."""
        try:
            answers = await asyncio.gather(*(self._collect(i) for i in range(len(self.requests))))
        finally:
            self._cancel()
        return self._body(answers, self._usage())

    async def stream(self) -> AsyncIterator[str]:
        """Yield server-sent events, the answers' pieces as they come; an error ends them with its body."""
        news: asyncio.Queue[tuple[int, Piece] | Exception | None] = asyncio.Queue()

        async def follow(i: int) -> None:
            try:
                async for piece in self._pieces(i):
                    news.put_nowait((i, piece))
                news.put_nowait(None)
            except Exception as error:  # noqa: BLE001  # it is sent to the client below
                news.put_nowait(error)

        tasks = [asyncio.ensure_future(follow(i)) for i in range(len(self.requests))]
        try:
            left = len(tasks)
            while left:
                item = await news.get()
                if isinstance(item, Exception):
                    yield _event(of_error(item)[1])
                    break
                left -= item is None
                if item is not None:
                    yield self._chunk(*item)
            else:
                options = self.body.stream_options
                if options and options.include_usage:
                    yield self._last_chunk(self._usage())
            yield DONE
        finally:
            self._cancel()
            for task in tasks:
                task.cancel()

    def _cancel(self) -> None:
        cancel(self.requests)
        self.on_end(self._usage())

    async def _collect(self, i: int) -> tuple[int, Piece]:
        """Join all pieces of answer i."""
        pieces = [piece async for piece in self._pieces(i)]
        sampled = tuple(one for piece in pieces for one in piece.sampled)
        return i, pieces[-1]._replace(text="".join(piece.text for piece in pieces), sampled=sampled)

    async def _pieces(self, i: int) -> AsyncIterator[Piece]:
        async with aclosing(self.engine.generate(self.requests[i])) as pieces:
            async for piece in pieces:
                self._tokens[i] = piece.tokens
                yield piece

    def _truncated(self, i: int) -> bool:
        return self.inputs[i // self.each].truncated

    def _usage(self) -> Usage:
        return count_usage(_source_tokens(self.inputs), sum(self._tokens))

    def _body(self, answers: Sequence[tuple[int, Piece]], usage: Usage) -> T:
        """Make the whole body."""
        raise NotImplementedError

    def _chunk(self, i: int, piece: Piece) -> str:
        """Make the event of a piece of answer i. A chunk has no usage."""
        raise NotImplementedError

    def _last_chunk(self, usage: Usage) -> str:
        """Make the event that only says what was used."""
        raise NotImplementedError


class CompletionWriter(Writer[Completion]):
    """Write OpenAI's completions. With `echoes`, each answer begins with its source."""

    def __init__(
        self, engine: Engine, body: CompletionBody, inputs: Sequence[PreparedInput], requests: Sequence[Generate],
        echoes: Sequence[Echo] = (),
    ) -> None:  # fmt: skip
        super().__init__(engine, body, inputs, requests)
        self.id, self.echoes, self.reports = f"cmpl-{uuid.uuid4().hex}", echoes, body.logprobs
        self.echo, self.most = bool(body.echo), requests[0].max_tokens
        first = requests[0].sampling
        # The likeliest token to follow comes with the source's own.
        self.next_known = bool(echoes) and self.most == 1 and first.temperature == 0 and not first.changes
        self._offsets = [0] * len(requests)

    def _cancel(self) -> None:
        super()._cancel()
        cancel(self.echoes)

    def needed(self) -> Sequence[Generate]:
        """Return the requests whose answers are not known from the source's own tokens."""
        return () if self.most == 0 or self.next_known else self.requests

    async def _pieces(self, i: int) -> AsyncIterator[Piece]:
        if self.echo:
            source = self.inputs[i // self.each].question.source
            found = await self.engine.rank(self.echoes[i]) if self.echoes else []
            ended: Finish | None = None if self.most else "length"
            yield Piece(self.engine.decode(source), tuple(found[: len(source)]), ended)
            if self.next_known:
                self._tokens[i] = 1
                ends = found[-1].token in self.engine.ends
                text = "" if ends else self.engine.spell(found[-1].token)
                yield Piece(text, (found[-1],), "stop" if ends else "length", 1)
        if self.needed():
            async for piece in super()._pieces(i):
                yield piece

    def _body(self, answers: Sequence[tuple[int, Piece]], usage: Usage) -> Completion:
        return self._completion([self._choice(*answer) for answer in answers], usage)

    def _chunk(self, i: int, piece: Piece) -> str:
        return _event(self._completion([self._choice(i, piece)]).model_dump(exclude={"usage"}))

    def _last_chunk(self, usage: Usage) -> str:
        return _event(self._completion([], usage).model_dump())

    def _completion(self, choices: list[CompletionChoice], usage: Usage | None = None) -> Completion:
        return Completion(id=self.id, created=self.created, model=self.body.model, choices=choices, usage=usage)

    def _choice(self, i: int, piece: Piece) -> CompletionChoice:
        return CompletionChoice(
            index=i, text=piece.text, finish_reason=piece.finish, truncated=self._truncated(i),
            logprobs=None if self.reports is None else self._logprobs(i, piece.sampled),
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
            token_logprobs=[None if one.logprob is None else _finite(one.logprob) for one in sampled],
            top_logprobs=[self._top(one) for one in sampled] if self.reports else None,
            text_offset=offsets,
        )

    def _top(self, sampled: SampledToken) -> dict[str, float] | None:
        """Report the likeliest tokens by their text; of several with one text, the likeliest."""
        if sampled.logprob is None:
            return None
        return {self.engine.spell(token): _finite(value) for token, value in reversed(sampled.top)}


class TokenFields(TypedDict):
    """What is said of one token."""

    token: str
    logprob: float
    bytes: list[int]


class ChatWriter(Writer[ChatCompletion]):
    """Write OpenAI's chat completions."""

    def __init__(
        self, engine: Engine, body: ChatBody, inputs: Sequence[PreparedInput], requests: Sequence[Generate]
    ) -> None:
        super().__init__(engine, body, inputs, requests)
        self.id, self.reports = f"chatcmpl-{uuid.uuid4().hex}", bool(body.logprobs)
        self._begun: set[int] = set()

    def _body(self, answers: Sequence[tuple[int, Piece]], usage: Usage) -> ChatCompletion:
        choices = [
            ChatChoice(
                index=i, message=ChatText(role="assistant", content=piece.text), finish_reason=piece.finish,
                logprobs=self._logprobs(piece.sampled), truncated=self._truncated(i),
            )
            for i, piece in answers
        ]  # fmt: skip
        return ChatCompletion(id=self.id, created=self.created, model=self.body.model, choices=choices, usage=usage)

    def _chunk(self, i: int, piece: Piece) -> str:
        delta = ChatText(role=None if i in self._begun else "assistant", content=piece.text)
        self._begun.add(i)
        part = ChatPart(
            index=i, delta=delta, finish_reason=piece.finish, logprobs=self._logprobs(piece.sampled),
            truncated=self._truncated(i),
        )  # fmt: skip
        body = self._event_body([part]).model_dump(exclude={"usage"})
        if delta.role is None:
            del body["choices"][0]["delta"]["role"]
        return _event(body)

    def _last_chunk(self, usage: Usage) -> str:
        return _event(self._event_body([], usage).model_dump())

    def _event_body(self, choices: list[ChatPart], usage: Usage | None = None) -> ChatChunk:
        return ChatChunk(id=self.id, created=self.created, model=self.body.model, choices=choices, usage=usage)

    def _logprobs(self, sampled: Sequence[SampledToken]) -> ChatLogprobs | None:
        if not self.reports:
            return None
        return ChatLogprobs(
            content=[
                TokenLogprob(
                    **self._token(one.token, one.logprob or 0.0),
                    top_logprobs=[TopToken(**self._token(*top)) for top in one.top],
                )
                for one in sampled
            ]
        )

    def _token(self, token: int, logprob: float) -> TokenFields:
        text = self.engine.spell(token)
        return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode("utf-8", "replace"))}


def _finite(logprob: float) -> float:
    """Return a log-probability that JSON can hold: OpenAI's -9999 for what cannot be."""
    return max(logprob, -9999.0)


def _event(body: ErrorBody | dict[str, object]) -> str:
    return f"data: {json.dumps(body, allow_nan=False)}\n\n"


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
