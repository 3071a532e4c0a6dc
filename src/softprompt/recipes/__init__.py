"""What a run is told to do, every number of it."""

from softprompt.recipes.plan import Plan
from softprompt.recipes.recipe import Recipe, parse_recipe
from softprompt.recipes.setting import Setting

__all__ = ["Plan", "Recipe", "Setting", "parse_recipe"]
