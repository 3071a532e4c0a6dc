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
from softprompt.serving.engine.batching import Batching, BatchingSettings
from softprompt.serving.engine.engine import Engine
from softprompt.serving.http.app import make_app
from softprompt.serving.http.auth import Keys
from softprompt.serving.http.connections import PatientServer
from softprompt.serving.http.metrics import Metrics
from softprompt.serving.limits import Limits
from softprompt.serving.prompt_store import PromptStore


@dataclass(frozen=True)
class ServerSettings:
    """Arguments of a server, which each replica gets, too."""

    backbone: str
    """Name, folder or hub id of the model."""
    prompts: str | Path
    """A folder of run folders."""
    dtype: str = "auto"
    device: str | None = None
    keys: Keys = field(default_factory=Keys)
    limits: Limits = field(default_factory=Limits)
    batching: BatchingSettings = field(default_factory=BatchingSettings)
    memory: int = 1_000_000_000
    """Bytes of prompts that are kept in memory."""
    grace: float = 30.0
    """Seconds to finish what runs at the end."""
    hosts: tuple[str, ...] = ()
    """Names and addresses by which it may be asked for; none: any."""


def build(settings: ServerSettings, metrics: Metrics | None = None) -> FastAPI:
    """Load the model and make the application that serves the prompts of a folder."""
    if not Path(settings.prompts).is_dir():
        raise BadInput(
            f"{settings.prompts} is not a folder; expected a run's, or one of run folders, like runs/ after training."
        )
    backbone = load_backbone(settings.backbone, dtype=settings.dtype, device=settings.device)
    backbone.name = Path(settings.backbone).name  # clients need not know where it is
    metrics = metrics or Metrics()
    engine = Engine(backbone, Batching.on(backbone.device, **settings.batching), metrics)
    store = PromptStore(settings.prompts, backbone, settings.memory)
    return make_app(
        engine, store, keys=settings.keys, limits=settings.limits, metrics=metrics, grace=settings.grace,
        hosts=settings.hosts,
    )  # fmt: skip


def serve(
    app: FastAPI,
    host: str,
    port: int,
    *,
    grace: float = 30.0,
    arrival: float = Limits.arrival,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve `app` until SIGINT or SIGTERM, then finish what runs within `grace` seconds; a second one ends at once.

    Args:
        app: Made by `build`.
        host: Address to listen at.
        port: 0: any free one.
        grace: Seconds to finish what runs.
        arrival: Seconds within which the headers of a request must arrive.
        ready: Called with the address when requests are taken.

    Raises:
        RunFailed: The address cannot be used.
    """
    server = PatientServer(app, host, port, grace=grace, arrival=arrival, ready=ready)

    def end(number: int, frame: FrameType | None) -> None:
        server.end()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(server.serve())
    except SystemExit:  # uvicorn has logged why
        raise RunFailed(f"Nothing can be served at {host}:{port}. Choose another --port.") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
