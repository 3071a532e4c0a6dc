"""Compute the loss of label positions in pieces of the vocabulary's logits, keeping only the gradient."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from softprompt.backbones.ops.autograd import AutogradContext

PIECE = 1 << 24
"""Logits in memory at a time (64 MiB in float32)."""


def label_nll(
    head: Callable[[Tensor], Tensor], states: Float[Tensor, "m d"], labels: Int[Tensor, " m"], v: int
) -> Float[Tensor, " m"]:
    """Compute the negative log-likelihood, in nats and float32, of each label under a frozen head (m, d) -> (m, v).

    Logits never exist for more than a piece of the positions: each position's gradient with respect to its
    own state (d values instead of v) is taken at once and kept for the backward pass.
    """
    nll: Tensor = _LabelNll.apply(states, labels, head, max(1, PIECE // v))  # type: ignore[no-untyped-call]
    return nll


class _LabelNll(torch.autograd.Function):
    """Map states (m, d) to losses (m,)."""

    @staticmethod
    def forward(
        ctx: AutogradContext, states: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], piece: int
    ) -> Tensor:
        """Compute losses and, where needed, their gradients at once.

        Args:
            ctx: Gets the gradients (m, d).
            states: (m, d).
            labels: (m,).
            head: States (m, d) to logits (m, v).
            piece: States that go through the head at a time.
        """
        wanted = ctx.needs_input_grad[0]
        losses, slopes = [], []
        for at in range(0, len(states), piece):
            own, gold = states[at : at + piece].detach().requires_grad_(wanted), labels[at : at + piece].unsqueeze(1)
            with torch.set_grad_enabled(wanted):
                logits = head(own)
            wide = logits.detach().float()
            total = wide.logsumexp(1, keepdim=True)
            losses.append((total - wide.gather(1, gold)).squeeze(1))
            if wanted:  # of the loss with respect to the logits: softmax less the label
                slope = (wide - total).exp_().scatter_add_(1, gold, -torch.ones_like(total))
                slopes.append(torch.autograd.grad(logits, own, slope.to(logits.dtype))[0])
        if wanted:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: AutogradContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * grads[0].unsqueeze(1).to(slopes.dtype), None, None, None
