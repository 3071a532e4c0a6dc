"""Every method by its paper's name: its parts, defaults, learning rates and citation.

A method is an entry of METHODS: options with the paper's defaults, and a function that makes the prompt
part and the offset part from them. Where a default departs from the paper, the comment says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from softprompt.errors import BadInput, UnknownName
from softprompt.offsets import PositionLowRank
from softprompt.prompts import Free, Superposition
from softprompt.prompts.superposition import Codebook
from softprompt.soft import Kind, OffsetPart, PromptPart, SoftPrompt
from softprompt.start import Vocabulary, from_labels, from_noise, from_text, from_vocabulary, sample_ids


@dataclass(frozen=True)
class Site:
    """What a method may know of the place where its prompt will work."""

    vocabulary: Vocabulary
    positions: int
    """Source tokens at most."""
    labels: Sequence[str] = ()
    seed: int = 0

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    of_prompt: ClassVar[tuple[str, ...]] = ("length",)
    of_offset: ClassVar[tuple[str, ...]] = ()
    """Options that the tensors of each part depend on for good; all others only say how they start."""

    length: int = Field(20, ge=0, le=4096, description="rows of the prompt (virtual tokens)")

    def prompt(self, site: Site) -> PromptPart:
        raise NotImplementedError

    def offset(self, site: Site) -> OffsetPart | None:
        return None


class FreeOptions(Options):
    start: Literal["vocabulary", "text", "labels", "noise"] = "vocabulary"
    start_text: str | None = Field(None, description="the text of start=text")
    pool: int | None = Field(5000, ge=1, description="start=vocabulary draws from this many first tokens; null: all")

    def prompt(self, site: Site) -> PromptPart:
        return Free(self._rows(site))

    def _rows(self, site: Site) -> Tensor:
        if self.start == "noise":
            return from_noise(self.length, site.vocabulary, site.generator())
        if self.start == "labels":
            return from_labels(self.length, site.vocabulary, site.labels, site.generator())
        if self.start == "text":
            if not self.start_text:
                raise BadInput("start=text needs the text: give start_text.")
            return from_text(self.length, site.vocabulary, self.start_text)
        return from_vocabulary(self.length, site.vocabulary, site.generator(), self.pool)


class LowRankOffsetOptions(Options):
    of_offset = ("rank", "positions", "alpha")

    rank: int = Field(60, ge=1, description="rank of the offset")
    positions: int | None = Field(None, ge=1, description="source tokens that have an offset; null: all there can be")
    alpha: float | None = Field(
        8.0, description="scale of the offset, alpha / sqrt(rank); null: the paper's A B, unscaled"
    )

    def offset(self, site: Site) -> OffsetPart:
        positions = self.positions or site.positions
        # The prompt has used the seed already: another stream, or A would repeat the vocabulary draw.
        generator = torch.Generator().manual_seed(site.seed + 1)
        return PositionLowRank(positions, self.rank, site.vocabulary.d, alpha=self.alpha, generator=generator)


class SuperpositionOptions(Options):
    of_prompt = ("length", "sampled", "codebook", "shared", "softmax")

    length: int = Field(10, ge=0, le=4096, description="rows of the prompt (virtual tokens)")
    sampled: int = Field(128, ge=1, description="vocabulary embeddings that each row mixes (the paper's m)")
    pool: int | None = Field(None, ge=1, description="sample from this many first tokens; null: the whole vocabulary")
    weights_start: Literal["normal", "one_hot"] = Field("normal", description="how the mixing weights p' start")
    weights_scale: float = Field(1.0, gt=0, description="what the start of p' is multiplied with")
    codebook: Codebook = "trained"
    shared: bool = Field(False, description="one codebook for all rows instead of one a row")
    softmax: bool = Field(False, description="mix with softmax weights (the paper's losing ablation)")

    def prompt(self, site: Site) -> PromptPart:
        generator = site.generator()
        ids = sample_ids(self.sampled, site.vocabulary, generator, self.pool)
        if self.weights_start == "normal":
            # Variance 1/m: rows differ, and each row's expected squared norm is that of a mean embedding.
            weights = torch.randn(self.length, self.sampled, generator=generator) / self.sampled**0.5
        else:
            weights = torch.eye(self.sampled)[torch.arange(self.length) % self.sampled]
        return Superposition(
            site.vocabulary.embed(ids),
            self.weights_scale * weights,
            codebook=self.codebook,
            shared=self.shared,
            softmax=self.softmax,
        )


class DeptOptions(FreeOptions, LowRankOffsetOptions):
    """The published pair (length, rank) = (20, 60) of paper section 4: the shortest prompt but none."""


class SuperposDeptOptions(SuperpositionOptions, LowRankOffsetOptions):
    """SuperPos-Prompt's rows with DePT's offset: in no paper."""


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


@dataclass(frozen=True)
class Method:
    name: str
    title: str
    kind: Kind
    prompt: str
    offset: str | None
    paper: str
    year: int
    url: str
    options: type[Options]
    rates: dict[str, Rate]
    """Default learning rate of each group."""
    decay: dict[str, float]
    """Default weight decay of each group; 0 where not named."""

    def describe(self) -> dict[str, Any]:
        fields = ("name", "title", "kind", "prompt", "offset", "paper", "year", "url")
        return {field: getattr(self, field) for field in fields}


_LESTER = "Lester, Al-Rfou & Constant: The Power of Scale for Parameter-Efficient Prompt Tuning, EMNLP"
_SHI = "Shi & Lipani: DePT: Decomposed Prompt Tuning for Parameter-Efficient Fine-tuning, ICLR"
_SADRAEI = "Sadraei Javaheri et al.: SuperPos-Prompt: Enhancing Soft Prompt Tuning of Language Models, PMLR 262"

_PROMPT_RATE = Rate(0.3)
_OFFSET_RATE = Rate(0.003)
_SUPERPOS_RATES = {"weights": Rate(0.01, scaled=False), "codebook": Rate(0.1)}
_SUPERPOS_DECAY = {"weights": 1e-5}  # section 3.4: on p' only

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "prompt_tuning", "Prompt tuning", "prompt", "free", None, _LESTER, 2021,
            "https://arxiv.org/abs/2104.08691", FreeOptions, {"prompt": _PROMPT_RATE}, {},
        ),
        Method(
            "dept", "DePT", "prompt+position", "free", "position_low_rank", _SHI, 2024,
            "https://arxiv.org/abs/2309.05173", DeptOptions, {"prompt": _PROMPT_RATE, "offset": _OFFSET_RATE}, {},
        ),
        Method(
            "superpos", "SuperPos-Prompt", "prompt", "superposition", None, _SADRAEI, 2024,
            "https://proceedings.mlr.press/v262/ali-sadraei-javaheri24a.html",
            SuperpositionOptions, _SUPERPOS_RATES, _SUPERPOS_DECAY,
        ),
        Method(
            "superpos_dept", "SuperPos-Prompt with DePT's offset", "prompt+position", "superposition",
            "position_low_rank", "ours: the two parts combined, in no paper", 2026, "",
            SuperposDeptOptions, _SUPERPOS_RATES | {"offset": _OFFSET_RATE}, _SUPERPOS_DECAY,
        ),
    )
}  # fmt: skip


def get_method(name: str) -> Method:
    if name not in METHODS:
        raise UnknownName("method", name, METHODS, "`softprompt list methods` describes them.")
    return METHODS[name]


def parse_options(method: Method, given: dict[str, Any]) -> Options:
    """Check `given` against the method's options; unknown names get a suggestion."""
    for name in given:
        if name not in method.options.model_fields:
            raise UnknownName(f"option of {method.name}", name, method.options.model_fields)
    try:
        return method.options(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{method.name}: option {first['loc'][0]}={first['input']!r}: {first['msg']}.") from None


def make(method: Method, options: Options, site: Site) -> SoftPrompt:
    """Make the soft prompt of `method`, at its start."""
    return SoftPrompt(options.prompt(site), options.offset(site))
