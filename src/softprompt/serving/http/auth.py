"""API keys: who may send requests, and who may change the prompts."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from softprompt.errors import BadInput


class Caller(NamedTuple):
    """Who sent a request. `id` tells keys apart without being one."""

    id: str
    may_ask: bool
    may_change: bool


ANYBODY = "anybody"
NOBODY = Caller("", may_ask=False, may_change=False)


@dataclass(frozen=True)
class Keys:
    """Keys for use, and keys that may also change prompts. Without keys for use anybody may send requests."""

    use: tuple[str, ...] = field(default=(), repr=False)
    change: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, use: Iterable[str], change: Iterable[str]) -> "Keys":
        """Split texts of keys divided by commas. Raises BadInput for a key that cannot stand in a header."""
        split = [[key.strip() for text in texts for key in text.split(",") if key.strip()] for texts in (use, change)]
        for key in (*split[0], *split[1]):
            if not key.isascii() or not key.isprintable() or " " in key:
                raise BadInput("A key holds blanks or characters that a header cannot hold; use letters and digits.")
        return cls(*map(tuple, split))

    def caller(self, header: str | None) -> Caller:
        """Find whom an Authorization header names, in the same time for a wrong key as for a right one."""
        scheme, _, given = (header or "").partition(" ")
        digest = _digest(given.strip() if scheme.lower() == "bearer" else "")
        use = [hmac.compare_digest(digest, _digest(key)) for key in self.use]
        change = [hmac.compare_digest(digest, _digest(key)) for key in self.change]
        if any(use) or any(change):
            return Caller(digest.hex()[:16], may_ask=True, may_change=any(change))
        return NOBODY if self.use else Caller(ANYBODY, may_ask=True, may_change=False)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
