"""Handle Ctrl-C: the first ends training after its step, with everything saved; the second ends it at once.

With several processes each receives the first one twice: from the terminal, and from the launcher that forwards it.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from softprompt.errors import Interrupted

FORWARDED = 5.0
"""Seconds in which a launcher repeats a Ctrl-C."""


def raise_interrupt(signum: int, frame: FrameType | None) -> None:
    """Raise Interrupted: a handler of SIGINT."""
    raise Interrupted("Interrupted. Nothing that was saved is lost.")


@contextmanager
def interruptible(notice: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Let SIGINT only set a flag in the block, which the yielded function reads; a second SIGINT raises.

    `notice` is called at the first one.
    """
    from softprompt.runtime import distributed  # torch is loaded by then

    asked: float | None = None
    patience = FORWARDED if distributed.process_count() > 1 else 0.0

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked is None:
            asked = time.monotonic()
            notice()
        elif time.monotonic() - asked >= patience:
            raise_interrupt(signum, frame)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked is not None
    finally:
        signal.signal(signal.SIGINT, before)
