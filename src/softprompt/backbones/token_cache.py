"""Look up the ids of texts: in memory, else on disk, else with the tokenizer.

A text is tokenized when it is first needed, those of a step or an evaluation together, and never ahead: 300 steps
of 16 read 4,800 of MNLI's 392,702 rows. On two cores all of them take 25 s, those that are read a third of a second,
and all of them from disk 3 s.
What was tokenized is kept on disk, in training and evaluation alone (`TextIds.remember`):

    CACHE/tokens/TOKENIZER/*.safetensors     key (n, 16) uint8, end (n,) int64, check (n,) int64, ids (m,) int32

TOKENIZER hashes all that decides ids (`tokenizer_fingerprint`). A key is the sha256 of a text, cut to 16 bytes; keys
are sorted, and their own hash is the file's name. Row i is ids[end[i-1]:end[i]], its CRC-32 check[i]. So another
template, limit, split or tokenizer looks for other keys, and no answer can be stale. Files are written beside and
renamed, memory-mapped, and never changed: processes that write at once leave two files. A damaged file is removed, and
its texts are tokenized anew. A folder that cannot be read or written is a cache that stays empty, never an error.
"""

import hashlib
import os
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerBase

from softprompt.backbones.bundled import cache_folder
from softprompt.errors import BadInput, CannotWrite
from softprompt.runtime.files import write_with

SWITCH = "SOFTPROMPT_TOKEN_CACHE"
"""Environment variable: the most gigabytes on disk, LIMIT when it is not set; 0 keeps nothing there."""
LIMIT = 2.0
"""Gigabytes."""
FEW = 2000
"""A run that reads fewer texts writes none: they are tokenized in a tenth of a second."""
TOGETHER = 128
"""Texts per call of the tokenizer: as fast as any number from 16 to 1,024, and little memory."""
MEMORY = 256_000_000
"""About how many bytes of texts and ids are held in memory."""
LARGE = 128_000_000
"""Bytes of a file that is not merged with others any more."""


