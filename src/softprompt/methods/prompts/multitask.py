"""MPT. Wang et al., Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning.

ICLR 2023, https://arxiv.org/abs/2303.02861

P = P* o (U V), elementwise, with the shared prompt P* (l,d), U (l,r) and V (r,d); r = 1 in the paper. All are
trained. In the source stage (softprompt.training.distillation) k tasks have one P* between them, each its own U_t
and V_t; the target stage starts at that P* and at the means of U_t and V_t, at vocabulary rows or, as SPoT does, at any
run's rows.

U V starts at ones, so that P starts as P*. (HF PEFT draws U and V from N(0, 0.02^2): the product starts near 0.0004,
which all but deletes a prompt that was not trained with them.) A rank past the first starts with U ~ N(0, 1) and V = 0:
it adds nothing yet, and is not a copy of the first.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.options import InitContext, Rate, StartOptions
from softprompt.methods.soft_prompt import PromptPart, Text


class Multitask(PromptPart):
    """`rows` (l,d), entry by entry times a matrix of rank `rank` that starts at ones."""

    def __init__(self, rows: Float[Tensor, "l d"], rank: int = 1, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.length, d = rows.shape
        self.rows = nn.Parameter(rows.detach().float().clone())
        more = torch.randn(self.length, rank - 1, generator=generator)
        self.u = nn.Parameter(torch.cat([torch.ones(self.length, 1), more], dim=1))
        self.v = nn.Parameter(torch.cat([torch.ones(1, d), torch.zeros(rank - 1, d)]))

    def forward(self, text: Text | None) -> Float[Tensor, "l d"]:
        return self.rows * (self.u @ self.v)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"prompt": [self.rows], "weights": [self.u, self.v]}

    def set_rows(self, rows: Float[Tensor, "l d"]) -> None:
        with torch.no_grad():
            self.rows.copy_(rows)  # U V is at its start, ones


class Shared(PromptPart):
    """The prompts of k source tasks, whose P* is one tensor from now on; its own rows are the target's start."""

    def __init__(self, tasks: Sequence[Multitask]) -> None:
        super().__init__()
        for task in tasks:
            task.rows = tasks[0].rows
        self.length, self.rows = tasks[0].length, tasks[0].rows
        self.u, self.v = nn.ParameterList(task.u for task in tasks), nn.ParameterList(task.v for task in tasks)

    def target(self) -> Multitask:
        """Make P* and the means of U_t and V_t, where the paper's target stage starts."""
        made = Multitask(self.rows, self.u[0].shape[1])
        with torch.no_grad():
            made.u.copy_(torch.stack(list(self.u)).mean(0))
            made.v.copy_(torch.stack(list(self.v)).mean(0))
        return made

    def forward(self, text: Text | None) -> Float[Tensor, "l d"]:
        made: Tensor = self.target()(text)
        return made

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"prompt": [self.rows], "weights": [*self.u, *self.v]}


class MultitaskOptions(StartOptions):
    """100 rows: the paper's, 77,668 values on T5-base."""

    prompt_part = Multitask
    of_prompt = ("length", "prompt_rank")
    accepts_rows = True

    length: int = Field(100, ge=1, le=4096, description="rows of the prompt (virtual tokens)")
    prompt_rank: int = Field(1, ge=1, description="rank of what the shared rows are multiplied with")

    def prompt(self, context: InitContext) -> PromptPart:
        generator = torch.Generator().manual_seed(context.seed + 1)  # the rows have used the seed already
        return Multitask(self.rows(context), self.prompt_rank, generator=generator)


register_method(
    Method(
        name="mpt",
        title="MPT",
        prompt=MultitaskOptions,
        paper=Paper(
            authors="Wang et al.",
            title="Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning",
            venue="ICLR",
            year=2023,
            url="https://arxiv.org/abs/2303.02861",
        ),
        rates={"prompt": Rate(0.3), "weights": Rate(0.03, scaled=False)},
        aliases=("multitask",),
    )
)
