"""Formats of other libraries that a tuned prompt can be written in, by name.

An exporter knows what a prompt folds to, never its method. One of another package is a function and
`register_exporter("mine", function)`; then `export_prompt(run, folder, to="mine")` calls it.
"""

import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from softprompt.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from softprompt.runs.prompt import Prompt


class BackboneFacts(NamedTuple):
    """What the config of a prompt's backbone says; `softprompt.backbones.load.describe` reads it."""

    name: str
    kind: str
    """"causal", "seq2seq" or "masked"."""
    d: int
    """Size of its embeddings."""
    v: int
    """Size of its vocabulary."""
    context: int | None
    """Maximum positions; None: not limited."""


Exporter = Callable[["Prompt", BackboneFacts, Path], Sequence[str]]
"""Writes a prompt to a folder and returns notes for the user. Raises BadInput, before anything is written, for a prompt
that the format cannot hold."""

EXPORTERS: dict[str, Exporter | str] = {
    "peft": "softprompt.runs.formats.peft_export:write_peft",
    "vllm": "softprompt.runs.formats.vllm_export:write_vllm",
}
"""A format's name (`softprompt export --to`) -> its exporter, or where that is: it is imported when it is used."""


def register_exporter(name: str, exporter: Exporter) -> None:
    """Add a format to export to. Raises BadInput when the name is taken."""
    if name in EXPORTERS:
        raise BadInput(f"There is already a format named {name!r}; give yours another name.")
    EXPORTERS[name] = exporter


def get_exporter(name: str) -> Exporter:
    """Return the exporter of a format. Raises UnknownName."""
    if name not in EXPORTERS:
        raise UnknownName("format", name, EXPORTERS)
    found = EXPORTERS[name]
    if not isinstance(found, str):
        return found
    exporter: Exporter = pkgutil.resolve_name(found)
    return exporter
