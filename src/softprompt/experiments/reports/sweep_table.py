"""TODO."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from softprompt.tasks.metrics import percent

HEADS = ("setting", "dev", "trained", "best step", "stopped")


def table_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Rows of text under HEADS, the best first; scores in percent."""
    rows = []
    for row in sorted(found["settings"], key=lambda row: -row["mean"]):
        spread = "" if row["deviation"] is None else f" ± {percent(row['deviation'])}"
        why = "; ".join(dict.fromkeys(filter(None, row["stopped"])))
        steps = ", ".join(map(str, row["best_steps"]))
        rows.append([row["label"], percent(row["mean"]) + spread, f"{row['trainable']:,}", steps, why])
    return rows


def conclusion(found: Mapping[str, Any]) -> str:
    """What came out, in a sentence."""
    chosen, floors = found["chosen"], found["floors"]
    dev, test = ("" if d is None else f" ± {percent(d)}" for d in (chosen["deviation"], chosen["test_deviation"]))
    seeds = f"{found['seeds']} seed{'' if found['seeds'] == 1 else 's'}"
    return (
        f"Chosen on dev: {chosen['label']}. {found['metric']}: dev {percent(chosen['mean'])}{dev}, test "
        f"{percent(chosen['test_mean'])}{test} ({seeds}); the commonest "
        f"answer {percent(floors['majority'])}, no prompt {percent(floors['zero_shot'])}."
    )


def as_markdown(found: Mapping[str, Any]) -> str:
    lines = [
        f"# {len(found['settings'])} settings on {found['task']}, {found['backbone']}",
        "",
        conclusion(found),
        "Test was measured for the chosen setting alone"
        + ("." if len(found["tested"]) == 1 else f"; smaller searches here had chosen {_others(found)}."),
        "",
        f"| {' | '.join(HEADS)} |",
        f"|---|{'---|' * (len(HEADS) - 1)}",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table_rows(found)),
        "",
    ]
    return "\n".join(lines)


def _others(found: Mapping[str, Any]) -> str:
    return "; ".join(label for label in found["tested"] if label != found["chosen"]["label"])


def as_csv(found: Mapping[str, Any]) -> str:
    """A row a run: the fields that were searched, seed, dev."""
    fields = list(dict.fromkeys(name for row in found["settings"] for name in row["values"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *fields, "folder", "dev", "best_step", "stopped"])
    for row in found["settings"]:
        for folder, dev, step, why in zip(row["folders"], row["dev"], row["best_steps"], row["stopped"], strict=True):
            values = [row["values"].get(name) for name in fields]
            writer.writerow([row["method"], *values, folder, dev, step, why])
    return text.getvalue()
