"""Rows trained as they are. Lester, Al-Rfou & Constant, EMNLP 2021, https://arxiv.org/abs/2104.08691.

P (l,d), every entry free.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.options import InitContext, Rate, StartOptions
from softprompt.methods.soft_prompt import PromptPart, Text


class Free(PromptPart):
    """Rows (l,d), trained as they are."""

    def __init__(self, rows: Float[Tensor, "l d"]) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.detach().float().clone())
        self.length = rows.shape[0]

    def forward(self, text: Text | None) -> Float[Tensor, "l d"]:
        return self.rows

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"prompt": [self.rows]} if self.length else {}

    def set_rows(self, rows: Float[Tensor, "l d"]) -> None:
        with torch.no_grad():
            self.rows.copy_(rows)


class FreeOptions(StartOptions):
    """Options of free rows."""

    prompt_part = Free
    accepts_rows = True

    def prompt(self, context: InitContext) -> PromptPart:
        return Free(self.rows(context))


register_method(
    Method(
        name="prompt_tuning",
        title="Prompt tuning",
        prompt=FreeOptions,
        paper=Paper(
            authors="Lester, Al-Rfou & Constant",
            title="The Power of Scale for Parameter-Efficient Prompt Tuning",
            venue="EMNLP",
            year=2021,
            url="https://arxiv.org/abs/2104.08691",
        ),
        rates={"prompt": Rate(0.3)},
    )
)
