"""Cut a sequence of lengths into runs that are padded together, at the least cost."""

from collections.abc import Callable, Iterator, Sequence

MOST = 64
"""Longest run that is considered, so that the search stays linear in the number of lengths."""


def group_lengths(
    lengths: Sequence[int], cost: Callable[[int, int], float], fits: Callable[[int, int], bool] = lambda g, s: True
) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of neighboring runs, chosen so that their summed cost is least.

    `cost(g, s)` is what a run of g lengths costs, padded to its longest s; it should hold a constant, or every
    length stays by itself. A run of more than one length that does not fit is never formed.
    """
    best = [0.0] + [float("inf")] * len(lengths)
    begin = [0] * (len(lengths) + 1)
    for end in range(1, len(lengths) + 1):
        longest = 0
        for at in range(end - 1, max(end - 1 - MOST, -1), -1):
            longest = max(longest, lengths[at])
            if end - at > 1 and not fits(end - at, longest):
                break
            value = best[at] + cost(end - at, longest)
            if value < best[end]:
                best[end], begin[end] = value, at
    found = []
    end = len(lengths)
    while end:
        found.append((begin[end], end))
        end = begin[end]
    yield from reversed(found)
