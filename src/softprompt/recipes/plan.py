"""Plan: a whole run, its folder apart. A paper's recipe, a config file and run.json all say one."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from softprompt.recipes.recipe import Recipe
from softprompt.recipes.setting import Setting
from softprompt.tasks.spec import TaskSpec


class Plan(BaseModel):
    """A task, a setting and a recipe; and, of a paper's, where its numbers come from."""

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
