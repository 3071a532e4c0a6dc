"""The served prompts: a folder of run folders, by name and version, of which only those in use are in memory.

    DIR/NAME/          the folder of a run, version 1
    DIR/NAME@VERSION/  what was put while serving; the highest version is served
    DIR/.incoming-*    a put under way; what a killed one left is removed at the next start
    DIR/.replaced/     run folders whose prompt was replaced or removed by a client: nobody's training is deleted

A folder comes into being, and goes, by one rename, so a put is there or is not. Names are known from the folder's
listing: cards and tensors are read, and checked, before their first use. Other processes may change the folder too
(`serve --ray` has several that do): each question looks at the folder's time of change and at the card it knows, two
calls of stat, so whatever was put before it was asked is what answers it.
"""

import errno
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from softprompt.backbones import Backbone
from softprompt.errors import BadArtefact, BadInput, CannotWrite, PromptMismatch
from softprompt.evaluation.nearest_words import nearest_words
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runs.fingerprint import fingerprint
from softprompt.runs.prompt import FOLDED, Prompt, PromptCard, load_prompt
from softprompt.serving.store_folder import (
    INCOMING,
    REMOVED,
    REPLACED,
    check_name,
    left_over,
    parse_folder_name,
    stamp_of,
    sync,
    write_synced,
)
from softprompt.tasks import Template

T = TypeVar("T")
MOST_ROWS = 65536
TICK = 50_000_000  # nanoseconds: two changes within it may leave a folder's time as it was


class UnknownPrompt(BadInput):
    """No prompt of this name, or of this version, is there."""


