"""Choose how many threads a CPU computes with, so that processes do not wait for each other.

A thread of OpenMP that waits for another one spins, and two processes with two threads each on two cores take turns
at spinning: a step of theirs takes two to ten times as long as with one thread each. PyTorch counts the cores of the
machine, not those that a container may use (its quota) or that other processes leave free.
"""

import os
import warnings
from pathlib import Path

import psutil
import torch

SAMPLE = 0.1
"""Seconds that the machine is watched before the first model is loaded."""
BUSY = 0.6
"""Cores in use by others from which on it counts."""

_settled = False


def settle_threads(given: int | None = None) -> None:
    """Set the number of threads: `given`; else no more than cores are free, which is looked at once in a process.

    Where OMP_NUM_THREADS says how many, or several processes share a run, nothing is changed. Warns of fewer threads
    than cores.
    """
    global _settled
    if given is not None:
        torch.set_num_threads(given)
        _settled = True
    if _settled or "OMP_NUM_THREADS" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    _settled = True
    threads, quota, busy = torch.get_num_threads(), cpu_quota(), 0.0
    if threads > 1:
        busy = (psutil.cpu_count() or 1) * psutil.cpu_percent(interval=SAMPLE) / 100
    wanted, why = threads, ""
    if quota is not None and quota < threads:
        wanted, why = max(1, int(quota)), f"this container may use {quota:g} cores"
    free = (psutil.cpu_count() or 1) - busy
    if busy >= BUSY and free < wanted - 0.4:
        wanted, why = max(1, round(free)), f"other processes use {busy:.1f} of {psutil.cpu_count()} cores"
    if wanted < threads:
        torch.set_num_threads(wanted)
        warnings.warn(
            f"{why[0].upper()}{why[1:]}, so {wanted} of {threads} threads are used: with more threads than cores, a "
            "step takes several times as long. --threads N or OMP_NUM_THREADS=N says another number.",
            stacklevel=3,
        )


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the cores that the control group of this process may use; None where that is not limited or not known."""
    try:
        if (root / "cpu.max").is_file():  # version 2
            most, period = (root / "cpu.max").read_text().split()
            return None if most == "max" else int(most) / int(period)
        most, period = ((root / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(most) / int(period) if int(most) > 0 else None
    except (OSError, ValueError):
        return None
