"""The tuned prompt on disk: a folder that any copy of its backbone can read. Never pickle.

    prompt.safetensors   the folded tensors: prompt (l,d) and, kind B, offset (s,d)
    prompt.json          what they are: kind, method, backbone and its fingerprint, template, choices, scores
    method.safetensors   the unfolded tensors, to go on training or to study (not needed to use the prompt)
    README.md            a model card

prompt.json is written last: a folder that has it is whole.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from softprompt.backbones import Backbone
from softprompt.disk import write_json, write_tensors
from softprompt.errors import BadArtefact, PromptMismatch
from softprompt.offsets import PositionTable
from softprompt.prompts import Free
from softprompt.soft import Folded, Kind, SoftPrompt

FORMAT = 1
FOLDED, UNFOLDED = "prompt.safetensors", "method.safetensors"
SAMPLED = 256


class Fingerprint(BaseModel):
    """Which embedding table a prompt was tuned on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: int
    d: int
    dtype: str
    sha256: str
    """Of the table in bfloat16: the same whether the backbone is loaded in float32 or bfloat16."""
    sample: list[float]
    """Entries at fixed places, for a table in float16, which rounds otherwise."""

    def agrees(self, other: "Fingerprint") -> bool:
        if (self.v, self.d) != (other.v, other.d):
            return False
        if "float16" not in (self.dtype, other.dtype):
            return self.sha256 == other.sha256
        mine, others = torch.tensor(self.sample), torch.tensor(other.sample)
        return bool(torch.allclose(mine, others, rtol=2**-7, atol=1e-6))

    def short(self) -> str:
        return f"v={self.v}, d={self.d}, table {self.sha256[:8]}"


def fingerprint(backbone: Backbone) -> Fingerprint:
    table = backbone.embedding.weight.detach()
    rounded = table.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy()
    flat = table.flatten()
    places = torch.linspace(0, flat.numel() - 1, SAMPLED, dtype=torch.float64).long().to(flat.device)
    return Fingerprint(
        v=table.shape[0],
        d=table.shape[1],
        dtype=str(table.dtype).removeprefix("torch."),
        sha256=hashlib.sha256(rounded.tobytes()).hexdigest(),
        sample=[float(f"{value:.6g}") for value in flat[places].float().tolist()],
    )


class Card(BaseModel):
    """prompt.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    name: str
    kind: Kind
    method: str
    options: dict[str, Any]
    backbone: str
    fingerprint: Fingerprint
    length: int
    positions: int | None
    """Source tokens that have an offset; None without one."""
    zeroed: int
    """Offset rows that training never reached, set to zero."""
    max_source: int
    task: str
    template: str
    choices: list[str]
    label: str | None
    words: dict[str, str] | None
    metrics: list[str]
    trainable: int
    stored: int
    """Values in prompt.safetensors."""
    seed: int | None
    """None: not known, of an imported prompt."""
    start_from: str | None = None
    """Name of the run that this one started from; None: from the method's own start."""
    scores: dict[str, Any]
    """Of each split, and the floors beside them."""
    best: dict[str, Any] | None
    stopped: str | None
    versions: dict[str, str]


@dataclass(frozen=True)
class Prompt:
    """A tuned prompt as it is stored: plain tensors and their card."""

    card: Card
    folded: Folded

    def soft_prompt(self) -> SoftPrompt:
        """A soft prompt that a bank can hold; it answers as the tuned one did."""
        offset = None if self.folded.offset is None else PositionTable(self.folded.offset)
        return SoftPrompt(Free(self.folded.prompt), offset).eval()

    def check(self, backbone: Backbone) -> None:
        """Raise PromptMismatch when `backbone` is not the one this prompt was tuned for."""
        found = fingerprint(backbone)
        if not self.card.fingerprint.agrees(found):
            raise PromptMismatch(
                f"The prompt {self.card.name!r} was tuned for {self.card.backbone} ({self.card.fingerprint.short()}), "
                f"not for {backbone.name} ({found.short()}). Use that backbone, or tune the prompt anew for this one."
            )

    def save(self, folder: Path, unfolded: SoftPrompt | None = None) -> None:
        if unfolded is not None:
            write_tensors(folder / UNFOLDED, unfolded.state_dict(), {"softprompt": "method"})
        tensors = {"prompt": self.folded.prompt}
        if self.folded.offset is not None:
            tensors["offset"] = self.folded.offset
        write_tensors(folder / FOLDED, tensors, {"softprompt": "prompt"})
        write_json(folder / "prompt.json", self.card.model_dump())


def load_prompt(folder: str | Path) -> Prompt:
    """Read a tuned prompt. Raises BadArtefact, saying what is wrong, before anything else is done with it."""
    folder = Path(folder)
    card = _read_card(folder)
    path = folder / FOLDED
    tensors = read_tensors(path)
    d = card.fingerprint.d
    expected = {"prompt": (card.length, d)}
    if card.positions is not None:
        expected["offset"] = (card.positions, d)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise BadArtefact(f"{path} holds {found}, but prompt.json says {expected}. It is not this prompt's file.")
    for name, tensor in tensors.items():
        _check_values(path, name, tensor)
    return Prompt(card, Folded(card.kind, tensors["prompt"], tensors.get("offset"), card.zeroed))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one of a run's files. Raises BadArtefact when it is not there or not whole."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise BadArtefact(f"{path} is missing; expected it beside prompt.json. Copy the whole folder.") from None
    except (SafetensorError, OSError) as error:
        raise BadArtefact(f"{path} is truncated or no safetensors file ({error}). Copy it again.") from None


def _check_values(path: Path, name: str, tensor: Float[Tensor, "..."]) -> None:
    if tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()):
        raise BadArtefact(f"{path}: {name} is {tensor.dtype} or not finite; expected finite float32 values.")


def _read_card(folder: Path) -> Card:
    path = folder / "prompt.json"
    if not folder.is_dir():
        raise BadArtefact(f"{folder} is no folder; expected the folder of a finished run.")
    if not path.is_file():
        unfinished = (folder / "run.json").is_file()
        do = f"finish it with: softprompt train --resume {folder}" if unfinished else "give the --output of a run"
        raise BadArtefact(f"{folder} holds no prompt.json, so no finished run; {do}.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("expected an object")
        if value.get("format") != FORMAT:
            raise BadArtefact(f"{path} has format {value.get('format')!r}; this version of softprompt reads {FORMAT}.")
        return Card.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadArtefact(f"{path} is no card of ours: {place}: {first['msg']}.") from None
    except (OSError, ValueError) as error:
        raise BadArtefact(f"{path} cannot be read: {error}.") from None
