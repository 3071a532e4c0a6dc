"""Recipe: how one prompt is trained. What is None follows from the method, the backbone and the steps."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from softprompt.errors import BadInput, UnknownName
from softprompt.methods.registry import Options, canonical_name, get_method, parse_options
from softprompt.recipes.budget import Seeded, StepBudget


class Recipe(StepBudget, Seeded):
    """How one prompt is tuned; `resolved` fills in what is left open."""

    method: str = "prompt_tuning"
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the method.")
    rates: dict[str, float] = Field(default_factory=dict, description="Learning rate by group; else the method's rule.")
    rate_factor: float = Field(1.0, gt=0, description="Factor on every learning rate, a method's rule as well.")
    decay: dict[str, float] = Field(default_factory=dict, description="Weight decay of AdamW by group.")
    warmup: int | None = Field(None, ge=0, description="Steps of linear warm-up; null: 6 % of all.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="Schedule after the warm-up: linear or cosine down to 0, or constant."
    )
    clip: float | None = Field(1.0, gt=0, description="Maximum gradient norm of this prompt; null: no clipping.")
    optimizer: Literal["adamw", "adafactor"] = Field(
        "adamw",
        description="Optimizer: adamw, or adafactor as in Lester et al. 2021 (rates as given, no parameter scaling).",
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="Betas of AdamW.")
    epsilon: float = Field(1e-8, gt=0, description="Epsilon of AdamW.")
    train_on_inputs: bool = Field(
        False, description="Learn the source's tokens as well as the answer's; on decoder-only backbones."
    )
    evaluate_every: int | Literal["epoch"] = Field(50, description="Steps between evaluations on dev, or epoch.")
    evaluate_at_start: bool = Field(False, description="Evaluate on dev before the first step, too.")
    patience: int | None = Field(None, ge=1, description="Evaluations without a better one after which the run stops.")
    dev_limit: int | None = Field(200, ge=1, description="Dev examples that choose the checkpoint; null: all.")

    @field_validator("method")
    @classmethod
    def _named_as_today(cls, value: str) -> str:
        return canonical_name(value)

    @field_validator("evaluate_every")
    @classmethod
    def _at_least_one(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("expected at least 1, or epoch")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and "steps" in self.model_fields_set:
            raise ValueError("steps and epochs are both given; a run is as long as one of them says")
        if self.tokens_per_step is not None and (self.epochs is not None or self.evaluate_every == "epoch"):
            raise ValueError(
                "with tokens_per_step an epoch has no fixed number of steps; give steps and evaluate_every"
            )
        return self

    def resolved(self, scale: float, groups: set[str], rows: int) -> "Recipe":
        """Fill in every number of this recipe.

        `scale` is the root mean square of the backbone's embeddings, `rows` the number of training examples.
        """
        method = get_method(self.method)
        _check_groups(self, groups)
        rates = {name: rate.at(scale) for name, rate in method.rates.items() if name in groups} | self.rates
        rates = {name: rate * self.rate_factor for name, rate in rates.items()}
        decay = dict.fromkeys(groups, 0.0) | {k: v for k, v in method.decay.items() if k in groups} | self.decay
        epoch = math.ceil(rows / self.batch)
        steps = self.steps if self.epochs is None else self.epochs * epoch
        warmup = round(0.06 * steps) if self.warmup is None else self.warmup
        every = epoch if self.evaluate_every == "epoch" else self.evaluate_every
        filled = {"rates": rates, "rate_factor": 1.0, "decay": decay, "warmup": warmup, "steps": steps, "epochs": None}
        return self.model_copy(update={**filled, "evaluate_every": every})

    def parsed_options(self) -> Options:
        """Check and complete the method's options. Raises UnknownName or BadInput."""
        return parse_options(get_method(self.method), self.options)

    def factor(self, step: int) -> float:
        """Return the factor of the learning rates at `step` (the first is 0), warm-up first."""
        warmup = self.warmup or 0
        if step < warmup:
            return (step + 1) / warmup
        if self.schedule == "constant":
            return 1.0
        left = (self.steps - step) / max(self.steps - warmup, 1)
        return left if self.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)


def parse_recipe(given: Mapping[str, object]) -> Recipe:
    """Check a recipe. Raises UnknownName or BadInput."""
    for name in given:
        if name not in Recipe.model_fields:
            raise UnknownName("recipe field", name, Recipe.model_fields)
    try:
        recipe = Recipe.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        why = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise BadInput(f"Recipe: {why}.") from None
        place = ".".join(str(part) for part in first["loc"] if part not in ("int", "literal['epoch']"))
        raise BadInput(f"Recipe: {place}={first['input']!r}: {why}.") from None
    recipe.parsed_options()
    _check_groups(recipe, get_method(recipe.method).rates)
    return recipe


def _check_groups(recipe: Recipe, groups: Iterable[str]) -> None:
    for name in (*recipe.rates, *recipe.decay):
        if name not in groups:
            raise UnknownName(f"group of {recipe.method}", name, groups)
