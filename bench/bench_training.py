"""How fast is a training step, beside HF PEFT and beside our own plain route?

    python bench/bench_training.py --case smollm2-short --repeats 3 [--json]
    python bench/bench_training.py --case smollm2-short --dtype bfloat16 --peft-dtype float32
    python bench/bench_training.py --quick   (under a minute: are all routes alike, and which is faster?)
    python bench/bench_training.py --list

Every route has its own process; in each repeat each does the same batch in turn, and a ratio is the median over
repeats of two times of one repeat. A step is forward and backward, without the optimizer. Needs `peft`.
"""

import argparse
import json
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from routes import Case, steps, worker
from t5 import t5_folder
from torch import nn

from softprompt.backbones import Backbone, load_backbone
from softprompt.backbones.ops.linear import quicken
from softprompt.runtime.machine import processor_name

T5_SHAPE = "flan-t5-small"  # see t5.py
DEPT = (("length", 40), ("rank", 40))  # 60 * 512 values for the offset: rank 40 at 256 positions
CASES = {
    case.name: case
    for case in (
        Case("smollm2-short", "smollm2-135m", 12, 40, 100),
        Case("smollm2-medium", "smollm2-135m", 40, 120, 100),
        Case("smollm2-long", "smollm2-135m", 100, 300, 100),
        Case("smollm2-short-20", "smollm2-135m", 12, 40, 20),
        Case("smollm2-medium-20", "smollm2-135m", 40, 120, 20),
        Case("smollm2-long-20", "smollm2-135m", 100, 300, 20),
        Case("t5-dept", T5_SHAPE, 20, 80, 100, method="dept", options=DEPT),
    )
}


def matmul_peak(dtype: str, size: int = 2048, times: int = 5) -> float:
    """FLOP/s of a large frozen linear layer, here and now, as our route computes it."""
    layer = nn.Linear(size, size, bias=False, dtype=getattr(torch, dtype)).requires_grad_(False)
    quicken(layer)
    states = torch.randn(size, size).to(layer.weight)
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        layer(states)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def real_flops(case: Case, backbone: Backbone, batch: list[Any]) -> tuple[float, int]:
    """FLOPs that a step cannot do without, and its real (source and target) tokens.

    Forward and gradient with respect to the inputs of every linear layer for each real token and each prompt
    row once; the head for labels; attention (forward once, backward twice) for the pairs that see each other.
    Frozen weights need no gradient. A target's last token is not computed.
    """
    config: Any = backbone.model.config
    sources = [backbone.tokens.size(e, targets=False) for e in batch]
    targets = [len(backbone.tokens.target_ids(e)) for e in batch]
    rows = dict(case.options).get("length", case.length)
    linear = {name: p.numel() for name, p in backbone.model.named_parameters() if p.ndim == 2 and "embed" not in name}
    head = 4 * backbone.d * backbone.v * sum(targets)
    if config.is_encoder_decoder:
        own = sum(n for name, n in linear.items() if name.startswith("encoder."))
        cross = sum(n for name, n in linear.items() if "EncDecAttention.k" in name or "EncDecAttention.v" in name)
        decoder = sum(n for name, n in linear.items() if name.startswith("decoder.")) - cross
        width, layers = config.num_heads * config.d_kv, config.num_layers
        reads = sum(sources) + rows * len(batch)
        pairs = sum((s + rows) ** 2 for s in sources)
        flops = 4 * (own + cross) * reads + 4 * decoder * sum(targets) + 12 * pairs * width * layers
    else:
        layers, width = config.num_hidden_layers, config.num_attention_heads * config.head_dim
        own = sum(n for name, n in linear.items() if "layers" in name)
        computed = [s + t - 1 for s, t in zip(sources, targets, strict=True)]
        pairs = sum(n * (n + 1) / 2 + n * rows for n in computed) + rows * (rows + 1) / 2
        flops = 4 * own * (sum(computed) + rows) + 12 * pairs * width * layers
    return flops + head, sum(sources) + sum(targets)


def difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    a, b = (np.concatenate([np.ravel(x).astype(np.float64) for x in part]) for part in (found, expected))
    return float(np.abs(a - b).max() / np.abs(b).max())


