"""ULPT. Wu et al., Ultra Low-Dimensional Prompt Tuning via Random Projection, 2025, https://arxiv.org/abs/2502.04501.

P = scale * (Z R) + shift, with Z (l,r), scale and shift (d) trained, and R (r,d) frozen: Xavier-uniform, in
+-sqrt(6 / (r + d)), and never stored, because a seed gives it again.

So R must be the same bits everywhere and for good. It comes from numpy's RandomState, whose stream numpy guarantees
never to change (NEP 19), as whole 53-bit fractions; what is done to them here is exact or rounded once, as IEEE 754
has it. `torch.rand` promises neither between versions nor between devices.

Z ~ N(0, 1) and shift = 0, as in the authors' code. There scale starts at 1, and the rows at the size
sqrt(2 r / (r + d)), about 0.4 at r = 64: little beside T5's embeddings (12.6), much beside SmolLM2's (0.12). The
default starts at rows of the embeddings' size; `scale_start=1` is the authors'.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.options import InitContext, Options, Rate
from softprompt.methods.soft_prompt import PromptPart, Text


class RandomProjection(PromptPart):
    """Rows that `weights` (l,r) project onto, in `d` dimensions, by the matrix of `seed`."""

    projection: Float[Tensor, "r d"]

    def __init__(self, weights: Float[Tensor, "l r"], d: int, *, seed: int, scale: float) -> None:
        super().__init__()
        self.length = weights.shape[0]
        self.weights = nn.Parameter(weights.detach().float().clone())
        self.scale = nn.Parameter(torch.full((d,), scale))
        self.shift = nn.Parameter(torch.zeros(d))
        self.register_buffer("projection", project(weights.shape[1], d, seed), persistent=False)

    def forward(self, text: Text | None) -> Float[Tensor, "l d"]:
        return self.scale * (self.weights @ self.projection) + self.shift

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"weights": [self.weights], "affine": [self.scale, self.shift]}


def project(rank: int, d: int, seed: int) -> Float[Tensor, "r d"]:
    """Draw the frozen matrix of `seed`: the same bits on any machine, with any version of numpy or torch."""
    fractions = np.random.RandomState(seed).random_sample((rank, d))  # multiples of 2^-53 in [0, 1)
    bound = math.sqrt(6 / (rank + d))
    return torch.from_numpy(((2 * fractions - 1) * bound).astype(np.float32))


class RandomProjectionOptions(Options):
    """100 rows as in the paper; rank 64 is its best on T5-base, with a tenth of prompt tuning's values."""

    prompt_part = RandomProjection
    of_prompt = ("length", "prompt_rank", "projection_seed")

    length: int = Field(100, ge=1, le=4096, description="rows of the prompt (virtual tokens)")
    prompt_rank: int = Field(64, ge=1, description="trained values of each row")
    projection_seed: int = Field(0, ge=0, lt=2**32, description="seed of the frozen matrix, whatever the run's seed is")
    scale_start: float | None = Field(
        None, gt=0, description="start of the scale; null: rows of the embeddings' size; 1: the authors'"
    )

    def prompt(self, context: InitContext) -> PromptPart:
        d, r = context.vocabulary.d, self.prompt_rank
        weights = torch.randn(self.length, r, generator=context.generator())
        own = math.sqrt(2 * r / (r + d))  # root mean square of Z R: r terms, R's variance 2 / (r + d)
        scale = context.scale() / own if self.scale_start is None else self.scale_start
        return RandomProjection(weights, d, seed=self.projection_seed, scale=scale)


register_method(
    Method(
        name="ulpt",
        title="ULPT",
        prompt=RandomProjectionOptions,
        paper=Paper(
            authors="Wu, Hao & Mou",
            title="Ultra-Low-Dimensional Prompt Tuning via Random Projection",
            venue="",
            year=2025,
            url="https://arxiv.org/abs/2502.04501",
        ),
        rates={"weights": Rate(0.3, scaled=False), "affine": Rate(1.0)},
        small={"prompt_rank": 3},
        aliases=("random_projection",),
    )
)
