"""What a run is told to do, every number of it."""

from softprompt.recipes.recipe import Recipe

__all__ = ["Recipe"]
