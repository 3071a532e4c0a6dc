"""Compute frozen float32 linear layers on a CPU by oneDNN: forward, and the gradient of their input.

PyTorch gives them to MKL, which leaves AVX-512 unused on processors that are not Intel's: on an AMD EPYC oneDNN takes
half the time, both ways, for 16 to 2,048 rows. It is the operator that torch.compile's CPU backend uses. Weights stay
as they are; sums are taken in another order.
"""

import platform
from functools import partial
from typing import Protocol, TypeGuard

import torch
from torch import Tensor, nn

from softprompt.backbones.ops.autograd import AutogradContext


def quicken(model: nn.Module) -> int:
    """Let oneDNN compute the linear layers of a frozen model, in place; returns how many.

    A layer whose weight or bias is made trainable later, or moved, or cast, is PyTorch's own again.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return 0
    found = [module for module in model.modules() if _fits(module) and "forward" not in vars(module)]
    if not found or not _same(found[0]):
        return 0
    for module in found:
        module.forward = partial(_linear, module)  # type: ignore[method-assign]
    return len(found)


def _fits(module: nn.Module) -> TypeGuard[nn.Linear]:
    # A layer of a subclass, or sharded, may mean something else by its weight.
    if type(module) is not nn.Linear or type(module.weight) is not nn.Parameter or module.weight.requires_grad:
        return False
    return module.weight.dtype == torch.float32 and module.weight.device.type == "cpu"


def _linear(module: nn.Linear, states: Tensor) -> Tensor:
    weight, bias = module.weight, module.bias
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    plain = states.dtype == weight.dtype == torch.float32 and states.is_cpu and weight.is_cpu
    if trained or not plain or not states.numel() or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(states, weight, bias)
    if torch.is_grad_enabled() and states.requires_grad:
        made: Tensor = _Linear.apply(states, weight, bias)  # type: ignore[no-untyped-call]
        return made
    return _product(states, weight, bias)


def _product(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply: (..., i), (o, i), (o,) -> (..., o)."""
    # A private operator (torch 2.13.0); torch has no public way to choose oneDNN over MKL. `_same` checks it first.
    made: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return made


class _LinearContext(AutogradContext, Protocol):
    weight: Tensor


class _Linear(torch.autograd.Function):
    """Map x (..., i) to x W' + b; W (o, i) and b are frozen (no gradient)."""

    @staticmethod
    def forward(ctx: _LinearContext, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight  # nothing of the states is kept: the gradient does not ask for them
        return _product(states, weight, bias)

    @staticmethod
    def backward(ctx: _LinearContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _product(grads[0], ctx.weight.t()), None, None


def _same(module: nn.Linear) -> bool:
    """Tell whether the private operator is there and computes what torch's own layer does."""
    probe = torch.linspace(-1, 1, 3 * module.in_features).reshape(3, -1)
    slope = torch.linspace(-1, 1, 3 * module.out_features).reshape(3, -1)
    try:
        with torch.no_grad():
            made, back = _linear(module, probe), _product(slope, module.weight.t())
    except (AttributeError, RuntimeError, TypeError):
        return False
    expected = nn.functional.linear(probe, module.weight, module.bias), slope @ module.weight
    pairs = zip((made, back), expected, strict=True)
    return all(one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-4) for one, other in pairs)
