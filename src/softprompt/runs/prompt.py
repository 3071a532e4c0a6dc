"""Read and write tuned prompts: folders that work with any copy of their backbone. Never pickle.

    prompt.safetensors   the folded tensors: prompt (l,d); "prompt+position": and offset (s,d); "prompt+token": and
                         network.down (d,r), ...
    prompt.json          their card: kind, method, backbone and its fingerprint, template, choices, scores
    method.safetensors   the unfolded tensors, to continue training or to study (not needed to use the prompt)
    README.md            a model card

A prompt of kind "input" depends on its input and cannot be folded: it has no prompt.safetensors, and is used with its
method and method.safetensors. A baseline (kind "network") has, instead of both, PEFT's adapter_config.json and
adapter_model.safetensors, or network.safetensors: the tensors that replace the network's own. prompt.json is written
last: a folder that has it is complete.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from softprompt.backbones import Backbone, Placement
from softprompt.errors import BadArtefact, BadInput, PromptMismatch
from softprompt.methods.folded import (
    NETWORK,
    AdapterTensors,
    Folded,
    Kind,
    TokenOffset,
    Unfolded,
    stored,
    stored_tensors,
)
from softprompt.methods.offsets.position_table import PositionTable
from softprompt.methods.offsets.token_network import TokenNetwork
from softprompt.methods.prompts.free import Free
from softprompt.methods.registry import blank, canonical_name, get_method, parse_options
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runs.fingerprint import Fingerprint, fingerprint
from softprompt.runtime.files import JsonObject, write_json, write_tensors
from softprompt.tasks.chat import Chat

FORMAT = 1
FOLDED, UNFOLDED = "prompt.safetensors", "method.safetensors"
ADAPTER_CONFIG, ADAPTER, TRAINED = "adapter_config.json", "adapter_model.safetensors", "network.safetensors"
_METADATA = {FOLDED: {"softprompt": "prompt"}, UNFOLDED: {"softprompt": "method"}}


class PromptCard(BaseModel):
    """prompt.json: what a prompt is, what it is for and how it scored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    name: str
    kind: Kind
    method: str
    options: dict[str, Any]  # the method's own, which it checks
    backbone: str
    fingerprint: Fingerprint
    length: int
    positions: int | None
    """Source positions that have an offset; None: no offset by position."""
    zeroed: int
    """Offset rows that training never reached, set to zero."""
    max_source: int
    placement: Placement = "front"
    """Place of its rows among the tokens (softprompt.backbones.placement)."""
    task: str
    template: str
    chat: Chat | None = None
    """Chat template that conversations are written with; `template` holds its own part of it."""
    choices: list[str]
    label: str | None
    words: dict[str, str] | None
    metrics: list[str]
    trainable: int
    stored: int
    """Values needed to use the prompt: those in prompt.safetensors or in the file that replaces it."""
    seed: int | None
    """Seed of the run; None: not known, as for an imported prompt."""
    start_from: str | None = None
    """Name of the run that this one started from; None: from the method's initialization."""
    scores: dict[str, Any]  # as older versions wrote them, too
    """Scores by split, and the floors ("majority", "zero_shot")."""
    best: dict[str, Any] | None
    """Step, metric and value of the checkpoint that was selected."""
    stopped: str | None
    versions: dict[str, str]

    @field_validator("method")
    @classmethod
    def _named_as_today(cls, value: str) -> str:
        return canonical_name(value)


