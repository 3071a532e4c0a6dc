"""Recipe: how one prompt is tuned. What is left None follows from the method, the backbone and the steps."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt.errors import BadInput, UnknownName
from softprompt.methods import Options, get_method, parse_options


class Recipe(BaseModel):
    """How one prompt is tuned; `resolved` fills in what is left open."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = "prompt_tuning"
    options: dict[str, Any] = Field(default_factory=dict, description="the method's own options")
    steps: int = Field(300, ge=1, description="optimizer steps")
    batch: int = Field(16, ge=1, description="examples a step")
    tokens_per_step: int | None = Field(
        None, ge=1, description="instead of batch: as many examples a step as hold this many source and target tokens"
    )
    rates: dict[str, float] = Field(default_factory=dict, description="learning rate by group; else the method's rule")
    decay: dict[str, float] = Field(default_factory=dict, description="AdamW weight decay by group")
    warmup: int | None = Field(None, ge=0, description="steps of linear warm-up; null: 6 % of all")
    schedule: Literal["linear", "constant"] = Field("linear", description="after the warm-up: down to 0, or level")
    clip: float | None = Field(1.0, gt=0, description="most the gradient norm of this prompt may be; null: no clipping")
    epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon")
    evaluate_every: int = Field(50, ge=1, description="steps between evaluations on dev")
    patience: int | None = Field(None, ge=1, description="stop after this many evaluations without a better one")
    dev_limit: int | None = Field(200, ge=1, description="dev examples used to choose a checkpoint; null: all")
    seed: int = Field(0, ge=0, description="of the start and of the order of examples")

    def resolved(self, scale: float, groups: set[str]) -> "Recipe":
        """This recipe with every number filled in, for embeddings of root mean square `scale`."""
        method = get_method(self.method)
        for given in (self.rates, self.decay):
            for name in given:
                if name not in groups:
                    raise UnknownName(f"group of {self.method}", name, groups)
        rates = {name: rate.at(scale) for name, rate in method.rates.items() if name in groups} | self.rates
        decay = dict.fromkeys(groups, 0.0) | {k: v for k, v in method.decay.items() if k in groups} | self.decay
        warmup = round(0.06 * self.steps) if self.warmup is None else self.warmup
        return self.model_copy(update={"rates": rates, "decay": decay, "warmup": warmup})

    def parsed_options(self) -> Options:
        return parse_options(get_method(self.method), self.options)

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied with at `step` (0 is the first), warm-up first."""
        warmup = self.warmup or 0
        if step < warmup:
            return (step + 1) / warmup
        return 1.0 if self.schedule == "constant" else (self.steps - step) / max(self.steps - warmup, 1)


def parse_recipe(given: dict[str, Any]) -> Recipe:
    """A checked recipe. Raises UnknownName or BadInput for what is not one."""
    for name in given:
        if name not in Recipe.model_fields:
            raise UnknownName("recipe field", name, Recipe.model_fields)
    try:
        recipe = Recipe(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"Recipe: {'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg']}.") from None
    recipe.parsed_options()
    return recipe
