"""Residual Prompt Tuning. Razdaibiedina et al., Findings of ACL 2023, https://arxiv.org/abs/2305.03937.

P' = P + LN(relu(P W1 + b1) W2 + b2), with P (l,d), W1 (d,bottleneck), W2 (bottleneck,d) and a LayerNorm LN whose
gain and shift (d) are trained too. One such network for all rows, or, `separate`, one a row (LN included).

The network writes into the embeddings' own space, so its size beside P matters, and LN fixes it: to rows of root
mean square 1, the LayerNorm's start in the paper. Beside T5's embeddings (12.6) that is a small correction; beside
SmolLM2's (0.12) it would be eight times the prompt, and nothing of the vocabulary would be left. So the gain starts
at the paper's *ratio*, 1 / 12.6 of the embeddings' size: the paper's 1 on T5, 0.01 on SmolLM2. `gain=1` is the
paper's number on any backbone. The biases start at zero for the same reason: torch's own start of them does not
shrink with the embeddings, and small rows would all be mapped to the same one.
"""

import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.options import InitContext, Rate, StartOptions
from softprompt.methods.soft_prompt import PromptPart, Text

T5_SCALE = 12.6
"""Root mean square of T5's embedding entries, beside which the paper's gain of 1 stands (results/README.md)."""


class Residual(PromptPart):
    """`rows` (l,d) and what a network with `bottleneck` hidden units adds to them."""

    def __init__(
        self,
        rows: Float[Tensor, "l d"],
        bottleneck: int,
        *,
        gain: float,
        skip: bool = True,
        norm: bool = True,
        separate: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.length, d = rows.shape
        self.skip, self.norm = skip, norm
        networks = self.length if separate else 1
        self.rows = nn.Parameter(rows.detach().float().clone())
        self.w1 = nn.Parameter(_uniform(networks, d, bottleneck, generator))
        self.b1 = nn.Parameter(torch.zeros(networks, 1, bottleneck))
        self.w2 = nn.Parameter(_uniform(networks, bottleneck, d, generator))
        self.b2 = nn.Parameter(torch.zeros(networks, 1, d))
        if norm:
            self.gain = nn.Parameter(torch.full((networks, 1, d), gain))
            self.shift = nn.Parameter(torch.zeros(networks, 1, d))

    def forward(self, text: Text | None) -> Float[Tensor, "l d"]:
        rows = self.rows.unsqueeze(1)  # (l, 1, d), each to its network
        made = (rows @ self.w1 + self.b1).relu() @ self.w2 + self.b2
        if self.norm:
            made = layer_norm(made, made.shape[-1:]) * self.gain + self.shift
        return (rows + made if self.skip else made).squeeze(1)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        found = {"prompt": [self.rows], "network": [self.w1, self.b1, self.w2, self.b2]}
        return found | ({"norm": [self.gain, self.shift]} if self.norm else {})


def _uniform(networks: int, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    """Draw weights as torch.nn.Linear starts them: uniform in +-1/sqrt(inputs)."""
    return (torch.rand(networks, rows, columns, generator=generator) * 2 - 1) / math.sqrt(rows)


class ResidualOptions(StartOptions):
    """10 rows and a bottleneck of 400: the published counts (the authors' code has 800 as its own default)."""

    prompt_part = Residual
    of_prompt = ("length", "bottleneck", "skip", "layer_norm", "separate")

    length: int = Field(10, ge=1, le=4096, description="rows of the prompt (virtual tokens)")
    bottleneck: int = Field(400, ge=1, description="hidden units of the network")
    skip: bool = Field(True, description="add the network's rows to the learned ones; false: they replace them")
    layer_norm: bool = Field(True, description="normalise the network's rows")
    separate: bool = Field(False, description="one network a row instead of one for all")
    gain: float | None = Field(
        None, gt=0, description="start of the LayerNorm's gain; null: 1/12.6 of the embeddings' size; 1: the paper's"
    )

    def prompt(self, context: InitContext) -> PromptPart:
        return Residual(
            self.rows(context),
            self.bottleneck,
            gain=context.scale() / T5_SCALE if self.gain is None else self.gain,
            skip=self.skip,
            norm=self.layer_norm,
            separate=self.separate,
            generator=torch.Generator().manual_seed(context.seed + 1),  # the rows have used the seed already
        )


register_method(
    Method(
        name="residual",
        title="Residual Prompt Tuning",
        prompt=ResidualOptions,
        paper=Paper(
            authors="Razdaibiedina et al.",
            title="Residual Prompt Tuning: Improving Prompt Tuning with Residual Reparameterization",
            venue="ACL",
            year=2023,
            url="https://arxiv.org/abs/2305.03937",
        ),
        rates={"prompt": Rate(0.3), "network": Rate(0.003, scaled=False), "norm": Rate(0.01)},
        # The authors' code: 1e-5 on everything trained.
        decay={"prompt": 1e-5, "network": 1e-5, "norm": 1e-5},
        small={"bottleneck": 6},
    )
)
