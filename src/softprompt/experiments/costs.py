"""Measure the costs of a step of each method alone: in shared batches a clock cannot tell methods apart."""

import ctypes
import os
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from softprompt.backbones import Backbone
from softprompt.methods.bank import Bank
from softprompt.methods.registry import get_method
from softprompt.recipes import Recipe
from softprompt.runs.start_from import Predecessor
from softprompt.tasks import Task
from softprompt.training.candidate import Candidate, make_candidate
from softprompt.training.gradients import Gradients

ROUNDS = 3
PEAK = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Costs:
    """Costs of a step of one prompt alone: forward, backward and optimizer."""

    seconds_per_step: float
    """Median over rounds."""
    tokens_per_second: float
    """Source and target tokens; neither padding nor prompt rows count."""
    peak_memory_mib: float | None
    """Largest memory of the process in its first step: the frozen model, the prompt and the step. None: not known."""

    def as_json(self) -> dict[str, float | None]:
        """Return the costs by name."""
        return asdict(self)


def measure_costs(
    backbone: Backbone,
    task: Task,
    recipes: Mapping[str, tuple[Recipe, Predecessor | None]],
    tokens_per_pass: int | None = None,
) -> dict[str, Costs]:
    """Time a step of each recipe on the same examples, in turns, so that a busy machine slows all of them alike.

    The first step of each is not timed; its memory is measured before another prompt is made. A baseline, which may
    be as large as the network, has the memory to itself, and its steps follow each other.
    """
    alone = [name for name, (recipe, _) in recipes.items() if get_method(recipe.method).kind == "network"]
    groups = [[name for name in recipes if name not in alone], *([name] for name in alone)]
    found: dict[str, Costs] = {}
    for names in groups:
        found |= _measure(backbone, task, {name: recipes[name] for name in names}, tokens_per_pass)
    return {name: found[name] for name in recipes}


def _measure(
    backbone: Backbone,
    task: Task,
    recipes: Mapping[str, tuple[Recipe, Predecessor | None]],
    tokens_per_pass: int | None,
) -> dict[str, Costs]:
    candidates: dict[str, Candidate] = {}
    peaks: dict[str, float | None] = {}
    gradients = Gradients(backbone, tokens_per_pass)
    for name, (recipe, predecessor) in recipes.items():
        reset_peak(backbone.device)
        candidate = make_candidate(name, recipe, backbone, task, predecessor)
        _step(backbone, gradients, candidate)
        peaks[name] = peak_mib(backbone.device)
        candidates[name] = candidate
    times: dict[str, list[tuple[float, int]]] = {name: [] for name in recipes}
    for _ in range(ROUNDS):
        for name, candidate in candidates.items():
            times[name].append(_step(backbone, gradients, candidate))
    return {
        name: Costs(
            statistics.median(seconds for seconds, _ in taken),
            statistics.median(tokens / seconds for seconds, tokens in taken),
            peaks[name],
        )
        for name, taken in times.items()
    }


def _step(backbone: Backbone, gradients: Gradients, candidate: Candidate) -> tuple[float, int]:
    """Take a step; return its seconds and its tokens without padding."""
    tokens = sum(backbone.tokens.size(example, targets=True) for example in candidate.next_examples())
    with backbone.using(Bank({candidate.name: candidate.prompt}).train()):
        _wait(backbone.device)
        began = time.perf_counter()
        loss = gradients([candidate], [0])[0]
        candidate.update(loss)
        _wait(backbone.device)
        return time.perf_counter() - began, tokens


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _is_glibc():
        # Freed memory that the C library keeps would count as in use.
        ctypes.CDLL(None).malloc_trim(0)
        PEAK.write_text("5")


def _is_glibc() -> bool:
    """Tell whether this process's peak memory can be read and reset."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim") and os.access(PEAK, os.W_OK)


def peak_mib(device: torch.device) -> float | None:
    """Return the largest memory since `reset_peak`: of the device, or of the process (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if not _is_glibc():
        return None
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
