"""What a run shows of itself: the learning curve as a PNG, and the model card."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompt.artefact import TRAINED, Card
from softprompt.disk import write_text, write_with
from softprompt.methods import get_method

CURVE = "learning_curve.png"


def write_curve(folder: Path, history: Sequence[dict[str, Any]], name: str, metric: str) -> bool:
    """Draw training loss and dev metric against steps; False without matplotlib (pip install softprompt[report])."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [entry["step"] for entry in history if "loss" in entry]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    evaluations = [(entry["step"], entry["dev"][metric]) for entry in history if "dev" in entry]
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    left.plot(steps, losses, color="#9aa7b8", linewidth=0.8, label="training loss, each step")
    left.plot(steps, _smooth(losses), color="#3b5b8c", linewidth=1.8, label="training loss, smoothed")
    left.set_xlabel("step")
    left.set_ylabel("loss (nats per target token)")
    left.set_ylim(bottom=0)
    left.set_title(name, loc="left")
    left.spines[["top"]].set_visible(False)
    right = left.twinx()
    right.spines[["top"]].set_visible(False)
    if evaluations:
        right.plot(*zip(*evaluations, strict=True), color="#c2571a", marker="o", markersize=4, label=f"dev {metric}")
        best = max(evaluations, key=lambda point: point[1])
        right.annotate(f"{best[1]:.3f}", best, xytext=(0, 7), textcoords="offset points", ha="center", color="#c2571a")
    right.set_ylabel(f"dev {metric}", color="#c2571a")
    low = min([0.0, *(value for _, value in evaluations)])
    right.set_ylim(low, 1.05)
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    write_with(folder / CURVE, lambda path: figure.savefig(path, format="png", dpi=150))
    return True


def _smooth(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """Exponential mean, without the pull of its start."""
    mean, weight, made = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        made.append(mean / weight)
    return made


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def write_model_card(folder: Path, card: Card) -> None:
    """README.md in the hub's form."""
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
    origin = f"{method.paper}, {method.year}" + (f", {method.url}" if method.url else "")
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

{_what(card, f"{method.title} ({origin}){start}")}

| | {" | ".join(card.metrics)} |
|---|{"---|" * len(card.metrics)}
{chr(10).join(rows)}

Seed {card.seed}; the checkpoint was chosen on dev.
{curve}
## Use

```sh
softprompt predict . "your text"
```
{_elsewhere(card)}
Input template:

```
{template}
```

Answers: {", ".join(card.choices) or "free text"}.

## Limits

It answers only on the backbone it was tuned for ({card.fingerprint.short()}); loading it elsewhere is refused.
Sources are read to {card.max_source} tokens; its rows stand at the placement `{card.placement}`.
""",
    )


def _what(card: Card, made: str) -> str:
    """What was tuned and how large it is."""
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


def _elsewhere(card: Card) -> str:
    """How a baseline is used without softprompt."""
    if card.kind != "network":
        return ""
    if card.method.startswith("peft:"):
        return "\nThis folder is an adapter of HF PEFT: `PeftModel.from_pretrained(model, FOLDER)`.\n"
    return (
        f"\n`{TRAINED}` has tensors of the model under transformers' names: "
        "`model.load_state_dict(safetensors.torch.load_file(FILE), strict=False)`, then `model.tie_weights()`.\n"
    )
