"""Plan: everything about a run but its folder. A paper's recipe, a config file and run.json each hold one."""

from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from softprompt.recipes.recipe import Recipe
from softprompt.recipes.setting import Setting
from softprompt.tasks.published.spec import TaskSpec

Fields = dict[str, Any]
"""Fields of a recipe, or options of a method, by name; the recipe checks their values."""


class Plan(BaseModel):
    """A task, a setting and a recipe; for a paper's, also where its numbers come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: TaskSpec
    setting: Setting = Setting()
    recipe: Recipe = Recipe()
    name: str = Field("", description="FAMILY/TASK of a paper's recipe")
    grid: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict, description="values that the paper searched, by field"
    )
    sources: dict[str, str] = Field(default_factory=dict, description="where the number of a field stands")
    notes: tuple[str, ...] = Field((), description="what the sources leave open or disagree on")


def as_yaml(plan: Plan) -> str:
    """Format a plan as a config file, with the sources of its numbers as comments."""
    dumped = plan.model_dump(exclude_unset=True, mode="json", exclude={"sources", "notes", "grid"})
    text: str = yaml.safe_dump(dumped, sort_keys=False, allow_unicode=True, width=120)
    grid = [f"#   {name}: {', '.join(map(str, values))}" for name, values in plan.grid.items()]
    sources = [f"#   {name}: {source}" for name, source in plan.sources.items()]
    lines = [
        *(["# searched by the paper", *grid] if grid else []),
        *(["# sources", *sources] if sources else []),
        *(f"# note: {note}" for note in plan.notes),
    ]
    return text + "\n".join(lines)
