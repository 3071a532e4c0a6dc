"""ADePT's offset. Tang et al., ICLR 2025, code https://github.com/HungerPWAY/ADePT.

x' = x + relu(x A + a) B + b for the embedding x of every source token, with A (d,r), a (r), B (r,d), b (d): one
network for all tokens and positions, so what a token id becomes is the same everywhere, and the whole is a second
embedding table (`second_table`). In training, dropout of 0.1 acts on x A + a, before the relu. A ~ U(+-1/sqrt r);
B, a and b start at zero, so ADePT starts as prompt tuning.
"""

import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from softprompt.methods.folded import Kind, TokenOffset
from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.options import InitContext, Options, Rate
from softprompt.methods.prompts.free import FreeOptions
from softprompt.methods.row_generators import generators
from softprompt.methods.soft_prompt import OffsetPart, Text


class TokenNetwork(OffsetPart):
    """An offset that a small network makes of each token's embedding."""

    kind: Kind = "prompt+token"

    def __init__(self, network: TokenOffset, *, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.dropout, self.seed = dropout, seed
        for name, tensor in network._asdict().items():
            self.register_parameter(name, nn.Parameter(tensor.detach().float().clone()))

    def network(self) -> TokenOffset:
        """Return the trained tensors."""
        return TokenOffset(*(self.get_parameter(name) for name in TokenOffset._fields))

    def forward(self, text: Text) -> Float[Tensor, "b s d"]:
        kept = self._kept(text) if self.training and self.dropout else None
        return token_offset(self.network(), text.embeds.float(), kept)

    def _kept(self, text: Text) -> Float[Tensor, "b s r"]:
        """Draw what dropout multiplies the hidden units with."""
        r = self.network().down_bias.shape[0]
        kept = torch.ones(*text.mask.shape, r)
        for row, mask, generator in zip(kept, text.mask.cpu(), generators(text, self.seed, self.step), strict=True):
            drawn = torch.rand(int(mask.sum()), r, generator=generator)
            row[mask] = (drawn >= self.dropout).float() / (1 - self.dropout)
        return kept.to(text.embeds.device)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        down, down_bias, up, up_bias = (self.get_parameter(name) for name in TokenOffset._fields)
        return {"offset": [down, up], "offset_bias": [down_bias, up_bias]}

    def fold(self) -> tuple[TokenOffset, int]:
        return TokenOffset(*(tensor.detach().clone() for tensor in self.network())), 0


def token_offset(
    network: TokenOffset, embeds: Float[Tensor, "*rows d"], kept: Float[Tensor, "*rows r"] | None = None
) -> Float[Tensor, "*rows d"]:
    """Compute relu(x A + a) B + b for embeddings x as the backbone's network receives them."""
    states = embeds @ network.down + network.down_bias
    return torch.relu(states if kept is None else states * kept) @ network.up + network.up_bias


def second_table(network: TokenOffset, table: Float[Tensor, "v d"], rows: int = 8192) -> Float[Tensor, "v d"]:
    """Make the embedding table that gives source tokens their offset without a computation, `rows` of it at a time.

    `table` holds embeddings as the network receives them (a Gemma or BART table is scaled first).
    """
    made = [part + token_offset(network, part.float()).to(part.dtype) for part in torch.split(table, rows)]
    return torch.cat(made)


class TokenNetworkOptions(Options):
    """Options of ADePT's offset."""

    offset_part = TokenNetwork
    of_offset = ("rank", "dropout")

    rank: int = Field(19, ge=1, description="width of the network that makes the offset")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout inside that network, in training")

    def offset(self, context: InitContext) -> OffsetPart:
        d, bound = context.vocabulary.d, 1 / math.sqrt(self.rank)
        # The prompt has used the seed already: another stream.
        generator = torch.Generator().manual_seed(context.seed + 1)
        down = torch.rand(d, self.rank, generator=generator) * 2 * bound - bound
        start = TokenOffset(down, torch.zeros(self.rank), torch.zeros(self.rank, d), torch.zeros(d))
        return TokenNetwork(start, dropout=self.dropout, seed=context.seed)


# The published pair (length, rank) = (60, 19) on T5-base.
register_method(
    Method(
        name="adept",
        title="ADePT",
        prompt=FreeOptions,
        offset=TokenNetworkOptions,
        defaults={"length": 60},
        paper=Paper(
            authors="Tang et al.",
            title="ADePT: Adaptive Decomposed Prompt Tuning for Parameter-Efficient Fine-tuning",
            venue="ICLR",
            year=2025,
            url="https://github.com/HungerPWAY/ADePT",
        ),
        rates={"prompt": Rate(0.3), "offset": Rate(4e-4, scaled=False), "offset_bias": Rate(0.01)},
        small={"rank": 3},
    )
)
