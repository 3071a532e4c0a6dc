"""Find a method by its paper's name, and make its soft prompts.

Names that 0.1.0 gave some methods are read as aliases (`canonical_name`). "A+B" is the method with A's prompt part and
B's offset part, published or not. Methods of other packages are those that they register when imported; installed
ones that declare an entry point of the group softprompt.methods are imported when a name is unknown or all are listed.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product

import torch
from pydantic import ValidationError

from softprompt.errors import BadInput, UnknownName
from softprompt.methods.initialization import Blank
from softprompt.methods.method import ALIASES, BASELINES, METHODS, Method, Paper, register_method
from softprompt.methods.options import InitContext, Options, Rate
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runtime.plugins import load_plugins

__all__ = [
    "BASELINES",
    "METHODS",
    "InitContext",
    "Method",
    "Options",
    "Paper",
    "Rate",
    "blank",
    "canonical_name",
    "get_method",
    "list_methods",
    "make",
    "parse_options",
    "register_method",
    "spellings",
]

PLUGINS = "softprompt.methods"
"""The group of entry points whose modules register methods."""


def canonical_name(name: str) -> str:
    """Return the name that is written for a method named `name`; what is unknown stays as it is."""
    return "+".join(ALIASES.get(part, part) for part in name.split("+"))


def spellings(name: str) -> list[str]:
    """List all names that are read as `name`, its own first: a folder may be named by any of them."""
    names = [
        [part, *(alias for alias, meant in ALIASES.items() if meant == part)]
        for part in canonical_name(name).split("+")
    ]
    return ["+".join(parts) for parts in product(*names)]


def list_methods() -> list[Method]:
    """List every method and baseline, those of installed packages too. Raises BadInput for a broken package."""
    load_plugins(PLUGINS)
    return [*METHODS.values(), *BASELINES.values()]


def get_method(name: str) -> Method:
    """Find a method or baseline by name, or combine two ("residual+dept"). Raises UnknownName, BadInput."""
    found = _find(canonical_name(name))
    if found is None:
        load_plugins(PLUGINS)
        found = _find(canonical_name(name))
    if found is None:
        first, plus, second = name.partition("+")
        raise UnknownName(
            "method", second if plus and _find(canonical_name(first)) else first, METHODS | BASELINES,
            "`softprompt list methods` describes them; A+B combines two. A method from outside softprompt is known "
            "once the module that registers it is imported (--import MODULE).",
        )  # fmt: skip
    return found


def _find(name: str) -> Method | None:
    known = METHODS | BASELINES
    first, plus, second = name.partition("+")
    if not plus:
        return known.get(first)
    if {first, second} & BASELINES.keys():
        raise BadInput(f"{name}: a baseline changes the network itself, and combines with nothing. Name it alone.")
    return combine(known[first], known[second]) if first in known and second in known else None


@cache
def combine(one: Method, other: Method) -> Method:
    """Combine `one`'s prompt part with `other`'s offset part. Raises BadInput where that gives no or two offsets."""
    name = f"{one.name}+{other.name}"
    if one.offset is not None:
        raise BadInput(f"{name}: {one.name} has an offset of its own ({one.offset_part}); put it second.")
    if other.offset is None:
        raise BadInput(f"{name}: {other.name} has no offset to add to {one.name}'s prompt.")
    return Method(
        name=name,
        title=f"{one.title} with the offset of {other.title}",
        prompt=one.options,
        offset=other.offset,
        defaults={key: value for key, value in other.defaults.items() if key in other.offset.of_offset},
        rates={**one.rates, **{group: rate for group, rate in other.rates.items() if group.startswith("offset")}},
        decay={**one.decay, **{group: value for group, value in other.decay.items() if group.startswith("offset")}},
        small={**one.small, **{key: value for key, value in other.small.items() if key in other.offset.of_offset}},
    )


def parse_options(method: Method, given: Mapping[str, object]) -> Options:
    """Check `given` against the method's options. Raises UnknownName with a suggestion, and BadInput."""
    for name in given:
        if name not in method.options.model_fields:
            raise UnknownName(f"option of {method.name}", name, method.options.model_fields)
    try:
        return method.options.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{method.name}: option {first['loc'][0]}={first['input']!r}: {first['msg']}.") from None


def make(method: Method, options: Options, context: InitContext) -> SoftPrompt:
    """Make the soft prompt of `method`, at its start."""
    return options.soft_prompt(context)


def blank(method: Method, options: Options, d: int, positions: int, labels: Sequence[str] = ()) -> SoftPrompt:
    """Make a soft prompt with the names and shapes of `method`'s tensors, for tensors that are put in afterwards.

    Args:
        method: The method.
        options: Its options.
        d: Hidden size of the backbone.
        positions: Source tokens at most.
        labels: The task's label words.
    """
    runs = options.runs()
    sources = torch.zeros(len(runs), options.length, d) if runs else None
    return make(method, options, InitContext(Blank(d), positions, labels or ("",), sources=sources))
