"""Arguments declared once: a pydantic model is the signature, the validation, the help and the flags of a verb.

A field says name, type, default, help (`description`) and bounds (`ge`). `accepts` makes a function of keyword
arguments out of one that takes the model, with the model's own signature for type checkers, editors and `help()`;
the command line makes flags of the same fields (softprompt.cli.training_flags).
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from softprompt.errors import BadInput, UnknownName

P = ParamSpec("P")
Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Flag:
    """How a field stands on the command line, where its name and type do not say it; metadata of its annotation."""

    name: str | None = None
    """Its flags, separated by spaces; None: --name-of-the-field."""
    parse: Callable[..., object] | None = None
    """Reads the flag's text (a list of texts where it is repeatable) into the field's value. Raises BadInput."""
    metavar: str | None = None
    """What help shows for the value."""
    repeatable: bool = False
    """Whether the flag may be given several times."""
    hidden: bool = False
    """Whether only Python has it."""


def flag_of(field: FieldInfo) -> Flag:
    """Return how `field` stands on the command line."""
    return next((one for one in field.metadata if isinstance(one, Flag)), Flag())


def parse_model(model: type[Model], given: Mapping[str, object]) -> Model:
    """Make `model` from the values `given`; None stands for "not given".

    Raises:
      UnknownName: `model` has no such field.
      BadInput: A value is not one that its field takes, or a required one is missing.
    """
    for name in given:
        if name not in model.model_fields:
            raise UnknownName("argument", name, model.model_fields)
    try:
        return model(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise BadInput(describe_error(error)) from None


def describe_error(error: ValidationError) -> str:
    """Say what was given, and what was expected, of the first field at fault."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][:1])
    if first["type"] == "missing":
        return f"{name} is missing; give it."
    return f"{name}={first['input']!r}: {first['msg'].removeprefix('Value error, ')}."


def given_in(arguments: BaseModel) -> dict[str, object]:
    """Return the values that were given, without the defaults."""
    return {name: getattr(arguments, name) for name in arguments.model_fields_set}


def accepts(model: Callable[P, Model], name: str) -> Callable[[Callable[[Model], Result]], Callable[P, Result]]:
    """Make a function of keyword arguments, called `name`, of one that takes a `model` of them."""

    def decorate(run: Callable[[Model], Result]) -> Callable[P, Result]:
        assert isinstance(model, type)

        @wraps(run)
        def call(*args: P.args, **given: P.kwargs) -> Result:
            if args:
                raise TypeError(f"{name}() takes keyword arguments only.")
            return run(parse_model(model, given))

        call.__name__ = call.__qualname__ = name
        call.__signature__ = _signature(model, inspect.signature(run))  # type: ignore[attr-defined]
        call.__doc__ = f"{inspect.getdoc(run) or ''}\n\n{describe_fields(model)}"
        return call

    return decorate


def describe_fields(model: type[BaseModel]) -> str:
    """Return the `Args:` list of a docstring."""
    lines = [f"  {name}: {field.description or ''}" for name, field in model.model_fields.items()]
    return "\n".join(["Args:", *lines])


def _signature(model: type[BaseModel], own: inspect.Signature) -> inspect.Signature:
    fields = sorted(model.model_fields.items(), key=lambda item: not item[1].is_required())
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True),
            annotation=field.annotation,
        )
        for name, field in fields
    ]
    return own.replace(parameters=parameters)
