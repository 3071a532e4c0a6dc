"""Tables of a sweep: rows for a terminal, Markdown, CSV."""

import csv
import io

from softprompt.evaluation.floors import FLOORS
from softprompt.experiments.tables import SweepTable
from softprompt.tasks.metrics import percent

HEADS = ("setting", "dev", "trained", "best step", "stopped")


def table_rows(table: SweepTable) -> list[list[str]]:
    """Return rows of text under HEADS, the best first; scores in percent."""
    rows = []
    for row in sorted(table.settings, key=lambda row: -row.mean):
        spread = "" if row.deviation is None else f" ± {percent(row.deviation)}"
        why = "; ".join(dict.fromkeys(filter(None, row.stopped)))
        steps = ", ".join(map(str, row.best_steps))
        rows.append([row.label, percent(row.mean) + spread, f"{row.trainable:,}", steps, why])
    return rows


def conclusion(table: SweepTable) -> str:
    """Return what came out, in a sentence."""
    chosen, floors = table.chosen, table.floors
    dev, test = ("" if d is None else f" ± {percent(d)}" for d in (chosen.deviation, chosen.test_deviation))
    seeds = f"{table.seeds} seed{'' if table.seeds == 1 else 's'}"
    return (
        f"Chosen on dev: {chosen.label}. {table.metric}: dev {percent(chosen.mean)}{dev}, test "
        f"{percent(chosen.test_mean)}{test} ({seeds}); "
        f"{', '.join(f'{title} {percent(floors[name])}' for name, title in FLOORS.items() if name in floors)}."
    )


def as_markdown(table: SweepTable) -> str:
    """Render table.md."""
    lines = [
        f"# {len(table.settings)} settings on {table.task}, {table.backbone}",
        "",
        conclusion(table),
        "Test was measured for the chosen setting alone"
        + ("." if len(table.tested) == 1 else f"; smaller searches here had chosen {_others(table)}."),
        "",
        f"| {' | '.join(HEADS)} |",
        f"|---|{'---|' * (len(HEADS) - 1)}",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table_rows(table)),
        "",
    ]
    return "\n".join(lines)


def _others(table: SweepTable) -> str:
    return "; ".join(label for label in table.tested if label != table.chosen.label)


def as_csv(table: SweepTable) -> str:
    """Render table.csv, a row for each run: the fields that were searched, folder, dev score."""
    fields = list(dict.fromkeys(name for row in table.settings for name in row.values))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *fields, "folder", "dev", "best_step", "stopped"])
    for row in table.settings:
        for folder, dev, step, why in zip(row.folders, row.dev, row.best_steps, row.stopped, strict=True):
            values = [row.values.get(name) for name in fields]
            writer.writerow([row.method, *values, folder, dev, step, why])
    return text.getvalue()
