"""The type checker of annotations under pytest: beartype, but for protocols that cannot be checked."""

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype


def check(function: Callable[..., object]) -> Callable[..., object]:
    """Check what `function` is given and returns, but for protocols that are not `runtime_checkable`: those are mypy's.

    beartype raises an error where it meets one, and torch sets the fields of an autograd context, which one describes,
    only as they are used.
    """
    hints = function.__annotations__
    function.__annotations__ = {name: Any if _is_unchecked(hint) else hint for name, hint in hints.items()}
    return beartype(function)


def _is_unchecked(hint: object) -> bool:
    protocols = [one for one in (hint, *get_args(hint)) if getattr(one, "_is_protocol", False)]
    return not all(getattr(one, "_is_runtime_protocol", False) for one in protocols)
