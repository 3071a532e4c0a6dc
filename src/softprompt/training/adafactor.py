"""Adafactor as T5X runs it on a prompt: no momentum, no scaling by the parameter, no factoring.

Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, algorithms 4 and 6, with the settings of
github.com/google-research/prompt-tuning: its logical axes name none of a prompt's, so the second moment is kept whole,
and T5X takes weight decay off a tensor once a step, unscaled by the rate (30,000 steps of 1e-5 leave 0.741).
transformers' Adafactor (5.23.0) factors every matrix and scales the decay by the rate.
"""

from collections.abc import Callable
from typing import Any

import torch

DECAY_RATE, EPSILON, CLIP = 0.8, 1e-30, 1.0


class UnfactoredAdafactor(torch.optim.Optimizer):
    """Take steps of the rate in units of the gradient's own size, entry by entry.

    Args:
        groups: As torch's optimizers take them, each with `lr` and `weight_decay`.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step with the gradients at hand."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                state = self.state[tensor]
                if not state:
                    state["step"], state["moment"] = torch.tensor(0.0), torch.zeros_like(tensor)
                state["step"] += 1
                kept = 1 - float(state["step"]) ** -DECAY_RATE
                state["moment"].mul_(kept).add_(tensor.grad.square() + EPSILON, alpha=1 - kept)
                update = tensor.grad * state["moment"].rsqrt()
                update /= max(1.0, float(update.square().mean().sqrt()) / CLIP)
                tensor.mul_(1 - group["weight_decay"]).sub_(update, alpha=group["lr"])
        return loss
