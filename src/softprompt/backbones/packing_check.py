"""Check that a backbone computes packed rows exactly: once, on its own weights, against the plain route.

What was found is remembered (softprompt.backbones.check_memory).
"""

from collections.abc import Callable

import torch

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.batch import Batch, Losses
from softprompt.backbones.check_memory import recall_packing
from softprompt.backbones.ops.attention import NAME
from softprompt.backbones.row_check import TOLERANCE, FixedRows
from softprompt.errors import first_line
from softprompt.methods.bank import Bank
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runtime.logging import quiet_loading

LossesOf = Callable[[Batch], Losses]

LENGTHS, SOURCES, TARGETS = (5, 3), (11, 4, 1, 17), (1, 3, 2, 1)


def why_not_packed(backbone: Backbone, plain: LossesOf, packed: LossesOf) -> str | None:
    """Say why `backbone` cannot read packed rows; None when it can, and it then does so from now on.

    `plain` and `packed` compute the same losses of a batch, each in its own way.
    """
    model = backbone.model
    # A private attribute (transformers 5.23.0): no public one says how a model attends, nor that it refused to change.
    before: str = model.config._attn_implementation  # type: ignore
    if before not in ("sdpa", NAME):
        return f"it attends with {before!r}, not with 'sdpa'"
    with quiet_loading():
        model.set_attn_implementation(NAME)  # type: ignore[operator]
    reason = "it does not attend through transformers' attention interface"
    if model.config._attn_implementation == NAME:  # type: ignore
        try:
            reason = recall_packing(backbone, lambda: _difference(backbone, plain, packed))
        except Exception as error:  # noqa: BLE001  # whatever a model of somebody else's does, the plain route is left
            reason = first_line(error)
    if reason:
        model.set_attn_implementation(before)  # type: ignore[operator]
    return reason or None


def _difference(backbone: Backbone, *routes: LossesOf) -> str:
    """Compare both routes on ragged examples of two prompts and of none; "" when they agree."""
    ids = backbone.ordinary_ids()
    draw = torch.Generator().manual_seed(0)

    def some(count: int) -> list[int]:
        return [ids[i] for i in torch.randint(len(ids), (count,), generator=draw).tolist()]

    rows = [FixedRows(backbone.embed(some(length))).to(backbone.device) for length in LENGTHS]
    bank = Bank({str(i): SoftPrompt(part) for i, part in enumerate(rows)})
    with backbone.using(bank), torch.enable_grad():
        opening = backbone.tokens.opening if backbone.placement == "after_bos" else []
        sources, targets = [[*opening, *some(n)] for n in SOURCES], [some(n) for n in TARGETS]
        batch = backbone.lay(sources, [0, 1, 0, -1], targets, (False,) * len(sources))
        found = []
        for losses in routes:
            nll = losses(batch).nll
            slopes = torch.autograd.grad(nll.sum(), list(bank.parameters()))
            with torch.no_grad(), backbone.frozen_prompts():  # a short row, whose prompt is read from memory
                short = losses(batch.take([2], left=True)).nll
            found.append([nll.detach(), *slopes, short])
    for what, plain, packed in zip(("losses", "gradients", "gradients", "losses"), *found, strict=True):
        gap = float((packed - plain).abs().max() / plain.abs().max())
        if not gap <= TOLERANCE[backbone.dtype]:
            return f"its packed {what} differ by {gap:.1%} from the plain ones"
    return ""
