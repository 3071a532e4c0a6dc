"""A queue in which owners take turns: who sends a thousand requests delays nobody who sends one."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from softprompt.serving.engine.requests import Request

R = TypeVar("R", bound=Request[Any])


class FairQueue(Generic[R]):
    """Requests that wait. One of each owner leaves before a second one of any."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[R]] = OrderedDict()  # the owner whose turn is next first; none is empty

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def __iter__(self) -> Iterator[R]:
        for waiting in self._of.values():
            yield from waiting

    def append(self, request: R) -> None:
        """Let a request wait behind those of its owner."""
        self._of.setdefault(request.owner, deque()).append(request)

    def first(self) -> R:
        """Look at the request that leaves next."""
        return next(iter(self._of.values()))[0]

    def popleft(self) -> R:
        """Take the request that leaves next."""
        owner, waiting = next(iter(self._of.items()))
        request = waiting.popleft()
        self._of.move_to_end(owner)
        if not waiting:
            del self._of[owner]
        return request

    def count(self, owner: str) -> int:
        """Count the requests of an owner."""
        return len(self._of.get(owner, ()))

    def oldest(self) -> float:
        """Return when the one that waits longest was made."""
        return min(waiting[0].born for waiting in self._of.values())

    def clear(self) -> None:
        """Forget all."""
        self._of.clear()

    def prune(self) -> None:
        """Remove the requests that nobody wants any more."""
        for owner, waiting in list(self._of.items()):
            if any(request.cancelled for request in waiting):
                self._of[owner] = deque(request for request in waiting if not request.cancelled)
                if not self._of[owner]:
                    del self._of[owner]
