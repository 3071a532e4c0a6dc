"""P-tuning (v1). Liu et al., GPT Understands, Too, 2021, https://arxiv.org/abs/2103.10385.

P = unit * f(E), with learned E (l,d) and a trained network f, as HF PEFT's PromptEncoder has it:

    mlp    Linear(d,h) relu Linear(h,h) relu Linear(h,d)
    lstm   a bidirectional LSTM of two layers (d -> 2h), then Linear(2h,2h) relu Linear(2h,d); closer to the paper

E ~ N(0, 1) and torch's own start of f, as in PEFT, where `unit` is 1. Rows then start with entries near 0.1 whatever
the backbone: a hundredth of T5's embeddings, five times Llama's. `unit` is a number fixed at the start so that the
rows have the embeddings' size; E and f stay pure numbers, and their learning rates suit any backbone. `unit=1` is
PEFT's. After training only the rows are kept to answer with, so the network costs nothing then.
"""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.options import InitContext, Options, Rate
from softprompt.methods.soft_prompt import PromptPart, Text

Network = Literal["mlp", "lstm"]


class Encoder(PromptPart):
    """`length` learned inputs (d) and the network of `hidden` units that makes the rows of them."""

    unit: Float[Tensor, ""]

    def __init__(self, length: int, d: int, hidden: int, network: Network = "mlp") -> None:
        super().__init__()
        self.length = length
        self.inputs = nn.Parameter(torch.randn(length, d))
        self.lstm = nn.LSTM(d, hidden, num_layers=2, bidirectional=True) if network == "lstm" else None
        widths = [d, hidden, hidden, d] if self.lstm is None else [2 * hidden, 2 * hidden, d]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.register_buffer("unit", torch.ones(()))

    def forward(self, text: Text | None) -> Float[Tensor, "l d"]:
        made = self.inputs if self.lstm is None else self.lstm(self.inputs)[0]
        rows: Tensor = self.layers(made)
        return self.unit * rows

    def groups(self) -> dict[str, list[nn.Parameter]]:
        network = [*self.layers.parameters(), *([] if self.lstm is None else self.lstm.parameters())]
        return {"inputs": [self.inputs], "network": network}


class EncoderOptions(Options):
    """Options of rows that a network makes of learned inputs."""

    prompt_part = Encoder
    of_prompt = ("length", "encoder", "hidden")

    length: int = Field(20, ge=1, le=4096, description="rows of the prompt (virtual tokens)")
    encoder: Network = Field("mlp", description="the network: mlp (PEFT's advice) or lstm (closer to the paper)")
    hidden: int | None = Field(None, ge=1, description="hidden units; null: as many as the backbone's")
    unit: float | None = Field(
        None, gt=0, description="what the network's rows are multiplied with; null: to the embeddings' size; 1: PEFT's"
    )

    def prompt(self, context: InitContext) -> PromptPart:
        d = context.vocabulary.d
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)  # torch.nn's own starts take no generator
            part = Encoder(self.length, d, self.hidden or d, self.encoder)
        with torch.no_grad():
            size = float(part(None).square().mean().sqrt())
            part.unit.fill_(context.scale() / size if self.unit is None else self.unit)
        return part


register_method(
    Method(
        name="p_tuning",
        title="P-tuning v1",
        prompt=EncoderOptions,
        paper=Paper(
            authors="Liu et al.",
            title="GPT Understands, Too",
            venue="",
            year=2021,
            url="https://arxiv.org/abs/2103.10385",
        ),
        rates={"inputs": Rate(0.03, scaled=False), "network": Rate(0.001, scaled=False)},
        small={"hidden": 16},
    )
)
