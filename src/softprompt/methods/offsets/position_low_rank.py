"""DePT's offset. Shi & Lipani, ICLR 2024, https://arxiv.org/abs/2309.05173.

Delta = (alpha / sqrt r) A B, with A (s,r) and B (r,d), is added to the embeddings of the source: row i to
its i-th real token. The factor with alpha = 8 is what the authors' code computes and what all their
released runs used; the paper writes A B alone, which is `alpha=None` here. A ~ U(+-1/sqrt r), B = 0.

Other than in the authors' code, a row is chosen by the rank of the real source token, not by the padded column,
so any padding agrees; and rows of A that no training input reached count as zero (softprompt.methods.offsets.position).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from softprompt.errors import BadInput
from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.offsets.position import PositionOffset
from softprompt.methods.options import InitContext, Options, Rate
from softprompt.methods.prompts.free import FreeOptions
from softprompt.methods.soft_prompt import OffsetPart

OFFSET_RATE = Rate(0.003)


class PositionLowRank(PositionOffset):
    """Offset for the first `positions` source tokens, of rank `rank`, in `d` dimensions."""

    def __init__(
        self, positions: int, rank: int, d: int, *, alpha: float | None = 8.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(positions)
        if rank < 1:
            raise BadInput(f"rank={rank}: it must be at least 1.")
        bound = 1 / math.sqrt(rank)
        self.scale = 1.0 if alpha is None else alpha / math.sqrt(rank)
        self.a = nn.Parameter(torch.rand(positions, rank, generator=generator) * 2 * bound - bound)
        self.b = nn.Parameter(torch.zeros(rank, d))

    def rows(self, s: int) -> Float[Tensor, "s d"]:
        return self.scale * (self.a[:s] @ self.b)

    def by_position(self) -> nn.Parameter:
        return self.a

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"offset": [self.a, self.b]}


@dataclass(frozen=True)
class Budget:
    """A division of a parameter budget between prompt and offset."""

    length: int
    rank: int
    used: int
    remainder: int
    """Parameters of the budget that no whole length and rank can use."""


def solve_budget(
    parameters: int, d: int, positions: int, *, length: int | None = None, rank: int | None = None
) -> Budget:
    """Divide `parameters` = length * d + (positions + d) * rank, given one of length and rank.

    The other is the largest that fits. T5-base, 76,800 parameters, 256 positions (paper, section 4):
    (length, rank) = (0,75) (20,60) (40,45) (60,30) (80,15), all without remainder.

    Args:
        parameters: Values in all.
        d: Hidden size of the backbone.
        positions: Source tokens that have an offset.
        length: Rows of the prompt.
        rank: Rank of the offset.
    """
    if (length is None) == (rank is None):
        raise BadInput("Give exactly one of length and rank; the budget decides the other.")
    if length is not None:
        rank = (parameters - length * d) // (positions + d)
    else:
        assert rank is not None
        length = (parameters - rank * (positions + d)) // d
    used = length * d + (positions + d) * rank
    if min(length, rank) < 0 or used == 0:
        raise BadInput(
            f"A budget of {parameters} parameters has no room for length={length}, rank={rank} "
            f"at d={d} and {positions} positions: a prompt row costs {d}, a rank costs {positions + d}."
        )
    return Budget(length, rank, used, parameters - used)


class LowRankOffsetOptions(Options):
    """Options of DePT's offset."""

    offset_part = PositionLowRank
    of_offset = ("rank", "positions", "alpha")

    rank: int = Field(60, ge=1, description="rank of the offset")
    positions: int | None = Field(None, ge=1, description="source tokens that have an offset; null: all there can be")
    alpha: float | None = Field(
        8.0, description="scale of the offset, alpha / sqrt(rank); null: the paper's A B, unscaled"
    )

    def offset(self, context: InitContext) -> OffsetPart:
        positions = self.positions or context.positions
        # The prompt has used the seed already: another stream, or A would repeat the vocabulary draw.
        generator = torch.Generator().manual_seed(context.seed + 1)
        return PositionLowRank(positions, self.rank, context.vocabulary.d, alpha=self.alpha, generator=generator)


# The published pair (length, rank) = (20, 60) of section 4: the shortest prompt but none.
register_method(
    Method(
        name="dept",
        title="DePT",
        prompt=FreeOptions,
        offset=LowRankOffsetOptions,
        paper=Paper(
            authors="Shi & Lipani",
            title="DePT: Decomposed Prompt Tuning for Parameter-Efficient Fine-tuning",
            venue="ICLR",
            year=2024,
            url="https://arxiv.org/abs/2309.05173",
        ),
        rates={"prompt": Rate(0.3), "offset": OFFSET_RATE},
        small={"rank": 3},
    )
)