@dataclass(frozen=True)
class StoreEntry:
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

    entry: StoreEntry
    card: PromptCard
    template: Template
    prompt: SoftPrompt

    @property
    def bytes(self) -> int:
        tensors = [*self.prompt.parameters(), *self.prompt.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class PromptStore:
    """The prompts of `folder` for one backbone; at most about `memory` bytes of them are held. Any thread may ask."""

    def __init__(self, folder: str | Path, backbone: Backbone, memory: int = 1_000_000_000) -> None:
        self.folder, self.backbone, self.memory = Path(folder), backbone, memory
        if not self.folder.is_dir():
            raise BadInput(f"{folder} is no folder; expected a folder of run folders, like runs/ after training.")
        self.fingerprint = fingerprint(backbone)
        self._entries: dict[str, StoreEntry] = {}
        self._names: list[str] | None = None
        self._cards: dict[Hashable, PromptCard] = {}
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

    def entry(self, name: str) -> StoreEntry:
        """The prompt that `name`, or `name@version`, is now. Raises UnknownPrompt."""
        plain, _, version = name.partition("@")
        with self._lock:
            self._refresh()
            found = self._current(plain)
        if found is None or (version and version != str(found.version)):
            there = f"; version {found.version} of it is served" if found else ""
            raise UnknownPrompt(f"There is no prompt {name!r} here{there}. GET /v1/models lists what there is.")
        return found

    def described(self, name: str) -> tuple[StoreEntry, PromptCard]:
        """What is known of a prompt. Raises UnknownPrompt or BadArtefact."""
        entry = self.entry(name)
        with self._lock:
            known = self._cards.get(entry.key)
        if known is not None:
            return entry, known
        entry, card = self._undisturbed(name, lambda entry: read_card(entry.folder))
        with self._lock:
            self._cards[entry.key] = card
        return entry, card

    def get(self, name: str) -> Served:
        """A prompt, loaded and checked. Raises UnknownPrompt, BadArtefact or PromptMismatch."""
        entry = self.entry(name)
        with self._lock:
            if found := self._held.get(entry.key):
                self._held.move_to_end(entry.key)
                return found
        entry, made = self._undisturbed(name, self._load)
        with self._lock:
            if entry.key not in self._held:
                self._held[entry.key] = made
                self._bytes += made.bytes
                while self._bytes > self.memory and len(self._held) > 1:
                    self._let_go(next(iter(self._held)))
            return made

    def nearest(self, served: Served, count: int) -> list[list[str]] | None:
        """Of each row of a prompt the `count` words of the vocabulary nearest to it.

        None where the rows depend on the input.
        """
        if served.card.kind == "input":
            return None
        rows = served.prompt.prompt(None)  # folded rows look at no text
        return [[word for word, _ in row] for row in nearest_words(self.backbone, rows.detach().cpu(), count)]

    def put(self, name: str, card: bytes, tensors: bytes) -> StoreEntry:
        """Add a prompt, or replace the one of this name, and serve it from now on.

        `card` is a run's prompt.json, `tensors` its prompt.safetensors. Raises BadInput, saying what is wrong, before
        anything is changed.
        """
        check_name(name)
        _check_card(card)
        incoming = self.folder / f"{INCOMING}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
        try:
            write_synced(incoming, {FOLDED: tensors, "prompt.json": card})
            self._check(load_prompt(incoming))
            stamp = stamp_of(incoming)
            with self._lock:
                version = self._bring_in(incoming, name)
                self._discard(name, keep_newest=True)
                self._refresh(again=True)
                return StoreEntry(
                    name, version, self.folder / f"{name}@{version}", stamp or (0, 0, 0), next(self._serial)
                )
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

    def _undisturbed(self, name: str, read: Callable[[StoreEntry], T]) -> tuple[StoreEntry, T]:
        """A prompt's entry and what `read` finds in its folder: again, should the folder be replaced meanwhile."""
        while True:
            entry = self.entry(name)
            try:
                found = read(entry)
            except (BadInput, RuntimeError):  # the latter from safetensors, for a file that goes while it is opened
                if stamp_of(entry.folder) == entry.stamp:
                    raise
            else:
                if stamp_of(entry.folder) == entry.stamp:
                    return entry, found

    def _load(self, entry: StoreEntry) -> Served:
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
        frozen_prompts = changed == self._scanned[0] and changed + TICK < self._scanned[1]
        if again or not frozen_prompts:
            while not self._list():
                pass

    def _list(self) -> bool:
        """List the folder; False when it changed on the way: a prompt may have been missed in both of its places."""
        changed = self.folder.stat().st_mtime_ns
        self._scanned = (changed, time.time_ns())
        newest: dict[str, tuple[int, str]] = {}
        with os.scandir(self.folder) as listing:
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
                self._enter(name, version, self.folder / folder)
                there = there and (name in self._entries or (self.folder / folder).exists())
        return there and self.folder.stat().st_mtime_ns == changed

    def _current(self, name: str) -> StoreEntry | None:
        """The entry of a name, read anew if its card on disk is another one than it was."""
        while (known := self._entries.get(name)) is not None:
            stamp = stamp_of(known.folder)
            if stamp == known.stamp:
                return known
            if stamp is None and not known.folder.exists():  # put or removed since the folder was listed
                self._refresh(again=True)
            else:
                self._enter(name, known.version, known.folder)
        return None

    def _enter(self, name: str, version: int, folder: Path) -> None:
        self._forget(name)
        if stamp := stamp_of(folder):
            self._entries[name] = StoreEntry(name, version, folder, stamp, next(self._serial))

    def _forget(self, name: str) -> None:
        self._names = None
        if entry := self._entries.pop(name, None):
            self._cards.pop(entry.key, None)
            if entry.key in self._held:
                self._let_go(entry.key)

    def _bring_in(self, incoming: Path, name: str) -> int:
        """Rename what was put to the next version of its name, which is returned."""
        while True:
            version = 1 + max((v for n, v in map(parse_folder_name, os.listdir(self.folder)) if n == name), default=0)
            try:
                self._rename(incoming, self.folder / f"{name}@{version}")
                return version
            except OSError as error:  # another process took that version first
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise

    def _discard(self, name: str, *, keep_newest: bool) -> None:
        """Take away the folders of a name, the oldest first: a kill on the way leaves the newest, or none, served."""
        found = sorted(
            (v, item) for item in os.listdir(self.folder) for n, v in [parse_folder_name(item)] if n == name and v
        )
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
        sync(self.folder)

    def _sweep(self) -> None:
        """Remove what killed processes left."""
        for item in os.listdir(self.folder):
            if item.startswith((INCOMING, REMOVED)) and left_over(self.folder / item):
                shutil.rmtree(self.folder / item, ignore_errors=True)


def read_card(folder: Path) -> PromptCard:
    """The card of a run folder alone. Raises BadArtefact."""
    try:
        return PromptCard.model_validate_json((folder / "prompt.json").read_bytes())
    except ValidationError as error:
        raise BadArtefact(f"{folder.name}: prompt.json is no card of ours: {_first(error)}.") from None
    except OSError as error:
        raise BadArtefact(f"{folder.name}: prompt.json cannot be read: {error.strerror}.") from None


def _check_card(card: bytes) -> None:
    try:
        told = PromptCard.model_validate(json.loads(card))
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
