"""Load a backbone, open a folder of prompts, and serve until a signal ends it."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fastapi import FastAPI

from softprompt.backbones import load_backbone
from softprompt.errors import BadInput, RunFailed
from softprompt.serving.arguments import ServeArguments
from softprompt.serving.engine.batching import Batching, BatchingSettings
from softprompt.serving.engine.engine import Engine
from softprompt.serving.http.access_log import AccessLog
from softprompt.serving.http.app import Front, make_app
from softprompt.serving.http.auth import Keys
from softprompt.serving.http.connections import PatientServer
from softprompt.serving.http.metrics import Metrics
from softprompt.serving.limits import Limits
from softprompt.serving.prompt_store import PromptStore


@dataclass(frozen=True)
class ServerSettings:
    """What a server is made of, which each replica gets, too."""

    backbone: str
    """Name, folder or hub id of the model."""
    prompts: str | Path
    """A folder of run folders, or a run's own."""
    dtype: str = "auto"
    device: str | None = None
    keys: Keys = field(default_factory=Keys)
    limits: Limits = field(default_factory=Limits)
    batching: BatchingSettings = field(default_factory=BatchingSettings)
    memory: int = 1_000_000_000
    """Bytes of prompts that are kept in memory."""
    preload: tuple[str, ...] = ()
    """Prompts that are loaded before requests are taken; "all": every one."""
    grace: float = 30.0
    """Seconds to finish what runs at the end."""
    front: Front = field(default_factory=Front)
    access_log: str | None = None
    """File for a line a request; "-": stderr."""
    metrics_per_prompt: int = 0
    """Prompts that metrics are counted for by name."""
    otel: bool = False


def settings_of(arguments: ServeArguments) -> ServerSettings:
    """Read the settings of a server out of its arguments. Raises BadInput."""
    return ServerSettings(
        arguments.backbone,
        arguments.prompts,
        dtype=arguments.dtype,
        device=arguments.device,
        keys=Keys.of(*arguments.keys()),
        limits=Limits(
            body=arguments.max_body_kb * 1000,
            prompt_body=arguments.max_prompt_mb * 1_000_000,
            input_tokens=arguments.max_input_tokens,
            output_tokens=arguments.max_output_tokens,
            concurrent=arguments.max_concurrent,
            waiting=arguments.queue,
            arrival=arguments.read_timeout,
        ),
        batching={
            "rows": arguments.batch_rows,
            "tokens": arguments.batch_tokens,
            "pass_tokens": arguments.pass_tokens,
            "wait": arguments.wait_ms / 1000,
            "queue": arguments.queue,
            "cache": arguments.cache_mb * 1_000_000,
        },
        memory=arguments.memory_mb * 1_000_000,
        preload=tuple(arguments.preload),
        grace=arguments.grace,
        front=Front(arguments.hosts(), tuple(arguments.cors_origin), arguments.root_path),
        access_log=arguments.access_log,
        metrics_per_prompt=arguments.metrics_per_prompt,
        otel=arguments.otel,
    )


def build(settings: ServerSettings, metrics: Metrics | None = None) -> FastAPI:
    """Load the model and make the application that serves the prompts of a folder."""
    if not Path(settings.prompts).is_dir():
        raise BadInput(
            f"{settings.prompts} is not a folder; expected a run's, or one of run folders, like runs/ after training."
        )
    log = None if settings.access_log is None else AccessLog(settings.access_log)
    backbone = load_backbone(settings.backbone, dtype=settings.dtype, device=settings.device)
    backbone.name = Path(settings.backbone).name  # clients need not know where it is
    metrics = metrics or Metrics(settings.metrics_per_prompt)
    engine = Engine(backbone, Batching.on(backbone.device, **settings.batching), metrics)
    store = PromptStore(settings.prompts, backbone, settings.memory)
    for name in store.names() if "all" in settings.preload else settings.preload:
        store.get(name)
    app = make_app(
        engine, store, keys=settings.keys, limits=settings.limits, metrics=metrics, grace=settings.grace,
        front=settings.front, log=log,
    )  # fmt: skip
    if settings.otel:
        from softprompt.serving.http.traces import trace

        trace(app)
    return app


def serve(app: FastAPI, arguments: ServeArguments, *, ready: Callable[[str], None] = print) -> None:
    """Serve `app` until SIGINT or SIGTERM, then finish what runs within the grace; a second one ends at once.

    Args:
        app: Made by `build`.
        arguments: Where it listens, and how long it waits.
        ready: Called with the address when requests are taken.

    Raises:
        RunFailed: The address cannot be used.
    """
    server = PatientServer(
        app, arguments.host, arguments.port, grace=arguments.grace, arrival=arguments.read_timeout, ready=ready,
        certificate=arguments.tls_cert, key=arguments.tls_key,
    )  # fmt: skip

    def end(number: int, frame: FrameType | None) -> None:
        server.end()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(server.serve())
    except SystemExit:  # uvicorn has logged why
        raise RunFailed(f"Nothing can be served at {arguments.host}:{arguments.port}. Choose another --port.") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