@dataclass(frozen=True)
class Prompt:
    """A tuned prompt: plain tensors and their card."""

    card: PromptCard
    form: Folded | Unfolded | AdapterTensors

    def __repr__(self) -> str:
        card = self.card
        size = f"{card.stored:,} values" if card.kind == "network" else f"{card.length} rows"
        return f"Prompt({card.name!r}, {card.method}, {size}, {card.backbone})"

    @property
    def folded(self) -> Folded:
        """The folded tensors. Raises BadInput for what has none: a prompt that depends on the input, and a baseline."""
        if isinstance(self.form, AdapterTensors):
            raise BadInput(
                f"{self.card.name!r} ({self.card.method}) is a baseline: it changes the network, and has no rows."
            )
        if isinstance(self.form, Unfolded):
            raise BadInput(
                f"The prompt {self.card.name!r} ({self.card.method}) depends on the input, so it cannot be "
                "folded to rows. Use it with softprompt itself: predict, evaluate."
            )
        return self.form

    def soft_prompt(self) -> SoftPrompt:
        """Make a soft prompt that a bank can hold; it answers as the trained one did."""
        if isinstance(self.form, AdapterTensors):
            method = get_method(self.card.method)
            return parse_options(method, self.card.options).stored(self.form).eval()
        if isinstance(self.form, Unfolded):
            made = _blank(self.card)
            made.load_state_dict(self.form.tensors)
            return made.eval()
        rows, form = Free(self.form.prompt), self.form
        if form.network is not None:
            return SoftPrompt(rows, TokenNetwork(form.network)).eval()
        return SoftPrompt(rows, None if form.offset is None else PositionTable(form.offset)).eval()

    def check(self, backbone: Backbone) -> None:
        """Raise PromptMismatch when `backbone` is not the prompt's, or places prompts elsewhere."""
        self.check_placement(backbone.placement)
        found = fingerprint(backbone)
        if not self.card.fingerprint.agrees(found):
            raise PromptMismatch(
                f"The prompt {self.card.name!r} was tuned for {self.card.backbone} ({self.card.fingerprint.short()}), "
                f"not for {backbone.name} ({found.short()}). Use that backbone, or train the prompt again for this one."
            )
        if self.card.fingerprint.network is None and found.network:
            warnings.warn(
                f"The card of {self.card.name!r} knows the backbone's embedding table and nothing of the network under "
                "it, which is not checked: it is of softprompt 0.1.0, or was trained with --fsdp.",
                stacklevel=2,
            )

    def check_placement(self, placement: str) -> None:
        """Raise PromptMismatch when the rows were trained for another placement."""
        if placement != self.card.placement:
            raise PromptMismatch(
                f"The prompt {self.card.name!r} was tuned for the placement {self.card.placement!r}, and this "
                f"backbone places prompts {placement!r}. Give placement={self.card.placement} "
                f"(--placement {self.card.placement}), or train a prompt for the other placement."
            )

    def save(self, folder: Path, unfolded: SoftPrompt | None = None) -> None:
        """Write the prompt to a folder; `unfolded` is what it was folded from, to start other runs from."""
        own = _main_file(self.card)
        meant = {own}
        if isinstance(self.form, AdapterTensors) and self.form.adapter is not None:
            write_json(folder / ADAPTER_CONFIG, self.form.adapter)
            meant.add(ADAPTER_CONFIG)
        if isinstance(self.form, Folded):
            if unfolded is not None:
                write_tensors(folder / UNFOLDED, unfolded.state_dict(), {"softprompt": "method"})
            meant.add(UNFOLDED)
        write_tensors(folder / own, stored_tensors(self.form), _METADATA.get(own, {"format": "pt"}))
        for other in {FOLDED, UNFOLDED, ADAPTER_CONFIG, ADAPTER, TRAINED} - meant:  # those of an overwritten run
            (folder / other).unlink(missing_ok=True)
        write_json(folder / "prompt.json", self.card.model_dump())


def _main_file(card: PromptCard) -> str:
    """Return the name of the file that using the prompt needs."""
    if card.kind == "network":
        return ADAPTER if card.method.startswith("peft:") else TRAINED
    return UNFOLDED if card.kind == "input" else FOLDED


