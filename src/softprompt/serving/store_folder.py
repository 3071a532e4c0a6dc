"""The folder of prompts on disk: names, versions and the renames that change them. It opens no card and no tensors.

    DIR/NAME/          the folder of a run, version 1
    DIR/NAME@VERSION/  a prompt that a client sent; the highest version is served
    DIR/.incoming-*    an upload in progress; what a killed process left is removed at the next start
    DIR/.replaced/     run folders whose prompt a client replaced or removed: nobody's training is deleted

A folder appears and disappears by one rename, so an upload is there or is not. Other processes may change the folder
too (`serve --ray` has several that do): each look-up compares the modification times of the folder and of the card,
two calls of stat, so a request is answered with whatever was stored before it came.
"""

import errno
import fcntl
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

from softprompt.errors import BadInput, RunFailed

BASE = "base"
"""The name under which the backbone answers without a prompt."""
CARD = "prompt.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
VERSION = re.compile(r"[1-9][0-9]{0,8}")
INCOMING, REMOVED, REPLACED = ".incoming-", ".removed-", ".replaced"
LEFT_OVER = 24 * 3600
"""Seconds after which another machine's unfinished folder counts as left over."""
TICK = 50_000_000
"""Nanoseconds: two changes within this time may leave a folder with the same modification time."""
ATTEMPTS = 20
"""Times that what changes while it is read is read again."""


class UnknownPrompt(BadInput):
    """No prompt of this name, or of this version, is in the folder."""


class FolderUnreadable(RunFailed):
    """The folder of prompts cannot be read now; what is in it may be served again later."""


class Stamp(NamedTuple):
    """Identify the content of a card file: another stamp means another prompt."""

    modified: int
    """Nanoseconds since 1970."""
    size: int
    inode: int


@dataclass(frozen=True)
class StoreEntry:
    """A prompt as the folder's listing knows it."""

    name: str
    version: int
    folder: Path
    stamp: Stamp
    """That of its card."""
    serial: int
    """Different for each entry that this process ever had."""

    @property
    def key(self) -> Hashable:
        return (self.name, self.version, self.serial)

    @property
    def modified(self) -> int:
        """Seconds since 1970."""
        return self.stamp.modified // 1_000_000_000


