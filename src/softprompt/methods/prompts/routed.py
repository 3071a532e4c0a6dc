"""SMoP. Choi, Kim, Park, Mok & Lee, EMNLP 2023, https://aclanthology.org/2023.emnlp-main.884.

Each input gets one of k short prompts. With x the mean of the source's token embeddings and a linear router
R (k,d), without bias and orthogonal at the start:

    p = softmax(R x)        j = argmax p        rows = p_j P_j

In training the logits z = R x become z (1 + e) with Gaussian e, whose factor passes no gradient. The authors' code
also adds 0.01 k sum_j f_j m_j to the loss, with f_j the share of examples that go to prompt j and m_j the mean of
p_j over them, so that all prompts are used.
"""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from softprompt.methods.folded import Kind
from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.options import InitContext, Rate, StartOptions
from softprompt.methods.row_generators import generators
from softprompt.methods.soft_prompt import PromptPart, Text


class Routed(PromptPart):
    """One of the prompts `rows` (k,l,d) for each input, chosen and scaled by `router` (k,d)."""

    kind: Kind = "input"

    def __init__(
        self,
        rows: Float[Tensor, "k l d"],
        router: Float[Tensor, "k d"],
        *,
        noise: float = 1.0,
        balance: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.length = rows.shape[1]
        self.noise, self.balance, self.seed = noise, balance, seed
        self.has_penalty = balance > 0
        self.rows = nn.Parameter(rows.detach().float().clone())
        self.router = nn.Parameter(router.detach().float().clone())

    def forward(self, text: Text | None) -> Float[Tensor, "b l d"]:
        assert text is not None, "the rows depend on the input"
        share, chosen = self._shares(text).max(1)  # (b,)
        return share[:, None, None] * self.rows[chosen]

    def _shares(self, text: Text) -> Float[Tensor, "b k"]:
        logits = mean_pooled(text) @ self.router.T
        if self.training and self.noise:
            drawn = [torch.randn(len(self.router), generator=g) for g in generators(text, self.seed, self.step)]
            logits = logits + self.noise * torch.stack(drawn).to(logits.device) * logits.detach()
        return logits.softmax(1)

    def penalty(self, text: Text) -> Tensor | None:
        if not self.balance:
            return None
        shares = self._shares(text)
        k = len(self.router)
        load = torch.nn.functional.one_hot(shares.argmax(1), k).float().mean(0)
        return self.balance * k * (shares.mean(0) * load).sum()

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"prompt": [self.rows], "router": [self.router]}


def mean_pooled(text: Text) -> Float[Tensor, "b d"]:
    """Average the embeddings of each row's real source tokens; zero where there are none."""
    mask = text.mask.unsqueeze(-1)
    return text.embeds.float().masked_fill(~mask, 0).sum(1) / mask.sum(1).clamp(min=1)


class RoutedOptions(StartOptions):
    """Four prompts of five rows, as the paper recommends. They start as `prompts` x `length` free rows would."""

    prompt_part = Routed
    of_prompt = ("length", "prompts", "noise", "balance")

    length: int = Field(5, ge=1, le=4096, description="rows of each prompt (virtual tokens of an input)")
    prompts: int = Field(4, ge=1, description="prompts to choose from (the paper's k)")
    noise: float = Field(1.0, ge=0, description="standard deviation of the noise on router logits, relative to them")
    balance: float = Field(0.01, ge=0, description="weight of the loss term that spreads inputs over the prompts")

    def prompt(self, context: InitContext) -> PromptPart:
        rows = self.rows(context, self.prompts * self.length)
        router = torch.empty(self.prompts, rows.shape[1])
        nn.init.orthogonal_(router, generator=torch.Generator().manual_seed(context.seed + 2))
        return Routed(
            rows.reshape(self.prompts, self.length, -1), router,
            noise=self.noise, balance=self.balance, seed=context.seed,
        )  # fmt: skip


register_method(
    Method(
        name="smop",
        title="SMoP",
        prompt=RoutedOptions,
        paper=Paper(
            authors="Choi et al.",
            title="SMoP: Towards Efficient and Effective Prompt Tuning with Sparse Mixture-of-Prompts",
            venue="EMNLP",
            year=2023,
            url="https://aclanthology.org/2023.emnlp-main.884",
        ),
        # A routed prompt is multiplied with its probability, so a step in it is a smaller step of the rows.
        rates={"prompt": Rate(0.6), "router": Rate(0.003, scaled=False)},
        small={"prompts": 2},
    )
)
