"""How long a run is: the fields of a recipe that are arguments of train as well."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class StepBudget(BaseModel):
    """How long a run is and what a step holds: the arguments of a recipe that the flags of train declare too."""

    heading: ClassVar[str] = "Length of a run"

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(300, ge=1, description="Optimizer steps.")
    epochs: int | None = Field(None, ge=1, description="Instead of --steps: passes over the training examples.")
    batch: int = Field(16, ge=1, description="Examples of a step.")
    tokens_per_step: int | None = Field(
        None,
        ge=1,
        description="Instead of --batch: as many examples a step as hold this many source and target tokens.",
    )
    class_weights: Literal["balanced"] | None = Field(
        None, description="Weight of an example's loss: balanced, by the inverse share of its answer in train."
    )


class Seeded(BaseModel):
    """The seed of a run."""

    heading: ClassVar[str] = "Length of a run"

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0, description="Random seed for prompt initialization and data order.")
