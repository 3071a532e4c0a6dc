"""The methods of a comparison: each with its recipe, and the learning rates that it tries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from softprompt.errors import BadInput
from softprompt.methods.registry import canonical_name, get_method
from softprompt.recipes import Recipe
from softprompt.recipes.override import check_names, taken
from softprompt.runs.start_from import Predecessor, read_predecessor
from softprompt.training.request import make_recipes

COMMON = ("steps", "epochs", "batch", "tokens_per_step", "seed")
"""Fields of a recipe that all methods share."""


def list_factors(budget: int) -> list[float]:
    """Return what the learning rates of a method are multiplied by, in the order they are tried: 1, 0.3, 3, 0.1, ...

    Half a decade to each side in turn. All rates of a method move together, so methods with one rate and
    with two have as many tries.
    """
    found = [1.0]
    for half in range(1, budget):
        found += [float(f"{10 ** (sign * half / 2):.0e}") for sign in (-1, 1)]
    return found[:budget]


@dataclass(frozen=True)
class Entrant:
    """A method that is compared."""

    name: str
    recipe: Recipe
    predecessor: Predecessor | None = None


def make_entrants(
    methods: Sequence[str], settings: Mapping[str, object], max_source: int, start_from: Predecessor | None = None
) -> list[Entrant]:
    """Give each method its recipe: NAME in `settings` is for all methods that have it, METHOD.NAME for one.

    What is set for one method takes precedence. METHOD.start_from is the run that this method starts from. Raises
    BadInput and UnknownName.
    """
    methods = [canonical_name(name) for name in methods]
    heads = {name: name.partition(".")[0] for name in settings}
    settings = {name.replace(head, canonical_name(head), 1): settings[name] for name, head in heads.items()}
    if len(set(methods)) != len(methods):
        raise BadInput(f"--methods names {', '.join(methods)}: each method once.")
    for name in methods:
        get_method(name)
    common = {name: value for name, value in settings.items() if name.partition(".")[0] not in methods}
    own = {
        method: {name.partition(".")[2]: value for name, value in settings.items() if name.startswith(f"{method}.")}
        for method in methods
    }
    for method, given in own.items():
        unequal = [name for name in given if name in COMMON]
        if unequal:
            raise BadInput(f"--set {method}.{unequal[0]}: all methods of a comparison have the same {unequal[0]}.")
    predecessors = {
        method: read_predecessor(str(given.pop("start_from"))) if "start_from" in given else start_from
        for method, given in own.items()
    }
    check_names(methods, common)  # an option of one method is a known name for the others too
    return [
        Entrant(
            method,
            make_recipes([method], taken(method, common) | own[method], None, predecessors[method], max_source)[method],
            predecessors[method],
        )
        for method in methods
    ]
