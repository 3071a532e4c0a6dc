"""Every error that softprompt raises on purpose.

    SoftPromptError
    ├── BadInput              arguments or files cannot be used: nothing was started      exit code 2
    │   ├── UnknownName       a method, backbone, task or option that does not exist, with a suggestion
    │   ├── BadData           a data file, with file and line
    │   ├── BadArtefact       a folder or file that is not a tuned prompt, or is damaged
    │   ├── PromptMismatch    a prompt that was trained for another backbone or placement
    │   └── MissingPackage    an optional package, with the command that installs it
    └── RunFailed             work was started and failed; the message says what is saved   exit code 1
        ├── NotFinite         the loss became NaN or infinite
        ├── OutOfMemory       a single example does not fit
        ├── CannotWrite       the disk is full or a folder cannot be written
        └── Interrupted       Ctrl-C: saved, and how to resume

Every message says what was given, what was expected and what to do, in that order.
"""

import difflib
from collections.abc import Iterable

MOST_NAMED = 60
"""Longer lists of names are not printed, only counted."""


class SoftPromptError(Exception):
    """Base of every error that softprompt raises on purpose."""

    exit_code = 1


class BadInput(SoftPromptError):
    """Arguments or files that cannot be used; nothing was started."""

    exit_code = 2


class UnknownName(BadInput):
    """A name that is not among the known ones.

    `what` is the kind of thing ("method"), `given` what the user wrote, `known` the existing names.
    """

    def __init__(self, what: str, given: str, known: Iterable[str], hint: str = "") -> None:
        self.given, self.known = given, sorted(known)
        close = difflib.get_close_matches(given.lower(), self.known, n=3, cutoff=0.5)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        known = ", ".join(self.known)
        if len(self.known) > MOST_NAMED:
            known = f"{len(self.known)} names" + (f", the closest {', '.join(close)}" if close else "")
        message = f"Unknown {what} {given!r}.{guess} Known: {known}."
        super().__init__(f"{message} {hint}".rstrip())


class BadData(BadInput):
    """A data file that cannot be used; the message begins with `path` and, when one line is at fault, `line`."""

    def __init__(self, message: str, path: object = None, line: int | None = None) -> None:
        place = "" if path is None else f"{path}{'' if line is None else f', line {line}'}: "
        super().__init__(f"{place}{message}")


class BadArtefact(BadInput):
    """A folder or file that is not a tuned prompt or a run, or is damaged."""


class PromptMismatch(BadInput):
    """A prompt that was trained for another backbone or placement."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or else its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class MissingPackage(BadInput):
    """An optional package that is not installed; the message has the command that installs it."""

    def __init__(self, package: str, reason: str, command: str) -> None:
        super().__init__(f"The package {package!r} is not installed. {reason} Install it with: {command}")


class RunFailed(SoftPromptError):
    """Work that was started and failed; the message says what is saved."""


class NotFinite(RunFailed):
    """A loss that became NaN or infinite."""


class OutOfMemory(RunFailed):
    """A single example that does not fit in memory."""


class CannotWrite(RunFailed):
    """A full disk, or a folder that cannot be written."""


class Interrupted(RunFailed):
    """Ctrl-C: what was done is saved, and the message says how to resume."""
