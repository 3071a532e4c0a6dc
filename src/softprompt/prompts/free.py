"""Rows trained as they are. Lester, Al-Rfou & Constant, EMNLP 2021, https://arxiv.org/abs/2104.08691.

P (l,d), every entry free.
"""

from jaxtyping import Float
from torch import Tensor, nn

from softprompt.soft import PromptPart, Text


class Free(PromptPart):
    def __init__(self, rows: Float[Tensor, "l d"]) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.detach().float().clone())
        self.length = rows.shape[0]

    def forward(self, text: Text | None) -> Float[Tensor, "l d"]:
        return self.rows

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"prompt": [self.rows]} if self.length else {}
