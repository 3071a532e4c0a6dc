"""The served prompts of a folder, of which only those in use are in memory.

Names are known from the folder's listing (softprompt.serving.store_folder): cards and tensors are read, and checked,
before their first use.
"""

import copy
import json
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load

from softprompt.backbones import Backbone
from softprompt.errors import BadArtefact, BadInput, CannotWrite, PromptMismatch
from softprompt.evaluation.nearest_words import nearest_words
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runs.fingerprint import fingerprint
from softprompt.runs.prompt import FOLDED, Prompt, PromptCard, load_prompt
from softprompt.serving.memory import report_out_of_memory
from softprompt.serving.store_folder import (
    ATTEMPTS,
    CARD,
    FolderUnreadable,
    StoreEntry,
    StoreFolder,
    check_name,
    stamp_of,
    write_and_sync,
)
from softprompt.tasks import Template

T = TypeVar("T")
MOST_ROWS = 65536
"""Rows, or positions, of an uploaded prompt."""


@dataclass(frozen=True, eq=False)
class LoadedPrompt:
    """A prompt in memory, ready for use. Whoever holds it keeps it, whatever the store holds by then."""

    entry: StoreEntry
    card: PromptCard
    template: Template
    prompt: SoftPrompt

    @property
    def bytes(self) -> int:
        tensors = [*self.prompt.parameters(), *self.prompt.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class PromptStore:
    """Load, add and remove the prompts of a folder. Any thread may call it.

    Args:
        folder: A folder of run folders.
        backbone: The model that all prompts must have been trained for.
        memory: Bytes of prompts that are kept in memory, about.
    """

    def __init__(self, folder: str | Path, backbone: Backbone, memory: int = 1_000_000_000) -> None:
        self.backbone, self.memory = backbone, memory
        self._cards: dict[Hashable, PromptCard] = {}
        self._loaded: OrderedDict[Hashable, LoadedPrompt] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()
        self._tokens = copy.deepcopy(backbone.tokens)  # the backbone's own tokenize in another thread
        self.folder = StoreFolder(Path(folder), self._forget)
        self.fingerprint = fingerprint(backbone)

    def __len__(self) -> int:
        """Count the prompts at the last look at the folder; this is none, so it never waits."""
        return len(self.folder)

    def names(self) -> list[str]:
        """List all names, sorted."""
        with self._lock:
            return self.folder.names()

    def broken(self) -> dict[str, str]:
        """Say of each name in the folder that cannot be resolved why."""
        with self._lock:
            return self.folder.broken()

    def entry(self, name: str) -> StoreEntry:
        """Find the prompt that `name`, or `name@version`, is now. Raises UnknownPrompt or FolderUnreadable."""
        with self._lock:
            return self.folder.entry(name)

    def card(self, name: str) -> tuple[StoreEntry, PromptCard]:
        """Read the card of a prompt. Raises UnknownPrompt or BadArtefact."""
        entry = self.entry(name)
        with self._lock:
            known = self._cards.get(entry.key)
        if known is not None:
            return entry, known
        entry, card = self._read_undisturbed(name, lambda entry: read_card(entry.folder))
        with self._lock:
            self._cards[entry.key] = card
        return entry, card

    @report_out_of_memory()
    def get(self, name: str) -> LoadedPrompt:
        """Load and check a prompt. Raises UnknownPrompt, BadArtefact, PromptMismatch or OutOfMemory."""
        entry = self.entry(name)
        with self._lock:
            if found := self._loaded.get(entry.key):
                self._loaded.move_to_end(entry.key)
                return found
        entry, loaded = self._read_undisturbed(name, self._load)
        with self._lock:
            if entry.key not in self._loaded:
                self._loaded[entry.key] = loaded
                self._bytes += loaded.bytes
                while self._bytes > self.memory and len(self._loaded) > 1:
                    self._unload(next(iter(self._loaded)))
            return loaded

    @report_out_of_memory()
    def nearest(self, loaded: LoadedPrompt, count: int) -> list[list[str]] | None:
        """Find the `count` words of the vocabulary nearest to each row of a prompt.

        None where the rows depend on the input.
        """
        if loaded.card.kind == "input":
            return None
        rows = loaded.prompt.prompt(None)  # folded rows look at no text
        return [[word for word, _ in row] for row in nearest_words(self.backbone, rows.detach().cpu(), count)]

    @report_out_of_memory()
    def put(self, name: str, card: bytes, tensors: bytes) -> StoreEntry:
        """Add a prompt, or replace the one of this name, and serve it from now on.

        Args:
            name: Its name, which becomes a folder's.
            card: A run's prompt.json.
            tensors: Its prompt.safetensors.

        Raises:
            BadInput: Something is wrong with it; nothing was changed.
            CannotWrite: The disk is full or the folder cannot be written.
        """
        check_name(name)
        _check_card(card)
        incoming = self.folder.incoming()
        try:
            write_and_sync(incoming, {FOLDED: tensors, CARD: card})
            self._check(load_prompt(incoming))
            with self._lock:
                return self.folder.add(incoming, name)
        except BadArtefact as error:
            message = str(error).replace(str(incoming / FOLDED), "the tensors").replace(str(incoming), name)
            raise BadArtefact(message) from None
        except OSError as error:
            raise CannotWrite(f"The prompt {name!r} cannot be stored: {error.strerror}.") from None
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Stop serving a prompt. Raises UnknownPrompt or CannotWrite."""
        entry = self.entry(name)
        with self._lock:
            try:
                self.folder.remove(entry.name)
            except OSError as error:
                raise CannotWrite(f"The prompt {name!r} cannot be removed: {error.strerror}.") from None

    def _read_undisturbed(self, name: str, read: Callable[[StoreEntry], T]) -> tuple[StoreEntry, T]:
        """Read something from a prompt's folder, again if the folder is replaced meanwhile."""
        for _ in range(ATTEMPTS):
            entry = self.entry(name)
            try:
                found = read(entry)
            except (BadInput, RuntimeError) as error:  # from safetensors, for a file that goes while it is opened
                if stamp_of(entry.folder) == entry.stamp:
                    raise self._without_paths(error, entry) from None
            else:
                if stamp_of(entry.folder) == entry.stamp:
                    return entry, found
        raise FolderUnreadable(f"The prompt {name!r} changes faster than it can be read. Ask again.")

    def _without_paths(self, error: Exception, entry: StoreEntry) -> Exception:
        """Name a prompt in an error's message, not where it is on this machine."""
        message = str(error)
        for path in (entry.folder, entry.folder.resolve()):
            message = message.replace(f"{path}/", f"{entry.name}: ").replace(str(path), entry.name)
        return error if message == str(error) else BadArtefact(message)

    def _load(self, entry: StoreEntry) -> LoadedPrompt:
        stored = load_prompt(entry.folder)
        self._check(stored)
        prompt = stored.soft_prompt().to(self.backbone.device).requires_grad_(False)
        return LoadedPrompt(entry, stored.card, Template(stored.card.template), prompt)

    def _check(self, prompt: Prompt) -> None:
        """Raise BadArtefact or PromptMismatch for a prompt that this backbone cannot be served with."""
        self._check_card(prompt.card)

    def survey(self, most: int) -> tuple[int, dict[str, str]]:
        """Count the prompts, and say of those that cannot be served why; of cards the first `most` are read."""
        names, wrong = self.names(), self.broken()
        for name in names[:most]:
            try:
                reason = self.refusal(self.card(name)[1])
            except BadInput as error:
                reason = str(error)
            if reason:
                wrong[name] = reason
        return len(names) - sum(name in wrong for name in names), dict(sorted(wrong.items()))

    def refusal(self, card: PromptCard) -> str | None:
        """Say why a prompt with this card cannot be served; None where nothing in the card forbids it."""
        try:
            self._check_card(card)
        except BadInput as error:
            return str(error)
        return None

    def _check_card(self, card: PromptCard) -> None:
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
        template = Template(card.template)
        if not 1 <= card.max_source <= MOST_ROWS:
            raise BadArtefact(
                f"{card.name!r} says that it reads {card.max_source} source tokens; 1 to {MOST_ROWS} can be."
            )
        # What would fail at its first use: choices that cannot be told apart, no room beside rows and answer.
        ids = self._tokens.choice_ids(card.choices, template.cue) if card.choices else [[0]]
        self.backbone.room(card.length, max(map(len, ids)))

    def _forget(self, entry: StoreEntry) -> None:
        self._cards.pop(entry.key, None)
        if entry.key in self._loaded:
            self._unload(entry.key)

    def _unload(self, key: Hashable) -> None:
        self._bytes -= self._loaded.pop(key).bytes


def read_card(folder: Path) -> PromptCard:
    """Read the card of a run folder alone. Raises BadArtefact."""
    try:
        return PromptCard.model_validate_json((folder / CARD).read_bytes())
    except ValidationError as error:
        raise BadArtefact(f"{folder.name}: not a valid prompt.json: {_first(error)}.") from None
    except OSError as error:
        raise BadArtefact(f"{folder.name}: prompt.json cannot be read: {error.strerror}.") from None


def card_in_metadata(tensors: bytes) -> bytes:
    """Return the card that a safetensors file holds in its metadata, under 'card'. Raises BadInput."""
    try:
        load(tensors)
        size = int.from_bytes(tensors[:8], "little")  # the header is JSON, after eight bytes that give its length
        return str(json.loads(tensors[8 : 8 + size])["__metadata__"]["card"]).encode()
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise BadInput(
            "The body is not a safetensors file with the text of prompt.json under 'card' in its metadata."
        ) from None


def _check_card(content: bytes) -> None:
    """Raise BadInput for an uploaded card that cannot be served."""
    try:
        card = PromptCard.model_validate(json.loads(content))
    except ValidationError as error:
        raise BadArtefact(f"The card is not a valid prompt.json: {_first(error)}.") from None
    except (ValueError, RecursionError) as error:
        raise BadArtefact(f"The card is not a JSON object: {error}.") from None
    if card.kind in ("input", "network"):
        raise BadInput(
            f"This run is of kind {card.kind!r} and has no folded tensors to send. One of kind 'input' is served when "
            "its folder is copied into the server's folder of prompts."
        )
    if not 0 <= card.length <= MOST_ROWS or not 0 <= (card.positions or 0) <= MOST_ROWS:
        raise BadInput(
            f"The card says {card.length} rows and {card.positions} positions; at most {MOST_ROWS} are read."
        )


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
