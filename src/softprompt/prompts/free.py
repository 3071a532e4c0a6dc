"""Rows trained as they are. Lester, Al-Rfou & Constant, EMNLP 2021, https://arxiv.org/abs/2104.08691.

P (l,d), every entry free.
"""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from softprompt.errors import BadInput
from softprompt.options import Options, Site
from softprompt.soft import PromptPart, Text
from softprompt.start import from_labels, from_noise, from_text, from_vocabulary


class Free(PromptPart):
    def __init__(self, rows: Float[Tensor, "l d"]) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.detach().float().clone())
        self.length = rows.shape[0]

    def forward(self, text: Text | None) -> Float[Tensor, "l d"]:
        return self.rows

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"prompt": [self.rows]} if self.length else {}


class FreeOptions(Options):
    start: Literal["vocabulary", "text", "labels", "noise"] = "vocabulary"
    start_text: str | None = Field(None, description="the text of start=text")
    pool: int | None = Field(5000, ge=1, description="start=vocabulary draws from this many first tokens; null: all")

    def prompt(self, site: Site) -> PromptPart:
        return Free(self._rows(site, self.length))

    def _rows(self, site: Site, count: int) -> Tensor:
        if self.start == "noise":
            return from_noise(count, site.vocabulary, site.generator())
        if self.start == "labels":
            return from_labels(count, site.vocabulary, site.labels, site.generator())
        if self.start == "text":
            if not self.start_text:
                raise BadInput("start=text needs the text: give start_text.")
            return from_text(count, site.vocabulary, self.start_text)
        return from_vocabulary(count, site.vocabulary, site.generator(), self.pool)
