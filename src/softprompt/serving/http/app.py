"""The server's routes: thin, over the engine and the prompt store. OpenAI's where it has them; docs at /docs."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query
from fastapi import Request as HTTPRequest
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response, StreamingResponse

from softprompt.errors import BadArtefact, BadInput
from softprompt.runs.prompt import PromptCard
from softprompt.serving.engine.engine import Closing, Engine
from softprompt.serving.http.auth import Keys
from softprompt.serving.http.errors import DOCUMENTED, handle_errors, problem
from softprompt.serving.http.metrics import Metrics, Timing
from softprompt.serving.http.middleware import OPEN, Guard, Heads, Hosts, caller_of, may_change
from softprompt.serving.http.page import add_docs, add_page
from softprompt.serving.http.responses import (
    ClientGone,
    Writer,
    classify_inputs,
    completion_requests,
    rank_requests,
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
from softprompt.serving.prompt_store import LoadedPrompt, PromptStore, card_in_metadata
from softprompt.serving.store_folder import BASE, FolderUnreadable, StoreEntry, check_name

T = TypeVar("T")
DEFAULT_TOKENS = 20
"""Most tokens of an answer when a request does not say: as `softprompt predict`."""
READER_TURN = 0.005
"""Seconds after which the texts of another request are tokenized, before the rest of one."""
DISK_PATIENCE, READY_PATIENCE = 10.0, 2.0
"""Seconds that a request, and a question whether the server is ready, wait for the folder of prompts."""
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
STREAMED = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}


class Server:
    """What the routes share."""

    def __init__(self, engine: Engine, store: PromptStore, limits: Limits, grace: float) -> None:
        self.engine, self.store, self.limits, self.grace = engine, store, limits, grace
        self.preprocessor = Preprocessor(engine, store, limits)
        self.began = int(time.time())
        self._reader = ThreadPoolExecutor(1, "softprompt-reader")  # one: tokenizers are not made for several
        self._finder = ThreadPoolExecutor(1, "softprompt-finder")  # waits for the disk, so that no tokenizing does
        self._keeper = ThreadPoolExecutor(1, "softprompt-keeper")  # stores prompts, so that no request waits for it

    async def preprocess(self, texts: Iterator[T]) -> list[T]:
        """Take what is made of texts in the one thread that tokenizes; requests take turns there."""
        found: list[T] = []
        while some := await _run_in(self._reader, lambda: _take(texts, READER_TURN)):
            found += some
        return found

    async def look_up(self, work: Callable[[], T], patience: float | None = None) -> T:
        """Run `work` in the thread that lists and loads prompts. Raises FolderUnreadable after `patience` seconds."""
        patience = DISK_PATIENCE if patience is None else patience
        try:
            return await asyncio.wait_for(_run_in(self._finder, work), patience)
        except TimeoutError:
            raise FolderUnreadable(
                f"The folder of prompts has not answered for {patience:g} s. Only {BASE!r} is served until it does."
            ) from None

    async def load(self, model: str) -> LoadedPrompt | None:
        """Load the prompt that `model` names; None for the backbone alone."""
        return None if model == BASE else await self.look_up(lambda: self.preprocessor.load(model))

    async def change_store(self, work: Callable[[], T]) -> T:
        """Run `work` in the thread that stores prompts."""
        return await _run_in(self._keeper, work)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Start the engine and, at the end, let it finish what it has begun."""
        self.engine.start()
        try:
            yield
        finally:
            await asyncio.get_running_loop().run_in_executor(None, self.engine.close, self.grace)
            self._reader.shutdown(cancel_futures=True)
            self._finder.shutdown(wait=False, cancel_futures=True)  # a disk that does not answer keeps nobody here
            self._keeper.shutdown()


def _take(texts: Iterator[T], seconds: float) -> list[T]:
    """Take from `texts` for about so long, one at least; nothing at its end."""
    ends, found = time.monotonic() + seconds, []
    for text in texts:
        found.append(text)
        if time.monotonic() >= ends:
            break
    return found


