"""Templates: text with {columns} in it. Data, not code: nothing but column names may stand in the braces."""

import string
from collections.abc import Mapping

from softprompt.errors import BadInput


class Template:
    """A source's text. `fields` are its columns in order; `cue` is the text after the last one."""

    def __init__(self, text: str) -> None:
        try:
            pieces = list(string.Formatter().parse(text))
        except ValueError as error:
            raise BadInput(
                f"The template {text!r} cannot be read: {error}. A literal brace is written twice."
            ) from None
        self.text = text
        self.fields = [name for _, name, _, _ in pieces if name is not None]
        for _, name, form, conversion in pieces:
            if name is not None and (form or conversion or not name.strip()):
                raise BadInput(f"The template {text!r}: expected plain column names in braces, like {{text}}.")
        if not self.fields:
            raise BadInput(f"The template {text!r} has no column in braces; write for instance {text + ' {text}'!r}.")
        last = max(i for i, (_, name, _, _) in enumerate(pieces) if name is not None)
        # Several pieces: a literal brace ends one. Spaces at the end would double the one that joins source and target.
        self.cue = "".join(literal for literal, _, _, _ in pieces[last + 1 :]).rstrip(" ")
        self._pieces = pieces[: last + 1]

    def source(self, row: Mapping[str, str]) -> str:
        """The text up to and with the last column, filled from `row`; the cue follows it."""
        return "".join(literal + (row[name] if name is not None else "") for literal, name, _, _ in self._pieces)
