"""Routes that ask: completions, chats and classification, in OpenAI's shapes where it has them."""

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from fastapi import FastAPI
from fastapi import Request as HTTPRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from softprompt.errors import BadInput
from softprompt.runs.run_folder import versions
from softprompt.serving.engine.requests import Echo, Generate
from softprompt.serving.http.access_log import note
from softprompt.serving.http.context import Server
from softprompt.serving.http.middleware import caller_of
from softprompt.serving.http.requests import completion_requests, grammar_of, rank_requests, sampling_of
from softprompt.serving.http.responses import (
    ChatWriter,
    ClientGone,
    CompletionWriter,
    Writer,
    classify_inputs,
    while_connected,
)
from softprompt.serving.http.schema import (
    ChatBody,
    ChatCompletion,
    Classification,
    ClassifyBody,
    Completion,
    CompletionBody,
    DetokenizeBody,
    Detokenized,
    Info,
    SamplingBody,
    TokenizeBody,
    Tokenized,
)
from softprompt.serving.preprocess import PreparedInput, Source
from softprompt.serving.prompt_store import LoadedPrompt

T = TypeVar("T")
DEFAULT_TOKENS = 20
"""Most tokens of an answer when a request does not say: as `softprompt predict`."""
STREAMED = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}


def add_ask_routes(app: FastAPI, server: Server) -> None:
    """Add the routes of completions, chats and classification."""

    @app.post("/v1/completions", response_model=Completion, responses={200: STREAMED}, tags=["ask"])
    async def completions(body: CompletionBody, request: HTTPRequest) -> Completion | Response:
        """Continue texts, each with the prompt that `model` names; with `stream`, as server-sent events."""
        prompt = await server.load(body.model)
        inputs = await _prepare(server, body, prompt, body.prompt, raw=body.raw, max_tokens=body.max_tokens)
        strip = not body.raw and prompt is not None and not any(isinstance(one, list) for one in body.prompt)
        requests = await _requests(server, request, body, prompt, inputs, strip=strip)
        echoes: list[Echo] = []
        if body.echo and body.logprobs is not None:
            owner = caller_of(request).id
            echoes = [Echo(one.question, owner=owner, top=body.logprobs) for one in requests]
        writer = CompletionWriter(server.engine, body, inputs, requests, echoes)
        server.engine.submit(*echoes, *writer.needed())
        return await _answer(request, body, writer)

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses={200: STREAMED}, tags=["ask"])
    async def chat(body: ChatBody, request: HTTPRequest) -> ChatCompletion | Response:
        """Answer messages with the prompt that `model` names; with `stream`, as server-sent events."""
        prompt = await server.load(body.model)
        turns = [("system" if one.role == "developer" else one.role, one.text) for one in body.messages]
        text, raw = server.preprocessor.conversation(prompt, turns)
        most = body.max_completion_tokens or body.max_tokens
        inputs = await _prepare(server, body, prompt, [text], raw=raw, max_tokens=most)
        requests = await _requests(server, request, body, prompt, inputs, strip=True)
        server.engine.submit(*requests)
        return await _answer(request, body, ChatWriter(server.engine, body, inputs, requests))

    @app.post("/v1/classify", response_model=Classification, tags=["ask"])
    async def classify(body: ClassifyBody, request: HTTPRequest) -> Classification | Response:
        """Choose among answers, with the probability of each."""
        prompt = await server.load(body.model)
        inputs = await server.preprocess(
            server.preprocessor.prepare_ranking(prompt, body.input, raw=body.raw, choices=body.choices)
        )
        requests = rank_requests(inputs, caller_of(request).id)
        server.engine.submit(*requests)
        note(request, model=body.model, prompt_tokens=sum(len(one.question.source) for one in inputs))
        return await _unless_gone(request, classify_inputs(server.engine, body.model, inputs, requests))


def add_backbone_routes(app: FastAPI, server: Server) -> None:
    """Add the routes that say what the backbone is, and how it reads texts."""

    @app.post("/tokenize", tags=["backbone"])
    async def tokenize(body: TokenizeBody) -> Tokenized:
        """Turn a text into token ids, as vLLM's route of this name."""
        ids = await server.read(lambda: server.preprocessor.tokenize(body.prompt, special=body.add_special_tokens))
        return Tokenized(count=len(ids), max_model_len=server.engine.backbone.context, tokens=ids)

    @app.post("/detokenize", tags=["backbone"])
    async def detokenize(body: DetokenizeBody) -> Detokenized:
        """Turn token ids into a text."""
        return Detokenized(prompt=await server.read(lambda: server.preprocessor.detokenize(body.tokens)))

    @app.get("/info", tags=["backbone"])
    async def info() -> Info:
        """Say what is served, and how much one request may ask."""
        return Info(
            backbone=server.preprocessor.describe_backbone(),
            fingerprint=server.store.fingerprint.short(),
            prompts=len(server.store),
            limits={name: float(value) for name, value in vars(server.limits).items()},
            batching={name: float(value) for name, value in vars(server.engine.batching).items()},
            versions=versions(),
        )


async def _prepare(
    server: Server, body: SamplingBody, prompt: LoadedPrompt | None, texts: Sequence[Source], *, raw: bool,
    max_tokens: int | None,
) -> list[PreparedInput]:  # fmt: skip
    """Check a body, and tokenize its texts."""
    body.refuse_unsupported_fields()
    if body.stop and len(body.stop) > server.limits.stops:
        raise BadInput(f"{len(body.stop)} stop strings; this server takes at most {server.limits.stops}.")
    if (answers := len(texts) * (body.n or 1)) > server.limits.texts:
        raise BadInput(f"{answers} answers in one request; at most {server.limits.texts}. Send several requests.")
    return await server.preprocess(
        server.preprocessor.prepare_generation(prompt, texts, raw=raw, max_tokens=max_tokens, default=DEFAULT_TOKENS)
    )


async def _requests(
    server: Server, request: HTTPRequest, body: SamplingBody, prompt: LoadedPrompt | None,
    inputs: Sequence[PreparedInput], *, strip: bool,
) -> list[Generate]:  # fmt: skip
    """Make the engine's requests, once their grammar is known to be one."""
    grammar = grammar_of(body, prompt.card.choices if prompt else ())
    if grammar is not None:
        await server.read(lambda: server.engine.constraints.check(grammar))
    sampling = sampling_of(body, server.engine.backbone.v, grammar)
    return completion_requests(body, inputs, sampling, caller_of(request).id, strip=strip)


async def _answer(request: HTTPRequest, body: SamplingBody, writer: Writer[T]) -> T | Response:
    writer.on_end = lambda usage: note(request, model=body.model, **usage.model_dump(exclude={"total_tokens"}))
    if body.stream:
        return StreamingResponse(writer.stream(), media_type="text/event-stream")
    return await _unless_gone(request, writer.whole())


async def _unless_gone(request: HTTPRequest, work: Awaitable[T]) -> T | Response:
    try:
        return await while_connected(request, work)
    except ClientGone:
        return JSONResponse(None, 499)  # nobody reads it
