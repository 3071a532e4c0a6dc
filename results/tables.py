"""Print the tables of results/README.md from the JSON files beside this script: python results/tables.py"""

import json
import statistics
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def percent(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def table(found: dict[str, Any]) -> str:
    """One row a variant: dev and test accuracy over seeds (mean and standard deviation), and the floors of test."""
    majority, zero_shot = found["majority"]["accuracy"], found["zero_shot"]["accuracy"]
    lines = [
        "| | best dev accuracy | test accuracy | each seed | last training loss |",
        "|---|---|---|---|---|",
        f"| commonest answer | | {percent([majority])} | | |",
        f"| no prompt (zero-shot) | | {percent([zero_shot])} | | |",
    ]
    for variant in dict.fromkeys(run["variant"] for run in found["runs"]):
        runs = [run for run in found["runs"] if run["variant"] == variant]
        values = [run["test"]["accuracy"] for run in runs]
        loss = statistics.mean(statistics.mean(run["loss"][-20:]) for run in runs)
        each = ", ".join(percent([value]) for value in values)
        dev = percent([run["best"]["value"] for run in runs])
        lines.append(f"| {variant} | {dev} | {percent(values)} | {each} | {loss:.3f} |")
    return "\n".join(lines)


def main() -> None:
    for path in sorted(HERE.glob("*.json")):
        found = json.loads(path.read_text())
        command = found["command"]
        print(
            f"\n### {path.stem}\n\n{found['backbone']} in {command['dtype']}, {command['dataset']}: {command['steps']} "
            f"steps of {command['batch']} examples, {found['rows']['test']} test examples.\n\n{table(found)}"
        )


if __name__ == "__main__":
    main()
