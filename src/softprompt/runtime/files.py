"""Files that never look finished when they are not: written beside, then renamed. And their hashes."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from softprompt.errors import CannotWrite


def write_text(path: Path, text: str) -> None:
    _replace(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """JSON Lines."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """safetensors."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _replace(path, lambda beside: save_file(whole, beside, metadata=metadata))


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Whatever `write` writes to the path it is given."""
    _replace(path, write)


def make_folder(folder: Path) -> None:
    """Create `folder` and make sure that files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"The folder {folder} cannot be made: {error.strerror}. Choose another --output.") from None
    if not os.access(folder, os.W_OK):
        raise CannotWrite(f"The folder {folder} cannot be written. Choose another --output.")


Files = Mapping[str, bytes]
"""What a folder holds: the names of its files, with those of the folders between, and their bytes."""


def read_folder(folder: Path) -> Files:
    """All files in `folder`, none where there is no folder; parts of files are left out."""
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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(beside)
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        raise CannotWrite(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or error}. What was saved there before is "
            "untouched; free space or choose another folder."
        ) from None
    finally:
        beside.unlink(missing_ok=True)
