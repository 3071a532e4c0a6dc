"""ACCEPT's offset (SCAP). Lin et al., Findings of EMNLP 2024 (softprompt.methods.prompts.codebook).

Row i of the offset, added to the i-th real token of the source, is made as ACCEPT's prompt rows are, from codewords
of its own: concat_k sum_j w_ikj c_kj with w (s,K,r) and c (K,r,t), t = 256 on T5-base.

Other than in the authors' code, codewords start at zero, so that training starts without an offset (theirs starts both
factors at small noise, a thousandth of T5's embeddings, but a tenth of SmolLM2's); a row is chosen by the rank of
the real source token; rows that no training input reached count as zero (softprompt.methods.offsets.position).
"""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.offsets.position import PositionOffset
from softprompt.methods.options import InitContext, Options, Rate
from softprompt.methods.prompts.codebook import CodebookOptions, kaiming, quantised, subspace
from softprompt.methods.soft_prompt import OffsetPart


class PositionCodebook(PositionOffset):
    """Offset for the first s source tokens, from `weights` (s,K,r) and codewords of t dimensions."""

    def __init__(self, weights: Float[Tensor, "s K r"], t: int) -> None:
        super().__init__(weights.shape[0])
        self.weights = nn.Parameter(weights.detach().float().clone())
        self.codebook = nn.Parameter(torch.zeros(*weights.shape[1:], t))

    def rows(self, s: int) -> Float[Tensor, "s d"]:
        return quantised(self.weights[:s], self.codebook)

    def by_position(self) -> nn.Parameter:
        return self.weights

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"offset_weights": [self.weights], "offset_codebook": [self.codebook]}


class CodebookOffsetOptions(Options):
    """Options of ACCEPT's offset. The published setting on T5-base: 30,720 values for 256 positions."""

    offset_part = PositionCodebook
    of_offset = ("offset_width", "offset_codewords", "positions")

    offset_width: int | None = Field(
        None, ge=1, description="dimensions of a subspace of the offset; null: 256, or the next divisor of d below"
    )
    offset_codewords: int = Field(20, ge=1, description="codewords of each subspace of the offset")
    positions: int | None = Field(None, ge=1, description="source tokens that have an offset; null: all there can be")

    def offset(self, context: InitContext) -> OffsetPart:
        t = subspace(context.vocabulary.d, self.offset_width, 256)
        # The prompt has used the seed already: another stream.
        generator = torch.Generator().manual_seed(context.seed + 1)
        shape = (self.positions or context.positions, context.vocabulary.d // t, self.offset_codewords)
        return PositionCodebook(kaiming(*shape, generator=generator), t)


register_method(
    Method(
        name="accept",
        title="ACCEPT",
        prompt=CodebookOptions,
        offset=CodebookOffsetOptions,
        paper=Paper(
            authors="Lin et al.",
            title="ACCEPT: Adaptive Codebook for Composite and Efficient Prompt Tuning",
            venue="Findings of EMNLP",
            year=2024,
            url="https://github.com/AI-Application-and-Integration-Lab/Accept",
        ),
        rates={
            "weights": Rate(0.03, scaled=False),
            "codebook": Rate(0.2),
            "offset_weights": Rate(0.003, scaled=False),
            "offset_codebook": Rate(0.01),
        },
        small={"width": 4, "codewords": 5, "offset_codewords": 4},
    )
)
