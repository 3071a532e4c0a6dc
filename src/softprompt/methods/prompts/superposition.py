"""SuperPos-Prompt. Sadraei Javaheri, Asgari, McHardy & Rabiee, PMLR 262, 2024 (section 2).

https://proceedings.mlr.press/v262/ali-sadraei-javaheri24a.html

p_i = E_i p'_i: prompt row i is a linear mix, with weights p'_i (m), of m vocabulary embeddings E_i. Every
E_i starts as the same m sampled embeddings and is then trained, one copy a row. No softmax, no bias.
Weight decay acts on p' only. Here E_i is stored (m,d), the transpose of the paper's (d,m).
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from softprompt.methods.initialization import sample_ids
from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.offsets.position_low_rank import OFFSET_RATE, LowRankOffsetOptions
from softprompt.methods.options import InitContext, Options, Rate
from softprompt.methods.soft_prompt import PromptPart, Text

Codebook = Literal["trained", "frozen", "delta"]
"""What happens to the sampled embeddings: trained (the paper), left as sampled, or left as sampled with a
trained difference on top, zero at the start (the paper's earlier version)."""


class Superposition(PromptPart):
    """Rows mixed from `embeddings` (m,d) with `weights` (l,m), each row with its own codebook or, `shared`, one."""

    def __init__(
        self,
        embeddings: Float[Tensor, "m d"],
        weights: Float[Tensor, "l m"],
        *,
        codebook: Codebook = "trained",
        shared: bool = False,
        softmax: bool = False,
    ) -> None:
        super().__init__()
        self.length, self.codebook, self.softmax = weights.shape[0], codebook, softmax
        self.weights = nn.Parameter(weights.detach().float().clone())
        start = embeddings.detach().float().clone()  # (m, d)
        copies = start if shared else start.expand(self.length, -1, -1).clone()  # (m, d) or (l, m, d)
        if codebook == "trained":
            self.embeddings = nn.Parameter(copies)
        else:
            self.register_buffer("sampled", start)
            if codebook == "delta":
                self.delta = nn.Parameter(torch.zeros_like(copies))

    def _codebooks(self) -> Tensor:
        if self.codebook == "trained":
            return self.embeddings
        sampled = self.sampled
        assert isinstance(sampled, Tensor)
        return sampled + self.delta if self.codebook == "delta" else sampled

    def forward(self, text: Text | None) -> Float[Tensor, "l d"]:
        weights = self.weights.softmax(-1) if self.softmax else self.weights
        books = self._codebooks()
        return weights @ books if books.ndim == 2 else torch.einsum("lm,lmd->ld", weights, books)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        books = {"trained": "embeddings", "delta": "delta"}.get(self.codebook)
        return {"weights": [self.weights]} | ({"codebook": [getattr(self, books)]} if books else {})

    def undecayed(self) -> set[str]:
        # Section 2: decay shrank the norm of E and lost what it had brought from the vocabulary.
        return {"codebook"}


class SuperpositionOptions(Options):
    """Options of mixed vocabulary embeddings."""

    prompt_part = Superposition
    of_prompt = ("length", "sampled", "codebook", "shared", "softmax")

    length: int = Field(10, ge=0, le=4096, description="rows of the prompt (virtual tokens)")
    sampled: int = Field(128, ge=1, description="vocabulary embeddings that each row mixes (the paper's m)")
    pool: int | None = Field(None, ge=1, description="sample from this many first tokens; null: the whole vocabulary")
    weights_start: Literal["normal", "one_hot"] = Field("normal", description="how the mixing weights p' start")
    weights_scale: float = Field(1.0, gt=0, description="what the start of p' is multiplied with")
    codebook: Codebook = "trained"
    shared: bool = Field(False, description="one codebook for all rows instead of one a row")
    softmax: bool = Field(False, description="mix with softmax weights (the paper's losing ablation)")

    def prompt(self, context: InitContext) -> PromptPart:
        generator = context.generator()
        ids = sample_ids(self.sampled, context.vocabulary, generator, self.pool)
        if self.weights_start == "normal":
            # Variance 1/m: rows differ, and each row's expected squared norm is that of a mean embedding.
            weights = torch.randn(self.length, self.sampled, generator=generator) / self.sampled**0.5
        else:
            weights = torch.eye(self.sampled)[torch.arange(self.length) % self.sampled]
        return Superposition(
            context.vocabulary.embed(ids),
            self.weights_scale * weights,
            codebook=self.codebook,
            shared=self.shared,
            softmax=self.softmax,
        )


PAPER = Paper(
    authors="Sadraei Javaheri et al.",
    title="SuperPos-Prompt: Enhancing Soft Prompt Tuning of Language Models",
    venue="PMLR 262",
    year=2024,
    url="https://proceedings.mlr.press/v262/ali-sadraei-javaheri24a.html",
)
RATES = {"weights": Rate(0.01, scaled=False), "codebook": Rate(0.1)}
DECAY = {"weights": 1e-5}  # section 3.4: on p' only

register_method(
    Method(
        name="superpos",
        title="SuperPos-Prompt",
        prompt=SuperpositionOptions,
        paper=PAPER,
        rates=RATES,
        decay=DECAY,
        small={"sampled": 8},
    )
)
register_method(
    Method(
        name="superpos_dept",
        title="SuperPos-Prompt with DePT's offset",
        prompt=SuperpositionOptions,
        offset=LowRankOffsetOptions,
        rates={**RATES, "offset": OFFSET_RATE},
        decay=DECAY,
        small={"sampled": 8, "rank": 3},
    )
)
