"""Options of a method, and what it may know of the place where its prompt will work.

Options of a part stand beside the part (`prompts/`, `offsets/`); a method's are those of its two parts
(softprompt.methods.method.compose_options).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from softprompt.errors import BadInput
from softprompt.methods.folded import AdapterTensors
from softprompt.methods.initialization import (
    Vocabulary,
    embedding_scale,
    from_labels,
    from_noise,
    from_normal,
    from_text,
    from_vocabulary,
)
from softprompt.methods.soft_prompt import OffsetPart, PromptPart, SoftPrompt


@dataclass(frozen=True)
class InitContext:
    """The place where a prompt will work, as far as a method may know it."""

    vocabulary: Vocabulary
    positions: int
    """Source tokens at most."""
    labels: Sequence[str] = ()
    seed: int = 0
    sources: Float[Tensor, "k l d"] | None = None
    """Rows of the finished runs that `Options.runs` names, in that order."""
    model: nn.Module | None = None
    """The network, for what works inside it (softprompt.methods.baselines); None where there is none at hand."""

    def generator(self) -> torch.Generator:
        """Make the random generator of the run's seed."""
        return torch.Generator().manual_seed(self.seed)

    def scale(self) -> float:
        """Measure the root mean square of the backbone's embedding entries."""
        return embedding_scale(self.vocabulary)


class Options(BaseModel):
    """Options of a part. Subclasses say which part they make, and make it in `prompt` or `offset`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_part: ClassVar[type[PromptPart] | None] = None
    """The class that `prompt` makes."""
    offset_part: ClassVar[type[OffsetPart] | None] = None
    """The class that `offset` makes."""
    of_prompt: ClassVar[tuple[str, ...]] = ("length",)
    of_offset: ClassVar[tuple[str, ...]] = ()
    """Options that the tensors of each part depend on for good; all others only say how they start."""
    accepts_rows: ClassVar[bool] = False
    """Whether the prompt part can start at any rows it is given (`PromptPart.set_rows`)."""
    must_start_from: ClassVar[bool] = False
    """Whether a run of the method is one that starts from another run."""
    needs_float32: ClassVar[bool] = False
    """Whether the network must be in float32, as tensors of its own are trained."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages that the method needs; the extra of each name installs it."""

    length: int = Field(20, ge=0, le=4096, description="rows of the prompt (virtual tokens)")

    def runs(self) -> list[str]:
        """List the folders of finished runs whose prompts this method reads (InitContext.sources)."""
        return []

    def soft_prompt(self, context: InitContext) -> SoftPrompt:
        """Make the soft prompt, at its start."""
        return SoftPrompt(self.prompt(context), self.offset(context))

    def stored(self, form: AdapterTensors) -> SoftPrompt:
        """Make the baseline whose tensors were stored as `form`. Only baselines have it."""
        raise NotImplementedError

    def prompt(self, context: InitContext) -> PromptPart:
        """Make the prompt part, at its start."""
        raise NotImplementedError

    def offset(self, context: InitContext) -> OffsetPart | None:
        """Make the offset part, at its start; None for a method without one."""
        return None


class StartOptions(Options):
    """Options of parts whose rows are initialized in embedding space."""

    start: Literal["vocabulary", "text", "labels", "noise", "normal"] = "vocabulary"
    start_text: str | None = Field(None, description="the text of start=text")
    pool: int | None = Field(5000, ge=1, description="start=vocabulary draws from this many first tokens; null: all")

    def rows(self, context: InitContext, count: int | None = None) -> Tensor:
        """Make rows (count, d) to start at; None: as many as the prompt is long."""
        length = self.length if count is None else count
        if self.start == "noise":
            return from_noise(length, context.vocabulary, context.generator())
        if self.start == "normal":
            return from_normal(length, context.vocabulary, context.generator())
        if self.start == "labels":
            return from_labels(length, context.vocabulary, context.labels, context.generator())
        if self.start == "text":
            if not self.start_text:
                raise BadInput("start=text needs the text: give start_text.")
            return from_text(length, context.vocabulary, self.start_text)
        return from_vocabulary(length, context.vocabulary, context.generator(), self.pool)


@dataclass(frozen=True)
class Rate:
    """A learning rate that follows the size of the backbone's embeddings.

    `factor` times the root mean square of the embedding entries when `scaled`, else as it is. AdamW moves an
    entry by about one rate a step, so a rate is a step relative to what is moved.
    """

    factor: float
    scaled: bool = True

    def at(self, scale: float) -> float:
        """Compute the rate on a backbone whose embedding entries have root mean square `scale`."""
        return self.factor * scale if self.scaled else self.factor
