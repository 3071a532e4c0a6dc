"""SPoT. Vu et al., ACL 2022, https://arxiv.org/abs/2110.07904.

Prompt tuning that must start from another run: the prompt of a source task.
"""

from pydantic import Field

from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.options import Rate
from softprompt.methods.prompts.free import FreeOptions


class SpotOptions(FreeOptions):
    """Free rows whose length is that of the run they start from (the paper's: 100)."""

    must_start_from = True

    length: int = Field(100, ge=1, le=4096, description="rows of the prompt (virtual tokens)")


register_method(
    Method(
        name="spot",
        title="SPoT",
        prompt=SpotOptions,
        paper=Paper(
            authors="Vu et al.",
            title="SPoT: Better Frozen Model Adaptation through Soft Prompt Transfer",
            venue="ACL",
            year=2022,
            url="https://arxiv.org/abs/2110.07904",
        ),
        rates={"prompt": Rate(0.3)},
    )
)
