"""Define what an entry of the registry says, and keep the entries.

A method names the options of its prompt part and, where it has one, of its offset part (they stand beside the parts,
with the paper's defaults), learning rates and a citation. Each method's module registers its own entry:

    register_method(Method(name="dept", title="DePT", prompt=FreeOptions, offset=LowRankOffsetOptions, ...))

Where a default departs from the paper, a comment says so.
"""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from pydantic import create_model
from pydantic.fields import FieldInfo

from softprompt.errors import BadInput
from softprompt.methods.folded import Kind
from softprompt.methods.options import Options, Rate


class Paper(NamedTuple):
    """A citation."""

    authors: str
    title: str
    venue: str
    """The conference or journal, without the year; empty for a preprint."""
    year: int
    url: str

    def __str__(self) -> str:
        return f"{self.authors}: {self.title}" + (f", {self.venue}" if self.venue else "")


@dataclass(frozen=True, kw_only=True)
class Method:
    """An entry of the registry: a prompt part, an offset part or none, and how they are trained by default."""

    name: str
    title: str
    prompt: type[Options]
    """Options of the prompt part."""
    offset: type[Options] | None = None
    """Options of the offset part."""
    defaults: Mapping[str, object] = field(default_factory=dict, hash=False)
    """Defaults of this method where they differ from those of the parts' options."""
    paper: Paper | None = None
    """None: in no paper."""
    rates: Mapping[str, Rate] = field(hash=False)
    """Default learning rate of each group."""
    decay: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Default weight decay of each group; 0 where not named."""
    small: Mapping[str, object] = field(default_factory=dict, hash=False)
    """Options of a tiny prompt, whose length is 3 or more: what the tests use."""
    aliases: tuple[str, ...] = ()
    """Other names that are read as this one, and never written."""

    def __post_init__(self) -> None:
        if self.prompt.prompt_part is None:
            raise BadInput(f"{self.name}: {self.prompt.__name__} does not say which part it makes; set prompt_part.")
        if self.offset is not None and self.offset.offset_part is None:
            raise BadInput(f"{self.name}: {self.offset.__name__} does not say which part it makes; set offset_part.")
        self.options  # noqa: B018  # composed now, so that what does not fit is reported here

    @cached_property
    def options(self) -> type[Options]:
        """The options of both parts in one model."""
        return compose_options(self.name, self.prompt, self.offset, self.defaults)

    @property
    def kind(self) -> Kind:
        """What its soft prompts fold to. A prompt part that looks at the input makes the whole look at the input."""
        prompt, offset = self.options.prompt_part, self.options.offset_part
        assert prompt is not None
        return prompt.kind if offset is None or prompt.kind == "input" else offset.kind

    @property
    def prompt_part(self) -> str | None:
        """Name of the prompt part; None of a baseline, which has no rows."""
        return None if self.kind == "network" else _snake_case(self.options.prompt_part)

    @property
    def offset_part(self) -> str | None:
        return _snake_case(self.options.offset_part)

    @property
    def citation(self) -> str:
        """The paper with its year and address, for a model card."""
        paper = self.paper
        if paper is None:
            return "in no paper"
        return f"{paper}, {paper.year}" + (f", {paper.url}" if paper.url else "")

    def describe(self) -> dict[str, object]:
        """Return what `softprompt list methods` shows, as plain data."""
        paper = self.paper
        return {
            "name": self.name, "title": self.title, "kind": self.kind, "prompt": self.prompt_part,
            "offset": self.offset_part, "authors": paper and paper.authors, "paper": paper and str(paper),
            "year": paper and paper.year, "url": paper and paper.url, "aliases": list(self.aliases),
        }  # fmt: skip


def _snake_case(part: type | None) -> str | None:
    return None if part is None else re.sub(r"(?<!^)(?=[A-Z])", "_", part.__name__).lower()


def compose_options(
    name: str, prompt: type[Options], offset: type[Options] | None = None, defaults: Mapping[str, object] | None = None
) -> type[Options]:
    """Compose a method's options from those of its parts, with `defaults` in place of theirs. Raises BadInput."""
    if offset is None and not defaults:
        return prompt
    taken = set(prompt.of_prompt) & set(() if offset is None else offset.of_offset)
    if taken:
        raise BadInput(f"{name}: both parts have an option {min(taken)!r}, so one name would mean two.")
    bases = (prompt,) if offset is None else (prompt, offset)
    known = {key: info for base in reversed(bases) for key, info in base.model_fields.items()}
    changed: dict[str, tuple[object, FieldInfo]] = {}
    for key, default in (defaults or {}).items():
        if key not in known:
            raise BadInput(f"{name}: a default for {key!r}, which is not an option of its parts.")
        info = copy.copy(known[key])
        info.default = default
        changed[key] = (info.annotation, info)
    return create_model(name, __base__=bases, **changed)  # type: ignore[no-any-return, call-overload]


METHODS: dict[str, Method] = {}
"""Every method by name: those of softprompt in the order in which softprompt.methods imports them, then others."""
BASELINES: dict[str, Method] = {}
"""What is compared with soft prompts: it changes the network itself (softprompt.methods.baselines)."""
ALIASES: dict[str, str] = {}
"""Names that are read as another one."""


def register_method(method: Method) -> Method:
    """Add a method under its name. Raises BadInput when the name is taken.

    The same definition run again, as a notebook cell is, replaces the one before.
    """
    if "+" in method.name:
        raise BadInput(f"{method.name!r}: a plus in a name combines two methods; give yours another name.")
    for name in (method.name, *method.aliases):
        before = METHODS.get(name) or BASELINES.get(name) or METHODS.get(ALIASES.get(name, ""))
        if before is not None and not _is_again(method, before):
            raise BadInput(f"There is already a method named {name!r}; give yours another name.")
    (BASELINES if method.kind == "network" else METHODS)[method.name] = method
    ALIASES.update(dict.fromkeys(method.aliases, method.name))
    return method


def _is_again(method: Method, before: Method) -> bool:
    """Tell whether `method` is `before`, or its definition run again: classes of the same names, made anew."""
    if method == before:
        return True
    classes, earlier = ([one for one in (each.prompt, each.offset) if one] for each in (method, before))
    names, were = ([(one.__module__, one.__qualname__) for one in each] for each in (classes, earlier))
    return method.name == before.name and names == were and classes != earlier
