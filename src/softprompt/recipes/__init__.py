"""What a run is told to do, every number of it."""

from softprompt.recipes.recipe import Recipe, parse_recipe

__all__ = ["Recipe", "parse_recipe"]
