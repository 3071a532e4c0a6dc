"""Turn tokens into text as they come: pieces that, put together, are the text of all tokens at once.

A token may be part of a character, and its text may depend on the token before it (a blank, a mark that is drawn
closer). So a piece is what the tokens since the last settled one say more than without the new ones, and no text is
given out that could still become part of a stop string or, where the ends are stripped, of the blank end.
"""

from collections.abc import Sequence
from typing import Protocol

UNFINISHED = "\ufffd"  # what a tokenizer makes of the first bytes of a character
MOST_UNFINISHED = 8  # tokens after which it is taken for what it is


class Decoder(Protocol):
    """What is used of a tokenizer."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        """Turn ids into text."""


class StopMatcher:
    """Look for strings in a text that comes in pieces, in time linear in the text (Knuth, Morris & Pratt 1977)."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [(stop, _borders(stop)) for stop in stops]
        self._matched = [0] * len(stops)  # of each, characters that end the text so far

    @property
    def pending(self) -> int:
        """Characters at the end of the text that may begin one of the strings."""
        return max(self._matched, default=0)

    def find(self, text: str) -> tuple[int, int] | None:
        """Read on; return where the first string to be complete begins and ends, counted from the start of `text`."""
        for at, character in enumerate(text if self._stops else "", 1):
            complete = 0
            for i, (stop, borders) in enumerate(self._stops):
                n = self._matched[i]
                while n and stop[n] != character:
                    n = borders[n - 1]
                self._matched[i] = n = n + (stop[n] == character)
                complete = max(complete, n if n == len(stop) else 0)
            if complete:
                return at - complete, at
        return None


def _borders(word: str) -> list[int]:
    """Count, for each beginning of `word`, the characters of its longest proper beginning that is also its end."""
    found = [0] * len(word)
    n = 0
    for i in range(1, len(word)):
        while n and word[i] != word[n]:
            n = found[n - 1]
        n += word[i] == word[n]
        found[i] = n
    return found


class TextStream:
    """Decode one sequence piece by piece.

    Args:
        tokenizer: Its own, or one that no other thread uses meanwhile.
        stops: Strings before which the text ends.
        strip: Without blanks at its ends, as `softprompt predict` gives answers.
    """

    def __init__(self, tokenizer: Decoder, stops: Sequence[str] = (), *, strip: bool = True) -> None:
        self.tokenizer, self.strip = tokenizer, strip
        self._matcher = StopMatcher([stop for stop in stops if stop])
        self.ids: list[int] = []
        self.stopped = False
        """Whether a stop string was met: the text ends before it."""
        self._settled = self._read = 0  # tokens before the last piece; tokens whose text is known
        self._text = ""  # all of it so far, blanks at its beginning included
        self._matched = 0  # characters of it in which stop strings were looked for
        self._given = 0  # characters of it that were given out, or stripped from the front

    def add(self, token: int) -> str:
        """Take a token; return the piece of text that is certain now, often ""."""
        self.ids.append(token)
        before = self._decode(self.ids[self._settled : self._read])
        after = self._decode(self.ids[self._settled :])
        pending = len(self.ids) - self._read
        if after.endswith(UNFINISHED) and pending < MOST_UNFINISHED:
            return ""
        self._text += after[len(before) :]
        # The next piece is decoded after these tokens, if they have a text of their own that it can follow.
        if self._decode(self.ids[self._read :]).strip():
            self._settled = self._read
        self._read = len(self.ids)
        return self._give(ended=False)

    def end(self) -> str:
        """Return the rest of the text: no more tokens come."""
        if self._read < len(self.ids):
            before = self._decode(self.ids[self._settled : self._read])
            self._text += self._decode(self.ids[self._settled :])[len(before) :]
        return self._give(ended=True)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def _give(self, *, ended: bool) -> str:
        if self.stopped:
            return ""
        if found := self._matcher.find(self._text[self._matched :]):
            self.stopped = ended = True
            self._text = self._text[: self._matched + found[0]]
        self._matched = len(self._text)
        end = len(self._text) if ended else len(self._text) - self._matcher.pending
        if self.strip:
            if not self._text[: self._given].strip():
                self._given = len(self._text) - len(self._text.lstrip())
            end = len(self._text[:end].rstrip())
        piece = self._text[self._given : end]
        self._given = max(self._given, end)
        return piece