async def _run_in(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    try:
        doing = asyncio.get_running_loop().run_in_executor(threads, work)
    except RuntimeError:  # the threads have ended
        raise Closing("The server has ended.") from None
    return await doing


def make_app(
    engine: Engine, store: PromptStore, *, keys: Keys | None = None, limits: Limits | None = None,
    metrics: Metrics | None = None, grace: float = 30.0, hosts: Collection[str] = (),
) -> FastAPI:  # fmt: skip
    """Make the application, which starts the engine when it starts and ends it when it ends.

    Args:
        engine: It must not have been started.
        store: The prompts, of the engine's backbone.
        keys: None: anybody may send requests, and nobody may change prompts.
        limits: Bounds of each request.
        metrics: What the engine watches already; None: only the routes are counted.
        grace: Seconds to finish what runs when it ends.
        hosts: Names and addresses by which it may be asked for (the Host header); none: any.
    """
    limits, keys, metrics = limits or Limits(), keys or Keys(), metrics or Metrics()
    server = Server(engine, store, limits, grace)
    app = FastAPI(
        title="softprompt",
        version=version("softprompt"),
        summary="Named soft prompts on one frozen language model.",
        lifespan=server.lifespan,
        docs_url=None,
        redoc_url=None,
        responses=DOCUMENTED,
        dependencies=[Depends(HTTPBearer(auto_error=False, description="The key given to softprompt serve."))],
    )
    app.state.engine, app.state.store = engine, store
    handle_errors(app)
    metrics.register(engine, store)
    _add_inference_routes(app, server)
    _add_model_routes(app, server)
    _add_prompt_routes(app, server)
    _add_change_routes(app, server)
    _add_health_routes(app, server, metrics)
    add_page(app)
    add_docs(app)
    app.add_middleware(Guard, keys=keys, limits=limits, retry_after=engine.retry_after)
    app.add_middleware(Timing, metrics=metrics)
    app.add_middleware(Hosts, hosts=hosts)
    app.add_middleware(Heads)
    _correct_openapi(app)
    return app


def _add_inference_routes(app: FastAPI, server: Server) -> None:
    @app.post("/v1/completions", response_model=Completion, responses={200: STREAMED}, tags=["ask"])
    async def completions(body: CompletionBody, request: HTTPRequest) -> Completion | Response:
        """Continue texts, each with the prompt that `model` names; with `stream`, as server-sent events."""
        body.refuse_unsupported_fields()
        if body.stop and len(body.stop) > server.limits.stops:
            raise BadInput(f"{len(body.stop)} stop strings; this server takes at most {server.limits.stops}.")
        prompt = await server.load(body.model)
        inputs = await server.preprocess(
            server.preprocessor.prepare_generation(
                prompt, body.prompt, raw=body.raw, max_tokens=body.max_tokens, default=DEFAULT_TOKENS
            )
        )
        requests = completion_requests(body, inputs, caller_of(request).id)
        server.engine.submit(*requests)
        writer = Writer(server.engine, body, inputs, requests)
        if body.stream:
            return StreamingResponse(writer.stream(), media_type="text/event-stream")
        return await _unless_gone(request, writer.whole())

    @app.post("/v1/classify", response_model=Classification, tags=["ask"])
    async def classify(body: ClassifyBody, request: HTTPRequest) -> Classification | Response:
        """Choose among answers, with the probability of each."""
        prompt = await server.load(body.model)
        inputs = await server.preprocess(
            server.preprocessor.prepare_ranking(prompt, body.input, raw=body.raw, choices=body.choices)
        )
        requests = rank_requests(inputs, caller_of(request).id)
        server.engine.submit(*requests)
        return await _unless_gone(request, classify_inputs(server.engine, body.model, inputs, requests))


def _add_model_routes(app: FastAPI, server: Server) -> None:
    @app.get("/v1/models", tags=["ask"])
    async def models() -> Models:
        """List every name that `model` can be."""
        names = await server.look_up(server.store.names)
        found = await server.look_up(lambda: [_model(server, name) for name in [BASE, *names]])
        return Models(data=[one for one in found if one is not None])

    @app.get("/v1/models/{name}", tags=["ask"])
    async def model(name: str) -> Model:
        """Look up a name that `model` can be."""
        entry = None if name == BASE else await server.look_up(lambda: server.store.entry(name))
        return Model(id=name, created=server.began if entry is None else entry.modified)


def _add_prompt_routes(app: FastAPI, server: Server) -> None:
    @app.get("/v1/prompts", tags=["prompts"])
    async def prompts(
        search: Annotated[str, Query(max_length=100, description="Part of the name.")] = "",
        after: Annotated[str, Query(max_length=120, description="The last name of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cards: Annotated[bool, Query(description="With each prompt's card.")] = False,
    ) -> StoredPrompts:
        """List the prompts, a page at a time, by name."""

        def page() -> StoredPrompts:
            broken = server.store.broken()
            there = sorted([*server.store.names(), *broken])
            names = [name for name in there if search.lower() in name.lower()]
            rest = [name for name in names if name > after]
            data = [one for name in rest[:limit] if (one := _listed(server.store, name, cards, broken.get(name)))]
            return StoredPrompts(data=data, total=len(names), has_more=len(rest) > limit)

        return await server.look_up(page)

    @app.get("/v1/prompts/{name}", tags=["prompts"])
    async def prompt(
        name: str,
        words: Annotated[int, Query(ge=0, le=10, description="With the words of the vocabulary nearest each row.")] = 0,
    ) -> StoredPrompt:
        """Show a prompt's card: method, task, template, choices, scores."""

        def show() -> StoredPrompt:
            if not words:
                return _describe(*server.store.card(name))
            loaded = server.store.get(name)  # its card, too: of one version
            nearest = server.store.nearest(loaded, words)
            return _describe(loaded.entry, loaded.card).model_copy(update={"nearest": nearest})

        return await server.look_up(show)


def _add_change_routes(app: FastAPI, server: Server) -> None:
    @app.put(
        "/v1/prompts/{name}", tags=["prompts"], dependencies=[Depends(may_change)],
        openapi_extra={"requestBody": {"required": True, "content": PROMPT_CONTENT}},
    )  # fmt: skip
    async def put(name: str, request: HTTPRequest) -> StoredPrompt:
        """Add a prompt, or replace the one of this name: requests in progress keep the one they began with."""
        check_name(name)
        card, tensors = await _read_upload(request, server.limits.prompt_body)

        def store() -> StoredPrompt:
            try:
                entry = server.store.put(name, card, tensors)
            except BadArtefact as error:
                raise BadInput(str(error)) from None
            return _describe(entry, PromptCard.model_validate_json(card))

        return await server.change_store(store)

    @app.delete("/v1/prompts/{name}", tags=["prompts"], dependencies=[Depends(may_change)])
    async def remove(name: str) -> Removed:
        """Stop serving a prompt; requests in progress end with it."""
        await server.change_store(lambda: server.store.remove(name))
        return Removed(name=name)


def _add_health_routes(app: FastAPI, server: Server, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> Health:
        """Check whether the process answers."""
        return Health(status="ok")

    @app.get("/readyz", tags=["health"], response_model=Health)
    async def readyz() -> Health | Response:
        """Check whether a request would be answered."""
        if not server.engine.alive:
            return problem(503, "The server is ending, or its engine has stopped.", code="not_ready")
        await server.look_up(server.store.names, READY_PATIENCE)
        return Health(status="ready")

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def read_metrics() -> Response:
        """Write metrics in Prometheus' format."""
        return Response(await server.change_store(metrics.text), media_type=CONTENT_TYPE_LATEST)


async def _unless_gone(request: HTTPRequest, work: Awaitable[T]) -> T | Response:
    try:
        return await while_connected(request, work)
    except ClientGone:
        return JSONResponse(None, 499)  # nobody reads it


async def _read_upload(request: HTTPRequest, most: int) -> tuple[bytes, bytes]:
    """Read card and tensors of a prompt that a client sends. Raises BadInput."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=2, max_fields=2, max_part_size=most) as form:
            parts = [form.get(part) for part in ("card", "tensors")]
            found = [await part.read() if isinstance(part, UploadFile) else part for part in parts]
        card, tensors = (part.encode() if isinstance(part, str) else part for part in found)
        if not card or not tensors:
            raise BadInput("Send two parts: 'card', a run's prompt.json, and 'tensors', its prompt.safetensors.")
        return card, tensors
    tensors = await request.body()
    try:
        return card_in_metadata(tensors), tensors
    except BadInput as error:
        raise BadInput(
            f"{error} Send one, or a multipart form with the parts 'card' (prompt.json) and 'tensors' "
            "(prompt.safetensors)."
        ) from None


def _model(server: Server, name: str) -> Model | None:
    if name == BASE:
        return Model(id=name, created=server.began)
    try:
        return Model(id=name, created=server.store.entry(name).modified)
    except BadInput:  # removed since it was listed
        return None


def _describe(entry: StoreEntry, card: PromptCard | None = None, error: str | None = None) -> StoredPrompt:
    fields = card.model_dump() if card else None
    return StoredPrompt(name=entry.name, version=entry.version, modified=entry.modified, card=fields, error=error)


def _listed(store: PromptStore, name: str, with_card: bool, broken: str | None) -> StoredPrompt | None:
    """Describe a prompt of the list, with what is wrong with it; None for one that has gone since."""
    if broken is not None:
        return StoredPrompt(name=name, version=0, modified=0, error=broken)
    try:
        entry = store.entry(name)
        entry, card = store.card(name)
        return _describe(entry, card if with_card else None, store.refusal(card))
    except BadArtefact as error:
        return _describe(entry, error=str(error))
    except BadInput:
        return None


def _correct_openapi(app: FastAPI) -> None:
    """Correct FastAPI's schema: malformed requests are 400 here, not 422, and some paths need no key."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:  # FastAPI's own type
        if app.openapi_schema is None:
            schema = generate()
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    if path in OPEN:
                        operation.pop("security", None)
            for name in ("HTTPValidationError", "ValidationError"):
                schema["components"]["schemas"].pop(name, None)
        return app.openapi_schema or {}

    # FastAPI's documented way to change the schema; without it clients would read of a 422 that never comes.
    app.openapi = openapi  # type: ignore[method-assign]
