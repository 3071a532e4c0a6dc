"""Ctrl-C: the first one ends training after its step, with everything saved; the second ends it at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from softprompt.errors import Interrupted


def raise_interrupted(signum: int, frame: FrameType | None) -> None:
    raise Interrupted("Interrupted. Nothing that was saved is lost.")


@contextmanager
def interruptible(notice: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Inside the block SIGINT only sets a flag, which the yielded function reads; a second SIGINT raises."""
    asked = False

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise_interrupted(signum, frame)
        asked = True
        notice()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
