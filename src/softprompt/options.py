"""What a method may be told, and what it may know of the place where its prompt will work.

Options of a part stand beside the part (`prompts/`, `offsets/`); a method's are those of its two parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from softprompt.soft import OffsetPart, PromptPart
from softprompt.start import Vocabulary


@dataclass(frozen=True)
class Site:
    """What a method may know of the place where its prompt will work."""

    vocabulary: Vocabulary
    positions: int
    """Source tokens at most."""
    labels: Sequence[str] = ()
    seed: int = 0
    sources: Float[Tensor, "k l d"] | None = None
    """Rows of the finished runs that `Options.runs` names, in that order."""

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    of_prompt: ClassVar[tuple[str, ...]] = ("length",)
    of_offset: ClassVar[tuple[str, ...]] = ()
    """Options that the tensors of each part depend on for good; all others only say how they start."""

    length: int = Field(20, ge=0, le=4096, description="rows of the prompt (virtual tokens)")

    def runs(self) -> list[str]:
        """Folders of finished runs whose prompts this method reads (Site.sources)."""
        return []

    def prompt(self, site: Site) -> PromptPart:
        raise NotImplementedError

    def offset(self, site: Site) -> OffsetPart | None:
        return None


@dataclass(frozen=True)
class Rate:
    """A learning rate that follows the size of the backbone's embeddings.

    `factor` times the root mean square of the embedding entries when `scaled`, else as it is. AdamW moves an
    entry by about one rate a step, so a rate is a step relative to what is moved.
    """

    factor: float
    scaled: bool = True

    def at(self, scale: float) -> float:
        return self.factor * scale if self.scaled else self.factor
