"""Change a recipe by name: `rates.prompt`, `decay.weights`, `steps`, or an option of the method (`length`).

An option may be said with its part in front: `prompt.length`, `offset.rank`, `prompt.rank` (prompt_rank).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from softprompt.errors import BadInput, UnknownName
from softprompt.methods import get_method
from softprompt.recipes.recipe import Recipe, parse_recipe

BY_GROUP = ("rates", "decay")
PARTS = ("prompt", "offset", "options")
FIELDS = set(Recipe.model_fields) - {"method", "options", *BY_GROUP}
EITHER = ({"steps", "epochs"}, {"batch", "tokens_per_step"})
"""Fields of which one replaces the other."""


def override(recipe: Recipe, given: Mapping[str, Any]) -> tuple[Recipe, set[str]]:
    """`recipe` with what of `given` its method has, checked, and the names that were of use.

    Raises BadInput for a value that does not fit.
    """
    method = get_method(recipe.method)
    made: dict[str, Any] = recipe.model_dump(exclude_unset=True)
    used = set()
    for name, value in given.items():
        head, dot, tail = name.partition(".")
        option = tail if dot and head in PARTS else name
        if head == "prompt" and f"prompt_{tail}" in method.options.model_fields:
            option = f"prompt_{tail}"  # prompt.rank, beside the offset's rank
        if name in FIELDS:
            for pair in EITHER:
                if name in pair and value is not None:
                    made = {key: kept for key, kept in made.items() if key not in pair - set(given)}
            made[name] = value
        elif dot and head in BY_GROUP and tail in method.rates:
            made[head] = {**made.get(head, {}), tail: value}
        elif option in method.options.model_fields:
            made["options"] = {**made.get("options", {}), option: value}
        else:
            continue
        used.add(name)
    return parse_recipe(made), used


def override_all(recipes: Iterable[Recipe], given: Mapping[str, Any]) -> list[Recipe]:
    """Every recipe with what it can take. Raises UnknownName for a name that none of them has."""
    if given.get("batch") is not None and given.get("tokens_per_step") is not None:
        raise BadInput(
            f"batch={given['batch']} and tokens_per_step={given['tokens_per_step']}: a step is counted in examples or "
            "in tokens; give one of them."
        )
    recipes = list(recipes)
    changed = [override(recipe, given) for recipe in recipes]
    used = set().union(*(names for _, names in changed))
    for name in given:
        if name not in used:
            methods = [get_method(recipe.method) for recipe in recipes]
            groups = {group for method in methods for group in method.rates}
            options = {option for method in methods for option in method.options.model_fields}
            known = {*FIELDS, *options, *(f"{head}.{group}" for head in BY_GROUP for group in groups)}
            raise UnknownName("setting", name, known)
    return [recipe for recipe, _ in changed]
