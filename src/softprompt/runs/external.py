"""Soft prompts that something else trains (transformers.Trainer, a loop of your own): made here, and saved as runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt.backbones import Backbone
from softprompt.methods.registry import InitContext, get_method, make, parse_options
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runs.fingerprint import fingerprint
from softprompt.runs.prompt import Prompt, PromptCard
from softprompt.runs.run_folder import check_folder, versions
from softprompt.runtime.files import make_folder, write_text
from softprompt.tasks import Template


def make_prompt(
    method: str, backbone: Backbone, *, labels: Sequence[str] = (), seed: int = 0, **options: Any
) -> SoftPrompt:
    """A soft prompt of `method` for `backbone`, at its start. Raises UnknownName or BadInput for its options."""
    found = get_method(method)
    site = InitContext(backbone, backbone.max_source, tuple(labels), seed)
    return make(found, parse_options(found, options), site).to(backbone.device)


def save_prompt(
    prompt: SoftPrompt,
    backbone: Backbone,
    output: str | Path,
    *,
    template: str = "{text}",
    choices: Sequence[str] = (),
    method: str = "prompt_tuning",
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Prompt:
    """Write a soft prompt as a run that `predict`, `evaluate`, `export` and `--start-from` read; returns it.

    `template` and `choices` (none: free text) are those it was trained with; `method` and `options` are what made it,
    which only --start-from asks for. Raises BadInput, before anything is written, when they or `output` cannot be.
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
    options: dict[str, Any],
    task: str = "unknown",
    packages: Mapping[str, str] | None = None,
) -> PromptCard:
    """The card of a prompt that was not tuned here: no scores, no seed. Raises BadInput for bad words."""
    folded = prompt.eval().fold()
    form = Template(template)
    backbone.family.check_examples(backbone.name, choices=tuple(choices), mask=form.has_mask)
    if choices:
        backbone.tokens.choice_ids(choices)
    backbone.room(prompt.length, 0)
    return PromptCard(
        name=name,
        kind=prompt.kind,
        method=method,
        options=options,
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
    """Write the folder of a prompt without scores; `origin` says in its model card where it is from."""
    make_folder(folder)
    (folder / "prompt.json").unlink(missing_ok=True)  # of an overwritten run: never beside the new tensors
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
{card.length} rows of {card.fingerprint.d} values{offset}; {card.stored:,} values in all. No score of it is known here.

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

It answers only on the backbone it was made for ({card.fingerprint.short()}); loading it elsewhere is refused.
Sources are read to {card.max_source} tokens.
"""
