"""How many requests a second does the server answer with how many prompts, beside HF PEFT?

    python bench/bench_serving.py --backbone smollm2-135m [--repeats 4] [--output FILE] [--json]

A request is a support message of 12 to 40 tokens that names one of the prompts (20 rows of the vocabulary each). It is
answered greedily with exactly 16 tokens (`generate`), or by ranking six words (`classify`). 32 clients have one request
each under way. Which prompt a request names is drawn as in Punica (Chen et al., MLSys 2024,
https://arxiv.org/abs/2310.18547, section 7): distinct, each its own; uniform over the square root of as many; skewed,
by Zipf's law with exponent 1.5; identical, all the same. HTTP is not in it: bench/soak_serving.py measures that.

PEFT answers in the order of arrival, `set_adapter` before each (switching), or takes with the oldest request all that
wait for the same adapter (grouped). All are measured in turn in each repeat; a ratio is the median over repeats of two
rates of one repeat. Every answer is compared with the same request's alone in PEFT. Needs `peft`.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from servers import Answered, Asked, Process, process, write_prompts
from t5 import t5_folder

from softprompt.backbones import Backbone, load_backbone
from softprompt.runs.run_folder import versions
from softprompt.runtime.files import write_json
from softprompt.tasks.registry import get_task

T5_SHAPE = "flan-t5-small"  # see t5.py
KINDS = ("generate", "classify")
WORKLOADS = ("distinct", "uniform", "skewed", "identical")
FEW, MANY = 64, 1000  # prompts
LENGTH = 20
CASES = [
    ("base", 0), ("identical", 1), ("distinct", MANY), ("uniform", MANY), ("skewed", MANY),
    ("identical", FEW), ("distinct", FEW), ("uniform", FEW), ("skewed", FEW),
]  # fmt: skip
"""Workload and number of prompts; base: the model without any. What a goal compares are neighbours, and every second
repeat goes from the end to the beginning: a processor slows down over minutes of work."""
BESIDE = [("peft_switching", "distinct"), *(("peft_grouped", name) for name in WORKLOADS[1:])]
"""How PEFT answers which workloads, of as many prompts as there are in the middle; grouped, distinct is switching."""
GOALS = {
    "distinct_of_identical": (">=", 0.9),
    "times_peft_switching": (">=", 8.0),
    "thousand_of_one": (">=", 0.9),
    "prompt_cost": ("<=", 0.05),
}


def texts(backbone: Backbone, count: int) -> list[str]:
    """Shipped support messages of 12 to 40 tokens, as often as they are needed."""
    task = get_task("support")
    found = [e.source + e.cue for e in task.examples["train"] if 12 <= len(backbone.tokens(e.source + e.cue)) <= 40]
    return [found[i % len(found)] for i in range(count)]


def workload(name: str, prompts: int, asked: Sequence[str], repeat: int) -> list[Asked]:
    """Which prompt each text is asked with: drawn anew in each repeat, the same texts in all workloads."""
    n, draw = len(asked), torch.Generator().manual_seed(repeat)
    if name == "base":
        named = [-1] * n
    elif name == "identical":
        named = [0] * n
    elif name == "distinct":
        order = torch.randperm(prompts, generator=draw).tolist()
        named = [order[i % prompts] for i in range(n)]
    elif name == "uniform":
        named = torch.randint(math.ceil(math.sqrt(prompts)), (n,), generator=draw).tolist()
    else:
        shares = torch.arange(1, prompts + 1, dtype=torch.float64) ** -1.5
        named = torch.multinomial(shares, n, replacement=True, generator=draw).tolist()
    return [Asked(prompt, text) for prompt, text in zip(named, asked, strict=True)]


class Measured:
    """The runs of one kind of request."""

    def __init__(self, kind: str, ours: Process, peft: Process, asked: list[str], beside: int, clients: int) -> None:
        self.kind, self.ours, self.peft, self.asked, self.clients = kind, ours, peft, asked, clients
        self.beside = asked[:beside]  # PEFT is asked fewer: it is slow
        self.runs: dict[tuple[str, str, int], list[Answered]] = {}
        self.requests: dict[tuple[str, str, int], list[list[Asked]]] = {}

    def repeat(self, i: int) -> None:
        runs: list[tuple[Process, str, str, int]] = [(self.ours, "ours", name, prompts) for name, prompts in CASES]
        runs += [(self.peft, route, name, FEW) for route, name in BESIDE]
        for server, route, name, prompts in runs if i % 2 == 0 else runs[::-1]:
            self._run(server, route, name, prompts, i)

    def cost(self, pairs: int) -> float:
        """What a prompt adds to a request after its first use: small, so it has runs of its own, in turns."""
        found = []
        for i in range(pairs):
            seconds = {}
            for name in ("base", "identical") if i % 2 == 0 else ("identical", "base"):
                seconds[name] = self.ours.run("ours", self.kind, workload(name, 1, self.asked, i), self.clients).seconds
            found.append(seconds["identical"] / seconds["base"] - 1)
            print(f"{self.kind} the prompt's cost: {found[-1]:.1%}", file=sys.stderr, flush=True)
        return statistics.median(found)

    def _run(self, server: Process, route: str, name: str, prompts: int, i: int) -> None:
        key = (route, name, prompts)
        requests = workload(name, prompts, self.asked if route == "ours" else self.beside, i)
        found = server.run(route, self.kind, requests, self.clients)
        self.runs.setdefault(key, []).append(found)
        self.requests.setdefault(key, []).append(requests)
        rate = len(requests) / found.seconds
        print(f"{self.kind} {route} {name} of {prompts}: {rate:.2f} requests/s", file=sys.stderr, flush=True)

    def rates(self, *key: Any) -> list[float]:
        return [len(run.answers) / run.seconds for run in self.runs[key]]

    def ratio(self, one: tuple[str, str, int], other: tuple[str, str, int]) -> float:
        return statistics.median(a / b for a, b in zip(self.rates(*one), self.rates(*other), strict=True))

    def goals(self) -> dict[str, float]:
        return {
            "distinct_of_identical": self.ratio(("ours", "distinct", FEW), ("ours", "identical", FEW)),
            "times_peft_switching": self.ratio(("ours", "distinct", FEW), ("peft_switching", "distinct", FEW)),
            "thousand_of_one": self.ratio(("ours", "distinct", MANY), ("ours", "identical", 1)),
        }

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        for (route, name, prompts), runs in self.runs.items():
            waited = sorted(one for run in runs for one in run.latencies)
            row = {
                "route": route, "workload": name, "prompts": prompts,
                "requests_per_second": round(statistics.median(self.rates(route, name, prompts)), 2),
                "p50_seconds": round(waited[len(waited) // 2], 3),
                "p99_seconds": round(waited[min(int(len(waited) * 0.99), len(waited) - 1)], 3),
            }  # fmt: skip
            if route == "ours":
                spent = {part: sum(run.spent[part] for run in runs) for part in runs[0].spent}
                row |= _engine(spent, sum(run.seconds for run in runs))
            rows.append(row)
        return rows

    def equal(self) -> dict[str, Any]:
        """How far answers are those that PEFT gives to the same request alone."""
        alone = dict(self._pairs("peft_switching", "distinct", FEW))
        own = [(answer, alone[asked]) for asked, answer in self._pairs("ours", "distinct", FEW) if asked in alone]
        # The same of PEFT's own batches: what its padding does.
        grouped = self._pairs("peft_grouped", "identical", FEW)[: len(self.beside)]
        again = self.peft.run("peft_switching", self.kind, [asked for asked, _ in grouped], self.clients).answers
        theirs = [(answer, other) for (_, answer), other in zip(grouped, again, strict=True)]
        return {"ours": self._compared(own), "peft_grouped": self._compared(theirs)}

    def _pairs(self, *key: Any) -> list[tuple[Asked, Any]]:
        runs = zip(self.requests[key], self.runs[key], strict=True)
        return [pair for requests, run in runs for pair in zip(requests, run.answers, strict=True)]

    def _compared(self, pairs: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
        if self.kind == "generate":
            return {"compared": len(pairs), "equal": sum(a == b for a, b in pairs)}
        gap = max(abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True))
        best = sum(a.index(max(a)) == b.index(max(b)) for a, b in pairs)
        return {"compared": len(pairs), "equal": best, "largest_difference_nats": float(f"{gap:.2g}")}


def _engine(spent: dict[str, float], seconds: float) -> dict[str, Any]:
    """Shares of a run's time, and rows of a pass."""
    inside = sum(spent[part] for part in ("join", "step", "score"))
    asked = spent["hits"] + spent["misses"]
    told: dict[str, Any] = {
        "network_share": round(inside / seconds, 3),
        "prompts_share": round(spent.get("fronts", 0.0) / seconds, 3),
        "cache_hits": round(spent["hits"] / asked, 3) if asked else None,
    }
    for part in ("step", "score"):
        if spent[f"{part}_calls"]:
            told[f"rows_a_{part}"] = round(spent[f"{part}_rows"] / spent[f"{part}_calls"], 1)
            told[f"{part}_ms"] = round(1e3 * spent[part] / spent[f"{part}_calls"], 1)
    return told


