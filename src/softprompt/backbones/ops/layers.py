"""Checkpoint, shard or compile the layers of a frozen model."""

import shutil
from collections.abc import Iterator

import torch
from torch import nn

from softprompt.backbones.ops.checkpointing import again, layers_of
from softprompt.errors import BadInput


def checkpoint_layers(model: nn.Module) -> None:
    """Checkpoint gradients: keep each layer's input only and compute the layer again in the backward pass.

    Raises BadInput for a model without such layers.
    """
    layers = list(layers_of(model))
    if not layers:
        raise BadInput(f"{type(model).__name__} has no layers that can be computed again; do without checkpointing.")
    for layer in layers:
        layer.forward = again(layer.forward)


def are_checkpointed(model: nn.Module) -> bool:
    """Tell whether `checkpoint_layers` was called on a model."""
    return any("forward" in vars(layer) for layer in layers_of(model))


def shard_layers(model: nn.Module, device: torch.device, count: int) -> None:
    """Spread each layer over `count` processes (FSDP2): whole only while it is computed, forward or backward.

    Embedding table, head and last norm stay whole in each process, and so do the prompts, which stand outside the
    model: nothing that is trained is sharded. Raises BadInput for a model without such layers.
    """
    from torch.distributed.device_mesh import init_device_mesh  # half a second of imports
    from torch.distributed.fsdp import fully_shard

    layers = list(layers_of(model))
    if not layers:
        raise BadInput(f"{type(model).__name__} has no layers that can be sharded; do without --fsdp.")
    mesh = init_device_mesh(device.type, (count,))
    for layer in layers:
        # Each layer is a root of its own, and torch (2.13.0) leaves roots whole after a forward unless it is told.
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)


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


def between_attentions(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest parts of a layer that hold no attention."""
    for child in module.children():
        attends = ["Attention" in type(inner).__name__ for inner in child.modules()]  # the first is the child itself
        if any(attends[1:]):
            yield from between_attentions(child)
        elif not attends[0] and any(True for _ in child.parameters()):
            yield child
