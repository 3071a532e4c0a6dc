"""Every method by its paper's name: its parts, defaults, learning rates and citation.

A method is an entry of METHODS: the options of its prompt part and of its offset part (which stand beside the
parts, with the paper's defaults), learning rates and a citation. Where a default departs from the paper, a comment
says so. "A+B" is the method with A's prompt part and B's offset part, published or not.
"""

import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from pydantic import Field, ValidationError

from softprompt.errors import BadInput, UnknownName
from softprompt.methods.baselines.peft import Ia3Options, LoraOptions, PrefixOptions
from softprompt.methods.baselines.weights import BitfitOptions, FullOptions
from softprompt.methods.folded import Kind
from softprompt.methods.initialization import Blank
from softprompt.methods.offsets.position_codebook import CodebookOffsetOptions
from softprompt.methods.offsets.position_low_rank import LowRankOffsetOptions
from softprompt.methods.offsets.token_network import TokenNetworkOptions
from softprompt.methods.options import InitContext, Options, Rate
from softprompt.methods.prompts.codebook import CodebookOptions
from softprompt.methods.prompts.encoder import EncoderOptions
from softprompt.methods.prompts.free import FreeOptions
from softprompt.methods.prompts.low_rank import LowRankOptions
from softprompt.methods.prompts.multitask import MultitaskOptions
from softprompt.methods.prompts.random_projection import RandomProjectionOptions
from softprompt.methods.prompts.residual import ResidualOptions
from softprompt.methods.prompts.routed import RoutedOptions
from softprompt.methods.prompts.source_mixture import AttemptOptions
from softprompt.methods.prompts.superposition import SuperpositionOptions
from softprompt.methods.soft_prompt import SoftPrompt

__all__ = [
    "BASELINES",
    "METHODS",
    "InitContext",
    "Method",
    "Options",
    "Rate",
    "blank",
    "get_method",
    "make",
    "parse_options",
]


class DeptOptions(FreeOptions, LowRankOffsetOptions):
    """The published pair (length, rank) = (20, 60) of paper section 4: the shortest prompt but none."""


class SuperposDeptOptions(SuperpositionOptions, LowRankOffsetOptions):
    """SuperPos-Prompt's rows with DePT's offset: in no paper."""


class AcceptOptions(CodebookOptions, CodebookOffsetOptions):
    """The published setting on T5-base: 44,160 values for 60 rows, 30,720 for the offset of 256 positions."""


class AdeptOptions(FreeOptions, TokenNetworkOptions):
    """The published pair (length, rank) = (60, 19) on T5-base."""

    length: int = Field(60, ge=0, le=4096, description="rows of the prompt (virtual tokens)")


class SpotOptions(FreeOptions):
    """Prompt tuning that must start from another run; its length is that run's (the paper's: 100)."""

    must_start_from = True

    length: int = Field(100, ge=1, le=4096, description="rows of the prompt (virtual tokens)")


@dataclass(frozen=True)
class Method:
    name: str
    title: str
    kind: Kind
    prompt: str | None
    """What makes its rows; None of a baseline, which has none."""
    offset: str | None
    paper: str
    year: int
    url: str
    options: type[Options]
    rates: dict[str, Rate] = field(hash=False)
    """Default learning rate of each group."""
    decay: dict[str, float] = field(hash=False)
    """Default weight decay of each group; 0 where not named."""

    @property
    def authors(self) -> str:
        return self.paper.partition(":")[0]

    def describe(self) -> dict[str, Any]:
        fields = ("name", "title", "kind", "prompt", "offset", "authors", "paper", "year", "url")
        return {field: getattr(self, field) for field in fields}


_LESTER = "Lester, Al-Rfou & Constant: The Power of Scale for Parameter-Efficient Prompt Tuning, EMNLP"
_SHI = "Shi & Lipani: DePT: Decomposed Prompt Tuning for Parameter-Efficient Fine-tuning, ICLR"
_SADRAEI = "Sadraei Javaheri et al.: SuperPos-Prompt: Enhancing Soft Prompt Tuning of Language Models, PMLR 262"
_RAZDAIBIEDINA = (
    "Razdaibiedina et al.: Residual Prompt Tuning: Improving Prompt Tuning with Residual Reparameterization, ACL"
)
_XIAO = "Xiao et al.: Decomposed Prompt Tuning via Low-Rank Reparameterization, EMNLP"
_WU = "Wu, Hao & Mou: Ultra-Low-Dimensional Prompt Tuning via Random Projection"
_WANG = "Wang et al.: Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning, ICLR"
_LIU = "Liu et al.: GPT Understands, Too"
_VU = "Vu et al.: SPoT: Better Frozen Model Adaptation through Soft Prompt Transfer, ACL"

