"""The server's routes: thin, over the engine and the bank. OpenAI's where it has them; docs at /docs."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from safetensors import SafetensorError
from safetensors.torch import load
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response, StreamingResponse

from softprompt.errors import BadArtefact, BadInput
from softprompt.runs.prompt import PromptCard
from softprompt.serving.engine.engine import Closing, Engine
from softprompt.serving.http.auth import Keys
from softprompt.serving.http.errors import DOCUMENTED, handle_errors, problem
from softprompt.serving.http.metrics import Metrics, Timed
from softprompt.serving.http.middleware import Guard, may_change
from softprompt.serving.http.page import page_route
from softprompt.serving.http.responses import (
    ClientGone,
    Writer,
    classified,
    completion_jobs,
    rank_jobs,
    while_connected,
)
from softprompt.serving.http.schema import (
    Classification,
    ClassifyBody,
    Completion,
    CompletionBody,
    Health,
    Model,
    Models,
    Removed,
    StoredPrompt,
    StoredPrompts,
)
from softprompt.serving.limits import Limits
from softprompt.serving.preprocess import Preprocessor
from softprompt.serving.prompt_store import PromptStore, StoreEntry
from softprompt.serving.store_folder import BASE, check_name

T = TypeVar("T")
DEFAULT_TOKENS = 20
"""Of an answer, when none are asked for: as `softprompt predict`."""
PROMPT_CONTENT = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["card", "tensors"],
            "properties": {
                "card": {"type": "string", "format": "binary", "description": "A run's prompt.json."},
                "tensors": {"type": "string", "format": "binary", "description": "A run's prompt.safetensors."},
            },
        }
    },
    "application/octet-stream": {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "prompt.safetensors whose metadata holds the text of prompt.json under 'card'.",
        }
    },
}


class Server:
    """What the routes share."""

    def __init__(self, engine: Engine, bank: PromptStore, limits: Limits, grace: float) -> None:
        self.engine, self.bank, self.limits, self.grace = engine, bank, limits, grace
        self.asker = Preprocessor(engine, bank, limits)
        self.began = int(time.time())
        self._reader = ThreadPoolExecutor(1, "softprompt-reader")  # one: tokenizers are not made for several
        self._keeper = ThreadPoolExecutor(1, "softprompt-keeper")  # stores prompts, so that no question waits for it

    async def read(self, work: Callable[[], T]) -> T:
        """Tokenise and look up, in the one thread that does."""
        return await _in(self._reader, work)

    async def keep(self, work: Callable[[], T]) -> T:
        """List and store prompts."""
        return await _in(self._keeper, work)

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        self.engine.start()
        try:
            yield
        finally:
            await asyncio.get_running_loop().run_in_executor(None, self.engine.close, self.grace)
            self._reader.shutdown(cancel_futures=True)
            self._keeper.shutdown()


async def _in(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    try:
        doing = asyncio.get_running_loop().run_in_executor(threads, work)
    except RuntimeError:  # the threads have ended
        raise Closing("The server has ended.") from None
    return await doing


def make_app(
    engine: Engine, bank: PromptStore, *, keys: Keys | None = None, limits: Limits | None = None,
    metrics: Metrics | None = None, grace: float = 30.0,
) -> FastAPI:  # fmt: skip
    """The application. It starts the engine when it starts and ends it, with what it has begun, when it ends."""
    limits, keys, metrics = limits or Limits(), keys or Keys(), metrics or Metrics()
    server = Server(engine, bank, limits, grace)
    app = FastAPI(
        title="softprompt",
        version=version("softprompt"),
        summary="Named soft prompts on one frozen language model.",
        lifespan=server.running,
        responses=DOCUMENTED,
        dependencies=[Depends(HTTPBearer(auto_error=False, description="The key given to softprompt serve."))],
    )
    app.state.engine = engine
    handle_errors(app)
    metrics.read(engine, bank)
    _asking_routes(app, server)
    _prompt_routes(app, server)
    _health_routes(app, server, metrics)
    page_route(app)
    app.add_middleware(Guard, keys=keys, limits=limits)
    app.add_middleware(Timed, metrics=metrics)
    _document(app)
    return app


def _asking_routes(app: FastAPI, server: Server) -> None:
    streamed = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}

    @app.post("/v1/completions", response_model=Completion, responses={200: streamed}, tags=["ask"])
    async def completions(body: CompletionBody, request: Request) -> Any:
        """Continue texts, each with the prompt that `model` names; with `stream`, as server-sent events."""
        body.refuse_unsupported()
        asked = await server.read(
            lambda: server.asker.to_generate(
                body.model, body.prompt, raw=body.raw, max_tokens=body.max_tokens, default=DEFAULT_TOKENS
            )
        )
        jobs = completion_jobs(body, asked)
        server.engine.submit(*jobs)
        writer = Writer(server.engine, body, asked, jobs)
        if body.stream:
            return StreamingResponse(writer.streamed(), media_type="text/event-stream")
        return await _unless_gone(request, writer.whole())

    @app.post("/v1/classify", tags=["ask"])
    async def classify(body: ClassifyBody, request: Request) -> Classification:
        """Choose among answers, with the probability of each."""
        asked = await server.read(
            lambda: server.asker.to_rank(body.model, body.input, raw=body.raw, choices=body.choices)
        )
        jobs = rank_jobs(asked)
        server.engine.submit(*jobs)
        found: Classification = await _unless_gone(request, classified(server.engine, body.model, asked, jobs))
        return found

    @app.get("/v1/models", tags=["ask"])
    async def models() -> Models:
        """Every name that `model` can be."""
        names = await server.keep(server.bank.names)
        told = await server.keep(lambda: [_model(server, name) for name in [BASE, *names]])
        return Models(data=[one for one in told if one is not None])

    @app.get("/v1/models/{name}", tags=["ask"])
    async def model(name: str) -> Model:
        entry = None if name == BASE else await server.keep(lambda: server.bank.entry(name))
        return Model(id=name, created=server.began if entry is None else entry.modified)


def _prompt_routes(app: FastAPI, server: Server) -> None:
    @app.get("/v1/prompts", tags=["prompts"])
    async def prompts(
        search: Annotated[str, Query(max_length=100, description="Part of the name.")] = "",
        after: Annotated[str, Query(max_length=120, description="The last name of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cards: Annotated[bool, Query(description="With each prompt's card.")] = False,
    ) -> StoredPrompts:
        """The prompts, a page at a time, by name."""

        def page() -> StoredPrompts:
            names = [name for name in server.bank.names() if search.lower() in name.lower()]
            rest = [name for name in names if name > after]
            data = [told for name in rest[:limit] if (told := _stored(server.bank, name, cards))]
            return StoredPrompts(data=data, total=len(names), has_more=len(rest) > limit)

        return await server.keep(page)

    @app.get("/v1/prompts/{name}", tags=["prompts"])
    async def prompt(
        name: str,
        words: Annotated[int, Query(ge=0, le=10, description="With the words of the vocabulary nearest each row.")] = 0,
    ) -> StoredPrompt:
        """A prompt's card: method, task, template, choices, scores."""

        def one() -> StoredPrompt:
            if not words:
                return _described(*server.bank.described(name))
            served = server.bank.get(name)  # its card, too: of one version
            nearest = server.bank.nearest(served, words)
            return _described(served.entry, served.card).model_copy(update={"nearest": nearest})

        return await server.keep(one)

    @app.put(
        "/v1/prompts/{name}", tags=["prompts"], dependencies=[Depends(may_change)],
        openapi_extra={"requestBody": {"required": True, "content": PROMPT_CONTENT}},
    )  # fmt: skip
    async def put(name: str, request: Request) -> StoredPrompt:
        """Add a prompt, or replace the one of this name: questions under way keep the one they began with."""
        check_name(name)
        card, tensors = await _uploaded(request, server.limits.prompt_body)

        def store() -> StoredPrompt:
            try:
                entry = server.bank.put(name, card, tensors)
            except BadArtefact as error:
                raise BadInput(str(error)) from None
            return _described(entry, PromptCard.model_validate_json(card))

        return await server.keep(store)

    @app.delete("/v1/prompts/{name}", tags=["prompts"], dependencies=[Depends(may_change)])
    async def remove(name: str) -> Removed:
        """Serve a prompt no more; questions under way end with it."""
        await server.keep(lambda: server.bank.remove(name))
        return Removed(name=name)


