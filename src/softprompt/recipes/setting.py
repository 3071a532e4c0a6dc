"""Setting: the backbone that prompts are trained on, and how it runs; shared by all prompts of one call."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt.backbones.placement import Placement
from softprompt.errors import BadInput, UnknownName


class Setting(BaseModel):
    """The frozen backbone, and how it is loaded and run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = Field("", description="embedded name, folder or hub id")
    dtype: str = "float32"
    device: str | None = None
    max_source: int = Field(256, ge=1, description="source tokens read")
    dropout: bool = Field(False, description="leave the frozen model's own dropout on")
    gradient_checkpointing: bool = False
    compile: bool = False
    fsdp: bool = Field(False, description="shard the layers over the processes of the run")
    tokens_per_pass: int | None = Field(None, ge=1)
    placement: Placement = Field("front", description="where prompts stand: front, after_bos, after_source")


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