_LIN = "Lin et al.: ACCEPT: Adaptive Codebook for Composite and Efficient Prompt Tuning, Findings of EMNLP"
_TANG = "Tang et al.: ADePT: Adaptive Decomposed Prompt Tuning for Parameter-Efficient Fine-tuning, ICLR"
_ASAI = "Asai et al.: ATTEMPT: Parameter-Efficient Multi-task Tuning via Attentional Mixtures of Soft Prompts, EMNLP"
_HU = "Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, ICLR"
_LIU_IA3 = (
    "Liu et al.: Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning, NeurIPS"
)
_LI = "Li & Liang: Prefix-Tuning: Optimizing Continuous Prompts for Generation, ACL"
_DEVLIN = "Devlin et al.: BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, NAACL"
_ZAKEN = "Ben Zaken, Goldberg & Ravfogel: BitFit: Simple Parameter-efficient Fine-tuning, ACL"
_CHOI = "Choi et al.: SMoP: Towards Efficient and Effective Prompt Tuning with Sparse Mixture-of-Prompts, EMNLP"

_PROMPT_RATE = Rate(0.3)
_OFFSET_RATE = Rate(0.003)
_SUPERPOS_RATES = {"weights": Rate(0.01, scaled=False), "codebook": Rate(0.1)}
_SUPERPOS_DECAY = {"weights": 1e-5}  # section 3.4: on p' only
_ACCEPT_RATES = {
    "weights": Rate(0.03, scaled=False), "codebook": Rate(0.2),
    "offset_weights": Rate(0.003, scaled=False), "offset_codebook": Rate(0.01),
}  # fmt: skip
# A routed prompt is multiplied with its probability, so a step in it is a smaller step of the rows.
_SMOP_RATES = {"prompt": Rate(0.6), "router": Rate(0.003, scaled=False)}
_ADEPT_RATES = {"offset": Rate(4e-4, scaled=False), "offset_bias": Rate(0.01)}
# The authors' code: 1e-5 on everything trained.
_RESIDUAL_RATES = {"prompt": _PROMPT_RATE, "network": Rate(0.003, scaled=False), "norm": Rate(0.01)}
_RESIDUAL_DECAY = dict.fromkeys(_RESIDUAL_RATES, 1e-5)
_LOW_RANK_RATES = {"weights": Rate(0.1, scaled=False), "basis": Rate(0.1)}
_LOW_RANK_DECAY = dict.fromkeys(_LOW_RANK_RATES, 1e-5)
_PROJECTION_RATES = {"weights": Rate(0.3, scaled=False), "affine": Rate(1.0)}
_MULTITASK_RATES = {"prompt": _PROMPT_RATE, "weights": Rate(0.03, scaled=False)}
_ENCODER_RATES = {"inputs": Rate(0.03, scaled=False), "network": Rate(0.001, scaled=False)}

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
        Method(
            "accept", "ACCEPT", "prompt+position", "codebook", "position_codebook", _LIN, 2024,
            "https://github.com/AI-Application-and-Integration-Lab/Accept", AcceptOptions, _ACCEPT_RATES, {},
        ),
        Method(
            "adept", "ADePT", "prompt+token", "free", "token_network", _TANG, 2025,
            "https://github.com/HungerPWAY/ADePT", AdeptOptions, {"prompt": _PROMPT_RATE} | _ADEPT_RATES, {},
        ),
        Method(
            "attempt", "ATTEMPT", "input", "attempt", None, _ASAI, 2022,
            "https://aclanthology.org/2022.emnlp-main.446", AttemptOptions,
            {"prompt": _PROMPT_RATE, "attention": Rate(0.001, scaled=False)}, {},
        ),
        Method(
            "smop", "SMoP", "input", "routed", None, _CHOI, 2023,
            "https://aclanthology.org/2023.emnlp-main.884", RoutedOptions,
            _SMOP_RATES, {},
        ),
        Method(
            "residual", "Residual Prompt Tuning", "prompt", "residual", None, _RAZDAIBIEDINA, 2023,
            "https://arxiv.org/abs/2305.03937", ResidualOptions, _RESIDUAL_RATES, _RESIDUAL_DECAY,
        ),
        Method(
            "low_rank", "DPT", "prompt", "low_rank", None, _XIAO, 2023,
            "https://arxiv.org/abs/2310.10094", LowRankOptions, _LOW_RANK_RATES, _LOW_RANK_DECAY,
        ),
        Method(
            "random_projection", "ULPT", "prompt", "random_projection", None, _WU, 2025,
            "https://arxiv.org/abs/2502.04501", RandomProjectionOptions, _PROJECTION_RATES, {},
        ),
        Method(
            "multitask", "MPT", "prompt", "multitask", None, _WANG, 2023,
            "https://arxiv.org/abs/2303.02861", MultitaskOptions, _MULTITASK_RATES, {},
        ),
        Method(
            "p_tuning", "P-tuning v1", "prompt", "encoder", None, _LIU, 2021,
            "https://arxiv.org/abs/2103.10385", EncoderOptions, _ENCODER_RATES, {},
        ),
        Method(
            "spot", "SPoT", "prompt", "free", None, _VU, 2022,
            "https://arxiv.org/abs/2110.07904", SpotOptions, {"prompt": _PROMPT_RATE}, {},
        ),
    )
}  # fmt: skip