def measure(backbone: str, requests: int, beside: int, repeats: int, pairs: int, clients: int) -> dict[str, Any]:
    name = t5_folder() if backbone == T5_SHAPE else backbone
    frozen = load_backbone(name)
    asked, choices = texts(frozen, requests), get_task("support").choices
    with tempfile.TemporaryDirectory() as folder:
        write_prompts(Path(folder), frozen, MANY, LENGTH, choices)
        del frozen
        with process("ours", name, Path(folder), {}) as ours, process("peft", name, Path(folder), {}) as peft:
            found: dict[str, Any] = {
                "memory": [ready(ours, peft, prompts, asked, clients) for prompts in (1, FEW, MANY)]
            }
            kinds = {kind: Measured(kind, ours, peft, asked, beside, clients) for kind in KINDS}
            for i in range(repeats):
                for one in kinds.values():
                    one.repeat(i)
            found["memory"] += [{"prompts": MANY, "after": "all"} | _peaks(ours, peft)]
            found["passes"] = [passes(ours, asked, rows) for rows in (1, 8, 32)]
            for kind, one in kinds.items():
                goals = one.goals() | {"prompt_cost": one.cost(pairs)}
                found[kind] = {
                    "goals": {n: round(g, 3) for n, g in goals.items()},
                    "rows": one.rows(),
                    "answers": one.equal(),
                }
    return found


