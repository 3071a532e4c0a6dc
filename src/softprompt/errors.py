"""Everything that softprompt raises on purpose.

    SoftPromptError
    ├── BadInput              the user's words or files: nothing was started        exit code 2
    │   ├── UnknownName       a method, backbone, task or option nobody knows, with a suggestion
    │   ├── BadData           a data file that cannot be used, with file and line
    │   ├── BadArtefact       a folder or file that is not (or no longer) a tuned prompt
    │   ├── PromptMismatch    a prompt that was tuned for another backbone or placement
    │   └── MissingPackage    an optional package, with the command that installs it
    └── RunFailed             the work started and could not end; what is saved is said   exit code 1
        ├── NotFinite         the loss became NaN or infinite
        ├── OutOfMemory       a single example does not fit
        ├── CannotWrite       the disk is full or a folder cannot be written
        └── Interrupted       Ctrl-C: saved, and how to go on

Every message says what was given, what was expected and what to do, in that order.
"""

import difflib
from collections.abc import Iterable

MOST_NAMED = 60
"""A longer list of names is counted, not printed."""


class SoftPromptError(Exception):
    """Base of every error that softprompt raises on purpose."""

    exit_code = 1


class BadInput(SoftPromptError):
    exit_code = 2


class UnknownName(BadInput):
    """A name that is not in a list of known names.

    `what` is the kind of thing ("method"), `given` the user's word, `known` the names there are.
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
    """A data file that cannot be used; `path` and (when one line is at fault) `line` lead the message."""

    def __init__(self, message: str, path: object = None, line: int | None = None) -> None:
        place = "" if path is None else f"{path}{'' if line is None else f', line {line}'}: "
        super().__init__(f"{place}{message}")


class BadArtefact(BadInput):
    pass


class PromptMismatch(BadInput):
    pass


class MissingPackage(BadInput):
    def __init__(self, package: str, reason: str, command: str) -> None:
        super().__init__(f"The package {package!r} is not installed. {reason} Install it with: {command}")


class RunFailed(SoftPromptError):
    pass


class NotFinite(RunFailed):
    pass


class OutOfMemory(RunFailed):
    pass


class CannotWrite(RunFailed):
    pass


class Interrupted(RunFailed):
    pass
