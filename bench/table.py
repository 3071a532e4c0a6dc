"""Write results/bench/README.md from the JSON files beside it: `python bench/table.py results/bench/PROCESSOR`."""

import json
import sys
from pathlib import Path
from typing import Any

from bench_memory import table as memory_table
from bench_training import CASES
from serving_table import serving_sections

GOALS = {"smollm2-short": 6.5, "smollm2-short-bfloat16": 14.0, "smollm2-long": 3.0, "t5-dept": 2.1}


def together(found: list[dict[str, Any]]) -> list[str]:
    """The section of bench_sweep.py."""
    lines = [
        "",
        "## Candidates in one batch",
        "",
        "`bench/bench_sweep.py`: K prompts take a step together, beside one after the other (goals on a CPU: never",
        "slower, at least 1.3 times as fast for K = 16).",
        "",
        "| backbone | K | together s/step | one by one s/step | times as fast | gradients differ by |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        lines += [
            f"| {one['backbone']}, {one['batch']} examples each | {row['candidates']} | {row['together_seconds']:.2f} "
            f"| {row['alone_seconds']:.2f} | **{row['times_as_fast']:.2f}** | {row['gradient_difference']:.1e} |"
            for row in one["rows"]
        ]
    return lines


def _machine(found: dict[str, dict[str, Any]]) -> str:
    """Say on what was measured; the files of version 0.1.0 do not know which AMD EPYC it was."""
    first = next(iter(found.values()))
    return f"{first.get('processor', 'AMD EPYC')}, {first['threads']} threads"


def main() -> None:
    folder = Path(sys.argv[1])
    names = [name + suffix for name in CASES for suffix in ("", "-bfloat16")]
    found = {n: json.loads((folder / f"{n}.json").read_text()) for n in names if (folder / f"{n}.json").is_file()}
    lines = [
        "# Speed and memory of a training step",
        "",
        "Made by `make bench`: `bench/bench_training.py --case CASE`, `bench_memory.py`, `bench_embedding.py`; the",
        f"files are beside this one. {_machine(found)},",
        "float32 where nothing else is said. Seconds are medians; a ratio is the",
        "median over repeats of two times of one repeat. PEFT runs prompt tuning with padding to the batch's longest,",
        "SDPA attention and eval mode, on the same weights, examples and first rows.",
        "",
        "| case | source tokens | prompt rows | ours s/step | PEFT s/step | PEFT / ours | goal | plain / ours "
        "| real tokens/s | of matmul peak | peak memory beside PEFT |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        case = CASES[row["case"]]
        rows = dict(case.options).get("length", case.length)
        what = name + (" (PEFT in float32)" if row["dtype"] != row["peft_dtype"] else "")
        goal = f"{GOALS[name]:g}" if name in GOALS else "-"
        lines.append(
            f"| {what} | {case.low}-{case.high} | {rows} | {row['ours_seconds']:.2f} | {row['peft_seconds']:.2f} "
            f"| **{row['ratio_vs_peft']:.1f}** | {goal} | {row['ratio_vs_plain']:.1f} "
            f"| {row['real_tokens_per_second']:,} | {row['matmul_peak_share']:.0%} | {row['peak_memory_ratio']:.2f} |"
        )
    if "t5-dept" in found:
        fixed = found["t5-dept"]["ratio_vs_fixed"]
        lines += [
            "",
            "`t5-dept` is DePT (40 rows, rank 40) against PEFT's prompt tuning of 100 rows; against the same DePT with",
            f"every source padded to 256, the DePT authors' layout, it is {fixed:.1f} times as fast (goal 3.5). The",
            "encoder reads some 1,480 tokens a step in ours, 2,900 in PEFT's and 4,736 in 296 columns: 1 to 2 to 3.2.",
        ]
    exact = [row for row in found.values() if row["dtype"] == row["peft_dtype"] == "float32"]
    lines += [
        "",
        f"Largest relative difference in float32, over all cases and steps: losses "
        f"{max(row['loss_difference'] for row in exact):.1e} (PEFT's among them where the method is",
        f"the same), gradients against the plain route {max(row['gradient_difference'] for row in exact):.1e}.",
    ]
    profiles = [json.loads(path.read_text()) for path in sorted(folder.glob("profile-*.json"))]
    if profiles:
        lines += ["", "## Where the time goes", "", f"| part of a step | {' | '.join(p['case'] for p in profiles)} |"]
        lines += ["|---|" + "---|" * len(profiles)]
        for part in profiles[0]["shares"]:
            shares = [format(p["shares"][part], ".0%") for p in profiles]
            lines.append(f"| {part} | {' | '.join(shares)} |")
        reached = " | ".join(f"{p['products_of_peak']:.0%}" for p in profiles)
        lines.append(f"| FLOPs that must be, in the time of the matrix products, of the peak | {reached} |")
        lines += [
            "",
            "The goal of 75 % of the matmul peak is met in one case (76 %), missed in the others: the matrix products",
            "run near the peak, and what is left is attention, whose products are small, and the memory traffic of",
            "elementwise operations. In the first case ours reads some 520 tokens, PEFT 2,240 with logits for each.",
        ]
    if (folder / "memory.json").is_file():
        lines += ["", "## Memory", "", "```", memory_table(json.loads((folder / "memory.json").read_text())), "```"]
    if (folder / "embedding.json").is_file():
        cost = json.loads((folder / "embedding.json").read_text())["cost_share"]
        lines += [
            "",
            "## The embedding",
            "",
            f"Standing in for the model's embedding costs {cost:.2%} of a step (goal: below 2 %).",
        ]
    swept = [json.loads(path.read_text()) for path in sorted(folder.glob("sweep-*.json"))]
    lines += together(swept) if swept else []
    lines += serving_sections(folder)
    (folder / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
