"""Compute the logits of a network in float32, whatever type its weights have.

bfloat16 has 8 bits: at a logit of 20 neighbors are 0.125 apart, so close choices tie. The states that reach the head
are rounded like all others; what is exact here is their product with the head's weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from softprompt.backbones.ops.linear import QuickLinear

PIECE = 1 << 14
"""Rows of the head's weight in float32 at a time."""


@contextmanager
def exact_head(model: nn.Module) -> Iterator[None]:
    """Let the output layer of a transformers model compute in float32 inside the block."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    # A quantised or adapted layer knows best how it is multiplied.
    plain = type(head) is nn.Linear and type(head.weight) is nn.Parameter
    before = vars(head).get("forward")
    known = before is None or isinstance(before, QuickLinear)
    if not plain or not known or head.weight.dtype not in (torch.bfloat16, torch.float16):
        yield
        return

    def forward(states: Tensor) -> Tensor:
        wide = states.float()
        logits = torch.cat([nn.functional.linear(wide, rows.float()) for rows in head.weight.split(PIECE)], dim=-1)
        return logits if head.bias is None else logits + head.bias.float()

    head.forward = forward
    try:
        yield
    finally:
        del head.forward
        if before is not None:
            head.forward = before
