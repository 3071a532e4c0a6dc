"""Flags made of declared arguments: every field of a model is a flag of the verb that takes it."""

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import Annotated

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from softprompt.errors import BadInput
from softprompt.runtime.arguments import flag_of


@dataclass(frozen=True)
class Given:
    """The arguments that stand on a command line, as they were typed."""

    texts: Mapping[str, object]
    """By the name of the field; what was not typed is not here."""
    parsers: Mapping[str, Callable[..., object]]

    def __contains__(self, name: str) -> bool:
        return name in self.texts

    def parse(self) -> dict[str, object]:
        """Return the values by name. Raises BadInput for a text that is not one."""
        return {name: self._parse(name) for name in self.texts}

    def parse_each(self) -> tuple[dict[str, object], list[str]]:
        """Return the values by name, and what is wrong with the texts that are none."""
        values: dict[str, object] = {}
        problems: list[str] = []
        for name in self.texts:
            try:
                values[name] = self._parse(name)
            except BadInput as error:
                problems.append(str(error))
        return values, problems

    def _parse(self, name: str) -> object:
        text = self.texts[name]
        return self.parsers[name](text) if name in self.parsers else text


def with_flags(
    model: type[BaseModel], *, only: Iterable[str] | None = None, leave_out: Iterable[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the flags of `model` after its own, in place of its parameter `given` (a Given).

    `only` names the fields that become flags (None: all but those in `leave_out` and those the verb declares itself).
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(verb).parameters
        found = {
            name: (heading, field) for name, heading, field in _in_order(model)
            if name not in {*own, *leave_out} and (only is None or name in only) and not flag_of(field).hidden
        }  # fmt: skip
        fields = {name: field for name, (_, field) in found.items()}
        parsers = {name: parse for name, field in fields.items() if (parse := flag_of(field).parse)}

        @wraps(verb)
        def run(**values: object) -> None:
            typed = {name: values.pop(name) for name in fields}
            texts = {name: value for name, value in typed.items() if value is not None and value != []}
            verb(given=Given(texts, parsers), **values)

        shared = [_parameter(name, heading, field) for name, (heading, field) in found.items()]
        keywords = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own.values() if one.name != "given"]
        run.__signature__ = inspect.Signature([*keywords, *shared])  # type: ignore[attr-defined]  # what typer reads
        return run

    return decorate


def _in_order(model: type[BaseModel]) -> Iterable[tuple[str, str | None, FieldInfo]]:
    """Yield the fields of `model` with their class's heading, a verb's own before those that it shares with others."""
    seen: set[str] = set()
    for owner in model.__mro__:
        for name in getattr(owner, "__annotations__", {}):
            if name in model.model_fields and name not in seen:
                seen.add(name)
                yield name, owner.__dict__.get("heading"), model.model_fields[name]


def _parameter(name: str, heading: str | None, field: FieldInfo) -> inspect.Parameter:
    flag, kind = flag_of(field), _type_of(field)
    typed = f"--{name.replace('_', '-')}"
    words = flag.name.split() if flag.name else [f"{typed}/--no-{typed[2:]}" if kind is bool else typed]
    option = typer.Option(
        *words,
        help=(field.description or "") + _shown_default(field, kind),
        metavar=flag.metavar,
        rich_help_panel=heading,
    )
    annotation = Annotated[(list[str] if flag.repeatable else kind) | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown_default(field: FieldInfo, kind: type) -> str:
    """Return what help says of a default; the flag itself has none, so that only what is typed counts as given."""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return f" [default: {default}]" if default not in (None, "", ()) and default and kind is not bool else ""


def _type_of(field: FieldInfo) -> type:
    """Return what typer reads a flag's text as."""
    if flag_of(field).parse is not None:
        return str
    kinds = [one for one in _members(field.annotation) if one is not NoneType]
    for kind in (bool, Path, int, float):
        if kind in kinds:
            return kind
    return str


def _members(annotation: object) -> Iterable[object]:
    """Yield the types that a union is made of, without their metadata."""
    if typing.get_origin(annotation) is Annotated:
        yield from _members(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (typing.Union, type(int | str)):
        for one in typing.get_args(annotation):
            yield from _members(one)
    else:
        yield annotation
