"""Compute frozen linear layers on a CPU by the kernels that are fastest there (softprompt.backbones.ops.kernels).

Forward, and the gradient of their input. The weights stay as they are; sums are taken in another order.
"""

import platform
from collections.abc import Callable
from typing import Protocol, TypeGuard

import psutil
import torch
from torch import Tensor, nn

from softprompt.backbones.ops.autograd import AutogradContext
from softprompt.backbones.ops.kernels import Kernel, choose, multiply, pack

SHARE = 0.25
"""Share of the free memory that packed copies of the weights may take."""
SMALLEST = 2**14
"""Values of a weight below which a call costs more than its product."""
LARGEST = 2**24
"""Values of a weight above which it is not copied: output layers, which few rows pass."""
TIMED = 4096
"""Outputs of a layer that are timed; more take as long for each."""
Chooser = Callable[[int, int, torch.dtype], tuple[Kernel, Kernel]]


def quicken(model: nn.Module, choosing: Chooser = choose) -> int:
    """Let the linear layers of a frozen model use the fastest kernels, in place; returns how many do.

    A layer whose weight or bias is made trainable later, or moved, or cast, or changed, is PyTorch's own again.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return 0
    found = [module for module in model.modules() if _fits(module) and "forward" not in vars(module)]
    price = 2 * sum(module.weight.nbytes for module in found if module.weight.numel() <= LARGEST)
    affordable = price <= SHARE * psutil.virtual_memory().available
    made = 0
    for module in found:
        ahead, back = choosing(min(module.out_features, TIMED), module.in_features, module.weight.dtype)
        if not affordable or module.weight.numel() > LARGEST:
            ahead, back = ("onednn" if one == "packed" else one for one in (ahead, back))
        if (ahead, back) != ("torch", "torch"):
            module.forward = QuickLinear(module, ahead, back)  # type: ignore[method-assign, assignment]
            made += 1
    return made


def _fits(module: nn.Module) -> TypeGuard[nn.Linear]:
    # A layer of a subclass, or sharded, may mean something else by its weight.
    if type(module) is not nn.Linear or type(module.weight) is not nn.Parameter or module.weight.requires_grad:
        return False
    weight = module.weight
    return weight.dtype in (torch.float32, torch.bfloat16) and weight.is_cpu and weight.numel() >= SMALLEST


class QuickLinear:
    """The forward of one frozen layer: the kernel for its products, and the kernel for its gradients.

    Args:
        module: The layer, (..., i) to (..., o).
        ahead: Kernel of the forward.
        back: Kernel of the backward.
    """

    def __init__(self, module: nn.Linear, ahead: Kernel, back: Kernel) -> None:
        self.module, self.ahead, self.back = module, ahead, back
        weight = module.weight.detach()
        self._known = (weight.data_ptr(), weight._version, weight.dtype)
        self._forward = pack(weight) if ahead == "packed" else weight
        self._backward: Tensor | None = None  # packed when the first gradient is asked for: answering needs none

    def __call__(self, states: Tensor) -> Tensor:
        weight, bias = self.module.weight, self.module.bias
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        same = (weight.data_ptr(), weight._version, states.dtype) == self._known
        if trained or not same or not states.is_cpu or not states.numel() or torch.is_autocast_enabled("cpu"):
            return nn.functional.linear(states, weight, bias)
        if torch.is_grad_enabled() and states.requires_grad:
            made: Tensor = _Linear.apply(states, bias, self)  # type: ignore[no-untyped-call]
            return made
        return self.product(states, bias)

    def product(self, states: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply: (..., i), (o,) -> (..., o)."""
        return multiply(self.ahead, states, self._forward, bias)

    def gradient(self, slope: Tensor) -> Tensor:
        """Multiply the gradient of the result: (..., o) -> (..., i)."""
        if self._backward is None:
            turned = self.module.weight.detach().t()
            self._backward = pack(turned) if self.back == "packed" else turned
        return multiply(self.back, slope, self._backward)

    def __deepcopy__(self, memo: dict[int, object]) -> Callable[[Tensor], Tensor]:
        """Give a copy of the layer PyTorch's own forward: a packed weight cannot be copied."""
        copy = memo.get(id(self.module))
        return nn.Linear.forward.__get__(copy) if isinstance(copy, nn.Linear) else self


class _LinearContext(AutogradContext, Protocol):
    layer: QuickLinear


class _Linear(torch.autograd.Function):
    """Map x (..., i) to x W' + b; W (o, i) and b are frozen (no gradient)."""

    @staticmethod
    def forward(ctx: _LinearContext, states: Tensor, bias: Tensor | None, layer: QuickLinear) -> Tensor:
        ctx.layer = layer  # nothing of the states is kept: the gradient does not ask for them
        return layer.product(states, bias)

    @staticmethod
    def backward(ctx: _LinearContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.layer.gradient(grads[0]), None, None
