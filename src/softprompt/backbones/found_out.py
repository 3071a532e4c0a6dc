"""Keep on disk what was found out about a backbone or this machine: CACHE/FOLDER/KEY.json.

A file that cannot be read or written is a memory that stays empty: it is found out again.
"""

import json
from contextlib import suppress

from softprompt.backbones.bundled import cache_folder
from softprompt.errors import CannotWrite
from softprompt.runtime.files import JsonObject, write_json


def recall(folder: str, key: str) -> JsonObject:
    """Return what is known under a key; {} where its file is missing or damaged."""
    try:
        found = json.loads((cache_folder() / folder / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(folder: str, key: str, found: JsonObject) -> None:
    """Write what was found out under a key, where that is possible."""
    place = cache_folder() / folder
    with suppress(OSError, CannotWrite):
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / f"{key}.json", found)
