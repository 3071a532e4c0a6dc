"""Compute a frozen network's norms and activations in fewer passes over memory, with the same mathematics.

transformers writes an RMS norm and the tanh GELU as chains of elementwise operations; on a CPU they take a fifth of
a T5's step. Of a gated layer (SwiGLU) autograd keeps three wide tensors, where two are enough. Each replacement is
compared with the module it replaces, on that module's own weights, before it is made.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation, SiLUActivation

from softprompt.backbones.ops.autograd import AutogradContext


def fuse(model: nn.Module) -> int:
    """Replace what can be replaced in a frozen model, in place; returns how many modules were."""
    found = 0
    for module in model.modules():
        if isinstance(module, NewGELUActivation):
            # transformers 5.23.0 writes out the polynomial and tanh, eight passes over memory.
            module.forward = partial(nn.functional.gelu, approximate="tanh")
            found += 1
        elif _is_rms_norm(module):
            for shift in (0.0, 1.0):  # Gemma's weights are kept less one
                fast = partial(_normed, module, shift)
                # transformers 5.23.0 writes an RMS norm out, and has no interface to replace it for frozen weights.
                if _same(module, len(module.weight), fast):  # type: ignore[arg-type]
                    module.forward = fast
                    found += 1
                    break
        elif _is_swiglu(module):
            gated = partial(_gated, module)
            if _same(module, module.gate_proj.in_features, gated):  # type: ignore[arg-type, union-attr]
                module.forward = gated
                found += 1
    return found


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Run norms as transformers writes them inside the block, which trains their weights too."""
    fast = {module: module.forward for module in model.modules() if _is_fused(module)}
    for module in fast:
        del module.forward
    try:
        yield
    finally:
        for module, forward in fast.items():
            module.forward = forward


def _is_fused(module: nn.Module) -> bool:
    own = vars(module).get("forward")
    return isinstance(own, partial) and own.func is _normed


def _is_rms_norm(module: nn.Module) -> bool:
    """Tell whether a module looks like an RMS norm: by name, and with one weight over the last dimension alone."""
    name, weight = type(module).__name__, getattr(module, "weight", None)
    named = name.endswith(("RMSNorm", "T5LayerNorm"))
    return named and isinstance(weight, Tensor) and weight.ndim == 1 and len(list(module.parameters())) == 1


def _epsilon(module: nn.Module) -> float:
    value = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return value if isinstance(value, float) else 1e-6


def _normed(module: nn.Module, shift: float, states: Tensor) -> Tensor:
    assert isinstance(module.weight, Tensor)
    weight = module.weight.float() + shift if shift else module.weight.float()
    made: Tensor = _RmsNorm.apply(states, weight, _epsilon(module))  # type: ignore[no-untyped-call]
    return made


def _is_swiglu(module: nn.Module) -> bool:
    """Tell whether a module looks like Llama's feed-forward layer: down(silu(gate) * up)."""
    parts = {"gate_proj", "up_proj", "down_proj"}
    linear = all(type(getattr(module, name, None)) is nn.Linear for name in parts)
    return linear and {name for name, _ in module.named_children()} == parts | {"act_fn"} and _is_silu(module.act_fn)


def _is_silu(activation: object) -> bool:
    return isinstance(activation, nn.SiLU | SiLUActivation)


def _gated(module: nn.Module, states: Tensor) -> Tensor:
    made: Tensor = module.down_proj(_Gate.apply(module.gate_proj(states), module.up_proj(states)))  # type: ignore
    return made


def _same(module: nn.Module, d: int, fast: partial[Tensor]) -> bool:
    weight = next(module.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        probe = torch.randn(4, d).to(weight) * torch.tensor([[1e-3], [0.1], [1.0], [30.0]]).to(weight)
    with torch.no_grad():
        expected, made = module(probe), fast(probe)
    limit = 1e-5 if weight.dtype is torch.float32 else 0.02  # two roundings to 8 bits or one
    gap = (expected.float() - made.float()).abs().max() / expected.float().abs().max()
    return expected.dtype == made.dtype and bool(gap <= limit)


class _Gate(torch.autograd.Function):
    """Map g (..., w) and u (..., w) to silu(g) u, and keep those two alone."""

    @staticmethod
    def forward(ctx: AutogradContext, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: AutogradContext, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        slope = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return slope, nn.functional.silu(gate).mul_(grads[0])


class _RmsNorm(torch.autograd.Function):
    """Map x (..., d) to w x / sqrt(mean(x^2) + epsilon), computed in float32; w is frozen (no gradient)."""

    @staticmethod
    def forward(ctx: AutogradContext, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = states.float()
        shrink: Tensor = torch.linalg.vecdot(wide, wide).div_(wide.shape[-1]).add_(epsilon).rsqrt_().unsqueeze(-1)
        unit: Tensor = wide * shrink
        ctx.save_for_backward(unit.to(states.dtype), weight, shrink)
        return (unit * weight).to(states.dtype)

    @staticmethod
    def backward(ctx: AutogradContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        unit, weight, shrink = ctx.saved_tensors
        slope, wide = grads[0] * weight, unit.float()
        along: Tensor = torch.linalg.vecdot(slope, wide).div_(wide.shape[-1]).unsqueeze(-1)
        return slope.addcmul_(wide, along, value=-1).mul_(shrink).to(unit.dtype), None, None
