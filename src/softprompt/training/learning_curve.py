"""Draw the learning curve of a run: training loss and dev metric against steps."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from softprompt.runs.model_card import CURVE
from softprompt.runtime.files import write_with
from softprompt.training.candidate import HistoryEntry


def write_curve(folder: Path, history: Sequence[HistoryEntry], name: str, metric: str) -> bool:
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
    """Return the exponential moving average, corrected for its start."""
    mean, weight, made = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        made.append(mean / weight)
    return made
