"""Prompts for other libraries, and from them: what the verbs `export` and `import` do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from softprompt.backbones import load_backbone
from softprompt.backbones.families import get_family
from softprompt.backbones.load import describe
from softprompt.errors import BadInput, PromptMismatch, UnknownName
from softprompt.runs.external import save_unscored, unscored_card
from softprompt.runs.formats import EXPORTS, Adapter, Imported, interpret, read_adapter
from softprompt.runs.prompt import Prompt, load_prompt
from softprompt.runs.run_folder import check_folder
from softprompt.runtime.files import make_folder, write_json

RECORD = "import.json"


def export_prompt(
    run: str | Path,
    output: str | Path,
    to: str = "peft",
    backbone: str | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Path:
    """Write the prompt of a finished run as another library reads it; returns the folder.

    `backbone` says where the run's backbone lies now; of it only the config is read. Raises BadInput, before anything
    is written, for a kind of prompt that the library cannot hold.
    """
    if to not in EXPORTS:
        raise UnknownName("format", to, EXPORTS)
    prompt, folder = load_prompt(run), Path(output)
    card = prompt.card
    if folder.resolve() == Path(run).resolve():
        raise BadInput(f"--output {folder} is the run itself; choose another folder.")
    if (folder / "run.json").is_file():  # not even with --overwrite: what training took hours for
        raise BadInput(f"--output {folder} is a run; choose another folder.")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not overwrite):
        raise BadInput(f"--output {folder} is there already; choose another folder, or replace it with --overwrite.")
    found = describe(backbone or card.backbone)
    if found["d"] != card.fingerprint.d:
        raise PromptMismatch(
            f"The prompt {card.name!r} was tuned for {card.backbone} ({card.fingerprint.short()}), "
            f"not for {found['name']} (d={found['d']})."
        )
    console = console or Console(stderr=True, highlight=False)
    for note in EXPORTS[to](prompt, found, folder):
        console.print(f"note: {note}", soft_wrap=True, markup=False)
    return folder


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
    """Make a run of a prompt that HF PEFT, or the code of DePT's authors, has saved in `folder`.

    `folder` may be an id of the Hugging Face hub. An adapter does not say how its texts were put, so `template` and
    `choices` do (without choices: free text). Nor does it say which model it is for, beyond a name, so it is
    fingerprinted with `backbone`. Sources are read to `max_source` tokens: 256, or as many as the adapter has offsets
    for. Nothing is written before all of it is checked.
    """
    console = console or Console(stderr=True, highlight=False)
    check_folder(Path(output), overwrite=overwrite)
    adapter = read_adapter(folder)
    found = interpret(adapter, peft_task)
    _check_fit(adapter, found, describe(backbone))
    frozen = load_backbone(backbone, dtype=dtype, device=device, max_source=max_source or found.positions or 256)
    _check_fit(adapter, found, {"name": frozen.name, "kind": frozen.kind, "d": frozen.d})
    peft_version = adapter.config.get("peft_version")
    card = unscored_card(
        f"imported-{adapter.name}", found.prompt, frozen, template=template, choices=choices,
        method=found.method, options=found.options, task="imported",
        packages={"peft": str(peft_version)} if peft_version else None,
    )  # fmt: skip
    where = Path(output)
    make_folder(where)
    write_json(where / RECORD, _record(adapter, found, peft_task))
    origin = f"imported from a {adapter.config['peft_type']} adapter of HF PEFT (`{RECORD}` says which)"
    prompt = save_unscored(Prompt(card, found.prompt.fold()), found.prompt, where, origin)
    told = adapter.config.get("base_model_name_or_path")
    if told and Path(str(told)).name != Path(backbone).name:
        console.print(f"note: PEFT trained it on {told!r}; it is imported for {backbone}", soft_wrap=True, markup=False)
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)
    console.print(f"{prompt.card.name} is in {where}", soft_wrap=True, markup=False)
    return prompt


def _check_fit(adapter: Adapter, found: Imported, backbone: dict[str, Any]) -> None:
    """Raise PromptMismatch when the prompt is not for this backbone, as far as their sizes tell."""
    d = adapter.tensors["prompt_embeddings"].shape[1]
    if d != backbone["d"]:
        raise PromptMismatch(
            f"The rows in {adapter.folder} have {d} values, the embeddings of {backbone['name']} have {backbone['d']}. "
            f"It was trained on {adapter.config.get('base_model_name_or_path') or 'another model'}; give that one."
        )
    if found.backbone_kind not in (None, backbone["kind"]):
        raise PromptMismatch(
            f"{adapter.folder} is for {get_family(found.backbone_kind).title} ({adapter.config['task_type']}), and "
            f"{backbone['name']} is {get_family(backbone['kind']).title}."
        )


def _record(adapter: Adapter, found: Imported, peft_task: int | None) -> dict[str, Any]:
    """import.json: what run.json is to a run of our own."""
    return {
        "format": 1,
        "from": adapter.origin,
        "sha256": adapter.sha256,
        "config": adapter.config,
        "peft_task": peft_task,
        "notes": found.notes,
    }
