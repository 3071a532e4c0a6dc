"""Setting: where prompts are tuned, the same for all that are tuned in one call."""

from pydantic import BaseModel, ConfigDict, Field


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
    tokens_per_pass: int | None = Field(None, ge=1)
