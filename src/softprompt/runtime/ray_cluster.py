"""A Ray cluster (https://docs.ray.io): joined, or started here; and how many workers it has room for."""

import importlib.util
import logging
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from softprompt.errors import BadInput, MissingPackage, SoftPromptError

HERE = "auto"
"""The cluster of RAY_ADDRESS or of this machine; without one, a cluster that is this machine alone."""
ADDRESS = re.compile(r"(?:ray://)?([^\s/:]+):(\d+)")
SOON = 10.0  # seconds in which a cluster must answer


def is_address(word: str) -> bool:
    return word in (HERE, "local") or ADDRESS.fullmatch(word) is not None


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """The module `ray`, joined to the cluster at `address` for the block; one that has joined before stays joined.

    Raises MissingPackage, and BadInput where there is no cluster.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingPackage("ray", "--ray needs it.", 'pip install "softprompt[ray]"')
    if not is_address(address):
        raise BadInput(f"--ray {address}: expected HOST:PORT or ray://HOST:PORT of a cluster, or no address at all.")
    import ray
    import ray._private.worker

    # A cluster that we start reports nothing to Ray's makers unless the user wants it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray prints what it says of dead workers to stdout, which is for results; we say it ourselves.
    ray._private.worker._worker_logs_enabled = False
    if ray.is_initialized():
        yield ray
        return
    found = _found(ray._private.utils.read_ray_address()) if address == HERE else address
    try:
        _check_answers(found)
    except OSError as error:
        raise _no_cluster(address, error) from None
    try:
        ray.init(found, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except SoftPromptError:  # Ctrl-C
        raise
    except Exception as error:  # noqa: BLE001  # a node that does not come up is no more than an Exception
        ray.shutdown()
        raise _no_cluster(address, error) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _found(noted: str | None) -> str:
    """The address that is meant where none is given; `noted` is that of the last cluster started on this machine."""
    if os.environ.get("RAY_ADDRESS") or not noted:
        return os.environ.get("RAY_ADDRESS") or "local"
    try:
        _check_answers(noted)
    except OSError:  # it was killed
        return "local"
    return noted


def _check_answers(address: str) -> None:
    """Raise OSError where nobody answers: Ray itself would try for minutes."""
    place = ADDRESS.fullmatch(address)
    if place:
        socket.create_connection((place[1], int(place[2])), timeout=SOON).close()


def _no_cluster(address: str, error: Exception) -> BadInput:
    first = str(error).strip().split("\n")[0].rstrip(".")
    return BadInput(
        f"--ray {address}: no Ray cluster can be joined there, or started: {first}. `ray start --head` starts one "
        "and says its address; --ray without an address takes this machine alone."
    )


def room(
    machines: Sequence[dict[str, float]], workers: int | None, device: str | None, flag: str = "--workers"
) -> tuple[int, dict[str, float]]:
    """How many workers there are, and what each asks Ray for.

    `machines` are their resources as Ray names them, `flag` is how the user says `workers`. Without it, one for each
    GPU or, without any (or with --device cpu), for each machine; the processors are shared out. Raises BadInput for
    more than there is room for.
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
