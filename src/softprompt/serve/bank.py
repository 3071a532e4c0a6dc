"""The served prompts: a folder of run folders, by name and version, of which only those in use are in memory.

    DIR/NAME/          the folder of a run, version 1
    DIR/NAME@VERSION/  what was put while serving; the highest version is served
    DIR/.incoming-*    a put under way; what a killed one left is removed at the next start
    DIR/.replaced/     run folders whose prompt was replaced or removed by a client: nobody's training is deleted

A folder comes into being, and goes, by one rename, so a put is there or is not. Names are known from the folder's
listing: cards and tensors are read, and checked, before their first use. Other processes may change the folder too.
"""

import json
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from pydantic import ValidationError

from softprompt.artefact import FOLDED, Card, Prompt, fingerprint, load_prompt
from softprompt.backbones import Backbone
from softprompt.errors import BadArtefact, BadInput, CannotWrite, PromptMismatch
from softprompt.nearest import nearest_words
from softprompt.soft import SoftPrompt
from softprompt.tasks import Template

BASE = "base"
"""The name under which the backbone answers without a prompt."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
INCOMING, REMOVED, REPLACED = ".incoming-", ".removed-", ".replaced"
MOST_ROWS = 65536
LEFT_OVER = 24 * 3600  # seconds after which another machine's unfinished folder is taken for left over
TICK = 50_000_000  # nanoseconds: two changes within it may leave a folder's time as it was


class UnknownPrompt(BadInput):
    """No prompt of this name, or of this version, is there."""


@dataclass(frozen=True)
class Entry:
    """A prompt as the folder's listing knows it."""

    name: str
    version: int
    folder: Path
    stamp: tuple[int, int, int]
    """Of its card: time of change, size, inode. Another one is another prompt."""
    serial: int
    """Different for each entry there ever was in this process."""

    @property
    def key(self) -> Hashable:
        return (self.name, self.version, self.serial)

    @property
    def modified(self) -> int:
        """Seconds since 1970."""
        return self.stamp[0] // 1_000_000_000


