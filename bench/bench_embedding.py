"""What does the embedding that stands in for the model's own cost, beside handing the model `inputs_embeds`?

    python bench/bench_embedding.py [--json]

Forward and backward of the embedding alone, both ways in turn, as a share of a whole training step of the same batch.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from routes import Case, start, steps
from torch import Tensor

from softprompt.backbones import load_backbone
from softprompt.methods.bank import Bank


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(repeats: int) -> dict[str, Any]:
    case = Case("embedding", "smollm2-135m", 12, 40, 20)
    backbone = load_backbone(case.backbone, max_source=512)
    prompt = start(backbone, case.length)
    rows = next(iter(prompt.parameters()))
    (examples,) = steps(case, backbone, 1)
    with backbone.using(Bank({"one": prompt})):
        batch = backbone.pose(examples, [0] * len(examples), targets=True)
        embedding = backbone.embedding
        soft = batch.ids >= backbone.v
        rank = (batch.ids - backbone.v).clamp(min=0)
        text = batch.ids.masked_fill(soft, backbone.pad)

        def stand_in() -> Tensor:
            with embedding.laid_out(batch.layout):
                return embedding(batch.ids)

        def by_hand() -> Tensor:
            return torch.where(soft.unsqueeze(-1), rows[rank.clamp(max=case.length - 1)], embedding.table(text))

        assert torch.equal(stand_in(), by_hand())
        weights = torch.randn(*batch.ids.shape, backbone.d)
        ways = {"stand_in": stand_in, "inputs_embeds": by_hand}
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats * 20):
            for name, way in ways.items():
                found[name].append(timed(lambda way=way: way().backward(weights)))  # type: ignore[misc]
        step = statistics.median(timed(lambda: backbone.loss(batch).nll.sum().backward()) for _ in range(repeats + 2))
    seconds = {f"{name}_seconds": statistics.median(times) for name, times in found.items()}
    cost = (seconds["stand_in_seconds"] - seconds["inputs_embeds_seconds"]) / step
    return {"batch": case.batch, "length": case.length, **seconds, "step_seconds": step, "cost_share": round(cost, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    given = parser.parse_args()
    found = measure(given.repeats)
    for name in ("stand_in", "inputs_embeds", "step"):
        print(f"{name:14} {found[f'{name}_seconds'] * 1e3:8.2f} ms")
    print(f"the stand-in costs {found['cost_share']:.2%} of a step")
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(found, indent=2) + "\n")
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