class TextIds:
    """The ids that `tokenizer` gives texts, with the special tokens it puts around them or without (`special`)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, special: bool = True) -> None:
        self.tokenizer, self.special = tokenizer, special
        self.most = MEMORY
        self._memory: dict[str, bytes] = {}
        self._held = self._read = 0  # bytes in memory; texts so far
        self._remembers = False
        self._store: Store | None = None
        self._new: dict[bytes, bytes] = {}  # what no file holds yet

    def __call__(self, text: str) -> list[int]:
        row = self._memory.get(text)
        if row is None:
            self.read([text])
            row = self._memory[text]
        ids: list[int] = np.frombuffer(row, np.int32).tolist()
        return ids

    def read(self, texts: Iterable[str]) -> None:
        """Tokenize the texts that are not known yet, together."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._memory]
        if not missing:
            return
        if self._held > self.most:
            self.keep()
            self._memory, self._held = {}, 0
        found: dict[str, bytes] = {}
        keys: dict[str, bytes] = {}
        if store := self._opened():
            keys = {text: _key(text) for text in missing}
            known = store.find(list(keys.values()))
            found = {text: known[key] for text, key in keys.items() if key in known}
        asked = [text for text in missing if text not in found]
        for text, ids in zip(asked, self.tokenize(asked), strict=True):
            found[text] = array("i", ids).tobytes()
            if store:
                self._new[keys[text]] = found[text]
        self._memory |= found
        self._read += len(found)
        self._held += sum(len(text) + len(row) + 200 for text, row in found.items())  # 200: what Python adds

    def remember(self) -> None:
        """Look for texts on disk from now on, and let `keep` write new ones there. Raises BadInput for a bad SWITCH."""
        self._remembers = most_bytes() > 0

    def keep(self) -> None:
        """Write what is new, unless few texts were read."""
        if self._store and self._new and self._read >= FEW:
            if tokenizer_fingerprint(self.tokenizer, self.special) == self._store.folder.name:
                self._store.add(self._new)
            else:  # somebody changed the tokenizer on the way
                self._remembers, self._store = False, None
            self._new = {}

    def _opened(self) -> "Store | None":
        if self._remembers and self._store is None:
            name = tokenizer_fingerprint(self.tokenizer, self.special)
            folder = tokens_folder()
            self._remembers = name is not None and folder is not None
            self._store = Store(folder / name) if name and folder else None
        return self._store

    def tokenize(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Yield the ids of texts, read by the tokenizer itself."""
        for begin in range(0, len(texts), TOGETHER):
            # verbose=False: sources over the model's limit are cut and counted by `Tokenization`.
            yield from self.tokenizer(
                list(texts[begin : begin + TOGETHER]), add_special_tokens=self.special, verbose=False,
                return_attention_mask=False,
            ).input_ids  # fmt: skip


@dataclass(frozen=True, eq=False)
class _File:
    """One file, memory-mapped: opening it reads its keys alone."""

    path: Path
    key: NDArray[np.bytes_]
    end: NDArray[np.int64]
    check: NDArray[np.int64]
    ids: NDArray[np.int32]

    @property
    def size(self) -> int:
        return self.ids.nbytes + 32 * len(self.key)

    def row(self, i: int) -> bytes:
        """Ids of row i, as bytes. Raises ValueError for a damaged row."""
        begin = int(self.end[i - 1]) if i else 0
        ids = self.ids[begin : int(self.end[i])].tobytes()
        if _check(_padded(self.key[i]), ids) != int(self.check[i]):
            raise ValueError(f"row {i} of {self.path} is damaged")
        return ids


class Store:
    """Rows of ids by the key of their text, in the files of `folder`; whatever goes wrong there, it only finds less."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, _File] = {}
        self._open()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Find the rows of those keys that are on disk."""
        found: dict[bytes, bytes] = {}
        wanted = np.array(keys, "S16")
        for file in list(self._files.values()):
            at = np.searchsorted(file.key, wanted)
            at[at == len(file.key)] = 0
            try:
                found |= {keys[i]: file.row(int(at[i])) for i in np.flatnonzero(file.key[at] == wanted).tolist()}
            except ValueError:
                self._remove(file.path)
        return found

    def add(self, rows: dict[bytes, bytes]) -> None:
        """Write rows, together with every file less than twice as large: so files stay few."""
        self._open()
        size, merged = _size(rows), []
        for file in sorted(self._files.values(), key=lambda file: file.size):
            if file.size > 2 * size or size + file.size > LARGE:
                break
            try:
                rows = {_padded(key): file.row(i) for i, key in enumerate(file.key)} | rows
            except ValueError:
                self._remove(file.path)
                continue
            size = _size(rows)
            merged.append(file.path)
        with suppress(OSError, CannotWrite):
            written = self._write(rows)
            for path in merged:
                if path != written:
                    self._remove(path)
            trim(self.folder.parent, most_bytes())
        self._open()

    def _open(self) -> None:
        """Open the files that are not open yet: other processes write too."""
        for path in _listed(self.folder, "*.safetensors"):
            if path in self._files:
                continue
            with suppress(OSError):
                if file := _mapped(path):
                    self._files[path] = file
                    os.utime(path)  # `trim` removes what was not used for longest
                else:
                    self._remove(path)

    def _write(self, rows: dict[bytes, bytes]) -> Path:
        keys = sorted(rows)
        values = [rows[key] for key in keys]
        key = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
        tensors: dict[str, NDArray[np.uint8] | NDArray[np.int64] | NDArray[np.int32]] = {
            "key": key,
            "end": np.cumsum([len(row) // 4 for row in values], dtype=np.int64),
            "check": np.array([_check(key, rows[key]) for key in keys], np.int64),
            "ids": np.frombuffer(b"".join(values), np.int32),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _name(key)
        write_with(path, lambda beside: save_file(tensors, beside))
        return path

    def _remove(self, path: Path) -> None:
        self._files.pop(path, None)
        with suppress(OSError):
            path.unlink()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase, special: bool) -> str | None:
    """Hash all that decides the ids of a text; None where that cannot be known.

    That is a tokenizer whose work is not wholly in its serialized form (of Python code, or of classes that are not
    transformers' own), or that draws at random.
    """
    fast = isinstance(tokenizer, transformers.PreTrainedTokenizerFast)
    if not fast or not type(tokenizer).__module__.startswith("transformers."):
        return None
    backend = tokenizer.backend_tokenizer
    if getattr(backend.model, "dropout", None):
        return None
    # Called first: a call resets what earlier calls of others (truncation, padding) left in the serialized form.
    sample = " ".join(["A line:  two blanks, é\n", *tokenizer.all_special_tokens, "end"])
    ids = tokenizer(sample, add_special_tokens=special, verbose=False).input_ids
    told = [
        transformers.__version__, tokenizers.__version__, type(tokenizer).__name__, special, sample, ids,
        backend.to_str(),
    ]  # fmt: skip
    return hashlib.sha256(repr(told).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def tokens_folder() -> Path | None:
    """Return where ids are kept; None where there is no home for a cache."""
    try:
        return cache_folder() / "tokens"
    except RuntimeError:
        return None


def most_bytes() -> int:
    """Read how many bytes SWITCH allows on disk. Raises BadInput."""
    given = os.environ.get(SWITCH) or str(LIMIT)
    try:
        return int(float(given) * 1e9)
    except (ValueError, OverflowError):
        raise BadInput(f"{SWITCH}={given!r}: expected gigabytes, or 0 to keep no token ids on disk.") from None


def kept_bytes() -> int:
    """Count the bytes that are kept on disk."""
    folder = tokens_folder()
    return sum(size for _, size, _ in _aged(folder)) if folder else 0


def trim(folder: Path, most: int) -> None:
    """Remove the files that were not used for longest until at most `most` bytes are left."""
    files = _aged(folder)
    left = sum(size for _, size, _ in files)
    for _, size, path in files:
        if left <= most:
            break
        with suppress(OSError):
            path.unlink()
            left -= size


def _aged(folder: Path) -> list[tuple[float, int, Path]]:
    """List time, size and path of all files of all tokenizers, the oldest first; also what a killed process left."""
    found = []
    for path in _listed(folder, "*/*.safetensors*"):
        with suppress(OSError):  # another process may have removed it
            told = path.stat()
            found.append((told.st_mtime, told.st_size, path))
    return sorted(found)


def _listed(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _mapped(path: Path) -> _File | None:
    """Map a file into memory; None when it is damaged. Raises OSError."""
    try:
        with safe_open(path, "pt") as opened:
            key, end, check, ids = (opened.get_tensor(name).numpy() for name in ("key", "end", "check", "ids"))
    except (SafetensorError, RuntimeError, TypeError):
        return None
    types = (key.dtype, end.dtype, check.dtype, ids.dtype) == (np.uint8, np.int64, np.int64, np.int32)
    shapes = key.shape[1:] == (16,) and end.shape == check.shape == key.shape[:1] and ids.ndim == 1
    whole = types and shapes and key.size > 0 and path.name == _name(key)
    return _File(path, key.view("S16").ravel(), end, check, ids) if whole else None


def _name(key: NDArray[np.uint8]) -> str:
    return f"{hashlib.sha256(key.tobytes()).hexdigest()[:32]}.safetensors"


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _padded(key: bytes) -> bytes:
    return key.ljust(16, b"\0")  # numpy drops zeros at the end of bytes


def _check(key: bytes, ids: bytes) -> int:
    return zlib.crc32(ids, zlib.crc32(key))


def _size(rows: dict[bytes, bytes]) -> int:
    return sum(map(len, rows.values())) + 32 * len(rows)
