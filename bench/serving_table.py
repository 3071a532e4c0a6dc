"""The sections of results/bench/README.md about the server, from the files of its three benchmarks."""

import json
from pathlib import Path
from typing import Any

from bench_serving import GOALS, KINDS, met

GOAL_NAMES = {
    "distinct_of_identical": "requests/s with distinct prompts, of those with identical ones (64)",
    "times_peft_switching": "the same, distinct, beside PEFT switching adapters",
    "thousand_of_one": "the same with 1,000 prompts, of those with one",
    "prompt_cost": "what a prompt adds to a request after its first use",
}
FAULTS = ("wrong", "lost", "duplicated", "bad_refusals")  # of a soak: what must not be


def serving_sections(folder: Path) -> list[str]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("serving-*.json"))]
    lines = [line for one in found for line in serving(one)]
    for name, section in (("soak", soaked), ("start", started)):
        if (folder / f"{name}.json").is_file():
            lines += section(json.loads((folder / f"{name}.json").read_text()))
    return lines


def serving(found: dict[str, Any]) -> list[str]:
    """The section of one bench_serving.py."""
    lines = [
        "",
        f"## Serving: {found['backbone']}",
        "",
        f"`bench/bench_serving.py --backbone {found['backbone']} --requests {found['requests']} --peft-requests "
        f"{found['peft_requests']} --repeats {found['repeats']} --pairs {found['pairs']}`: {found['clients']} clients,",
        f"prompts of {found['length']} rows, {found['threads']} threads, {found['dtype']}; medians.",
    ]
    for kind in KINDS:
        told = found[kind]
        lines += ["", f"### {kind}", "", "| goal | | measured | |", "|---|---|---|---|"]
        for name, (sign, goal) in GOALS.items():
            value = told["goals"][name]
            lines.append(
                f"| {GOAL_NAMES[name]} | {sign} {goal:g} | {value:g} | {'met' if met(name, value) else 'not met'} |"
            )
        lines += [
            "",
            "| route | workload | prompts | requests/s | p50 s | p99 s | time in the network | cache hits |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in told["rows"]:
            shares = [format(row[k], ".0%") if row.get(k) is not None else "-" for k in ("network_share", "cache_hits")]
            lines.append(
                f"| {row['route']} | {row['workload']} | {row['prompts']} | {row['requests_per_second']} "
                f"| {row['p50_seconds']} | {row['p99_seconds']} | {' | '.join(shares)} |"
            )
        answers = told["answers"]
        lines += [
            "",
            f"Answers as PEFT's of the same request alone: ours {_equal(answers['ours'])}, PEFT's own batches",
        ]
        lines += [f"(which it pads) {_equal(answers['peft_grouped'])}."]
    steps = ", ".join(f"{one['rows']}: {one['step_ms']} ms" for one in found["passes"])
    lines += [
        "",
        f"A step of so many rows: {steps}.",
        "",
        "| prompts | ours, peak MiB | PEFT, peak MiB |",
        "|---|---|---|",
    ]
    for row in found["memory"]:
        after = ", after all runs" if "after" in row else ""
        lines.append(f"| {row['prompts']}{after} | {row['ours_peak_mib']:,} | {row['peft_peak_mib']:,} |")
    return lines


def _equal(told: dict[str, Any]) -> str:
    return f"{told['equal']} of {told['compared']}"


def soaked(found: dict[str, Any]) -> list[str]:
    """The section of soak_serving.py."""
    memory, rates = found["memory"], [found[f"{what}_per_second"] for what in ("capacity", "sent")]
    answers = ", ".join(f"{count:,} times {status}" for status, count in sorted(found["statuses"].items()))
    changes = ", ".join(f"{what} {count} times" for what, count in found["changes"].items())
    wrong = ", ".join(f"{what.replace('_', ' ')} {len(found[what])}" for what in FAULTS)
    return [
        "",
        "## Twice the capacity",
        "",
        f"`bench/soak_serving.py`: {found['minutes']:g} minutes, {found['backbone']}, queue {found['queue']}.",
        f"Capacity {rates[0]:g} answers a second, sent {rates[1]:g}: {answers}. Half of the answers came within",
        f"{found['p50_seconds']:g} s, 99 % within {found['p99_seconds']:g} s. Meanwhile prompts were {changes}.",
        f"What should not be: {wrong}. Memory {memory['first_mib']:,} MiB after a third of the time,",
        f"{memory['last_mib']:,} at the end (a line through all between: {memory['growth']:+.1%}).",
    ]


def started(found: dict[str, Any]) -> list[str]:
    """The section of start_serving.py."""
    lines = [
        "",
        "## Ten thousand prompts",
        "",
        f"`bench/start_serving.py`: {found['backbone']}. Seconds until the server takes requests, of which to list the",
        "folder; to find a prompt; of an answer; and resident memory.",
        "",
        "| prompts | ready s | to list s | to find ms | an answer s | ready MiB | all listed MiB | some asked MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['prompts']:,} | {row['ready_seconds']:.1f} | {row['open_seconds']:.2f} "
            f"| {1e3 * row['look_up_seconds']:.2f} | {row['answer_seconds']:.2f} | {row['ready_mib']:,.0f} "
            f"| {row['listed_mib']:,.0f} | {row['asked_mib']:,.0f} |"
        )
    return lines
