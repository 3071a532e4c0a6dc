"""Sample the weights of a network: enough to tell it from another, whatever type its weights are loaded in."""

import hashlib
import re

import torch
from torch import Tensor, nn

TENSORS, VALUES = 32, 8
WRAPPERS = re.compile(r"(_orig_mod|_checkpoint_wrapped_module|base_layer)\.")
"""What torch and PEFT put into the names of a network's tensors."""


def sample_network(model: nn.Module, table: Tensor) -> dict[str, list[float]]:
    """Return a few values of some floating-point tensors of `model`, by name; its embedding `table` is left out.

    Values are rounded to bfloat16, so they are equal whether a model is loaded in float32 or bfloat16. Which tensors
    depends on their names alone: those whose hash is smallest. Quantised weights have types of their own, and
    are not among them.
    """
    named = {
        WRAPPERS.sub("", name): tensor.detach()
        for name, tensor in model.named_parameters()
        if tensor is not table and type(tensor.data) is Tensor and tensor.is_floating_point() and tensor.numel()
    }
    chosen = sorted(named, key=lambda name: hashlib.sha256(name.encode()).digest())[:TENSORS]
    return {name: _values(named[name]) for name in sorted(chosen)}


def _values(tensor: Tensor) -> list[float]:
    flat = tensor.flatten()
    places = torch.linspace(0, flat.numel() - 1, VALUES, dtype=torch.float64).long().to(flat.device)
    return [float(f"{value:.6g}") for value in flat[places].to(torch.bfloat16).float().tolist()]