class StoreFolder:
    """List, add and remove the prompts of a folder. Calls must not overlap: `PromptStore` holds a lock around each.

    Args:
        path: An existing folder of run folders, or a run's own, which is then the only one and takes no uploads. What
            killed processes left there is removed.
        on_forget: Called with each entry that is no longer current.
    """

    def __init__(self, path: Path, on_forget: Callable[[StoreEntry], None]) -> None:
        if not path.is_dir():
            raise BadInput(
                f"{path} is not a folder; expected a run's, or a folder of run folders, like runs/ after training."
            )
        self.path, self._on_forget = path, on_forget
        self._alone_name = None if not (path / CARD).is_file() else path.resolve().name
        self._entries: dict[str, StoreEntry] = {}
        self._pending: dict[str, tuple[int, Path]] = {}  # by name, folders without a card that can be read
        self._broken: dict[str, str] = {}  # what is wrong with those of them that are no unfinished runs
        self._names: list[str] | None = None
        self._serial = count(1)
        self._modified = self._listed_at = 0  # nanoseconds: the folder's own time when it was listed, and when that was
        self._sweep()
        self._refresh()

    def __len__(self) -> int:
        """Count the prompts at the last listing."""
        return len(self._entries)

    def names(self) -> list[str]:
        """List all names, sorted. Raises FolderUnreadable."""
        self._refresh()
        if self._names is None:
            self._names = sorted(self._entries)
        return self._names

    def broken(self) -> dict[str, str]:
        """Say of each name that cannot be resolved why. Raises FolderUnreadable."""
        self._refresh()
        return dict(self._broken)

    def entry(self, name: str) -> StoreEntry:
        """Find the prompt that `name`, or `name@version`, is now. Raises UnknownPrompt or FolderUnreadable."""
        plain, _, version = name.partition("@")
        self._refresh()
        found = self._current(plain)
        if found is None or (version and version != str(found.version)):
            there = f"; version {found.version} of it is served" if found else ""
            there = there or (f": {self._broken[plain]}" if plain in self._broken else "")
            raise UnknownPrompt(f"There is no prompt {name!r} here{there}. GET /v1/models lists what there is.")
        return found

    def incoming(self) -> Path:
        """Name a new folder for an upload; `add` takes it in. Raises BadInput where the folder is itself a run's."""
        self._check_many()
        return self.path / f"{INCOMING}{_process_tag()}"

    def add(self, incoming: Path, name: str) -> StoreEntry:
        """Serve the complete folder `incoming` as the next version of `name`, and discard the older ones."""
        stamp = stamp_of(incoming) or Stamp(0, 0, 0)
        with self._alone():
            version = self._rename_to_next_version(incoming, name)
            self._discard(name, keep_newest=True)
        self._refresh(force=True)
        return StoreEntry(name, version, self.path / f"{name}@{version}", stamp, next(self._serial))

    def remove(self, name: str) -> None:
        """Discard all versions of a name. Raises BadInput where the folder is itself a run's."""
        self._check_many()
        self._discard(name, keep_newest=False)
        self._refresh(force=True)

    def _check_many(self) -> None:
        if self._alone_name is not None:
            raise BadInput(
                "This server serves one run, whose folder was given, and changes nothing. Start it with one of runs."
            )

    # Listing

    def _refresh(self, *, force: bool = False) -> None:
        """List the folder again if it has changed since, and look again at folders that had no card."""
        try:
            modified = self.path.stat().st_mtime_ns
            unchanged = modified == self._modified and modified + TICK < self._listed_at
            if (force or not unchanged) and not any(self._list() for _ in range(ATTEMPTS)):
                raise FolderUnreadable("The folder of prompts changes faster than it can be listed. Ask again.")
        except OSError as error:
            self._modified = 0  # list it anew when it is back
            raise FolderUnreadable(
                f"The folder of prompts cannot be read: {error.strerror}. Until it can, {BASE!r} alone is served."
            ) from None
        for name, (version, folder) in list(self._pending.items()):
            self._enter(name, version, folder)

    def _list(self) -> bool:
        """List the folder; False when it changed meanwhile: a renamed prompt may have been missed in both places."""
        modified = self.path.stat().st_mtime_ns
        self._modified, self._listed_at = modified, time.time_ns()
        newest: dict[str, tuple[int, str]] = {}
        self._pending, self._broken = {}, {}
        if self._alone_name is not None:
            newest[self._alone_name] = 1, ""
        else:
            with os.scandir(self.path) as listing:
                for item in listing:
                    name, version = parse_folder_name(item.name)
                    if version and version > newest.get(name, (0, ""))[0]:
                        newest[name] = version, item.name
        for name in [name for name in self._entries if name not in newest]:
            self._forget(name)
        there = True
        for name, (version, folder) in newest.items():
            known = self._entries.get(name)
            if known is None or known.version != version:
                self._enter(name, version, self.path / folder)
                there = there and (name in self._entries or os.path.lexists(self.path / folder))
        return there and self.path.stat().st_mtime_ns == modified

    def _current(self, name: str) -> StoreEntry | None:
        """Look up a name; its entry is renewed if its card on disk is another one than it was."""
        for _ in range(ATTEMPTS):
            known = self._entries.get(name)
            if known is None:
                return None
            stamp = stamp_of(known.folder)
            if stamp == known.stamp:
                return known
            if stamp is None and not os.path.lexists(known.folder):  # replaced or removed since the folder was listed
                self._refresh(force=True)
            else:
                self._enter(name, known.version, known.folder)
        raise FolderUnreadable(f"The prompt {name!r} changes faster than it can be read. Ask again.")

    def _enter(self, name: str, version: int, folder: Path) -> None:
        """Take in what a folder is now: an entry, a run that is not finished, or something broken."""
        self._forget(name)
        self._pending.pop(name, None)
        self._broken.pop(name, None)
        if stamp := stamp_of(folder):
            self._entries[name] = StoreEntry(name, version, folder, stamp, next(self._serial))
            self._names = None
        elif (reason := why_broken(folder)) or folder.is_dir():
            self._pending[name] = version, folder
            if reason:
                self._broken[name] = reason

    def _forget(self, name: str) -> None:
        if entry := self._entries.pop(name, None):
            self._names = None
            self._on_forget(entry)

    # Renaming

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes of this machine from numbering versions inside the block.

        Without it one process may put two versions between another's choice of a number and its rename, and both give
        the same number. A file system without locks (some network ones) has none, and loses only that.
        """
        handle = os.open(self.path, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)  # which unlocks

    def _rename_to_next_version(self, incoming: Path, name: str) -> int:
        while True:
            version = 1 + max((v for n, v in map(parse_folder_name, os.listdir(self.path)) if n == name), default=0)
            try:
                self._rename(incoming, self.path / f"{name}@{version}")
                return version
            except OSError as error:  # another process took that version first
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise

    def _discard(self, name: str, *, keep_newest: bool) -> None:
        """Take away the folders of a name, oldest first: a kill in between leaves the newest, or none, served."""
        found = sorted(
            (v, item) for item in os.listdir(self.path) for n, v in [parse_folder_name(item)] if n == name and v
        )
        for version, item in found[: len(found) - keep_newest]:
            away = self.path / f"{REMOVED}{_process_tag()}"
            if "@" not in item:
                (self.path / REPLACED).mkdir(exist_ok=True)
                now = time.strftime("%Y%m%d-%H%M%S")
                away = self.path / REPLACED / f"{name}@{version}-{now}-{uuid.uuid4().hex[:6]}"
            with suppress(FileNotFoundError):  # another process was quicker
                self._rename(self.path / item, away)
            if "@" in item:
                shutil.rmtree(away, ignore_errors=True)

    def _rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)
        sync(self.path)

    def _sweep(self) -> None:
        """Remove what killed processes left."""
        with suppress(OSError):  # a folder that cannot be read is said with the listing
            for item in os.listdir(self.path):
                if item.startswith((INCOMING, REMOVED)) and is_left_over(self.path / item):
                    shutil.rmtree(self.path / item, ignore_errors=True)


def check_name(name: str) -> None:
    """Raise BadInput for what cannot be a prompt's name: it becomes a folder's."""
    if not NAME.fullmatch(name) or name == BASE:
        raise BadInput(
            f"{name[:120]!r} cannot be a prompt's name: expected 1 to 100 letters, digits, dots, dashes or "
            f"underscores, a letter or digit first, and not {BASE!r}."
        )


def parse_folder_name(item: str) -> tuple[str, int]:
    """Split a folder's name into name and version; version 0 for a folder that holds no prompt."""
    name, at, version = item.partition("@")
    if not NAME.fullmatch(name) or name == BASE or (at and not VERSION.fullmatch(version)):
        return name, 0
    return name, int(version) if at else 1


