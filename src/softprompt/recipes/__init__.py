"""Recipes: every number of a run, as data."""

from softprompt.recipes.plan import Plan
from softprompt.recipes.recipe import Recipe, parse_recipe
from softprompt.recipes.setting import Setting

__all__ = ["Plan", "Recipe", "Setting", "parse_recipe"]
