"""Read the texts of repeated flags: SPLIT=N, LABEL=WORD, NAME=VALUE."""

import json
from collections.abc import Iterable

from softprompt.errors import BadInput
from softprompt.tasks import SPLITS, Split
from softprompt.tasks.published.spec import as_limit


def parse_limit(words: Iterable[str]) -> int | dict[Split, int] | None:
    """Read --limit N, or --limit SPLIT=N for some splits. Raises BadInput."""
    found: dict[Split, int] = {}
    for word in words:
        split, equals, count = word.rpartition("=")
        if not count.isdecimal() or (equals and split not in SPLITS):
            raise BadInput(f"--limit {word}: expected N, or SPLIT=N with one of {', '.join(SPLITS)}.")
        found |= as_limit({split: int(count)} if equals else int(count))  # type: ignore[dict-item]
    return found or None


def parse_words(pairs: Iterable[str]) -> dict[str, str]:
    """Read LABEL=WORD pairs into a dictionary. Raises BadInput."""
    split = [pair.partition("=") for pair in pairs]
    for label, equals, word in split:
        if not equals or not label or not word:
            raise BadInput(f"--word {label}{equals}{word}: expected LABEL=WORD, for instance 1=positive.")
    return {label: word for label, _, word in split}


def unescape(text: str) -> str:
    r"""Read \n and \t in a template from the shell as a new line and a tab."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def parse_settings(pairs: Iterable[str]) -> dict[str, object]:
    """Read NAME=VALUE pairs into a flat dictionary; values are JSON where they can be, text where not."""
    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BadInput(f"--set {pair}: expected NAME=VALUE, for instance rates.prompt=0.3.")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