BASELINES: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "peft:lora", "LoRA (baseline, HF PEFT)", "network", None, None, _HU, 2022,
            "https://arxiv.org/abs/2106.09685", LoraOptions, {"adapter": Rate(0.003, scaled=False)}, {},
        ),
        Method(
            "peft:ia3", "(IA)3 (baseline, HF PEFT)", "network", None, None, _LIU_IA3, 2022,
            "https://arxiv.org/abs/2205.05638", Ia3Options, {"adapter": Rate(0.05, scaled=False)}, {},
        ),
        Method(
            "peft:prefix", "Prefix tuning, P-Tuning v2 (baseline, HF PEFT)", "network", None, None, _LI, 2021,
            "https://aclanthology.org/2021.acl-long.353", PrefixOptions, {"prefix": Rate(0.1, scaled=False)}, {},
        ),
        Method(
            "bitfit", "BitFit (baseline)", "network", None, None, _ZAKEN, 2022,
            "https://aclanthology.org/2022.acl-short.1", BitfitOptions, {"bias": Rate(0.001, scaled=False)}, {},
        ),
        Method(
            "full", "Full fine-tuning (baseline)", "network", None, None, _DEVLIN, 2019,
            "https://aclanthology.org/N19-1423", FullOptions, {"network": Rate(0.0001, scaled=False)}, {},
        ),
    )
}  # fmt: skip
"""What is no soft prompt, for comparison: it changes the network itself (softprompt.methods.baselines)."""


def get_method(name: str) -> Method:
    """A method or baseline by name, or two methods combined ("residual+dept"). Raises UnknownName, BadInput."""
    if name in METHODS:
        return METHODS[name]
    if name in BASELINES:
        return BASELINES[name]
    first, plus, second = name.partition("+")
    if plus and {first, second} & BASELINES.keys():
        raise BadInput(f"{name}: a baseline changes the network itself, and combines with nothing. Name it alone.")
    if plus and first in METHODS and second in METHODS:
        return combine(METHODS[first], METHODS[second])
    unknown = second if plus and first in METHODS else first
    raise UnknownName(
        "method", unknown, METHODS | BASELINES, "`softprompt list methods` describes them; A+B combines two."
    )


@cache
def combine(one: Method, other: Method) -> Method:
    """`one`'s prompt part with `other`'s offset part. Raises BadInput where there is none, or one too many."""
    if one.offset is not None:
        raise BadInput(f"{one.name}+{other.name}: {one.name} has an offset of its own ({one.offset}); put it second.")
    if other.offset is None:
        raise BadInput(f"{one.name}+{other.name}: {other.name} has no offset to add to {one.name}'s prompt.")
    offset = next(base for base in other.options.__mro__ if issubclass(base, Options) and "offset" in vars(base))
    taken = set(one.options.of_prompt) & set(offset.of_offset)
    if taken:
        raise BadInput(
            f"{one.name}+{other.name}: both parts have an option {min(taken)!r}, so one name would mean two."
        )
    both: type[Options] = types.new_class(f"{one.name}+{other.name}", (one.options, offset))
    own = {name for name in other.rates if name.startswith("offset")}
    return Method(
        f"{one.name}+{other.name}", f"{one.title} with the offset of {other.title}",
        "input" if one.kind == "input" else other.kind, one.prompt, other.offset, "two methods combined", 2026, "",
        both, one.rates | {name: other.rates[name] for name in own},
        one.decay | {name: value for name, value in other.decay.items() if name in own},
    )  # fmt: skip


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


def make(method: Method, options: Options, site: InitContext) -> SoftPrompt:
    """Make the soft prompt of `method`, at its start."""
    return options.soft_prompt(site)


def blank(method: Method, options: Options, d: int, positions: int, labels: Sequence[str] = ()) -> SoftPrompt:
    """A soft prompt with the names and shapes of `method`'s tensors on a backbone of size `d`; values mean nothing."""
    runs = options.runs()
    sources = torch.zeros(len(runs), options.length, d) if runs else None
    return make(method, options, InitContext(Blank(d), positions, labels or ("",), sources=sources))


def register_method(method: Method) -> Method:
    """Add a method under its name. Raises BadInput when the name is taken."""
    if method.name in METHODS or method.name in BASELINES:
        raise BadInput(f"There is already a method named {method.name!r}; give yours another name.")
    METHODS[method.name] = method
    return method
