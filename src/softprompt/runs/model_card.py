"""Write a run's model card (README.md), for readers and for the Hugging Face hub."""

from pathlib import Path

from softprompt.methods.registry import get_method
from softprompt.runs.prompt import TRAINED, PromptCard
from softprompt.runtime.files import write_text
from softprompt.tasks.metrics import percent

CURVE = "learning_curve.png"
"""The file that the card shows when it is there (softprompt.training.learning_curve writes it)."""


def write_model_card(folder: Path, card: PromptCard) -> None:
    """Write README.md in the hub's form."""
    method = get_method(card.method)
    rows = [
        f"| {label} | {' | '.join(percent(card.scores[key]['metrics'][name]) for name in card.metrics)} |"
        for key, label in (
            ("majority", "commonest answer (test)"), ("zero_shot", "no prompt (test)"), ("dev", "this run (dev)"),
            ("test", "**this run (test)**"),
        )
        if key in card.scores
    ]  # fmt: skip
    template = card.template.replace("`", "'")
    curve = f"\n![Learning curve]({CURVE})\n" if (folder / CURVE).is_file() else ""
    start = "" if card.start_from is None else f", starting from the prompt of `{card.start_from}`"
    tags = ", ".join(["soft-prompt"] * (card.kind != "network") + [card.method.replace("_", "-").replace(":", "-")])
    write_text(
        folder / "README.md",
        f"""---
library_name: softprompt
base_model: {card.backbone}
tags: [{tags}]
---

# {card.name}

{_describe(card, f"{method.title} ({method.citation}){start}")}

| | {" | ".join(card.metrics)} |
|---|{"---|" * len(card.metrics)}
{chr(10).join(rows)}

Seed {card.seed}; the checkpoint was selected on dev.
{curve}
## Use

```sh
softprompt predict . "your text"
```
{_use_without_softprompt(card)}
Input template:

```
{template}
```

Answers: {", ".join(card.choices) or "free text"}.

## Limits

It works only on the backbone it was tuned for ({card.fingerprint.short()}); loading it elsewhere is refused.
Sources are truncated to {card.max_source} tokens; its rows have the placement `{card.placement}`.
""",
    )


def _describe(card: PromptCard, made: str) -> str:
    """Describe what was trained and how large it is."""
    if card.kind == "network":
        return (
            f"A baseline for `{card.backbone}` on the task `{card.task}`, trained by softprompt: {made}.\n"
            f"{card.trainable:,} trained values; {card.stored:,} are stored. It changes the network it works in."
        )
    offset = "" if card.positions is None else f", and an offset for {card.positions} source positions"
    offset += ", and an offset by token" if card.kind == "prompt+token" else ""
    offset += ", made anew for each input" if card.kind == "input" else ""
    return (
        f"A soft prompt for `{card.backbone}` on the task `{card.task}`, tuned with {made}.\n"
        f"{card.length} rows of {card.fingerprint.d} values{offset}; {card.stored:,} values in all. The model "
        "itself is unchanged."
    )


def _use_without_softprompt(card: PromptCard) -> str:
    """Explain how a baseline is used without softprompt."""
    if card.kind != "network":
        return ""
    if card.method.startswith("peft:"):
        return "\nThis folder is an adapter of HF PEFT: `PeftModel.from_pretrained(model, FOLDER)`.\n"
    return (
        f"\n`{TRAINED}` has tensors of the model under transformers' names: "
        "`model.load_state_dict(safetensors.torch.load_file(FILE), strict=False)`, then `model.tie_weights()`.\n"
    )
