"""Load a backbone, open a folder of prompts, and serve until told to end."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from softprompt.backbones import load_backbone
from softprompt.errors import BadInput, RunFailed
from softprompt.serving.engine.engine import Batching, Engine
from softprompt.serving.http.app import make_app
from softprompt.serving.http.auth import Keys
from softprompt.serving.http.metrics import Metrics
from softprompt.serving.limits import Limits
from softprompt.serving.prompt_store import PromptStore

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients and proxies keep theirs (5 to 60), so that none is
closed here just as a request comes."""


def build(
    backbone: str,
    prompts: str | Path,
    *,
    dtype: str = "float32",
    device: str | None = None,
    keys: Keys | None = None,
    limits: Limits | None = None,
    batching: dict[str, Any] | None = None,
    memory: int = 1_000_000_000,
    grace: float = 30.0,
    metrics: Metrics | None = None,
) -> FastAPI:
    """The application that serves the prompts of a folder. `batching`: fields of `Batching` to set."""
    if not Path(prompts).is_dir():
        raise BadInput(f"{prompts} is no folder; expected a folder of run folders, like runs/ after training.")
    frozen = load_backbone(backbone, dtype=dtype, device=device)
    metrics = metrics or Metrics()
    engine = Engine(frozen, Batching.on(frozen.device, **(batching or {})), metrics)
    bank = PromptStore(prompts, frozen, memory)
    return make_app(engine, bank, keys=keys, limits=limits, metrics=metrics, grace=grace)


def serve(app: FastAPI, host: str, port: int, *, grace: float = 30.0, ready: Callable[[str], None] = print) -> None:
    """Serve `app` until SIGINT or SIGTERM, then finish what runs within `grace` seconds; a second one ends at once.

    `ready` is told the address when requests are taken. Raises RunFailed when the address cannot be had.
    """
    import uvicorn

    class Told(uvicorn.Server):
        """uvicorn's server, without its own signal handling: that kills the process again after all is done."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: Sequence[Any] | None = None) -> None:
            await super().startup(sockets)  # type: ignore[arg-type]
            for server in self.servers if self.started else ():
                ready("http://{}:{}".format(*server.sockets[0].getsockname()[:2]))

    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=max(int(grace), 1), timeout_keep_alive=KEEP_ALIVE,
    )  # fmt: skip
    server = Told(config)

    def end(*_: Any) -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(server.serve())
    except SystemExit:  # uvicorn has said why
        raise RunFailed(f"Nothing can be served at {host}:{port}. Choose another --port.") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
