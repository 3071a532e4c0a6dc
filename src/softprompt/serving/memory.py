"""Turn torch's out-of-memory error into the package's own, so that the routes need not know torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from softprompt.errors import OutOfMemory


@contextmanager
def report_out_of_memory() -> Iterator[None]:
    """Raise OutOfMemory where torch raises its own error; a block or, as a decorator, a function."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise out_of_memory(error) from error


def out_of_memory(error: torch.OutOfMemoryError) -> OutOfMemory:
    """Make the error that replaces torch's."""
    found = OutOfMemory("There is not enough memory for this request. Ask for less.")
    found.__cause__ = error
    return found
