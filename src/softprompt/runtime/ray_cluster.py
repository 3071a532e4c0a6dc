"""Join or start a Ray cluster (https://docs.ray.io), and count the workers that it has room for."""

import importlib.util
import logging
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

from softprompt.errors import BadInput, MissingPackage, SoftPromptError

HERE = "auto"
"""The cluster of RAY_ADDRESS or of this machine; without one, a cluster that is this machine alone."""
ADDRESS = re.compile(r"(?:ray://)?([^\s/:]+):(\d+)")
SOON = 10.0
"""Seconds in which a cluster must answer."""


def is_address(word: str) -> bool:
    """Return whether `word` can be the address of a cluster."""
    return word in (HERE, "local") or ADDRESS.fullmatch(word) is not None


@contextmanager
def joined(address: str) -> Iterator[ModuleType]:
    """Join the cluster at `address` for the block, and yield the module `ray`; stay joined if it was joined before.

    Raises MissingPackage, and BadInput where there is no cluster.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingPackage("ray", "--ray needs it.", 'pip install "softprompt[ray]"')
    if not is_address(address):
        raise BadInput(f"--ray {address}: expected HOST:PORT or ray://HOST:PORT of a cluster, or no address at all.")
    import ray
    import ray._private.worker

    # Without it a cluster that is started here sends usage reports to Ray's developers. Read in Ray 2.60.0.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Private, read in Ray 2.60.0: without it Ray prints messages about dead workers to stdout, which is for results.
    ray._private.worker._worker_logs_enabled = False
    if ray.is_initialized():
        yield ray
        return
    # Private, read in Ray 2.60.0: there is no public way to read the address of this machine's last cluster.
    found = _default_address(ray._private.utils.read_ray_address()) if address == HERE else address
    try:
        _check_answers(found)
    except OSError as error:
        raise _no_cluster(address, error) from None
    try:
        ray.init(found, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except SoftPromptError:  # Ctrl-C
        raise
    except Exception as error:  # noqa: BLE001  # Ray raises a bare Exception for a node that does not start
        ray.shutdown()
        raise _no_cluster(address, error) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _default_address(noted: str | None) -> str:
    """Return the address to use when none is given; `noted` is that of the last cluster started on this machine."""
    if os.environ.get("RAY_ADDRESS") or not noted:
        return os.environ.get("RAY_ADDRESS") or "local"
    try:
        _check_answers(noted)
    except OSError:  # that cluster was killed
        return "local"
    return noted


def _check_answers(address: str) -> None:
    """Raise OSError where no cluster answers: Ray itself would try for minutes."""
    place = ADDRESS.fullmatch(address)
    if place:
        socket.create_connection((place[1], int(place[2])), timeout=SOON).close()


def _no_cluster(address: str, error: Exception) -> BadInput:
    first = str(error).strip().split("\n")[0].rstrip(".")
    return BadInput(
        f"--ray {address}: no Ray cluster can be joined there, or started: {first}. `ray start --head` starts one "
        "and prints its address; --ray without an address uses only this machine."
    )


def room(
    machines: Sequence[dict[str, float]], workers: int | None, device: str | None, flag: str = "--workers"
) -> tuple[int, dict[str, float]]:
    """Count the workers, and the resources that each requests from Ray.

    `machines` are the machines' resources by Ray's names, `flag` is the user's name for `workers`. Without `workers`
    there is one per GPU or, without GPUs (or with --device cpu), one per machine; CPUs are divided among them. Raises
    BadInput when there is no room for so many.
    """
    if workers is not None and workers < 1:
        raise BadInput(f"{flag} {workers}: expected at least 1.")
    if device is not None and ":" in device:
        raise BadInput(f"--device {device} is one device; with --ray each worker has its own. Give its kind alone.")
    gpus = 0 if device == "cpu" else int(sum(machine.get("GPU", 0) for machine in machines))
    if gpus:
        if (workers or 0) > gpus:
            raise BadInput(f"{flag} {workers}: the cluster has {gpus} GPUs, and each worker has one of its own.")
        return workers or gpus, {"num_gpus": 1, "num_cpus": 0}
    cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    count = workers or len(cores)
    for each in range(max(cores, default=0), 0, -1):
        if sum(own // each for own in cores) >= count:
            return count, {"num_cpus": each}
    raise BadInput(f"{flag} {count}: the cluster has {sum(cores)} CPUs, and each worker needs one of its own.")
