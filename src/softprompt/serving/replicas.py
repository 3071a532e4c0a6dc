"""Serve with replicas under Ray Serve: each is a whole server, with its own model and engine, and Ray's proxy in front.

Ray Serve (https://docs.ray.io/en/latest/serve) starts the replicas, hands each request to one of them, checks their
health and replaces those that end. Each replica batches its own requests; Ray's own limit of requests is out of the
way. The replicas share the folder of prompts (softprompt.serving.store_folder says why an answer is never an old one)
and /metrics: whichever replica gets the request reports all of them.
"""

import asyncio
import logging
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import ray
from fastapi import FastAPI
from prometheus_client.core import Metric
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig, ServeStatus

from softprompt import errors
from softprompt.errors import BadInput, RunFailed, SoftPromptError
from softprompt.runtime.ray_cluster import joined, room
from softprompt.serving.engine.engine import Engine
from softprompt.serving.http.metrics import Metrics, write_replicas
from softprompt.serving.server import ServerSettings, build

APP, DEPLOYMENT = "softprompt", "replica"
NO_LIMIT = 1_000_000
"""Requests that Ray lets a replica have in progress: its own queue and limits decide."""
PATIENCE = 5.0
"""Seconds that one replica waits for the others' metrics."""
QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)


class SharedMetrics(Metrics):
    """The metrics of all replicas, each under its number."""

    def text(self) -> bytes:
        replies = serve.get_deployment_handle(DEPLOYMENT, APP).broadcast("metrics")
        found = replies.results(timeout_s=PATIENCE, return_exceptions=True)
        return write_replicas(dict(one for one in found if not isinstance(one, BaseException)))  # some may have ended


@serve.ingress()
class Replica:
    """One server. Ray calls `check_health` every ten seconds and replaces a replica that fails it."""

    def __init__(self, settings: ServerSettings) -> None:
        self._metrics = SharedMetrics()
        self._app = build(settings, self._metrics)
        self._engine: Engine = self._app.state.engine
        self._ending = False

    # Ray (read in 2.60) calls it in the replica's own process. `serve.ingress(app)` would need the app, and with it the
    # model, before the replica starts.
    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    async def check_health(self) -> None:
        """Raise RunFailed once the engine has stopped by itself."""
        if not self._engine.alive and not self._ending:
            raise RunFailed("The engine has stopped.")

    async def metrics(self) -> tuple[str, list[Metric]]:
        """Return this replica's number and its counts."""
        return str(serve.get_replica_context().rank.rank), list(self._metrics.registry.collect())

    async def drain(self, grace: float) -> None:
        """Take no new requests; return when all others are answered, or after `grace` seconds."""
        self._ending = True
        await asyncio.get_running_loop().run_in_executor(None, self._engine.close, grace)


def serve_replicas(
    address: str, replicas: int | None, settings: ServerSettings, host: str, port: int, *,
    ready: Callable[[str, int], None],
) -> None:  # fmt: skip
    """Serve with replicas on a Ray cluster until SIGINT or SIGTERM, which end it as they end one server.

    Args:
        address: The cluster's HOST:PORT, or "local".
        replicas: How many; None: one for each GPU or, without any, for each machine.
        settings: What each replica serves.
        host: Address to listen at.
        port: 0: any free one.
        ready: Called with the address and the number of replicas when requests are taken.

    Raises:
        BadInput: Something in the settings, or another application on the cluster, forbids it.
        RunFailed: The replicas could not be started.
    """
    if address.startswith("ray://"):
        raise BadInput(f"--ray {address}: expected HOST:PORT; `serve` is started on a machine of the cluster.")
    settings = _with_absolute_paths(settings)
    with joined(address):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count, each = room(machines, replicas, settings.device, flag="--replicas")
        _check_free(serve.status())
        port = _free_port(host, port)
        try:
            serve.start(http_options={"host": host, "port": port}, logging_config=QUIET)
            handle = _run(settings, count, each)
            with _ending_at_signals() as ending:
                ready(f"http://{host}:{port}", count)
                ending.wait()
                ending.clear()
                _drain(handle, settings.grace, ending)
                serve.shutdown()
        finally:
            serve.shutdown()  # also of what could not be started; a second time it does nothing


def _with_absolute_paths(settings: ServerSettings) -> ServerSettings:
    """Make settings that mean the same in any working folder."""
    if not Path(settings.prompts).is_dir():
        raise BadInput(
            f"{settings.prompts} is not a folder; expected a folder of run folders, like runs/ after training."
        )
    backbone = str(Path(settings.backbone).resolve()) if Path(settings.backbone).is_dir() else settings.backbone
    return replace(settings, prompts=str(Path(settings.prompts).resolve()), backbone=backbone)


def _check_free(status: ServeStatus) -> None:
    """Raise BadInput where Ray Serve runs already: its address cannot be changed, and others may still use it."""
    if status.applications or status.proxies:
        names = ", ".join(status.applications) or "none"
        raise BadInput(
            f"Ray Serve runs on this cluster already (applications: {names}); expected a cluster without it. End it "
            "with `serve shutdown`, or give another --ray ADDRESS."
        )


def _free_port(host: str, port: int) -> int:
    """Return `port`, or a free one for 0. Raises RunFailed for an address that cannot be used."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
            return int(server.getsockname()[1])
    except OSError:
        raise RunFailed(f"Nothing can be served at {host}:{port}. Choose another --port.") from None


def _run(settings: ServerSettings, count: int, each: dict[str, float]) -> DeploymentHandle:
    """Start the replicas; return the handle that reaches them. Raises what the first of them raised."""
    deployment = serve.deployment(
        Replica, name=DEPLOYMENT, num_replicas=count, ray_actor_options=each, max_ongoing_requests=NO_LIMIT,
        graceful_shutdown_timeout_s=settings.grace + 5, graceful_shutdown_wait_loop_s=0.2,
        max_constructor_retry_count=1, logging_config=QUIET,
    )  # fmt: skip
    try:
        return serve.run(deployment.bind(settings), name=APP, route_prefix="/")
    except RuntimeError as error:
        messages = [one.message for app in serve.status().applications.values() for one in app.deployments.values()]
        raise _parse_error("\n".join([str(error), *messages])) from None


def _parse_error(message: str) -> SoftPromptError:
    """Find the package's own error in Ray's text about it."""
    found = re.findall(r"softprompt\.errors\.(\w+): (.*)", message)
    if not found:
        return RunFailed(f"The replicas could not be started: {message.strip()}")
    kind, text = found[-1]
    error = BadInput if issubclass(getattr(errors, kind, RunFailed), BadInput) else RunFailed
    return error(text)


def _drain(handle: DeploymentHandle, grace: float, ending: threading.Event) -> None:
    """Let the replicas finish what they have begun, until `ending` is set once more."""
    with suppress(RayServeException):  # no replica is left
        replies = handle.broadcast("drain", grace)
        while not ending.is_set():
            with suppress(TimeoutError):
                found = replies.results(timeout_s=0.5, return_exceptions=True)
                if not any(isinstance(one, TimeoutError) for one in found):
                    return
        handle.broadcast("drain", 0.0).results(timeout_s=PATIENCE, return_exceptions=True)


@contextmanager
def _ending_at_signals() -> Iterator[threading.Event]:
    """Make an event that SIGINT and SIGTERM set."""
    ending = threading.Event()
    before = {number: signal.signal(number, lambda *_: ending.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
