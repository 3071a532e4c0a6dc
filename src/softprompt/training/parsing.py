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
    """Read LABEL=WORD pairs, or JSON objects of them, into a dictionary.

    Raises BadInput for what is neither, and where a label gets two words.
    """
    words: dict[str, str] = {}
    for pair in pairs:
        for label, word in _words_of(pair):
            if words.setdefault(label, word) != word:
                raise BadInput(f"--word gives the label {label!r} two words, {words[label]!r} and {word!r}; give one.")
    return words


def _words_of(pair: str) -> list[tuple[str, str]]:
    if pair[:1] == "{":
        try:
            found = json.loads(pair)
        except ValueError:
            found = {}
        if found and all(isinstance(word, str) for word in found.values()):
            return list(found.items())
    label, equals, word = pair.partition("=")
    if "=" in word:
        raise BadInput(
            f"--word {pair}: which of the equals signs ends the label? Write it as JSON: --word "
            f"'{json.dumps(dict([pair.rsplit('=', 1)]), ensure_ascii=False)}'."
        )
    if not equals or not label or not word:
        raise BadInput(f"--word {pair}: expected LABEL=WORD, for instance 1=positive.")
    return [(label, word)]


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


def split_names(text: str) -> list[str]:
    """Read names that are separated by commas."""
    return [name for name in text.split(",") if name]
