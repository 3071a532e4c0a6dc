"""Where does the time of our training step go, and how far is each part from what this machine can do?

    python bench/profile_training.py --case smollm2-short [--output results/bench/profile-smollm2-short.json]

Shares of the time that PyTorch's operators take in a step, and the FLOP/s of the large matrix products in it beside
those of one very large product.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_training import CASES, T5_SHAPE, matmul_peak, real_flops
from routes import ours, steps
from t5 import t5_folder
from torch.profiler import ProfilerActivity, profile

PARTS = {
    "matrix products (linear layers, head)": ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise"),
    "attention: products and kernels": ("aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product"),
    "exponentials (attention, loss)": ("aten::exp", "aten::logsumexp", "aten::_log_softmax", "aten::amax"),
    "elementwise (norms, activations, residuals, rotary)": (
        "aten::mul", "aten::add", "aten::sub", "aten::div", "aten::silu", "aten::gelu", "aten::neg", "aten::rsqrt",
        "aten::pow", "aten::tanh", "aten::linalg_vecdot", "aten::sum", "aten::mean",
    ),
    "moving (copies, gathers, padding)": ("aten::copy_", "aten::index", "aten::cat", "aten::fill_", "aten::_index_put"),
}  # fmt: skip


def measure(name: str, warm: int, dtype: str) -> dict[str, Any]:
    case = CASES[name]
    if case.backbone == T5_SHAPE:
        case = replace(case, backbone=t5_folder())
    step, backbone = ours(case, dtype, warm + 1)
    for i in range(warm):
        step(i)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        began = time.perf_counter()
        step(warm)
        seconds = time.perf_counter() - began
    peak = matmul_peak(dtype)
    times = {event.key: event.self_cpu_time_total / 1e6 for event in seen.key_averages()}
    total = sum(times.values())
    parts = {
        part: sum(t for key, t in times.items() if any(key.startswith(name) for name in names))
        for part, names in PARTS.items()
    }
    parts["everything else (Python, dispatch, autograd)"] = total - sum(parts.values())
    flops, _ = real_flops(case, backbone, steps(case, backbone, warm + 1)[warm])
    products = parts["matrix products (linear layers, head)"]
    return {
        "case": name,
        "dtype": dtype,
        "step_seconds": round(seconds, 3),
        "shares": {part: round(t / total, 3) for part, t in parts.items()},
        "peak_gflops": round(peak / 1e9),
        "real_gflop": round(flops / 1e9),
        "products_of_peak": round(flops / products / peak, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="smollm2-short")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--warm", type=int, default=4)
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    given = parser.parse_args()
    found = measure(given.case, given.warm, given.dtype)
    print(f"{found['case']}, {found['dtype']}: {found['step_seconds']:.2f} s, {found['real_gflop']} GFLOP that must be")
    for part, share in found["shares"].items():
        print(f"  {share:6.1%}  {part}")
    share, peak = found["products_of_peak"], found["peak_gflops"]
    print(f"  the real FLOPs in the time of the matrix products alone: {share:.0%} of {peak} GFLOP/s")
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
