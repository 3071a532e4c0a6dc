"""How much memory does a training step take, as batch and sources grow, beside HF PEFT and our own plain route?

    python bench/bench_memory.py [--json]

Peak resident memory of a process that does one step of SmolLM2-135M in float32 with a prompt of 100 rows, and the
share of it that the step added to the loaded model.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from routes import Case, worker

ROUTES = ("ours", "checkpointed", "plain", "peft")


def measure(batches: list[int], lengths: list[int]) -> list[dict[str, Any]]:
    rows = []
    for b in batches:
        for s in lengths:
            case = Case(f"b={b} s={s}", "smollm2-135m", s, s, 100, batch=b)
            row: dict[str, Any] = {"batch": b, "source": s}
            for route in ROUTES:
                with worker(route, case, "float32", 1) as do:
                    found = do(0)
                row[f"{route}_peak_mib"] = round(found["peak"])
                row[f"{route}_step_mib"] = round(found["peak"] - found["loaded"])
                print(case.name, route, row[f"{route}_peak_mib"], file=sys.stderr, flush=True)
            row["peak_ratio"] = round(row["ours_peak_mib"] / row["peft_peak_mib"], 3)
            row["step_ratio"] = round(row["ours_step_mib"] / max(row["peft_step_mib"], 1), 3)
            rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["batch  source  " + "".join(f"{route:>14}" for route in ROUTES) + "   ours / PEFT (step alone)"]
    for row in rows:
        peaks = "".join(f"{row[f'{route}_peak_mib']:>14,}" for route in ROUTES)
        lines.append(
            f"{row['batch']:5}  {row['source']:6}  {peaks}   {row['peak_ratio']:.2f} ({row['step_ratio']:.2f})"
        )
    return "\n".join([*lines, "peak MiB of the process, model included"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--source", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    given = parser.parse_args()
    rows = measure(given.batch, given.source)
    print(table(rows))
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(rows, indent=2) + "\n")
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
