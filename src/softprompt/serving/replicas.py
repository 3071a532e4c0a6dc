"""Replicas under Ray Serve: each is a whole server, with its own model and engine, behind Ray's proxy.

Ray Serve (https://docs.ray.io/en/latest/serve) starts the replicas, hands each request to one of them, looks after
their health and replaces those that end. The batching is ours, inside each: Ray's own limit of requests is out of the
way. What the replicas share is the folder of prompts (`bank.py` says why an answer is never an old one) and what
/metrics says: whichever replica is asked tells of all.
"""

import asyncio
import logging
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from prometheus_client.core import Metric
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from softprompt import errors
from softprompt.errors import BadInput, RunFailed, SoftPromptError
from softprompt.runtime.ray_cluster import joined, room
from softprompt.serving.engine.engine import Engine
from softprompt.serving.http.metrics import Metrics, exposition
from softprompt.serving.server import build

APP, DEPLOYMENT = "softprompt", "replica"
NO_LIMIT = 1_000_000
"""Requests that Ray lets a replica have under way: its own queue and limits decide."""
PATIENCE = 5.0
"""Seconds that one replica waits for what the others tell."""
QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)


class SharedMetrics(Metrics):
    """The metrics of all replicas, each under its number."""

    def text(self) -> bytes:
        everyone = serve.get_deployment_handle(DEPLOYMENT, APP).broadcast("metrics")
        told = everyone.results(timeout_s=PATIENCE, return_exceptions=True)
        return exposition(dict(one for one in told if not isinstance(one, BaseException)))  # less those that just ended


@serve.ingress()
class Replica:
    """One server. Ray calls `check_health` every ten seconds and replaces a replica that fails it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._metrics = SharedMetrics()
        self._app = build(**settings, metrics=self._metrics)
        self._engine: Engine = self._app.state.engine
        self._ending = False

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    async def check_health(self) -> None:
        if not self._engine.alive and not self._ending:
            raise RunFailed("The engine has stopped.")

    async def metrics(self) -> tuple[str, list[Metric]]:
        """This replica's number and what it has counted."""
        return str(serve.get_replica_context().rank.rank), list(self._metrics.registry.collect())

    async def drain(self, grace: float) -> None:
        """Take nothing new; return when all that was taken is answered, or `grace` seconds are over."""
        self._ending = True
        await asyncio.get_running_loop().run_in_executor(None, self._engine.close, grace)


def serve_replicas(
    address: str, replicas: int | None, settings: Mapping[str, Any], host: str, port: int, *,
    ready: Callable[[str, int], None],
) -> None:  # fmt: skip
    """Serve with `replicas` (None: one for each GPU or machine) on the Ray cluster at `address`, until told to end.

    `settings` are the arguments of `softprompt.serving.server.build`, `ready` is told the address and how many replicas
    there are. SIGINT and SIGTERM end it as they end one server. Raises BadInput and RunFailed.
    """
    if address.startswith("ray://"):
        raise BadInput(f"--ray {address}: expected HOST:PORT; `serve` is started on a machine of the cluster.")
    settings = _everywhere(settings)
    with joined(address):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count, each = room(machines, replicas, settings["device"], flag="--replicas")
        _check_free(serve.status())
        port = _free_port(host, port)
        try:
            serve.start(http_options={"host": host, "port": port}, logging_config=QUIET)
            everyone = _run(settings, count, each)
            with _told_to_end() as told:
                ready(f"http://{host}:{port}", count)
                told.wait()
                told.clear()
                _drain(everyone, settings["grace"], told)
                serve.shutdown()
        finally:
            serve.shutdown()  # also of what could not be started; a second time it does nothing


def _everywhere(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that mean the same in any working folder."""
    paths = {
        name: str(Path(settings[name]).resolve()) for name in ("prompts", "backbone") if Path(settings[name]).is_dir()
    }
    if "prompts" not in paths:
        raise BadInput(
            f"{settings['prompts']} is no folder; expected a folder of run folders, like runs/ after training."
        )
    return dict(settings) | paths


def _check_free(status: Any) -> None:
    """Raise BadInput where Ray Serve runs already: its address cannot be changed, and its end would not be ours."""
    if status.applications or status.proxies:
        names = ", ".join(status.applications) or "none"
        raise BadInput(
            f"Ray Serve runs on this cluster already (applications: {names}); expected a cluster without it. End it "
            "with `serve shutdown`, or give another --ray ADDRESS."
        )


def _free_port(host: str, port: int) -> int:
    """`port`, or for 0 one that is free. Raises RunFailed for an address that cannot be had."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
            return int(server.getsockname()[1])
    except OSError:
        raise RunFailed(f"Nothing can be served at {host}:{port}. Choose another --port.") from None


def _run(settings: dict[str, Any], count: int, each: dict[str, float]) -> Any:
    """Start the replicas; returns the handle that reaches them. Raises what the first of them raised."""
    deployment = serve.deployment(
        Replica, name=DEPLOYMENT, num_replicas=count, ray_actor_options=each, max_ongoing_requests=NO_LIMIT,
        graceful_shutdown_timeout_s=settings["grace"] + 5, graceful_shutdown_wait_loop_s=0.2,
        max_constructor_retry_count=1, logging_config=QUIET,
    )  # fmt: skip
    try:
        return serve.run(deployment.bind(settings), name=APP, route_prefix="/")
    except RuntimeError as error:
        told = [one.message for app in serve.status().applications.values() for one in app.deployments.values()]
        raise _told_by("\n".join([str(error), *told])) from None


def _told_by(message: str) -> SoftPromptError:
    """Our own error in the text that Ray makes of it."""
    ours = re.findall(r"softprompt\.errors\.(\w+): (.*)", message)
    if not ours:
        return RunFailed(f"The replicas could not be started: {message.strip()}")
    kind, text = ours[-1]
    error = BadInput if issubclass(getattr(errors, kind, RunFailed), BadInput) else RunFailed
    return error(text)


def _drain(everyone: Any, grace: float, told: threading.Event) -> None:
    """Let the replicas finish what they have begun; when `told` to end once more, no longer."""
    with suppress(RayServeException):  # no replica is left
        ending = everyone.broadcast("drain", grace)
        while not told.is_set():
            with suppress(TimeoutError):
                found = ending.results(timeout_s=0.5, return_exceptions=True)
                if not any(isinstance(one, TimeoutError) for one in found):
                    return
        everyone.broadcast("drain", 0.0).results(timeout_s=PATIENCE, return_exceptions=True)


@contextmanager
def _told_to_end() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set."""
    told = threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
