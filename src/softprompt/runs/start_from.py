"""Start a prompt from another finished run (`train --start-from RUN`).

DePT's few-shot setting: prompt, A and B of a source task start those of the target task (Shi & Lipani, ICLR
2024; `--peft_model_id` of their code). Here it works for every method, part by part:

    the same prompt part    from that part's own tensors
    a part that accepts rows from the folded rows of any run (free rows; mpt)
    an offset part          from that part's own tensors; from its initialization when the predecessor has none

So the new run starts as the same function that its predecessor ended as: the same rows and, at every position or
token, the same offset. What cannot start like this is refused before anything is written.

A method that mixes the prompts of other runs (ATTEMPT's `sources`) reads them here too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from softprompt.backbones import Backbone
from softprompt.errors import BadArtefact, BadInput
from softprompt.methods.folded import stored_tensors
from softprompt.methods.registry import METHODS, Method, Options, get_method
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runs.prompt import FOLDED, UNFOLDED, Prompt, load_prompt, read_tensors
from softprompt.runtime.files import file_sha256

SAME = 1e-2
"""Largest difference of equal folds, as a share of the largest entry: a GPU may fold with ten bits (TF32)."""


class StartFrom(BaseModel):
    """The run that another one started from, as run.json records it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    folder: str
    sha256: dict[str, str]
    """Hashes of its tensor files, by name."""


@dataclass(frozen=True)
class Predecessor:
    """A finished run to start from."""

    folder: Path
    prompt: Prompt
    unfolded: dict[str, Tensor]
    """Tensors of its parts, named as in their soft prompt's state; empty when the folder has none."""
    record: StartFrom

    @property
    def method(self) -> Method:
        """Method of the run."""
        return get_method(self.prompt.card.method)

    def completed(self, method: Method, given: Mapping[str, object]) -> dict[str, object]:
        """Add to the options `given` those of this run that the carried tensors depend on.

        Raises BadInput when `given` already says how the prompt is initialized.
        """
        for name, value in given.items():
            if name not in (*method.options.of_prompt, *method.options.of_offset):
                raise BadInput(
                    f"{name}={_plain(value)} says where the prompt of {method.name} starts, and so does "
                    f"--start-from {self.folder}; give one of them."
                )
        was = self.prompt.card.options
        return {name: was[name] for name in self._carried(method) if name in was} | dict(given)

    def check(self, method: Method, options: Options, max_source: int) -> None:
        """Raise BadInput when `method` with `options` and `max_source` source tokens cannot start as this run ended."""
        reason = self._refusal(method)
        if reason is not None:
            able = [name for name, other in METHODS.items() if self._refusal(other) is None]
            do = f"Methods that can: {', '.join(able)} (--method)." if able else "Train without --start-from."
            raise BadInput(f"{method.name} cannot start from {self}: {reason}. {do}")
        was = self.prompt.card.options
        for name in self._carried(method):
            value = getattr(options, name)
            if name != "positions" and name in was and value != was[name]:
                raise BadInput(
                    f"{method.name} with {name}={_plain(value)} cannot start from {self}, which has "
                    f"{name}={_plain(was[name])}. Leave {name} out, and it is the same, or train without --start-from."
                )
        positions = self.prompt.card.positions
        asked = getattr(options, "positions", None)
        if positions not in (None, asked or max_source):
            given = f"--max-source {max_source}" if asked is None else f"positions={asked}"
            raise BadInput(
                f"{method.name} with {given} cannot start from {self}, which has an offset for {positions} source "
                f"positions. Give --max-source {positions}, or --set positions={positions} for an offset on the first "
                f"{positions} tokens of whatever is read."
            )

    def start(self, method: Method, prompt: SoftPrompt) -> None:
        """Set `prompt`, just made by `method` with checked options, to what this run ended with.

        Raises BadArtefact when method.safetensors is not this run's.
        """
        if method.prompt_part == self.method.prompt_part and self.unfolded:
            prompt.prompt.load_state_dict(self._tensors("prompt.", prompt.prompt))
        else:
            prompt.prompt.set_rows(self.prompt.folded.prompt)
        if prompt.offset is not None and self.method.offset is not None:
            prompt.offset.start_from(self._tensors("offset.", prompt.offset))
        if prompt.kind == "input":
            return  # not folded: there is nothing to compare with
        made, expected = (stored_tensors(form) for form in (prompt.fold(), self.prompt.form))
        for name in made.keys() & expected.keys():
            if not _same(made[name], expected[name]):
                raise BadArtefact(
                    f"{self.folder / UNFOLDED} does not fold to what {FOLDED} beside it holds, so one of them is not "
                    "this run's. Copy the whole folder again."
                )

    def _refusal(self, method: Method) -> str | None:
        """Explain why `method` cannot start from this run, whatever its options; None when it can."""
        was = self.method
        if "network" in (was.kind, method.kind):
            return "a baseline changes the network itself, so it starts from the network and nothing starts from it"
        if was.offset is not None and method.offset is None:
            return "its offset cannot be kept, and its rows without their offset are another prompt"
        if was.offset is not None and method.offset_part != was.offset_part:
            return f"its offset ({was.offset_part}) is not made as this one's is ({method.offset_part})"
        if was.kind == "input" and method.prompt_part != was.prompt_part:
            return "its rows depend on the input, so there are none to start from"
        accepts_rows = method.options.accepts_rows
        if not accepts_rows and method.prompt_part != was.prompt_part:
            return f"rows made by {method.prompt_part} cannot be set to given values, as free rows can"
        if not self.unfolded and (not accepts_rows or was.offset is not None):
            return f"{UNFOLDED}, with the tensors to go on training, is missing there"
        return None

    def _carried(self, method: Method) -> list[str]:
        """List the options of `method` that the tensors taken from this run depend on."""
        names = {"length": None}
        if method.prompt_part == self.method.prompt_part:
            names |= dict.fromkeys(method.options.of_prompt)
        if method.offset_part == self.method.offset_part:
            names |= dict.fromkeys(method.options.of_offset)
        return list(names)

    def _tensors(self, prefix: str, part: nn.Module) -> dict[str, Tensor]:
        """Return the tensors for `part`. Raises BadArtefact when names or shapes are not the part's."""
        found = {n.removeprefix(prefix): tensor for n, tensor in self.unfolded.items() if n.startswith(prefix)}
        shapes, expected = ({n: tuple(t.shape) for n, t in one.items()} for one in (found, part.state_dict()))
        if shapes != expected:
            raise BadArtefact(
                f"{self.folder / UNFOLDED} holds {shapes} for the part {prefix.rstrip('.')!r}; prompt.json asks for "
                f"{expected}. It is not this run's file."
            )
        return found

    def __str__(self) -> str:
        return f"{self.folder} ({self.method.name} on {self.prompt.card.task})"