@dataclass(frozen=True, eq=False)
class Served:
    """A prompt in memory, ready to be asked with. Whoever holds it goes on with it, whatever the bank holds."""

    entry: Entry
    card: Card
    template: Template
    prompt: SoftPrompt

    @property
    def bytes(self) -> int:
        tensors = [*self.prompt.parameters(), *self.prompt.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class PromptBank:
    """The prompts of `folder` for one backbone; at most about `memory` bytes of them are held. Any thread may ask."""

    def __init__(self, folder: str | Path, backbone: Backbone, memory: int = 1_000_000_000) -> None:
        self.folder, self.backbone, self.memory = Path(folder), backbone, memory
        if not self.folder.is_dir():
            raise BadInput(f"{folder} is no folder; expected a folder of run folders, like runs/ after training.")
        self.fingerprint = fingerprint(backbone)
        self._entries: dict[str, Entry] = {}
        self._names: list[str] | None = None
        self._cards: dict[Hashable, Card] = {}
        self._held: OrderedDict[Hashable, Served] = OrderedDict()
        self._bytes = 0
        self._serial = count(1)
        self._lock = threading.RLock()
        self._scanned = (0, 0)
        self._sweep()
        self._refresh()

    def __len__(self) -> int:
        with self._lock:
            self._refresh()
            return len(self._entries)

    def names(self) -> list[str]:
        """All names, sorted."""
        with self._lock:
            self._refresh()
            if self._names is None:
                self._names = sorted(self._entries)
            return self._names

    def entry(self, name: str) -> Entry:
        """The prompt that `name`, or `name@version`, is now. Raises UnknownPrompt."""
        plain, _, version = name.partition("@")
        with self._lock:
            self._refresh()
            found = self._current(plain)
        if found is None or (version and version != str(found.version)):
            there = f"; version {found.version} of it is served" if found else ""
            raise UnknownPrompt(f"There is no prompt {name!r} here{there}. GET /v1/models lists what there is.")
        return found

    def card(self, name: str) -> Card:
        """What is known of a prompt. Raises UnknownPrompt or BadArtefact."""
        entry = self.entry(name)
        with self._lock:
            known = self._cards.get(entry.key)
        if known is None:
            known = read_card(entry.folder)
            with self._lock:
                self._cards[entry.key] = known
        return known

    def get(self, name: str) -> Served:
        """A prompt, loaded and checked. Raises UnknownPrompt, BadArtefact or PromptMismatch."""
        entry = self.entry(name)
        with self._lock:
            if found := self._held.get(entry.key):
                self._held.move_to_end(entry.key)
                return found
        made = self._load(entry)
        with self._lock:
            if entry.key not in self._held:
                self._held[entry.key] = made
                self._bytes += made.bytes
                while self._bytes > self.memory and len(self._held) > 1:
                    self._let_go(next(iter(self._held)))
            return made

    def nearest(self, name: str, count: int) -> list[list[str]] | None:
        """Of each row of a prompt the `count` words of the vocabulary nearest to it. Raises what `get` does.

        None where the rows depend on the input.
        """
        served = self.get(name)
        if served.card.kind == "input":
            return None
        rows = served.prompt.prompt(None)  # folded rows look at no text
        return [[word for word, _ in row] for row in nearest_words(self.backbone, rows.detach().cpu(), count)]

    def put(self, name: str, card: bytes, tensors: bytes) -> Entry:
        """Add a prompt, or replace the one of this name, and serve it from now on.

        `card` is a run's prompt.json, `tensors` its prompt.safetensors. Raises BadInput, saying what is wrong, before
        anything is changed.
        """
        check_name(name)
        _check_card(card)
        incoming = self.folder / f"{INCOMING}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
        try:
            _write_folder(incoming, {FOLDED: tensors, "prompt.json": card})
            self._check(load_prompt(incoming))
            with self._lock:
                self._refresh(again=True)
                before = self._current(name)
                self._rename(incoming, self.folder / f"{name}@{before.version + 1 if before else 1}")
                self._discard(name, keep_newest=True)
                self._refresh(again=True)
                return self.entry(name)
        except BadArtefact as error:
            told = str(error).replace(str(incoming / FOLDED), "the tensors").replace(str(incoming), name)
            raise BadArtefact(told) from None
        except OSError as error:
            raise CannotWrite(f"The prompt {name!r} cannot be stored: {error.strerror}.") from None
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Serve a prompt no more. Raises UnknownPrompt."""
        entry = self.entry(name)
        with self._lock:
            try:
                self._discard(entry.name, keep_newest=False)
            except OSError as error:
                raise CannotWrite(f"The prompt {name!r} cannot be removed: {error.strerror}.") from None
            self._refresh(again=True)

    # One prompt

    def _load(self, entry: Entry) -> Served:
        loaded = load_prompt(entry.folder)
        self._check(loaded)
        made = loaded.soft_prompt().to(self.backbone.device).requires_grad_(False)
        return Served(entry, loaded.card, Template(loaded.card.template), made)

    def _check(self, prompt: Prompt) -> None:
        card = prompt.card
        if card.kind == "network":
            raise BadArtefact(
                f"{card.name!r} ({card.method}) is a baseline: it changes the network itself, which all prompts share "
                "here. Use it with softprompt itself: predict, evaluate."
            )
        if not card.fingerprint.agrees(self.fingerprint):
            raise PromptMismatch(
                f"The prompt {card.name!r} was tuned for {card.backbone} ({card.fingerprint.short()}), not for the "
                f"backbone served here, {self.backbone.name} ({self.fingerprint.short()}). Serve it with that one."
            )
        self.backbone.room(card.length, 0)
        Template(card.template)

    def _let_go(self, key: Hashable) -> None:
        self._bytes -= self._held.pop(key).bytes

    # The folder

    def _refresh(self, *, again: bool = False) -> None:
        """List the folder again if it has changed since."""
        changed = self.folder.stat().st_mtime_ns
        settled = changed == self._scanned[0] and changed + TICK < self._scanned[1]
        if settled and not again:
            return
        self._scanned = (changed, time.time_ns())
        newest: dict[str, tuple[int, str]] = {}
        with os.scandir(self.folder) as listing:
            for item in listing:
                name, version = _parsed(item.name)
                if version and version > newest.get(name, (0, ""))[0]:
                    newest[name] = version, item.name
        for name in [name for name in self._entries if name not in newest]:
            self._forget(name)
        for name, (version, folder) in newest.items():
            known = self._entries.get(name)
            if known is None or known.version != version:
                self._enter(name, version, self.folder / folder)

    def _current(self, name: str) -> Entry | None:
        """The entry of a name, read anew if its card on disk is another one than it was."""
        known = self._entries.get(name)
        if known is not None and _stamp(known.folder) != known.stamp:
            self._enter(name, known.version, known.folder)
        return self._entries.get(name)

    def _enter(self, name: str, version: int, folder: Path) -> None:
        self._forget(name)
        if stamp := _stamp(folder):
            self._entries[name] = Entry(name, version, folder, stamp, next(self._serial))

    def _forget(self, name: str) -> None:
        self._names = None
        if entry := self._entries.pop(name, None):
            self._cards.pop(entry.key, None)
            if entry.key in self._held:
                self._let_go(entry.key)

    def _discard(self, name: str, *, keep_newest: bool) -> None:
        """Take away the folders of a name, the oldest first: a kill on the way leaves the newest, or none, served."""
        found = sorted((v, item) for item in os.listdir(self.folder) for n, v in [_parsed(item)] if n == name and v)
        for version, item in found[: len(found) - keep_newest]:
            away = self.folder / f"{REMOVED}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
            if "@" not in item:
                (self.folder / REPLACED).mkdir(exist_ok=True)
                away = (
                    self.folder / REPLACED / f"{name}@{version}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
                )
            with suppress(FileNotFoundError):  # another process was quicker
                self._rename(self.folder / item, away)
            if "@" in item:
                shutil.rmtree(away, ignore_errors=True)

    def _rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)
        _sync(self.folder)

    def _sweep(self) -> None:
        """Remove what killed processes left."""
        for item in os.listdir(self.folder):
            if item.startswith((INCOMING, REMOVED)) and _left_over(self.folder / item):
                shutil.rmtree(self.folder / item, ignore_errors=True)


def check_name(name: str) -> None:
    """Raise BadInput for what may not be a prompt's name: it becomes a folder's."""
    if not NAME.fullmatch(name) or name == BASE:
        raise BadInput(
            f"{name[:120]!r} cannot be a prompt's name: expected 1 to 100 letters, digits, dots, dashes or "
            f"underscores, a letter or digit first, and not {BASE!r}."
        )


def read_card(folder: Path) -> Card:
    """The card of a run folder alone. Raises BadArtefact."""
    try:
        return Card.model_validate_json((folder / "prompt.json").read_bytes())
    except ValidationError as error:
        raise BadArtefact(f"{folder.name}: prompt.json is no card of ours: {_first(error)}.") from None
    except OSError as error:
        raise BadArtefact(f"{folder.name}: prompt.json cannot be read: {error.strerror}.") from None


def _check_card(card: bytes) -> None:
    try:
        told = Card.model_validate(json.loads(card))
    except ValidationError as error:
        raise BadArtefact(f"The card is no prompt.json: {_first(error)}.") from None
    except (ValueError, RecursionError) as error:
        raise BadArtefact(f"The card is no JSON object: {error}.") from None
    if told.kind in ("input", "network"):
        raise BadInput(
            f"This run is of kind {told.kind!r} and has no folded tensors to send. One of kind 'input' is served when "
            "its folder is copied into the server's folder of prompts."
        )
    if not 0 <= told.length <= MOST_ROWS or not 0 <= (told.positions or 0) <= MOST_ROWS:
        raise BadInput(
            f"The card says {told.length} rows and {told.positions} positions; at most {MOST_ROWS} are read."
        )


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _parsed(item: str) -> tuple[str, int]:
    """Name and version of a folder; version 0 for what is no prompt's."""
    name, at, version = item.partition("@")
    if not NAME.fullmatch(name) or name == BASE or (at and not re.fullmatch(r"[1-9][0-9]{0,8}", version)):
        return name, 0
    return name, int(version) if at else 1


def _stamp(folder: Path) -> tuple[int, int, int] | None:
    """None where there is no finished run."""
    try:
        told = (folder / "prompt.json").stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size, told.st_ino


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _sync(folder)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _left_over(path: Path) -> bool:
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