def _health_routes(app: FastAPI, server: Server, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> Health:
        """Whether the process answers."""
        return Health(status="ok")

    @app.get("/readyz", tags=["health"], response_model=Health)
    async def readyz() -> Any:
        """Whether questions are taken."""
        if not server.engine.alive:
            return problem(503, "The server is ending, or its engine has stopped.", code="not_ready")
        return Health(status="ready")

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def read_metrics() -> Response:
        """For Prometheus."""
        return Response(await server.keep(metrics.text), media_type=CONTENT_TYPE_LATEST)


async def _unless_gone(request: Request, work: Any) -> Any:
    try:
        return await while_connected(request, work)
    except ClientGone:
        return JSONResponse(None, 499)  # nobody reads it


async def _uploaded(request: Request, most: int) -> tuple[bytes, bytes]:
    """Card and tensors of a prompt that a client sends. Raises BadInput."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=2, max_fields=2, max_part_size=most) as form:
            parts = [form.get(part) for part in ("card", "tensors")]
            found = [await part.read() if isinstance(part, UploadFile) else part for part in parts]
        card, tensors = (part.encode() if isinstance(part, str) else part for part in found)
        if not card or not tensors:
            raise BadInput("Send two parts: 'card', a run's prompt.json, and 'tensors', its prompt.safetensors.")
        return card, tensors
    tensors = await request.body()
    return _card_of(tensors), tensors


def _card_of(tensors: bytes) -> bytes:
    """The card in the metadata of a safetensors file: its header is JSON behind eight bytes that say how long it is."""
    try:
        load(tensors)
        size = int.from_bytes(tensors[:8], "little")
        return str(json.loads(tensors[8 : 8 + size])["__metadata__"]["card"]).encode()
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise BadInput(
            "The body is no safetensors file with the text of prompt.json under 'card' in its metadata. Send that, or "
            "a multipart form with the parts 'card' (prompt.json) and 'tensors' (prompt.safetensors)."
        ) from None


def _model(server: Server, name: str) -> Model | None:
    if name == BASE:
        return Model(id=name, created=server.began)
    try:
        return Model(id=name, created=server.bank.entry(name).modified)
    except BadInput:  # removed since it was listed
        return None


def _described(entry: StoreEntry, card: PromptCard | None = None, error: str | None = None) -> StoredPrompt:
    told = card.model_dump() if card else None
    return StoredPrompt(name=entry.name, version=entry.version, modified=entry.modified, card=told, error=error)


def _stored(bank: PromptStore, name: str, with_card: bool) -> StoredPrompt | None:
    try:
        entry = bank.entry(name)
        return _described(*bank.described(name)) if with_card else _described(entry)
    except BadArtefact as error:
        return _described(entry, error=str(error))
    except BadInput:
        return None


def _document(app: FastAPI) -> None:
    """OpenAPI as it is: malformed requests are 400, not FastAPI's 422, and health needs no key."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            told = plain()
            for path in told["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                told["components"]["schemas"].pop(name, None)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
