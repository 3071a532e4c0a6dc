"""How long do K candidates take together, beside K runs one after the other?

    python bench/bench_sweep.py --backbone smollm2-135m [--together 1 4 16] [--repeats 5] [--output FILE] [--json]

Candidates are prompts of prompt tuning with their own seeds (so their own starts and examples) and rates on the task
`support` (short texts), a few examples a step each. In each repeat the K of them take the same step together and
alone, in turn; a ratio is the median over repeats of two times of one repeat. Loading the backbone, which separate
runs do K times, is not counted. The gradients of both are compared in every step.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from t5 import t5_folder

from softprompt.backbones import Backbone, load_backbone
from softprompt.methods.bank import Bank
from softprompt.recipes import Recipe
from softprompt.runs.run_folder import versions
from softprompt.runtime.files import write_json
from softprompt.tasks import Task
from softprompt.tasks.registry import get_task
from softprompt.training.candidate import Candidate, make_candidate
from softprompt.training.gradients import Gradients

T5_SHAPE = "flan-t5-small"  # see t5.py
RATES = (0.03, 0.1, 0.3, 1.0)  # times the default


@dataclass(frozen=True)
class Step:
    """A step of K candidates, together and one by one."""

    together: float
    alone: float
    """Seconds."""
    difference: float
    """Largest difference of two gradients, as a share of the largest entry of the candidate's gradient."""


def candidates(backbone: Backbone, task: Task, count: int, batch: int, length: int) -> list[Candidate]:
    return [
        make_candidate(
            f"candidate {i}",
            Recipe(options={"length": length}, batch=batch, seed=i, rate_factor=RATES[i % 4], steps=100, warmup=0),
            backbone, task,
        )
        for i in range(count)
    ]  # fmt: skip


def gradients_of(gradients: Gradients, made: list[Candidate]) -> tuple[float, list[torch.Tensor]]:
    """Seconds of the candidates' next step in the same batch, optimizer included, and its gradients."""
    backbone = gradients.backbone
    wait(backbone)
    began = time.perf_counter()
    with backbone.using(Bank({one.name: one.prompt for one in made}).train()):
        losses = gradients(made, range(len(made)))
    found = [torch.cat([tensor.grad.flatten() for tensor in one.prompt.parameters()]) for one in made]  # type: ignore
    found = [grad.clone() for grad in found]
    for i, one in enumerate(made):
        one.update(losses[i])
    wait(backbone)
    return time.perf_counter() - began, found


def wait(backbone: Backbone) -> None:
    if backbone.device.type == "cuda":
        torch.cuda.synchronize()


def step(gradients: Gradients, bank: list[Candidate], single: list[Candidate]) -> Step:
    """The next step of both; then the single ones take the bank's tensors, so that all steps compare the same."""
    together, mixed = gradients_of(gradients, bank)
    alone = [gradients_of(gradients, [one]) for one in single]
    differences = [
        float((a - b).abs().max() / b.abs().max()) for a, (_, (b,)) in zip(mixed, alone, strict=True)
    ]  # fmt: skip
    for one, other in zip(single, bank, strict=True):
        one.prompt.load_state_dict(other.prompt.state_dict())
    return Step(together, sum(seconds for seconds, _ in alone), max(differences))


def measure(backbone: Backbone, count: int, batch: int, length: int, repeats: int) -> dict[str, Any]:
    task = get_task("support")
    bank, single = (candidates(backbone, task, count, batch, length) for _ in range(2))
    gradients, steps = Gradients(backbone), []
    for i in range(repeats + 1):
        steps.append(step(gradients, bank, single))
        print(f"K={count} {'warm' if i == 0 else 'step'} {i}: {asdict(steps[-1])}", file=sys.stderr, flush=True)
    timed = steps[1:]
    return {
        "candidates": count,
        "together_seconds": round(statistics.median(one.together for one in timed), 3),
        "alone_seconds": round(statistics.median(one.alone for one in timed), 3),
        "times_as_fast": round(statistics.median(one.alone / one.together for one in timed), 2),
        "gradient_difference": max(one.difference for one in steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="smollm2-135m", help=f"a backbone, or {T5_SHAPE}: of that shape")
    parser.add_argument("--together", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--batch", type=int, default=4, help="examples a step of each candidate")
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    given = parser.parse_args()
    name = t5_folder() if given.backbone == T5_SHAPE else given.backbone
    backbone = load_backbone(name, dtype=given.dtype, device=given.device, max_source=128)
    found = {
        "backbone": Path(given.backbone).name, "dtype": given.dtype, "device": str(backbone.device),
        "threads": torch.get_num_threads(), "batch": given.batch, "length": given.length, "repeats": given.repeats,
        "rows": [measure(backbone, count, given.batch, given.length, given.repeats) for count in given.together],
        "versions": versions(),
    }  # fmt: skip
    for row in found["rows"]:
        print(
            f"{found['backbone']}, {given.batch} examples each, K={row['candidates']:2}: "
            f"{row['together_seconds']:.2f} s together, {row['alone_seconds']:.2f} s one by one: "
            f"{row['times_as_fast']:.2f} times as fast; gradients differ by {row['gradient_difference']:.1e}"
        )
    if given.output:
        write_json(given.output, found)
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
