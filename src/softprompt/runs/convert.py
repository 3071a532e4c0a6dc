"""export_prompt(), import_prompt(): prompts in the formats of other libraries, written and read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from softprompt.backbones import Backbone, load_backbone
from softprompt.backbones.families import get_family
from softprompt.backbones.load import describe
from softprompt.errors import BadInput, PromptMismatch
from softprompt.runs.external import save_unscored, unscored_card
from softprompt.runs.formats.peft_adapter import Adapter, read_adapter
from softprompt.runs.formats.peft_import import Imported, interpret
from softprompt.runs.formats.registry import BackboneFacts, get_exporter
from softprompt.runs.prompt import Prompt, load_prompt
from softprompt.runs.run_folder import check_folder
from softprompt.runtime.files import make_folder, write_json

RECORD = "import.json"
KIND_NAMES = {"causal": "a decoder-only model", "seq2seq": "an encoder-decoder", "masked": "a masked model"}


@dataclass(frozen=True, repr=False)
class Export:
    """A prompt that was written in another library's format."""

    name: str
    """Name of the run."""
    format: str
    folder: Path
    notes: tuple[str, ...] = ()
    """What the user should know."""

    def as_json(self) -> dict[str, object]:
        """Return it as a dictionary that JSON can hold."""
        return {"name": self.name, "format": self.format, "folder": str(self.folder), "notes": list(self.notes)}

    def __repr__(self) -> str:
        return f"Export({self.name!r}, {self.format}, {str(self.folder)!r})"


def export_prompt(
    run: str | Path,
    output: str | Path,
    to: str = "peft",
    backbone: str | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Export:
    """Write the prompt of a finished run in another library's format.

    Args:
        run: Folder of the run.
        output: Folder to write; it must be new.
        to: Name of the format: "peft", "vllm" or a registered one.
        backbone: Folder or hub id where the run's backbone is now; only its config is read.
        overwrite: Replace what `output` holds, unless it is a run.
        console: Where notes are printed; None: stderr.

    Raises:
        BadInput: The format cannot hold a prompt of this kind, or `output` cannot be used; nothing is written.
        PromptMismatch: The backbone has embeddings of another size.
    """
    write = get_exporter(to)
    prompt, folder = load_prompt(run), Path(output)
    card = prompt.card
    if folder.resolve() == Path(run).resolve():
        raise BadInput(f"--output {folder} is the run itself; choose another folder.")
    if (folder / "run.json").is_file():  # not even with --overwrite: what training took hours for
        raise BadInput(f"--output {folder} is a run; choose another folder.")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not overwrite):
        raise BadInput(f"--output {folder} is there already; choose another folder, or replace it with --overwrite.")
    found = BackboneFacts(**describe(backbone or card.backbone))
    if found.d != card.fingerprint.d:
        raise PromptMismatch(
            f"The prompt {card.name!r} was tuned for {card.backbone} ({card.fingerprint.short()}), "
            f"not for {found.name} (d={found.d})."
        )
    notes = tuple(write(prompt, found, folder))
    _print_notes(console, notes)
    return Export(card.name, to, folder, notes)


def import_prompt(
    folder: str | Path,
    backbone: str,
    output: str | Path,
    *,
    template: str = "{text}",
    choices: Sequence[str] = (),
    peft_task: int | None = None,
    max_source: int | None = None,
    dtype: str = "float32",
    device: str | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Prompt:
    """Make a run of a prompt that HF PEFT, or the code of DePT's authors, has saved.

    An adapter does not record its template, so `template` and `choices` give it. Of its model it records at most a
    name, so the prompt is fingerprinted with `backbone`. Nothing is written before everything is checked.

    Args:
        folder: Folder of the adapter, or its id on the Hugging Face hub.
        backbone: Name, folder or hub id of the frozen model that it was trained on.
        output: Folder of the run; it must be new.
        template: Input text with {columns}, as it was trained with.
        choices: Answers to choose among; none: free text.
        peft_task: Index of a multi-task prompt's task.
        max_source: Maximum source tokens; None: 256, or as many as the adapter has offsets for.
        dtype: Type of the backbone's weights.
        device: Device of the backbone; None: an accelerator where there is one.
        overwrite: Replace what `output` holds.
        console: Where notes are printed; None: stderr.

    Raises:
        BadArtefact: The adapter is damaged, or is not a soft prompt.
        PromptMismatch: It was trained for another kind or size of model.
        BadInput: An argument cannot be used.
    """
    console = console or Console(stderr=True, highlight=False)
    where = Path(output)
    check_folder(where, overwrite=overwrite)
    adapter = read_adapter(folder)
    found = interpret(adapter, peft_task)
    _check_fit(adapter, found, BackboneFacts(**describe(backbone)))
    frozen = load_backbone(backbone, dtype=dtype, device=device, max_source=max_source or found.positions or 256)
    _check_fit(adapter, found, frozen)
    peft_version = adapter.config.get("peft_version")
    card = unscored_card(
        f"imported-{adapter.name}", found.prompt, frozen, template=template, choices=choices,
        method=found.method, options=found.options, task="imported",
        packages={"peft": str(peft_version)} if peft_version else None,
    )  # fmt: skip
    make_folder(where)
    write_json(where / RECORD, _record(adapter, found, peft_task))
    origin = f"imported from a {adapter.peft_type} adapter of HF PEFT (`{RECORD}` says which)"
    prompt = save_unscored(Prompt(card, found.prompt.fold()), found.prompt, where, origin)
    trained_on = adapter.config.get("base_model_name_or_path")
    notes = list(found.notes)
    if trained_on and Path(str(trained_on)).name != Path(backbone).name:
        notes.insert(0, f"PEFT trained it on {trained_on!r}; it is imported for {backbone}")
    _print_notes(console, notes)
    console.print(f"{prompt.card.name} is in {where}", soft_wrap=True, markup=False)
    return prompt


def _print_notes(console: Console | None, notes: Sequence[str]) -> None:
    console = console or Console(stderr=True, highlight=False)
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)


def _check_fit(adapter: Adapter, found: Imported, backbone: BackboneFacts | Backbone) -> None:
    """Raise PromptMismatch when the adapter's sizes or kind show that it is for another backbone."""
    d = adapter.tensors["prompt_embeddings"].shape[1]
    if d != backbone.d:
        raise PromptMismatch(
            f"The rows in {adapter.folder} have {d} values, the embeddings of {backbone.name} have {backbone.d}. "
            f"It was trained on {adapter.config.get('base_model_name_or_path') or 'another model'}; give that one."
        )
    if found.backbone_kind not in (None, backbone.kind):
        raise PromptMismatch(
            f"{adapter.folder} is for {get_family(found.backbone_kind).title} ({adapter.config['task_type']}), and "
            f"{backbone.name} is {get_family(backbone.kind).title}."
        )


def _record(adapter: Adapter, found: Imported, peft_task: int | None) -> dict[str, object]:
    """Return import.json, which an imported run has instead of run.json."""
    return {
        "format": 1,
        "from": adapter.origin,
        "sha256": adapter.sha256,
        "config": adapter.config,
        "peft_task": peft_task,
        "notes": found.notes,
    }
