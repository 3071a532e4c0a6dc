"""make_prompt(), save_prompt(): soft prompts that another loop trains (transformers.Trainer, your own)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from softprompt.backbones import Backbone
from softprompt.methods.registry import InitContext, get_method, make, parse_options
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runs.fingerprint import fingerprint
from softprompt.runs.prompt import Prompt, PromptCard
from softprompt.runs.run_folder import check_folder, versions
from softprompt.runtime.files import make_folder, write_text
from softprompt.tasks import Template


def make_prompt(
    method: str, backbone: Backbone, *, labels: Sequence[str] = (), seed: int = 0, **options: object
) -> SoftPrompt:
    """Make an untrained soft prompt of `method` for `backbone`. Raises UnknownName or BadInput for its options."""
    found = get_method(method)
    context = InitContext(backbone, backbone.max_source, tuple(labels), seed)
    return make(found, parse_options(found, options), context).to(backbone.device)


def save_prompt(
    prompt: SoftPrompt,
    backbone: Backbone,
    output: str | Path,
    *,
    template: str = "{text}",
    choices: Sequence[str] = (),
    method: str = "prompt_tuning",
    options: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> Prompt:
    """Save a soft prompt as a run that `predict`, `evaluate`, `export` and `--start-from` read.

    Args:
        prompt: The trained soft prompt.
        backbone: The frozen model that it was trained on.
        output: Folder of the run; it must be new.
        template: Input text with {columns}, as it was trained with.
        choices: Answers to choose among; none: free text.
        method: Name of the method that made it; only `--start-from` uses it.
        options: Options of that method; None: its length.
        overwrite: Replace what `output` holds.

    Raises:
        BadInput: An argument or `output` cannot be used; nothing is written.
    """
    where = Path(output)
    check_folder(where, overwrite=overwrite)
    card = unscored_card(
        where.resolve().name, prompt, backbone, template=template, choices=choices, method=get_method(method).name,
        options=dict(options or {"length": prompt.length}),
    )  # fmt: skip
    return save_unscored(Prompt(card, prompt.eval().fold()), prompt, where, "saved by hand")


def unscored_card(
    name: str,
    prompt: SoftPrompt,
    backbone: Backbone,
    *,
    template: str,
    choices: Sequence[str],
    method: str,
    options: Mapping[str, object],
    task: str = "unknown",
    packages: Mapping[str, str] | None = None,
) -> PromptCard:
    """Make the card of a prompt that softprompt did not train: without scores and seed.

    Args:
        name: Name of the run.
        prompt: The trained soft prompt.
        backbone: The frozen model that it was trained on.
        template: Input text with {columns}, as it was trained with.
        choices: Answers to choose among; none: free text.
        method: Name of the method that made it.
        options: Options of that method.
        task: Name of the task.
        packages: Versions of packages that made it, beside those that are always recorded.

    Raises:
        BadInput: The template or the choices do not fit each other or the backbone.
    """
    folded = prompt.eval().fold()
    form = Template(template)
    backbone.family.check_examples(backbone.name, choices=tuple(choices), mask=form.has_mask)
    if choices:
        backbone.tokens.choice_ids(choices, form.cue)
    backbone.room(prompt.length, 0)
    return PromptCard(
        name=name,
        kind=prompt.kind,
        method=method,
        options=dict(options),
        backbone=backbone.name,
        fingerprint=fingerprint(backbone),
        length=prompt.length,
        positions=None if folded.offset is None else folded.offset.shape[0],
        zeroed=folded.zeroed,
        max_source=backbone.max_source,
        placement=backbone.placement,
        task=task,
        template=form.text,
        choices=list(choices),
        label=None,
        words=None,
        metrics=["accuracy", "macro_f1"] if choices else ["exact_match", "token_f1"],
        trainable=prompt.trainable(),
        stored=folded.prompt.numel() + (0 if folded.offset is None else folded.offset.numel()),
        seed=None,
        scores={},
        best=None,
        stopped=None,
        versions={**versions(), **(packages or {})},
    )


def save_unscored(prompt: Prompt, unfolded: SoftPrompt, folder: Path, origin: str) -> Prompt:
    """Write the folder of a prompt without scores; its model card says `origin`, where it is from."""
    make_folder(folder)
    (folder / "prompt.json").unlink(
        missing_ok=True
    )  # an overwritten run has an old one, which must never be beside the new tensors
    write_text(folder / "README.md", _readme(prompt.card, origin))
    prompt.save(folder, unfolded)
    return prompt


def _readme(card: PromptCard, origin: str) -> str:
    offset = "" if card.positions is None else f", and an offset for {card.positions} source positions"
    return f"""---
library_name: softprompt
base_model: {card.backbone}
tags: [soft-prompt]
---

# {card.name}

A soft prompt for `{card.backbone}`, {origin}.
{card.length} rows of {card.fingerprint.d} values{offset}; {card.stored:,} values in all. Its scores are not known.

## Use

```sh
softprompt predict . "your text"
```

Input template:

```
{card.template.replace("`", "'")}
```

Answers: {", ".join(card.choices) or "free text"}.

## Limits

It works only on the backbone it was made for ({card.fingerprint.short()}); loading it elsewhere is refused.
Sources are truncated to {card.max_source} tokens.
"""