def ready(ours: Process, peft: Process, prompts: int, asked: list[str], clients: int) -> dict[str, Any]:
    """Have so many prompts asked once, and a batch answered that is not measured; the memory that took."""
    began = time.perf_counter()
    requests = workload("distinct", prompts, asked[:clients], 0)
    ours.have(prompts)
    ours.run("ours", "generate", requests, clients)
    peft.have(prompts)
    peft.run("peft_grouped", "generate", workload("identical", prompts, asked[:clients], 0), clients)
    print(f"{prompts} prompts ready in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return {"prompts": prompts} | _peaks(ours, peft)


def _peaks(ours: Process, peft: Process) -> dict[str, Any]:
    return {
        f"{route}_{what}_mib": round(value)
        for route, server in (("ours", ours), ("peft", peft))
        for what, value in (("loaded", server.loaded), ("peak", server.peak()))
    }


def passes(ours: Process, asked: list[str], rows: int) -> dict[str, Any]:
    """What a step of so many rows costs: whether a larger batch is worth waiting for."""
    found = ours.run("ours", "generate", workload("distinct", FEW, asked[:rows], 0), rows)
    told = _engine(found.spent, found.seconds)
    return {"rows": rows, "step_ms": told["step_ms"], "step_ms_a_row": round(told["step_ms"] / told["rows_a_step"], 2)}


def met(goal: str, value: float) -> bool:
    sign, wanted = GOALS[goal]
    return value >= wanted if sign == ">=" else value <= wanted


def table(found: dict[str, Any]) -> str:
    lines = [f"{found['backbone']}, {found['threads']} threads, {found['clients']} clients, prompts of {LENGTH} rows"]
    for kind in KINDS:
        lines += ["", f"{kind:9} {'':16} prompts  requests/s   p50 s   p99 s   in network  rows a pass"]
        for row in found[kind]["rows"]:
            inside = f"{row['network_share']:10.0%}" if "network_share" in row else " " * 10
            rows = row.get("rows_a_step", row.get("rows_a_score", ""))
            lines.append(
                f"{row['workload']:9} {row['route']:16} {row['prompts']:7}  {row['requests_per_second']:10.2f}  "
                f"{row['p50_seconds']:6.2f}  {row['p99_seconds']:6.2f}   {inside}  {rows!s:>11}"
            )
        for name, (sign, goal) in GOALS.items():
            value = found[kind]["goals"][name]
            lines.append(f"  {name:22} {value:6.3f}  goal {sign} {goal:g}: {'met' if met(name, value) else 'not met'}")
        lines.append(f"  answers: {json.dumps(found[kind]['answers'])}")
    lines += ["", *(json.dumps(row) for part in ("passes", "memory") for row in found[part])]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="smollm2-135m", help=f"a backbone, or {T5_SHAPE}: of that shape")
    parser.add_argument("--requests", type=int, default=64, help="of each run of ours")
    parser.add_argument("--peft-requests", type=int, default=32, help="of each run of PEFT")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=8, help="of runs with and without a prompt, for its cost")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    given = parser.parse_args()
    found = {
        "backbone": Path(given.backbone).name, "dtype": "float32", "threads": torch.get_num_threads(),
        "clients": given.clients, "repeats": given.repeats, "requests": given.requests,
        "peft_requests": given.peft_requests, "pairs": given.pairs, "length": LENGTH,
        **measure(
            given.backbone, given.requests, given.peft_requests, given.repeats, given.pairs, given.clients
        ),
        "versions": versions(),
    }  # fmt: skip
    print(table(found))
    if given.output:
        write_json(given.output, found)
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
