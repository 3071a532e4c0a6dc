"""What does scoring in bfloat16 save beside float32, what do float32 logits cost there, and how many choices tie?

    python bench/bench_dtype.py [--output FILE]

Also: the seconds of the one-off check of a backbone (softprompt.backbones.row_check), and of remembering it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from softprompt.backbones import Backbone, backbone, check_memory, load_backbone
from softprompt.backbones.ops.exact_head import exact_head
from softprompt.backbones.row_check import check_rows
from softprompt.evaluation.evaluate import Record, evaluate_examples
from softprompt.methods.bank import Bank
from softprompt.runs.run_folder import versions
from softprompt.runtime.files import write_json
from softprompt.runtime.machine import processor_name
from softprompt.tasks import Example
from softprompt.tasks.registry import get_task


def score(model: Backbone, examples: Sequence[Example]) -> tuple[float, list[Record]]:
    began = time.perf_counter()
    with model.using(Bank()):
        records = evaluate_examples(model, examples)
    return time.perf_counter() - began, records


def count_ties(records: Sequence[Record]) -> int:
    return sum(len(set(record.scores.values())) < len(record.scores) for record in records if record.scores)


def measure(name: str, repeats: int) -> dict[str, Any]:
    examples = get_task("support").examples["test"]
    models = {dtype: load_backbone(name, dtype=dtype) for dtype in ("float32", "bfloat16")}
    seconds: dict[str, list[float]] = {way: [] for way in ("float32", "bfloat16", "bfloat16, rounded logits")}
    ties, answers = {}, {}
    for _ in range(repeats + 1):  # the first is a warm-up
        for way in seconds:
            # The head as it was before: logits in the weights' own type.
            backbone.exact_head = nullcontext if way.endswith("logits") else exact_head  # type: ignore[attr-defined]
            taken, records = score(models[way.partition(",")[0]], examples)
            seconds[way].append(taken)
            ties[way], answers[way] = count_ties(records), [record.prediction for record in records]
    backbone.exact_head = exact_head  # type: ignore[attr-defined]
    medians = {way: statistics.median(times[1:]) for way, times in seconds.items()}
    check = {dtype: timed_checks(model, repeats) for dtype, model in models.items()}
    return {
        "backbone": name, "messages": len(examples), "seconds": medians,
        "bfloat16_share": round(medians["bfloat16"] / medians["float32"], 3),
        "exact_head_cost": round(medians["bfloat16"] / medians["bfloat16, rounded logits"] - 1, 3), "ties": ties,
        "as_float32": {way: sum(map(str.__eq__, own, answers["float32"])) for way, own in answers.items()},
        "check_seconds": check, "processor": processor_name(), "versions": versions(),
    }  # fmt: skip


def timed_checks(model: Backbone, repeats: int) -> dict[str, float]:
    """Time the check itself, and reading what it found from disk."""
    tried, recalled = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        model.grouping = check_rows(model).grouping
        tried.append(time.perf_counter() - began)
        check_memory._known.clear()
        began = time.perf_counter()
        check_memory.recall_rows(model)
        recalled.append(time.perf_counter() - began)
    return {"tried": statistics.median(tried), "remembered": statistics.median(recalled)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = measure(given.backbone, given.repeats)
    print(json.dumps(found, indent=2))
    if given.output:
        write_json(given.output, found)


if __name__ == "__main__":
    main()
