"""Setting: the backbone that prompts are trained on, and how it runs; shared by all prompts of one call."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from softprompt.backbones.placement import Placement, check_placement
from softprompt.errors import BadInput, UnknownName


class Setting(BaseModel):
    """The frozen backbone, and how it is loaded and run."""

    heading: ClassVar[str] = "Backbone"

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = Field("", description="Frozen model: smollm2-135m, a folder, or a hub id.")
    dtype: str = Field(
        "auto",
        description="Data type of the frozen model: float32, bfloat16, float16, or auto (bfloat16 where it is fast).",
    )
    device: str | None = Field(None, description="Device: cpu, cuda, mps, ...; the best there is when not given.")
    threads: int | None = Field(
        None, ge=1, description="CPU threads; as many as cores are free when not given (docs/speed.md)."
    )
    max_source: int = Field(256, ge=1, description="Maximum source tokens; longer sources are cut, and counted.")
    dropout: bool = Field(False, description="Leave the frozen model's own dropout on in training steps.")
    gradient_checkpointing: bool = Field(
        False, description="Compute layers twice instead of keeping them: less memory."
    )
    compile: bool = Field(False, description="Compile the layers (torch.compile): starts slowly.")
    fsdp: bool = Field(False, description="Shard the backbone over the processes of this run (docs/scale.md).")
    tokens_per_pass: int | None = Field(
        None, ge=1, description="Maximum tokens in memory at a time; a larger step is accumulated, exactly."
    )
    placement: Annotated[Placement, BeforeValidator(check_placement)] = Field(
        "front", description="Position of the prompt: front, after_bos, or after_source (before the answer)."
    )


def parse_setting(given: Mapping[str, object]) -> Setting:
    """Check a setting. Raises UnknownName or BadInput."""
    for name in given:
        if name not in Setting.model_fields:
            raise UnknownName("setting", name, Setting.model_fields)
    try:
        return Setting.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"Setting: {'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg']}.") from None
