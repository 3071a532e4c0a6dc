"""What do ten thousand prompts cost before the first is asked?

    python bench/start_serving.py [--counts 10 10000] [--output results/bench/start.json]

Writes so many run folders (each its own files), starts `softprompt serve` on them, and measures the seconds until it
takes requests, its resident memory then, after every name was listed a page at a time, and after some prompts were
asked. The store's own listing is timed in this process, too: first, and again.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import torch
from bench_serving import T5_SHAPE
from servers import name_of, write_prompts
from soak_serving import resident, server
from t5 import t5_folder

from softprompt.backbones import load_backbone
from softprompt.runs.run_folder import versions
from softprompt.runtime.files import write_json
from softprompt.serving.prompt_store import PromptStore
from softprompt.tasks.registry import get_task

ASKED = 20
WRITTEN = 100  # of which the others are copies, file by file


def write_many(folder: Path, backbone: Any, count: int) -> None:
    write_prompts(folder, backbone, min(count, WRITTEN), 20, get_task("support").choices)
    for i in range(WRITTEN, count):
        shutil.copytree(folder / name_of(i % WRITTEN), folder / name_of(i))


def listing(folder: Path, backbone: Any) -> dict[str, float]:
    """Measure the seconds of the store's own listing."""
    began = time.perf_counter()
    store = PromptStore(folder, backbone)
    first = time.perf_counter() - began
    times = []
    for _ in range(20):
        began = time.perf_counter()
        store.entry(name_of(0))
        times.append(time.perf_counter() - began)
    (folder / "touch").mkdir()  # the folder has changed: it is listed again
    began = time.perf_counter()
    store.entry(name_of(0))
    again = time.perf_counter() - began
    (folder / "touch").rmdir()
    return {"open_seconds": first, "look_up_seconds": statistics.median(times), "list_again_seconds": again}


def asked(address: str, pid: int, count: int) -> dict[str, float]:
    """Memory as the server is asked more, in MiB, and the seconds of a page and of an answer."""
    found = {"ready_mib": resident(pid)}
    with httpx2.Client(base_url=address, timeout=600) as client:
        after, pages, names = "", [], 0
        while True:
            began = time.perf_counter()
            page = client.get("/v1/prompts", params={"after": after, "limit": 100}).raise_for_status().json()
            pages.append(time.perf_counter() - began)
            names, after = names + len(page["data"]), page["data"][-1]["name"]
            if not page["has_more"]:
                break
        assert names == page["total"] == count
        found |= {"page_seconds": statistics.median(pages), "listed_mib": resident(pid)}
        draw, times = random.Random(0), []
        for _ in range(ASKED):
            body = {"model": name_of(draw.randrange(count)), "input": "where is my parcel?"}
            began = time.perf_counter()
            client.post("/v1/classify", json=body).raise_for_status()
            times.append(time.perf_counter() - began)
        return found | {"answer_seconds": statistics.median(times), "asked_mib": resident(pid)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 10_000])
    parser.add_argument("--backbone", default=T5_SHAPE, help=f"a backbone, or {T5_SHAPE}: of that shape")
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    given = parser.parse_args()
    name = t5_folder() if given.backbone == T5_SHAPE else given.backbone
    frozen, rows = load_backbone(name), []
    for count in given.counts:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "prompts"
            write_many(folder, frozen, count)
            row: dict[str, Any] = {"prompts": count} | listing(folder, frozen)
            began = time.perf_counter()
            with server(name, folder, Path(scratch) / "log", []) as (address, process):
                row["ready_seconds"] = time.perf_counter() - began
                row |= asked(address, process.pid, count)
            rows.append({key: float(f"{value:.4g}") for key, value in row.items()} | {"prompts": count})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    result = {
        "backbone": Path(given.backbone).name, "threads": torch.get_num_threads(), "rows": rows, "versions": versions(),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if given.output:
        write_json(given.output, result)


if __name__ == "__main__":
    main()
