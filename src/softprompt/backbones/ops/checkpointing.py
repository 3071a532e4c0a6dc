"""Gradient checkpointing that works in eval mode: layers are computed again in the backward pass.

transformers' own switch acts in `train()` mode alone, and there it drops, with no more than a warning, the cache
that a prompt may stand in (5.23.0). A frozen network is in `eval()` mode, so here layers are computed again in that
mode.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from softprompt.errors import BadInput

P = ParamSpec("P")
T = TypeVar("T")


def layers_of(model: nn.Module) -> Iterator[GradientCheckpointingLayer]:
    """Yield the layers of a transformers model that may be computed again."""
    return (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))


def again(forward: Callable[P, T], wanted: Callable[[], bool] = lambda: True) -> Callable[P, T]:
    """Wrap `forward` of a layer: it is computed again in the backward pass, if gradients are on and `wanted()`.

    It then writes no cache: the second time it would write twice. A call raises BadInput for a cache that is to be
    read.
    """

    @wraps(forward)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if not (torch.is_grad_enabled() and wanted()):
            return forward(*args, **kwargs)
        cache: Cache | None = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            raise BadInput(
                "past_key_values hold tokens, and a layer with gradient checkpointing would leave them out. Give the "
                "whole text in one call, or train without gradient checkpointing."
            )
        if cache is not None:
            kwargs["past_key_values"] = None
        made: T = checkpoint(forward, *args, use_reentrant=False, **kwargs)  # type: ignore[arg-type]
        return made

    return run


@contextmanager
def switchable(model: nn.Module) -> Iterator[None]:
    """Let transformers' own switch act in `eval()` mode too; at the end it is as before."""
    before = [(module, module.gradient_checkpointing) for module in model.modules() if _has_switch(module)]
    layers = [(layer, vars(layer).get("forward")) for layer in layers_of(model)]
    for layer, _ in layers:
        layer.forward = again(layer.forward, lambda on=layer: on.gradient_checkpointing and not on.training)  # type: ignore
    try:
        yield
    finally:
        for layer, forward in layers:
            del layer.forward
            if forward is not None:
                layer.forward = forward
        for module, was in before:
            module.gradient_checkpointing = was


def _has_switch(module: nn.Module) -> bool:
    return isinstance(getattr(module, "gradient_checkpointing", None), bool)