def stamp_of(folder: Path) -> Stamp | None:
    """Read the stamp of a run folder's card; None where there is no finished run."""
    try:
        status = (folder / CARD).stat()
    except OSError:
        return None
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


def why_broken(folder: Path) -> str | None:
    """Say why a listed folder, or the card in it, cannot be resolved; None where there is only no finished run."""
    for path, what in ((folder, "it"), (folder / CARD, f"its {CARD}")):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return f"{what} is a link that leads nowhere" if path.is_symlink() else None
        except OSError as error:
            return f"{what} cannot be read: {error.strerror}"
    return None


def write_and_sync(folder: Path, files: dict[str, bytes]) -> None:
    """Make a folder of files that survives a power cut once this returns."""
    folder.mkdir()
    for name, content in files.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    sync(folder)


def sync(folder: Path) -> None:
    """Flush a folder's own entries to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_left_over(path: Path) -> bool:
    """Check whether the process that wrote an unfinished folder has ended, as far as can be known."""
    tag = path.name.removeprefix(INCOMING).removeprefix(REMOVED)
    machine, _, process = tag.rpartition("-")[0].rpartition("-")
    if machine == socket.gethostname() and process.isdigit() and int(process) != os.getpid():
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > LEFT_OVER
    return False


def _process_tag() -> str:
    """Make a unique MACHINE-PROCESS-RANDOM name, which `is_left_over` reads."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
