"""Templates: text with {columns} in it. They are data, not code: only column names are allowed in the braces.

{mask} is not a column but the place of the answer, for masked backbones (softprompt.backbones.masked).
"""

import json
import re
from collections.abc import Mapping

from softprompt.errors import BadInput

MASK = "mask"


def _parse(text: str) -> list[tuple[str, str | None]]:
    """Cut a template into text and the name of the column after it; None where there is none.

    A name is whatever stands between braces ({Q1: what happened?}). A literal brace is written twice.
    """
    pieces, literal = [], ""
    for part in re.findall(r"\{\{|\}\}|\{[^{}]*\}|[^{}]+|[{}]", text):
        if part in ("{", "}"):
            raise BadInput(
                f"The template {text!r} cannot be read: a single {part!r} stands in it. A literal one is written twice."
            )
        if part in ("{{", "}}"):
            literal += part[0]
        elif part[0] == "{":
            if not part[1:-1].strip():
                raise BadInput(f"The template {text!r}: expected the name of a column in braces, like {{text}}.")
            pieces.append((literal, part[1:-1]))
            literal = ""
        else:
            literal += part
    return [*pieces, (literal, None)] if literal else pieces


class Template:
    """Makes the text of a source. `fields` are its columns in order; `cue` is the text after the last one."""

    def __init__(self, text: str) -> None:
        pieces = _parse(text)
        self.text = text
        named = [name for _, name in pieces if name is not None]
        self.fields = [name for name in named if name != MASK]
        if not self.fields:
            raise BadInput(f"The template {text!r} has no column in braces; write for instance {text + ' {text}'!r}.")
        if named.count(MASK) > 1:
            raise BadInput(f"The template {text!r} has {{mask}}, the place of the answer, more than once.")
        last = max(i for i, (_, name) in enumerate(pieces) if name not in (None, MASK))
        # A literal brace ends a piece, so there may be several. A space at the end would double that before a target.
        cue = "".join(literal for literal, _ in pieces[last + 1 :])
        self.cue = cue if MASK in named else cue.rstrip(" ")
        self._pieces = pieces[: last + 1]
        self._in_cue = next(
            (
                len("".join(literal for literal, _ in pieces[last + 1 : i + 1]))
                for i, (_, name) in enumerate(pieces)
                if name == MASK and i > last
            ),
            None,
        )
        self.has_mask = MASK in named

    def row(self, line: str) -> dict[str, str]:
        """Read a text as a row: the text itself for one column, else a JSON object of columns. Raises BadInput."""
        if len(self.fields) == 1:
            return {self.fields[0]: line}
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            value = None
        if not isinstance(value, dict):
            wanted = json.dumps(dict.fromkeys(self.fields, "..."))
            raise BadInput(f"This prompt reads {len(self.fields)} columns; give each text as JSON: {wanted}.")
        return {str(key): str(item) for key, item in value.items()}

    def check(self, row: Mapping[str, str]) -> None:
        """Raise BadInput when a column is missing."""
        for name in self.fields:
            if name not in row:
                raise BadInput(f"The template needs the column {name!r}; given: {', '.join(row) or 'none'}.")

    def source(self, row: Mapping[str, str]) -> str:
        """Fill the template from `row` up to and with the last column; the cue follows."""
        return "".join(self._fill(row))

    def answer_at(self, row: Mapping[str, str]) -> int | None:
        """Count the characters of source and cue before {mask}; None without one."""
        if not self.has_mask:
            return None
        filled = self._fill(row)
        if self._in_cue is not None:
            return len("".join(filled)) + self._in_cue
        place = next(i for i, (_, name) in enumerate(self._pieces) if name == MASK)
        return len("".join(filled[: place + 1]))

    def _fill(self, row: Mapping[str, str]) -> list[str]:
        return [literal + (row[name] if name not in (None, MASK) else "") for literal, name in self._pieces]
