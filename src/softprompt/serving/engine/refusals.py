"""Why the engine takes no more requests."""

from softprompt.errors import RunFailed


class QueueFull(RunFailed):
    """The queue holds as many requests as it may; `retry_after` is in seconds."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"{waiting} requests are waiting already; ask again in {retry_after} s.")


class Closing(RunFailed):
    """The server is ending; it finishes what it has begun and takes no new requests."""