def read_predecessor(folder: str | Path) -> Predecessor:
    """Read the finished run in `folder`. Raises BadArtefact when it is not one, or is damaged."""
    folder = Path(folder)
    prompt = load_prompt(folder)
    get_method(prompt.card.method)  # raises now when it is unknown
    files = [path for path in (folder / FOLDED, folder / UNFOLDED) if path.is_file()]
    unfolded = read_tensors(folder / UNFOLDED) if folder / UNFOLDED in files else {}
    record = StartFrom(
        name=prompt.card.name,
        folder=str(folder.resolve()),
        sha256={path.name: file_sha256(path) for path in files},
    )
    return Predecessor(folder, prompt, unfolded, record)


def read_again(record: StartFrom, does: str = "starts from") -> Predecessor:
    """Read the run of `record` again, for a run that stopped before its first checkpoint.

    `does` says what that run does with it, for the message. Raises BadArtefact when it is gone or has changed.
    """
    why = f"This run stopped before its first checkpoint, so it needs the run it {does}, {record.name}"
    do = "Put it back as it was, or train again with --overwrite."
    try:
        found = read_predecessor(record.folder)
    except BadArtefact as error:
        raise BadArtefact(f"{why}: {error} {do}") from None
    if found.record.sha256 != record.sha256:
        raise BadArtefact(f"{why}, but {record.folder} is not what it was: its tensors have changed. {do}")
    return found


def read_sources(options: Options) -> list[Predecessor]:
    """Read the finished runs that `options` name, whose prompts the method mixes. Raises BadArtefact and BadInput."""
    found = [read_predecessor(run) for run in options.runs()]
    for source in found:
        card = source.prompt.card
        if card.kind != "prompt":
            raise BadInput(
                f"The source {source} is of kind {card.kind!r}: it is more than its rows. Give runs of kind 'prompt'."
            )
        if card.length != options.length:
            raise BadInput(
                f"The source {source} has {card.length} rows, and this prompt {options.length}: mixed prompts must "
                f"have one length. Give length={card.length}, or other runs."
            )
    return found


def source_rows(sources: Sequence[Predecessor], backbone: Backbone) -> Float[Tensor, "k l d"] | None:
    """Stack the rows of `sources` (k,l,d); None without any. Raises PromptMismatch for one of another backbone."""
    for source in sources:
        source.prompt.check(backbone)
    return torch.stack([source.prompt.folded.prompt for source in sources]) if sources else None


def _same(found: Tensor, expected: Tensor) -> bool:
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0.0, atol=SAME * largest)


def _plain(value: object) -> str:
    return json.dumps(value)
