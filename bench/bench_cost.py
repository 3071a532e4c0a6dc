"""Does a shorter prompt with an offset save time and memory, and the more so the larger the model? (claim E7)

    python bench/bench_cost.py [--sizes small base large] [--tokens 256 16 40 120] [--output FILE]

Prompt tuning of 100 and of 20 rows beside DePT of 60, 40 and 20 rows with as many values as prompt tuning of 100 has at
256 positions (Shi & Lipani 2024, section 3.1), on T5 v1.1's shapes with random weights, in float32: a forward and
backward pass of 16 examples, and their answers of 4 tokens. Sources have exactly so many tokens: 256 is what the
authors' code computes for every text, padded. The arms take turns; medians of 3 after a warm-up, which is measured for
its peak memory. `arithmetic`: the tokens that the encoder reads, as a share of those of prompt tuning of 100.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from routes import Case, Fed, dept, start, steps
from t5 import make_t5

from softprompt.backbones import Backbone, load_backbone
from softprompt.experiments.costs import peak_mib, reset_peak
from softprompt.methods.bank import Bank
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runs.run_folder import versions
from softprompt.runtime.files import write_json
from softprompt.runtime.machine import processor_name
from softprompt.tasks import Example
from softprompt.training.gradients import Gradients

BATCH, POSITIONS, ANSWER, REPEATS, LONG = 16, 256, 4, 3, 100
KINDS = ("training", "inference")


def ranks(d: int) -> dict[int, int]:
    """Return DePT's rank by its rows, so that it trains as many values as LONG rows of width d."""
    return {m: (LONG - m) * d // (POSITIONS + d) for m in (60, 40, 20)}


def arms(backbone: Backbone) -> dict[str, tuple[int, SoftPrompt]]:
    """Make the prompts, each with its rows."""
    made = {f"prompt tuning {rows}": (rows, start(backbone, rows)) for rows in (LONG, 20)}
    for rows, rank in ranks(backbone.d).items():
        case = Case(
            "", "", 0, 0, rows, method="dept", options=(("length", rows), ("rank", rank), ("positions", POSITIONS))
        )
        made[f"dept {rows}, rank {rank}"] = rows, dept(case, backbone)
    return made


def learner(backbone: Backbone, prompt: SoftPrompt, examples: list[Example]) -> Callable[[], None]:
    fed, gradients = Fed(prompt, [examples]), Gradients(backbone, limit=10**9)

    def learn() -> None:
        for tensor in prompt.parameters():
            tensor.grad = None
        gradients([fed], [0])  # type: ignore[list-item]

    return learn


def answerer(backbone: Backbone, examples: list[Example]) -> Callable[[], None]:
    def answer() -> None:
        backbone.answer(examples, [0] * len(examples), max_new_tokens=ANSWER, min_new_tokens=ANSWER)

    return answer


def exact(backbone: Backbone, tokens: int) -> list[Example]:
    """Make texts of exactly `tokens` tokens, the closing one included."""
    word = next(w for w in ("order", "parcel", "the") if len(backbone.tokens(w)) == 1)
    return [
        Example(" ".join([word] * (tokens - 1)), one.target)
        for one in steps(Case("", "", 5, 5, 1, BATCH), backbone, 1)[0]
    ]


def measure(size: str, lengths: list[int], kinds: list[str]) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as place:
        make_t5(Path(place), size)
        backbone = load_backbone(place, dtype="float32", max_source=POSITIONS)
        values = sum(tensor.numel() for tensor in backbone.model.parameters())
        prompts = arms(backbone)
        for tokens in lengths:
            examples = exact(backbone, tokens)
            for kind in kinds:
                rows += one_table(
                    backbone, prompts, examples, kind, {"size": size, "parameters": values, "tokens": tokens}
                )
    return rows


def one_table(
    backbone: Backbone,
    prompts: dict[str, tuple[int, SoftPrompt]],
    examples: list[Example],
    kind: str,
    about: dict[str, Any],
) -> list[dict[str, Any]]:
    """Measure all arms in turns; returns a row an arm, with its ratios to the longest prompt."""
    seconds: dict[str, list[float]] = {name: [] for name in prompts}
    peaks: dict[str, float] = {}
    for turn in range(REPEATS + 1):
        for name, (_, prompt) in prompts.items():
            bank = Bank({name: prompt.train() if kind == "training" else prompt.eval()})
            do = learner(backbone, prompt, examples) if kind == "training" else answerer(backbone, examples)
            with backbone.using(bank):
                if not turn:
                    reset_peak(backbone.device)
                began = time.perf_counter()
                do()
                if turn:
                    seconds[name].append(time.perf_counter() - began)
                else:
                    peaks[name] = peak_mib(backbone.device) or 0.0
    first = next(iter(prompts))
    longest = statistics.median(seconds[first])
    found = [
        {
            **about, "kind": kind, "arm": name, "rows": rows, "values": prompt.trainable(),
            "seconds": statistics.median(seconds[name]), "peak_mib": round(peaks[name]),
            "time_ratio": round(statistics.median(seconds[name]) / longest, 3),
            "memory_ratio": round(peaks[name] / peaks[first], 3),
            "arithmetic": round((rows + about["tokens"]) / (LONG + about["tokens"]), 3),
        }
        for name, (rows, prompt) in prompts.items()
    ]  # fmt: skip
    for row in found:
        print(json.dumps(row), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["small", "base", "large"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[256, 16, 40, 120])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size in given.sizes:
        rows += measure(size, given.tokens, given.kinds)
        if given.output:
            found = {"batch": BATCH, "threads": torch.get_num_threads(), "processor": processor_name()}
            write_json(given.output, {**found, "rows": rows, "versions": versions()})


if __name__ == "__main__":
    main()
