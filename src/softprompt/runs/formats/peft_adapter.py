"""Read the folder of an HF PEFT adapter: a config and named tensors. No code in it is ever run.

adapter_config.json            which method, how many rows, for what kind of model
adapter_model.safetensors      or, by older versions, adapter_model.bin: read as tensors alone (weights_only)
"""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from softprompt.errors import BadArtefact, first_line
from softprompt.runs.formats.hub import fetch
from softprompt.runtime.files import JsonObject, file_sha256

CONFIG, TENSORS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


@dataclass(frozen=True)
class Adapter:
    """The contents of an adapter's folder, not interpreted yet."""

    folder: Path
    config: JsonObject
    tensors: dict[str, Tensor]
    sha256: dict[str, str]
    """Hashes of both files, by name."""
    origin: str
    """Where the user finds it: a path, or the hub id and its commit."""

    @property
    def name(self) -> str:
        """Name without its place: the last part of its path or id."""
        return Path(self.origin.partition("@")[0]).name

    @property
    def peft_type(self) -> str:
        """Type that the config names: "PROMPT_TUNING", ..."""
        return str(self.config["peft_type"])

    @property
    def config_path(self) -> Path:
        return self.folder / CONFIG


def read_adapter(where: str | Path) -> Adapter:
    """Read an adapter from a folder or, by its id, from the Hugging Face hub.

    Raises BadArtefact for a damaged one; BadInput when `where` is neither, or the download fails.
    """
    folder, origin = Path(where), str(Path(where).resolve())
    if folder.is_file():
        raise BadArtefact(f"{folder} is a file; expected the folder that PEFT has saved.")
    if not folder.is_dir():
        folder, origin = fetch(str(where), CONFIG, TENSORS, PICKLED)
    config = _read_config(folder)
    path = folder / TENSORS if (folder / TENSORS).is_file() else folder / PICKLED
    if not path.is_file():
        raise BadArtefact(
            f"{folder} holds neither {TENSORS} nor {PICKLED}, so no weights; its config alone is not enough. "
            "(Of the 17 checkpoints that the authors of DePT released, 12 lack them.)"
        )
    tensors = _read_safetensors(path) if path.name == TENSORS else _read_pickled(path)
    return Adapter(folder, config, tensors, {one.name: file_sha256(one) for one in (folder / CONFIG, path)}, origin)


def _read_config(folder: Path) -> JsonObject:
    path = folder / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        inside = sorted(one.parent.name for one in folder.glob(f"*/{CONFIG}"))
        do = f"give one of its folders: {', '.join(inside)}" if inside else "give the folder that PEFT has saved"
        raise BadArtefact(f"{folder} holds no {CONFIG}; {do}.") from None
    except (OSError, ValueError) as error:
        raise BadArtefact(f"{path} cannot be read: {error}.") from None
    if not isinstance(found, dict) or not isinstance(found.get("peft_type"), str):
        raise BadArtefact(f"{path} names no peft_type, so it is not a config of PEFT.")
    return found


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadArtefact(f"{path} is truncated or no safetensors file ({error}). Copy it again.") from None


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        why = first_line(error)
        raise BadArtefact(f"{path} is damaged, or holds more than tensors, which is never loaded ({why}).") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise BadArtefact(f"{path} holds no named tensors.")
    return {str(name): tensor for name, tensor in found.items()}
