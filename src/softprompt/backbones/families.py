"""Declare the families of backbones: what callers need to know of each, and which class computes it.

A family is one file: a subclass of `Backbone` and, after it, `register_family(Family(...))`. Callers ask a fact of the
family (`backbone.family.generates`), never its name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt.errors import BadInput, UnknownName
from softprompt.tasks.task import Scoring

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from softprompt.backbones.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class Family:
    """What callers may ask of a family of backbones."""

    name: str
    """The kind in run.json and prompt.json, and `Backbone.kind`."""
    title: str
    """In messages, with its article: "a decoder-only model"."""
    models: str
    """Models of the family, by example."""
    backbone: type["Backbone"]
    auto_class: str | type
    """The class whose from_pretrained makes the model: one of transformers' by name, or another."""
    recognizes: Callable[["PreTrainedConfig"], bool]
    """Whether a model with this transformers config belongs to the family."""
    generates: bool = True
    """Writes free text; else it can only choose among given choices."""
    decoder_only: bool = False
    """The target follows the source in the same row, and labels stand at the row's right end."""
    fills_gaps: bool = False
    """The answer may stand inside the text ({mask} in a template)."""
    ends_choices: bool = True
    """A choice is learned with the end-of-sequence token, so that a generated one ends by itself."""
    sorts_rows: bool = False
    """Groups the rows of a pass by length itself, so that passes need not."""
    shards: bool = True
    """Its layers may be spread over processes (--fsdp)."""
    peft_task: str | None = None
    """The task type of prompt tuning in PEFT; None: PEFT has none for such models."""

    @property
    def class_name(self) -> str:
        """The name of `auto_class`."""
        return self.auto_class if isinstance(self.auto_class, str) else self.auto_class.__name__

    def about(self) -> str:
        """Describe the models of this family in a line."""
        kind = self.title.partition(" ")[2]
        return f"any {kind} of transformers" + ("" if self.generates else "; choices only")

    @property
    def model_class(self) -> type["PreTrainedModel"]:
        """`auto_class`, imported now if it was given by name."""
        if not isinstance(self.auto_class, str):
            return self.auto_class
        import transformers

        found: type[PreTrainedModel] = getattr(transformers, self.auto_class)
        return found

    def check_examples(self, name: str, *, choices: tuple[str, ...], mask: bool, scoring: Scoring = "ranked") -> None:
        """Check that a backbone of this family can answer such examples.

        Args:
            name: The backbone's, for the message.
            choices: What it chooses among; none: it answers in free text.
            mask: The template has a {mask}.
            scoring: How answers are scored.

        Raises:
            BadInput: It cannot.
        """
        if mask and not self.fills_gaps:
            raise BadInput(
                f"The template says with {{mask}} where the answer stands, and {name} ({self.name}) answers at the "
                "end. Leave {mask} out, or give a masked backbone (BERT, RoBERTa, ModernBERT)."
            )
        if not choices and not self.generates:
            raise BadInput(
                f"{name} is {self.title}: it fills a gap with one of the choices, and here there are none, the "
                "answers are free text. Give a decoder-only or encoder-decoder backbone, or a task with choices."
            )
        if scoring == "generated" and not self.generates:
            raise BadInput(
                f"{name} is {self.title}: it ranks choices and generates nothing, and generated text is to be scored "
                "here. Use --protocol fair, leave --generate out, or give another kind of backbone."
            )


BACKBONE_FAMILIES: dict[str, Family] = {}
"""By name, in the order in which they were registered."""


def register_family(family: Family) -> Family:
    """Add a family, in the place of one of the same name if there is one, and return it."""
    BACKBONE_FAMILIES.pop(family.name, None)
    BACKBONE_FAMILIES[family.name] = family
    return family


def get_family(name: str) -> Family:
    """Return the family of this name. Raises UnknownName."""
    if name not in BACKBONE_FAMILIES:
        raise UnknownName("kind of backbone", name, list(BACKBONE_FAMILIES))
    return BACKBONE_FAMILIES[name]


def find_family(config: "PreTrainedConfig") -> Family | None:
    """Return the family that recognizes a transformers config, the last registered first; None: none does."""
    return next((family for family in reversed(BACKBONE_FAMILIES.values()) if family.recognizes(config)), None)


def writes_text(config: "PreTrainedConfig") -> bool:
    """Tell whether transformers has a decoder-only model of this config's type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def fills_masks(config: "PreTrainedConfig") -> bool:
    """Tell whether a config is a masked model's.

    Some types exist both as encoder and as decoder (BERT, RoBERTa): there the config says which one it is.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return False
    architectures = config.architectures or []
    masked = any("MaskedLM" in name for name in architectures)
    if masked or not writes_text(config) or getattr(config, "causal", None) is False:  # XLM's class is one for both
        return True
    return not (
        getattr(config, "is_decoder", False) or any("CausalLM" in name or "LMHead" in name for name in architectures)
    )
