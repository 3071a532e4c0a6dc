"""DPT. Xiao et al., Decomposed Prompt Tuning via Low-Rank Reparameterization, Findings of EMNLP 2023.

https://arxiv.org/abs/2310.10094 (LoPT, Guo et al. 2024, https://arxiv.org/abs/2406.19486, is the same product.)

P = A B, with A (l,r) and B (r,d).

The paper starts both uniform in +-0.5, so the entries of P start near 0.08 sqrt r: a fortieth of T5's embeddings at
r = 10, twice SmolLM2's. That is `start=uniform`. The default starts, on any backbone, at the best approximation of
rank r to sampled vocabulary rows (a cut singular value decomposition), scaled so that A holds pure numbers of size 1
and B vectors of the embeddings' kind: then the learning rate of B follows the backbone, and that of A need not.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from softprompt.errors import BadInput
from softprompt.methods.initialization import from_vocabulary
from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.options import InitContext, Options, Rate
from softprompt.methods.soft_prompt import PromptPart, Text


class LowRank(PromptPart):
    """Rows that are the product of `a` (l,r) and `b` (r,d)."""

    def __init__(self, a: Float[Tensor, "l r"], b: Float[Tensor, "r d"]) -> None:
        super().__init__()
        self.length = a.shape[0]
        self.a = nn.Parameter(a.detach().float().clone())
        self.b = nn.Parameter(b.detach().float().clone())

    def forward(self, text: Text | None) -> Float[Tensor, "l d"]:
        return self.a @ self.b

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"weights": [self.a], "basis": [self.b]}


def truncated_svd(rows: Float[Tensor, "l d"], rank: int) -> tuple[Float[Tensor, "l r"], Float[Tensor, "r d"]]:
    """Find A and B whose product is the best approximation of `rows` of that rank; A's entries have mean square 1."""
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    unit = rows.shape[0] ** 0.5  # the columns of `left` have norm 1
    return left[:, :rank] * unit, values[:rank, None] * right[:rank] / unit


class LowRankOptions(Options):
    """100 rows of rank 10: the paper's, 8,680 values on T5-base."""

    prompt_part = LowRank
    of_prompt = ("length", "prompt_rank")

    length: int = Field(100, ge=1, le=4096, description="rows of the prompt (virtual tokens)")
    prompt_rank: int = Field(10, ge=1, description="rank of the prompt")
    start: Literal["svd", "uniform"] = Field("svd", description="cut vocabulary rows, or uniform +-0.5 as the paper")
    pool: int | None = Field(5000, ge=1, description="start=svd draws from this many first tokens; null: all")

    def prompt(self, context: InitContext) -> PromptPart:
        d, generator = context.vocabulary.d, context.generator()
        if self.prompt_rank > min(self.length, d):
            raise BadInput(
                f"prompt_rank={self.prompt_rank}: a prompt of {self.length} rows with {d} entries has a rank of at "
                f"most {min(self.length, d)}; lower it, or use prompt_tuning."
            )
        if self.start == "uniform":
            shapes = ((self.length, self.prompt_rank), (self.prompt_rank, d))
            a, b = (torch.rand(shape, generator=generator) - 0.5 for shape in shapes)
            return LowRank(a, b)
        return LowRank(
            *truncated_svd(from_vocabulary(self.length, context.vocabulary, generator, self.pool), self.prompt_rank)
        )


register_method(
    Method(
        name="dpt",
        title="DPT",
        prompt=LowRankOptions,
        paper=Paper(
            authors="Xiao et al.",
            title="Decomposed Prompt Tuning via Low-Rank Reparameterization",
            venue="EMNLP",
            year=2023,
            url="https://arxiv.org/abs/2310.10094",
        ),
        rates={"weights": Rate(0.1, scaled=False), "basis": Rate(0.1)},
        # The authors' code: 1e-5 on everything trained.
        decay={"weights": 1e-5, "basis": 1e-5},
        small={"prompt_rank": 2},
        aliases=("low_rank",),
    )
)
