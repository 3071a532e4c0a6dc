"""What does `softprompt predict` cost from Enter to answer, beside importing what it stands on?

    python bench/bench_start.py [--backbone NAME] [--repeats N] [--output FILE]

CPU seconds and seconds of whole processes, medians, in turns:

    imports    torch, transformers and the classes of the model, and nothing else
    cold       predict with an empty cache of what was found out (the model itself is prepared)
    warm       predict again
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import softprompt
from softprompt.backbones.bundled import cache_folder
from softprompt.runs.run_folder import versions
from softprompt.runtime.files import write_json
from softprompt.runtime.machine import processor_name

IMPORTS = (
    "import torch, transformers; from transformers import AutoTokenizer, LlamaForCausalLM, T5ForConditionalGeneration"
)
TEXT = "My parcel came today and the screen was cracked, what now?"


def spend(arguments: list[str], cache: Path) -> tuple[float, float]:
    """Run a process with this cache; return its CPU seconds and its seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"SOFTPROMPT_CACHE": str(cache)}
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began


def measure(backbone: str, repeats: int) -> dict[str, Any]:
    taken: dict[str, list[tuple[float, float]]] = {"imports": [], "cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        softprompt.train(task="support", backbone=backbone, output=run, steps=1, settings={"dev_limit": 1})
        predict = ["-m", "softprompt", "predict", str(run), TEXT]
        for i in range(repeats + 1):
            cache = Path(folder) / f"cache{i}"
            cache.mkdir()
            for model in cache_folder().glob(f"{backbone}-*"):
                (cache / model.name).symlink_to(model)
            for name, arguments in (("imports", ["-c", IMPORTS]), ("cold", predict), ("warm", predict)):
                spent = spend(arguments, cache)
                if i:  # the first brings files from disk into memory
                    taken[name].append(spent)
    cpu = {name: statistics.median(one for one, _ in times) for name, times in taken.items()}
    return {
        "backbone": backbone, "repeats": repeats, "cpu_seconds": cpu,
        "seconds": {name: statistics.median(one for _, one in times) for name, times in taken.items()},
        "cpu_beyond_imports": {name: round(cpu[name] - cpu["imports"], 2) for name in ("cold", "warm")},
        "processor": processor_name(), "cores": os.cpu_count(), "versions": versions(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = measure(given.backbone, given.repeats)
    print(json.dumps(found, indent=2))
    if given.output:
        write_json(given.output, found)


if __name__ == "__main__":
    main()
