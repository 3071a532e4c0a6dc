"""The methods of a comparison: each with its recipe, and the learning rates that it tries."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from softprompt.errors import BadInput
from softprompt.methods.registry import canonical_name, get_method, list_methods
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
    """A method that is compared, under its own name or, where one method enters several times, under a label."""

    name: str
    recipe: Recipe
    predecessor: Predecessor | None = None


def make_entrants(
    methods: Sequence[str], settings: Mapping[str, object], max_source: int, start_from: Predecessor | None = None
) -> list[Entrant]:
    """Give each entrant its recipe: NAME in `settings` is for all that have it, ENTRANT.NAME for one.

    What is set for one takes precedence. ENTRANT.start_from is the run that it starts from. Raises BadInput and
    UnknownName.

    Args:
        methods: Names of methods, or LABEL=METHOD.
        settings: Recipe fields and method options by name.
        max_source: Maximum source tokens of the backbone.
        start_from: Run that all start from.
    """
    named = _named(methods)
    heads = {name: name.partition(".")[0] for name in settings}
    known = {head: head if head in named else canonical_name(head) for head in heads.values()}
    settings = {name.replace(head, known[head], 1): settings[name] for name, head in heads.items()}
    common = {name: value for name, value in settings.items() if name.partition(".")[0] not in named}
    own = {
        label: {name.partition(".")[2]: value for name, value in settings.items() if name.startswith(f"{label}.")}
        for label in named
    }
    for label, given in own.items():
        unequal = [name for name in given if name in COMMON]
        if unequal:
            raise BadInput(f"--set {label}.{unequal[0]}: all methods of a comparison have the same {unequal[0]}.")
    predecessors = {
        label: read_predecessor(str(given.pop("start_from"))) if "start_from" in given else start_from
        for label, given in own.items()
    }
    check_names(named.values(), common)  # an option of one method is a known name for the others too
    recipes = {
        label: make_recipes([method], taken(method, common) | own[label], None, predecessors[label], max_source)[method]
        for label, method in named.items()
    }
    return [Entrant(label, recipes[label], predecessors[label]) for label in named]


def _named(methods: Sequence[str]) -> dict[str, str]:
    """Return the method of each entrant by its name. Raises BadInput for a name that is given twice, UnknownName."""
    found: dict[str, str] = {}
    for text in methods:
        label, given, method = text.partition("=")
        name = canonical_name(label)
        method = canonical_name(method) if given else name
        get_method(method)
        if given and not re.fullmatch(r"[A-Za-z0-9_-]+", label):
            raise BadInput(f"--methods {text}: expected LABEL=METHOD with a label of letters, digits, _ and -.")
        if given and name != method and name in {one.name for one in list_methods()}:
            raise BadInput(f"--methods {text}: {name} is a method itself; give {method} another label.")
        if name in found:
            raise BadInput(
                f"--methods names {name} twice: each method once. In several settings it has labels: "
                f"short={method},long={method} --set long.length=40."
            )
        found[name] = method
    return found