def measure(case: Case, dtype: str, peft_dtype: str, repeats: int, warm: int) -> dict[str, Any]:
    if case.backbone == T5_SHAPE:
        case = replace(case, backbone=t5_folder())
    fixed = case.method == "dept"
    routes = {"ours": dtype, "plain": dtype, "peft": peft_dtype} | ({"fixed": dtype} if fixed else {})
    count = warm + repeats
    backbone = load_backbone(case.backbone, dtype=dtype, max_source=512)
    batches = steps(case, backbone, count)
    found: dict[str, list[dict[str, Any]]] = {route: [] for route in routes}
    peaks = []
    with ExitStack() as stack:
        workers = {
            route: stack.enter_context(worker(route, case, route_dtype, count)) for route, route_dtype in routes.items()
        }
        for i in range(count):
            peaks.append(matmul_peak(dtype))
            for route, do in workers.items():
                found[route].append(do(i))
                print(f"step {i} {route:6} {found[route][-1]['seconds']:.2f} s", file=sys.stderr, flush=True)

    timed = range(warm, count)
    seconds = {route: [found[route][i]["seconds"] for i in timed] for route in routes}

    def ratio(other: str) -> float:
        return statistics.median(b / a for a, b in zip(seconds["ours"], seconds[other], strict=True))

    flops = [real_flops(case, backbone, batches[i]) for i in timed]
    share = statistics.median(f / t / peaks[i] for (f, _), t, i in zip(flops, seconds["ours"], timed, strict=True))
    comparable = ["plain", *(["fixed"] if fixed else ["peft"])]  # PEFT has no DePT
    losses = {route: [found[route][i]["loss"] for i in range(count)] for route in ("ours", *comparable)}
    memory = {route: found[route][-1]["peak"] for route in routes}
    made = {
        "case": case.name,
        "dtype": dtype,
        "peft_dtype": peft_dtype,
        "repeats": repeats,
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        **{f"{route}_seconds": round(statistics.median(times), 3) for route, times in seconds.items()},
        "ratio_vs_peft": round(ratio("peft"), 2),
        "ratio_vs_plain": round(ratio("plain"), 2),
        "loss_difference": max(
            abs(a - b) / abs(b) for route in comparable for a, b in zip(losses["ours"], losses[route], strict=True)
        ),
        "gradient_difference": max(
            difference(found["ours"][i]["grads"], found["plain"][i]["grads"]) for i in range(count)
        ),
        "real_tokens_per_second": round(
            statistics.median(n / t for (_, n), t in zip(flops, seconds["ours"], strict=True))
        ),
        "matmul_peak_share": round(share, 3),
        "page_faults": {route: round(statistics.median(found[route][i]["faults"] for i in timed)) for route in routes},
        "matmul_peak_gflops": round(statistics.median(peaks) / 1e9),
        "peak_memory_ratio": round(memory["ours"] / memory["peft"], 3),
        "step_memory_ratio": round(
            (memory["ours"] - found["ours"][0]["loaded"]) / (memory["peft"] - found["peft"][0]["loaded"]), 3
        ),
        **{f"{route}_peak_mib": round(peak) for route, peak in memory.items()},
    }
    if fixed:
        made["ratio_vs_fixed"] = round(ratio("fixed"), 2)
    return made


def table(found: dict[str, Any]) -> str:
    routes = [route for route in ("ours", "plain", "peft", "fixed") if f"{route}_seconds" in found]
    lines = [f"{found['case']}, {found['dtype']} (PEFT: {found['peft_dtype']}), {found['threads']} threads"]
    lines[0] += f", {found['processor']}"
    lines += [f"  {'':8} s/step  times ours  peak MiB  page faults a step"]
    for route in routes:
        times = {"ours": 1.0, "plain": found["ratio_vs_plain"], "peft": found["ratio_vs_peft"]}.get(route)
        times = found["ratio_vs_fixed"] if times is None else times
        lines.append(
            f"  {route:8} {found[f'{route}_seconds']:6.2f}  {times:10.2f}  {found[f'{route}_peak_mib']:8,}  "
            f"{found['page_faults'][route]:10,}"
        )
    lines.append(
        f"  {found['real_tokens_per_second']:,} real tokens/s; {found['matmul_peak_share']:.0%} of the matmul peak "
        f"({found['matmul_peak_gflops']} GFLOP/s); losses differ by {found['loss_difference']:.1e}, gradients by "
        f"{found['gradient_difference']:.1e}; memory beside PEFT {found['peak_memory_ratio']:.2f} "
        f"(of the step alone {found['step_memory_ratio']:.2f})"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="smollm2-short")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--peft-dtype", help="PEFT's dtype; the same when not given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm", type=int, default=3, help="steps before the first that is timed")
    parser.add_argument("--quick", action="store_true", help="one step to warm up, one that is timed")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    parser.add_argument("--list", action="store_true", help="name the cases")
    given = parser.parse_args()
    if given.list:
        print("\n".join(CASES))
        return
    if given.quick:
        given.repeats = given.warm = 1
    found = measure(CASES[given.case], given.dtype, given.peft_dtype or given.dtype, given.repeats, given.warm)
    print(table(found))
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(found, indent=2) + "\n")
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
