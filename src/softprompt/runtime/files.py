"""Write files so that an unfinished one is never taken for a whole one (written beside, then renamed); hash them."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from softprompt.errors import CannotWrite

JsonObject = dict[str, object]
"""A JSON object as it was parsed: its values are checked where they are used."""


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8."""
    _replace(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_lines(path: Path, values: Iterable[object]) -> None:
    """Write values as JSON Lines."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write named tensors as safetensors."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _replace(path, lambda beside: save_file(whole, beside, metadata=metadata))


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file with a function that takes the path to write to."""
    _replace(path, write)


def make_folder(folder: Path) -> None:
    """Create `folder`. Raises CannotWrite when that fails, or when no files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"The folder {folder} cannot be made: {error.strerror}. Choose another --output.") from None
    if not os.access(folder, os.W_OK):
        raise CannotWrite(f"The folder {folder} cannot be written. Choose another --output.")


Files = Mapping[str, bytes]
"""The files of a folder: their paths relative to it, and their bytes."""


def read_folder(folder: Path) -> Files:
    """Read all files in `folder` but unfinished ones; none where there is no folder."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def write_folder(folder: Path, files: Files, last: str) -> None:
    """Make `folder` hold these files and no others; `last` is written after the others."""
    for name in sorted(files, key=lambda name: name == last):
        make_folder((folder / name).parent)
        write_with(folder / name, lambda path, name=name: path.write_bytes(files[name]))  # type: ignore[misc]
    for name in read_folder(folder).keys() - files.keys():
        (folder / name).unlink()


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then rename: whoever reads it finds the old file or the new one, whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.touch()
        mode = beside.stat().st_mode  # what the umask gives; safetensors writes a file that its owner alone can read
        write(beside)
        beside.chmod(mode)
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        raise CannotWrite(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or error}. What was saved there before is "
            "untouched; free space or choose another folder."
        ) from None
    finally:
        beside.unlink(missing_ok=True)
