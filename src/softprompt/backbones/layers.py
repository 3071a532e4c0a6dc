"""What is done to a backbone's layers as a whole: compute them again instead of keeping them, or compile them."""

import shutil
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from softprompt.errors import BadInput


def checkpoint_layers(model: nn.Module) -> None:
    """Keep each layer's input only and compute the layer again in the backward pass.

    transformers' own switch acts in `train()` mode alone, and there it drops the cache that a prompt may stand
    in; a frozen network is in `eval()` mode. Raises BadInput for a model without such layers.
    """
    layers = list(layers_of(model))
    if not layers:
        raise BadInput(f"{type(model).__name__} has no layers that can be computed again; do without checkpointing.")
    for layer in layers:
        layer.forward = _again(layer.forward)


def are_checkpointed(model: nn.Module) -> bool:
    """Whether `checkpoint_layers` was here."""
    return any("forward" in vars(layer) for layer in layers_of(model))


def compile_layers(model: nn.Module) -> None:
    """Let torch.compile fuse what stands between the attentions: norms and feed-forward parts.

    Attention stays as it is: how a row is packed differs from batch to batch. Raises BadInput where there is no
    C++ compiler (on a CPU).
    """
    if next(model.parameters()).device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise BadInput("--compile needs a C++ compiler (g++ or clang++); install one, or do without.")
    for layer in layers_of(model):
        for part in between_attentions(layer):
            part.compile(dynamic=True)


def layers_of(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def between_attentions(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts of a layer that hold no attention."""
    for child in module.children():
        attends = ["Attention" in type(inner).__name__ for inner in child.modules()]  # the first is the child itself
        if any(attends[1:]):
            yield from between_attentions(child)
        elif not attends[0] and any(True for _ in child.parameters()):
            yield child
