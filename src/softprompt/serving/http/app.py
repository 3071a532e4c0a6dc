"""The server's application: thin routes over the engine and the prompt store; all of them are described at /docs."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from softprompt.serving.engine.engine import Engine
from softprompt.serving.http.access_log import HEADER, AccessLog
from softprompt.serving.http.ask_routes import add_ask_routes, add_backbone_routes
from softprompt.serving.http.auth import Keys
from softprompt.serving.http.context import READY_PATIENCE, Server
from softprompt.serving.http.errors import DOCUMENTED, handle_errors, problem
from softprompt.serving.http.metrics import Metrics, Timing
from softprompt.serving.http.middleware import OPEN, Guard, Heads, Hosts, UnderPath
from softprompt.serving.http.page import add_docs, add_page
from softprompt.serving.http.prompt_routes import add_change_routes, add_model_routes, add_prompt_routes
from softprompt.serving.http.schema import Health
from softprompt.serving.limits import Limits
from softprompt.serving.prompt_store import PromptStore


@dataclass(frozen=True)
class Front:
    """How a server stands to the outside."""

    hosts: tuple[str, ...] = ()
    """Names and addresses by which it may be asked for (the Host header); none: any."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may ask (CORS)."""
    root_path: str = ""
    """Path under which a proxy serves it, whether the proxy strips it or not."""


def make_app(
    engine: Engine, store: PromptStore, *, keys: Keys | None = None, limits: Limits | None = None,
    metrics: Metrics | None = None, grace: float = 30.0, front: Front | None = None, log: AccessLog | None = None,
) -> FastAPI:  # fmt: skip
    """Make the application, which starts the engine when it starts and ends it when it ends.

    Args:
        engine: It must not have been started.
        store: The prompts, of the engine's backbone.
        keys: None: anybody may send requests, and nobody may change prompts.
        limits: Bounds of each request.
        metrics: What the engine watches already; None: only the routes are counted.
        grace: Seconds to finish what runs when it ends.
        front: How it stands to the outside.
        log: Gets a line a request.
    """
    limits, keys, metrics, front = limits or Limits(), keys or Keys(), metrics or Metrics(), front or Front()
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
    add_ask_routes(app, server)
    add_backbone_routes(app, server)
    add_model_routes(app, server)
    add_prompt_routes(app, server)
    add_change_routes(app, server)
    _add_health_routes(app, server, metrics)
    add_page(app)
    add_docs(app)
    app.add_middleware(Guard, keys=keys, limits=limits, retry_after=engine.retry_after)
    if front.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=front.origins, allow_methods=["*"], allow_headers=["*"],
            expose_headers=["Retry-After", HEADER],
        )  # fmt: skip
    app.add_middleware(Timing, metrics=metrics, log=log)
    app.add_middleware(Hosts, hosts=front.hosts)
    app.add_middleware(Heads)
    app.add_middleware(UnderPath, root=front.root_path)
    _correct_openapi(app)
    return app


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
