"""Ctrl-C: the first one ends training after its step, with everything saved; the second ends it at once.

Of several processes each gets the first one twice: from the terminal, and from the launcher that hands it on.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from softprompt.errors import Interrupted

HANDED_ON = 5.0  # seconds in which a launcher repeats a Ctrl-C


def raise_interrupted(signum: int, frame: FrameType | None) -> None:
    raise Interrupted("Interrupted. Nothing that was saved is lost.")


@contextmanager
def interruptible(notice: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Inside the block SIGINT only sets a flag, which the yielded function reads; a second SIGINT raises."""
    from softprompt.runtime import distributed  # torch is loaded by then

    asked: float | None = None
    patience = HANDED_ON if distributed.process_count() > 1 else 0.0

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked is None:
            asked = time.monotonic()
            notice()
        elif time.monotonic() - asked >= patience:
            raise_interrupted(signum, frame)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked is not None
    finally:
        signal.signal(signal.SIGINT, before)
