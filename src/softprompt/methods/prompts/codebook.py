"""ACCEPT's prompt (SCPP). Lin et al., Findings of EMNLP 2024.

https://github.com/AI-Application-and-Integration-Lab/Accept

Product quantisation: the d dimensions are cut into K = d / t subspaces of t. Slice k of row i is a linear mix,
with weights w_ik (r), of the r codewords c_k1 ... c_kr (t) that all rows share:

    p_i = concat_k sum_j w_ikj c_kj

No softmax; weights and codewords are both trained.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from softprompt.errors import BadInput
from softprompt.methods.initialization import sample_ids
from softprompt.methods.options import InitContext, Options
from softprompt.methods.soft_prompt import PromptPart, Text


class Codebook(PromptPart):
    """Rows mixed from the codewords `codebook` (K,r,t) of each subspace with `weights` (l,K,r)."""

    def __init__(self, weights: Float[Tensor, "l K r"], codebook: Float[Tensor, "K r t"]) -> None:
        super().__init__()
        self.length = weights.shape[0]
        self.weights = nn.Parameter(weights.detach().float().clone())
        self.codebook = nn.Parameter(codebook.detach().float().clone())

    def forward(self, text: Text | None) -> Float[Tensor, "l d"]:
        return quantised(self.weights, self.codebook)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"weights": [self.weights], "codebook": [self.codebook]}


def quantised(weights: Float[Tensor, "l K r"], codebook: Float[Tensor, "K r t"]) -> Float[Tensor, "l d"]:
    """Mix each row's slices from the codewords of their subspaces."""
    return torch.einsum("lkr,krt->lkt", weights, codebook).flatten(1)


def subspace(d: int, width: int | None, most: int) -> int:
    """Choose the dimensions t of a subspace: `width`, or the largest divisor of d that is at most `most`."""
    if width is not None and d % width:
        raise BadInput(f"A subspace of {width} dimensions does not divide {d}; give a divisor of {d}.")
    return width or max(t for t in range(1, min(most, d) + 1) if d % t == 0)


def kaiming(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw uniformly in +-1/sqrt(all dimensions but the first), as torch's kaiming_uniform_(a=sqrt 5) does."""
    bound = 1 / math.sqrt(max(math.prod(shape[1:]), 1))
    return torch.rand(*shape, generator=generator) * 2 * bound - bound


class CodebookOptions(Options):
    """Options of product-quantised rows. The published setting on T5-base: 44,160 values for 60 rows."""

    prompt_part = Codebook
    of_prompt = ("length", "width", "codewords")

    length: int = Field(60, ge=0, le=4096, description="rows of the prompt (virtual tokens)")
    width: int | None = Field(
        None, ge=1, description="dimensions of a subspace (the paper's t); null: 32, or the next divisor of d below"
    )
    codewords: int = Field(20, ge=1, description="codewords of each subspace (the paper's r)")
    start: Literal["kaiming", "vocabulary"] = Field(
        "kaiming", description="small noise (the paper), or rows mixed from sampled vocabulary embeddings"
    )
    pool: int | None = Field(5000, ge=1, description="start=vocabulary draws from this many first tokens; null: all")

    def prompt(self, context: InitContext) -> PromptPart:
        d, generator = context.vocabulary.d, context.generator()
        t = subspace(d, self.width, 32)
        if self.start == "kaiming":
            return Codebook(
                kaiming(self.length, d // t, self.codewords, generator=generator),
                kaiming(d // t, self.codewords, t, generator=generator),
            )
        # Codewords are slices of r sampled embeddings; a row's weights are the same in all subspaces, so it starts
        # as a mix of whole embeddings, near their norm (as SuperPos-Prompt's rows do).
        sampled = context.vocabulary.embed(sample_ids(self.codewords, context.vocabulary, generator, self.pool))
        weights = torch.randn(self.length, 1, self.codewords, generator=generator) / math.sqrt(self.codewords)
        return Codebook(
            weights.expand(-1, d // t, -1), sampled.reshape(self.codewords, d // t, t).transpose(0, 1).contiguous()
        )
