"""Change settings of a recipe by name: `rates.prompt`, `decay.weights`, `steps`, or an option of the method (`length`).

An option may have its part in front: `prompt.length`, `offset.rank`, `prompt.rank` (prompt_rank).
"""

from collections.abc import Iterable, Mapping

from softprompt.errors import BadInput, UnknownName
from softprompt.methods.registry import Method, get_method
from softprompt.recipes.plan import Fields
from softprompt.recipes.recipe import Recipe, parse_recipe

BY_GROUP = ("rates", "decay")
PARTS = ("prompt", "offset", "options")
FIELDS = set(Recipe.model_fields) - {"method", "options", *BY_GROUP}
EITHER = ({"steps", "epochs"}, {"batch", "tokens_per_step"})
"""Pairs of fields that replace each other."""


def takes(method: Method, name: str) -> bool:
    """Return whether a setting of this name applies to `method`."""
    head, dot, tail = name.partition(".")
    return (
        name in FIELDS or bool(dot and head in BY_GROUP and tail in method.rates) or _option(method, name) is not None
    )


def taken(name: str, given: Mapping[str, object]) -> Fields:
    """Select the settings of `given` that apply to the method `name`."""
    method = get_method(name)
    return {setting: value for setting, value in given.items() if takes(method, setting)}


def override(recipe: Recipe, given: Mapping[str, object]) -> Recipe:
    """Apply the settings of `given` that its method has to `recipe`. Raises BadInput for a value that does not fit."""
    method = get_method(recipe.method)
    made: Fields = recipe.model_dump(exclude_unset=True)
    for name, value in taken(recipe.method, given).items():
        head, _, tail = name.partition(".")
        if name in FIELDS:
            for pair in EITHER:
                if name in pair and value is not None:
                    made = {key: kept for key, kept in made.items() if key not in pair - set(given)}
            made[name] = value
        elif head in BY_GROUP:
            made[head] = {**made.get(head, {}), tail: value}
        else:
            made["options"] = {**made.get("options", {}), _option(method, name): value}
    return parse_recipe(made)


def _option(method: Method, name: str) -> str | None:
    """Return the option of `method` that `name` means, with or without its part in front; None: no option."""
    part, dot, option = name.rpartition(".")
    if part in ("prompt", "offset") and f"{part}_{option}" in method.options.model_fields:
        return f"{part}_{option}"  # prompt.rank, beside the offset's rank
    if option not in method.options.model_fields or (dot and part not in PARTS):
        return None
    other = "prompt" if option in method.options.of_offset else "offset"
    return None if part == other else option


def override_all(recipes: Iterable[Recipe], given: Mapping[str, object]) -> list[Recipe]:
    """Apply to every recipe the settings that its method has. Raises UnknownName for a name that none of them has."""
    recipes = list(recipes)
    check_names([recipe.method for recipe in recipes], given)
    return [override(recipe, given) for recipe in recipes]


def check_names(names: Iterable[str], given: Mapping[str, object]) -> None:
    """Raise UnknownName for a setting that none of the methods has, BadInput for two that exclude each other."""
    if given.get("batch") is not None and given.get("tokens_per_step") is not None:
        raise BadInput(
            f"batch={given['batch']} and tokens_per_step={given['tokens_per_step']}: a step has a number of "
            "examples or of tokens; give one of them."
        )
    methods = [get_method(name) for name in names]
    for name in given:
        if not any(takes(method, name) for method in methods):
            raise _unknown(methods, name)


def _unknown(methods: list[Method], name: str) -> UnknownName:
    groups = {group for method in methods for group in method.rates}
    options = {option for method in methods for option in method.options.model_fields}
    known = {*FIELDS, *options, *(f"{head}.{group}" for head in BY_GROUP for group in groups)}
    part, _, tail = name.rpartition(".")
    if part in PARTS:
        known |= {f"{part}.{option}" for m in methods for option in options if _option(m, f"{part}.{option}")}
    meant = {f"{other}.{tail}" for m in methods for other in ("prompt", "offset") if _option(m, f"{other}.{tail}")}
    hint = f"There is {' and '.join(sorted(meant))}." if part in PARTS and meant else ""
    return UnknownName("setting", name, known, hint)
