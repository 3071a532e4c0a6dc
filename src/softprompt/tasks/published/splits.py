"""Draw rows for train, dev and test, independent of their order in a file."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from softprompt.tasks.task import Example

DEV_SHARE, MOST_DEV = 0.1, 1000


class Related(NamedTuple):
    """An example, and what it shares with examples that a draw must keep together."""

    example: Example
    kin: str
    """The shared text: a passage, or the source itself."""


def shuffled(items: Sequence[Related], seed: int) -> list[Related]:
    """Order items by `seed` and their texts alone; those of the same kin are neighbors."""
    keys = [(_hash(seed, one.kin), _hash(seed, f"{one.example.source}\n{one.example.target}")) for one in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def draw(items: Sequence[Related], count: int, seed: int) -> tuple[list[Related], list[Related]]:
    """Draw `count` items, and return them and the rest, both `shuffled`.

    Items of the same kin stay together, so the first part may have a few more; it has fewer, even none, where
    otherwise no item would be left for the rest.
    """
    ordered = shuffled(items, seed)
    cut = min(count, len(ordered))
    while 0 < cut < len(ordered) and ordered[cut].kin == ordered[cut - 1].kin:
        cut += 1
    if ordered and cut == len(ordered):
        cut = next(i for i, one in enumerate(ordered) if one.kin == ordered[-1].kin)
    return ordered[:cut], ordered[cut:]


def dev_count(rows: int, limit: int | None = None) -> int:
    """Count the rows of dev that are drawn from `rows`: a tenth, at most 1,000 and at most `limit`."""
    return max(1, min(round(DEV_SHARE * rows), MOST_DEV, limit or MOST_DEV))


def _hash(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{text}".encode()).digest()
