"""What stands in a folder of prompts: names and versions, what was put half, and when a prompt is another one."""

import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path

from softprompt.errors import BadInput

BASE = "base"
"""The name under which the backbone answers without a prompt."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
INCOMING, REMOVED, REPLACED = ".incoming-", ".removed-", ".replaced"
LEFT_OVER = 24 * 3600  # seconds after which another machine's unfinished folder is taken for left over


def check_name(name: str) -> None:
    """Raise BadInput for what may not be a prompt's name: it becomes a folder's."""
    if not NAME.fullmatch(name) or name == BASE:
        raise BadInput(
            f"{name[:120]!r} cannot be a prompt's name: expected 1 to 100 letters, digits, dots, dashes or "
            f"underscores, a letter or digit first, and not {BASE!r}."
        )


def parse_folder_name(item: str) -> tuple[str, int]:
    """Name and version of a folder; version 0 for what is no prompt's."""
    name, at, version = item.partition("@")
    if not NAME.fullmatch(name) or name == BASE or (at and not re.fullmatch(r"[1-9][0-9]{0,8}", version)):
        return name, 0
    return name, int(version) if at else 1


def stamp_of(folder: Path) -> tuple[int, int, int] | None:
    """None where there is no finished run."""
    try:
        told = (folder / "prompt.json").stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size, told.st_ino


def write_synced(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    sync(folder)


def sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def left_over(path: Path) -> bool:
    """Whether the process that made a folder is no more, as far as can be known."""
    told = path.name.removeprefix(INCOMING).removeprefix(REMOVED)  # MACHINE-PROCESS-RANDOM
    machine, _, rest = told.rpartition("-")[0].rpartition("-")
    if machine == socket.gethostname() and rest.isdigit() and int(rest) != os.getpid():
        try:
            os.kill(int(rest), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > LEFT_OVER
    return False