def load_prompt(folder: str | Path) -> Prompt:
    """Read a tuned prompt from the folder of a finished run. Raises BadArtefact, saying what is wrong with it."""
    folder = Path(folder)
    card = _read_card(folder)
    path = folder / _main_file(card)
    tensors = read_tensors(path)
    if card.kind == "network":
        return Prompt(card, _read_adapted(card, path, tensors))
    expected = _expected(card, tensors, folder)
    found, wanted = ({name: tuple(t.shape) for name, t in one.items()} for one in (tensors, expected))
    if found != wanted:
        raise BadArtefact(f"{path} holds {found}, but prompt.json says {wanted}. It is not this prompt's file.")
    for name, tensor in tensors.items():
        _check_values(path, name, tensor, expected[name].dtype)
    if card.kind == "input":
        return Prompt(card, Unfolded(tensors))
    network = None
    if card.kind == "prompt+token":
        network = TokenOffset(*(tensors[f"{NETWORK}{name}"] for name in TokenOffset._fields))
    return Prompt(card, Folded(card.kind, tensors["prompt"], tensors.get("offset"), card.zeroed, network))


def _read_adapted(card: PromptCard, path: Path, tensors: dict[str, Tensor]) -> AdapterTensors:
    """Check what a baseline stored. Whether it fits a network is checked when it is installed there."""
    form = AdapterTensors(tensors, _read_json(path.with_name(ADAPTER_CONFIG)) if path.name == ADAPTER else None)
    if stored(form) != card.stored:
        raise BadArtefact(f"{path} holds {stored(form):,} values, but prompt.json says {card.stored:,}.")
    for name, tensor in tensors.items():
        _check_values(path, name, tensor, torch.float32)
    return form


def _expected(card: PromptCard, tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Return empty tensors with the names, shapes and types that the file with `tensors` must have."""
    d = card.fingerprint.d
    if card.kind == "input":
        try:
            return _blank(card).state_dict()
        except BadInput as error:
            raise BadArtefact(f"{folder / 'prompt.json'} names a method that cannot be made: {error}") from None
    expected = {"prompt": torch.empty(card.length, d)}
    if card.positions is not None:
        expected["offset"] = torch.empty(card.positions, d)
    if card.kind == "prompt+token":
        r = tensors[f"{NETWORK}down"].shape[-1] if f"{NETWORK}down" in tensors else 0
        shapes = TokenOffset(torch.empty(d, r), torch.empty(r), torch.empty(r, d), torch.empty(d))
        expected |= {f"{NETWORK}{name}": tensor for name, tensor in shapes._asdict().items()}
    return expected


def _blank(card: PromptCard) -> SoftPrompt:
    """Make the soft prompt of a card of kind "input", before its tensors are loaded."""
    method = get_method(card.method)
    return blank(method, parse_options(method, card.options), card.fingerprint.d, card.max_source, card.choices)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of one of a run's files. Raises BadArtefact when it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise BadArtefact(f"{path} is missing; expected it beside prompt.json. Copy the whole folder.") from None
    except (SafetensorError, OSError) as error:
        raise BadArtefact(f"{path} is truncated or no safetensors file ({error}). Copy it again.") from None


def _check_values(path: Path, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype or not bool(tensor.isfinite().all()):
        wanted = str(dtype).removeprefix("torch.")
        raise BadArtefact(f"{path}: {name} is {tensor.dtype} or not finite; expected finite {wanted} values.")


def _read_card(folder: Path) -> PromptCard:
    path = folder / "prompt.json"
    if not folder.is_dir():
        raise BadArtefact(f"{folder} is not a folder; expected a finished run (the --output of `softprompt train`).")
    if not path.is_file():
        unfinished = (folder / "run.json").is_file()
        do = f"finish it with: softprompt train --resume {folder}" if unfinished else "give the --output of a run"
        raise BadArtefact(f"{folder} holds no prompt.json, so it is not a finished run; {do}.")
    try:
        value = _read_json(path)
        if value.get("format") != FORMAT:
            raise BadArtefact(f"{path} has format {value.get('format')!r}; this version of softprompt reads {FORMAT}.")
        return PromptCard.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadArtefact(f"{path} is not a valid prompt.json: {place}: {first['msg']}.") from None


def _read_json(path: Path) -> JsonObject:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("expected an object")
    except (OSError, ValueError) as error:
        raise BadArtefact(f"{path} cannot be read: {error}.") from None
    return value
