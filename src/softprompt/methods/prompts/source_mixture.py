"""ATTEMPT. Asai, Salehi, Peters & Hajishirzi, EMNLP 2022, https://aclanthology.org/2022.emnlp-main.446.

The prompts P_1 ... P_k of other tasks are frozen; a prompt P of this task is trained, and so is an attention G that
says, for each input, how much of each to take. With x the maximum over the source's token embeddings, entry by entry,
and P_{k+1} = P among the prompts:

    h = LayerNorm(U silu(D x))        D (100,d), U (d,100), no biases
    a = softmax_j(max(P_j) h / temperature)
    rows = P + sum_j a_j P_j

where max(P_j) is the maximum over the rows of P_j. The temperature of the authors' code is 2087 = e 768 on T5-base.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from softprompt.errors import BadInput
from softprompt.methods.folded import Kind
from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.options import InitContext, Rate, StartOptions
from softprompt.methods.soft_prompt import PromptPart, Text

TEMPERATURE, T5_BASE_D, T5_SCALE = 2087.0, 768, 12.0  # scores grow with d and with the size of embeddings


class SourceMixture(PromptPart):
    """A trained prompt `rows` (l,d) and, mixed for each input, frozen `sources` (k,l,d)."""

    kind: Kind = "input"

    def __init__(
        self, rows: Float[Tensor, "l d"], sources: Float[Tensor, "k l d"], down: Float[Tensor, "w d"],
        up: Float[Tensor, "d w"], *, temperature: float = TEMPERATURE,
    ) -> None:  # fmt: skip
        super().__init__()
        self.length = rows.shape[0]
        self.rows = nn.Parameter(rows.detach().float().clone())
        self.down, self.up = (nn.Parameter(tensor.detach().float().clone()) for tensor in (down, up))
        self.norm = nn.LayerNorm(rows.shape[1])
        self.register_buffer("sources", sources.detach().float().clone())
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def forward(self, text: Text | None) -> Float[Tensor, "b l d"]:
        assert text is not None, "the rows depend on the input"
        prompts = torch.cat([self.get_buffer("sources"), self.rows.unsqueeze(0)])  # (k + 1, l, d)
        asked = self.norm(nn.functional.silu(max_pooled(text) @ self.down.T) @ self.up.T)  # (b, d)
        scores = asked @ prompts.amax(1).T / self.get_buffer("temperature")  # (b, k + 1)
        return self.rows + torch.einsum("bk,kld->bld", scores.softmax(1), prompts)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"prompt": [self.rows], "attention": [self.down, self.up, self.norm.weight, self.norm.bias]}


def max_pooled(text: Text) -> Float[Tensor, "b d"]:
    """Take the largest entry of each row's real source tokens in every dimension; zero where there are none."""
    mask = text.mask.unsqueeze(-1)
    largest = text.embeds.float().masked_fill(~mask, -torch.inf).amax(1)
    return largest.masked_fill(~mask.any(1), 0)


def _listed(value: object) -> object:
    """Read ["a", "b"], or "a,b", or "[a,b]" from a shell."""
    if not isinstance(value, str):
        return value
    return [name.strip() for name in value.strip("[]").split(",") if name.strip()]


class AttemptOptions(StartOptions):
    """Options of a mixture with the prompts of finished runs."""

    prompt_part = SourceMixture
    of_prompt = ("length", "sources", "width", "temperature")

    length: int = Field(100, ge=1, le=4096, description="rows of the prompt, and of every source prompt")
    sources: Annotated[list[str], BeforeValidator(_listed)] = Field(
        [], description="finished runs whose prompts are mixed: sources=runs/a,runs/b"
    )
    width: int = Field(100, ge=1, description="width of the attention's network")
    temperature: float | None = Field(
        None,
        gt=0,
        description="of the attention; null: 2087 at T5-base's d and embedding size, in proportion elsewhere",
    )

    def runs(self) -> list[str]:
        return self.sources

    def prompt(self, context: InitContext) -> PromptPart:
        if context.sources is None:
            raise BadInput("attempt mixes the prompts of other runs; name them: --set sources=RUN,RUN.")
        d, generator = context.vocabulary.d, torch.Generator().manual_seed(context.seed + 2)
        scaled = TEMPERATURE * d / T5_BASE_D * context.scale() / T5_SCALE
        # The authors' modeling_t5.py starts the linear layers it adds at N(0, 0.01).
        down, up = (torch.randn(*shape, generator=generator) * 0.01 for shape in ((self.width, d), (d, self.width)))
        return SourceMixture(self.rows(context), context.sources, down, up, temperature=self.temperature or scaled)


register_method(
    Method(
        name="attempt",
        title="ATTEMPT",
        prompt=AttemptOptions,
        paper=Paper(
            authors="Asai et al.",
            title="ATTEMPT: Parameter-Efficient Multi-task Tuning via Attentional Mixtures of Soft Prompts",
            venue="EMNLP",
            year=2022,
            url="https://aclanthology.org/2022.emnlp-main.446",
        ),
        rates={"prompt": Rate(0.3), "attention": Rate(0.001, scaled=False)},
        small={"width": 4},
    )
)
