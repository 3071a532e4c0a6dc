"""Ways to multiply by a frozen matrix on a CPU, and which is the fastest here.

    torch    PyTorch's own: MKL in float32, oneDNN in bfloat16
    onednn   oneDNN on the weight as it lies: it is put into oneDNN's layout at each call
    packed   oneDNN on a copy of the weight in its layout: as much memory again

Which is fastest depends on the processor: on an AMD EPYC MKL leaves AVX-512 unused, on an Intel Xeon it does not. So
each shape is timed once, in a few milliseconds, and what was found is kept for the machine (CACHE/kernels).
"""

import hashlib
import json
import time
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from softprompt.backbones.found_out import recall, remember
from softprompt.runtime.machine import processor_name

Kernel = Literal["torch", "onednn", "packed"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
ROWS = (32, 512)
"""Rows that a shape is timed with: a step of a server, and one of training."""
GAIN: dict[Kernel, float] = {"torch": 1.0, "onednn": 1.03, "packed": 1.08}
"""How much faster a kernel must be than one before it: packing costs memory, and a tie should stay as it is."""
REPEATS = 5

_known: dict[str, dict[str, list[Kernel]]] = {}


def multiply(kernel: Kernel, states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply: (..., i), (o, i), (o,) -> (..., o); for "packed" `weight` is what `pack` made."""
    if kernel == "torch":
        return nn.functional.linear(states, weight, bias)
    # A private operator (torch 2.13.0), the one of torch.compile's CPU backend: torch has no public way to choose it.
    made: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return made


def pack(weight: Tensor) -> Tensor:
    """Return a copy of a weight (o, i) in oneDNN's own layout."""
    made: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return made


def choose(o: int, i: int, dtype: torch.dtype) -> tuple[Kernel, Kernel]:
    """Return the fastest kernels for a weight (o, i): by itself, and transposed, as a gradient needs it.

    Timed here, once for this machine, number of threads and version of torch.
    """
    key, shape = _digest(dtype), f"{o}x{i}"
    if key not in _known:
        _known[key] = _recalled(key)
    if shape not in _known[key]:
        weight = _probe(o, i, dtype)
        found = [_fastest(weight), _fastest(weight.t())]
        # Another process may have found out meanwhile: all of them should compute alike, to the bit.
        _known[key] = {shape: found} | _known[key] | _recalled(key)
        remember("kernels", key, dict(_known[key]))
    ahead, back = _known[key][shape]
    return ahead, back


def _fastest(weight: Tensor) -> Kernel:
    """Time the kernels on a weight that may be a transposed view. One that fails or differs is left out."""
    best: Kernel = "torch"
    with torch.no_grad():
        inputs = [_probe(rows, weight.shape[1], weight.dtype) for rows in ROWS]
        expected = [multiply("torch", states, weight) for states in inputs]
        least = _seconds("torch", inputs, weight)
        for kernel in KERNELS[1:]:
            try:
                right = pack(weight) if kernel == "packed" else weight
                alike = all(_close(multiply(kernel, x, right), y) for x, y in zip(inputs, expected, strict=True))
            except (AttributeError, RuntimeError, TypeError):
                continue
            if not alike:
                continue
            taken = _seconds(kernel, inputs, right)
            if sum(one / other for one, other in zip(least, taken, strict=True)) / len(taken) > GAIN[kernel]:
                best, least = kernel, taken
    return best


def _probe(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)


def _seconds(kernel: Kernel, inputs: list[Tensor], weight: Tensor) -> list[float]:
    """Return the least seconds of a product with each input."""

    def once(states: Tensor) -> float:
        began = time.perf_counter()
        multiply(kernel, states, weight)
        return time.perf_counter() - began

    return [min(once(states) for _ in range(REPEATS)) for states in inputs]


def _close(made: Tensor, expected: Tensor) -> bool:
    limit = 1e-4 if expected.dtype is torch.float32 else 2e-2
    gap = (made.float() - expected.float()).abs().max() / expected.float().abs().max()
    return made.shape == expected.shape and bool(gap <= limit)


def _digest(dtype: torch.dtype) -> str:
    said = [processor_name(), torch.__version__, torch.get_num_threads(), str(dtype), ROWS, GAIN]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]


def _recalled(key: str) -> dict[str, list[Kernel]]:
    found = recall("kernels", key)
    return {
        shape: pair
        for shape, pair in found.items()
        if isinstance(pair, list) and len(pair) == 2 and all(one in KERNELS for one in pair)
    }
