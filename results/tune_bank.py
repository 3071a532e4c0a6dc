"""Tune variants x seeds on one dataset, all in the same batches, and write one JSON file.

    python results/tune_bank.py VARIANTS DATASET BACKBONE --data-dir DIR --output results/NAME.json

VARIANTS is a name in `VARIANTS` below. DATASET is "support" (shipped) or a name in `DATASETS`, read from
DIR as results/README.md describes. The checkpoint is chosen on dev; test is measured once, at the end.
"""

import argparse
import csv
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from softprompt import Bank, Recipe, Task, from_files, get_task, load_backbone
from softprompt.evaluation.evaluate import evaluate_examples, majority, score
from softprompt.runs.run_folder import versions
from softprompt.runtime.files import write_json
from softprompt.training.candidate import Candidate, make_candidate
from softprompt.training.loop import tune

PATHS = ("data_dir", "output", "backbone")  # of the machine that ran it
Variant = dict[str, Any]  # a Recipe's fields; rates under "relative" are multiples of the embeddings' scale


def sst2(folder: Path) -> Task:
    """GLUE SST-2: train 67,349, dev = the official dev (872), test = the labelled test (1,821)."""
    found = folder / "sst2_glue"
    return from_files(
        found / "train_full.tsv", dev=found / "dev.tsv", test=found / "test-labeled.tsv",
        template="{sentence}\nSentiment:", words={"0": "negative", "1": "positive"}, name="sst2",
    )  # fmt: skip


def ag_titles(folder: Path) -> Task:
    """Titles of AG News' 7,600 test items, which are split here with seed 0: 80 % train, 10 % dev, 10 % test."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "ag_titles.csv"
        with (folder / "ag_news" / "test.csv").open(newline="", encoding="utf-8") as source, path.open("w") as target:
            csv.writer(target).writerows([["label", "title"], *(row[:2] for row in csv.reader(source))])
        words = {"1": "world", "2": "sports", "3": "business", "4": "technology"}
        return from_files(path, template="News: {title}\nTopic:", words=words, name="ag_titles")


DATASETS: dict[str, Callable[[Path], Task]] = {"sst2": sst2, "ag_titles": ag_titles}

_SHORT = {"prompt_tuning": {"length": 10}, "dept": {"length": 10, "rank": 10}, "superpos": {"length": 10}}
METHODS = {method: {"method": method, "options": options} for method, options in _SHORT.items()}
VARIANTS: dict[str, dict[str, Variant]] = {
    # Every method with its default rates: do they beat the floors?
    "methods": METHODS,
    # The rate of a free prompt, as a multiple of the root mean square of the embedding entries.
    "prompt_rates": {
        f"prompt_tuning prompt={c}": {**METHODS["prompt_tuning"], "relative": {"prompt": c}}
        for c in (0.01, 0.03, 0.1, 0.3, 1.0)
    },
    # DePT's second rate, the first at its default.
    "offset_rates": {
        f"dept offset={c}": {**METHODS["dept"], "relative": {"offset": c}} for c in (4e-5, 4e-4, 4e-3, 4e-2)
    },
    # SuperPos' rates: of p' (as it is) and of E (as a multiple of the scale; the paper's 0.01 is 0.0008 on T5).
    "superpos_rates": {
        f"superpos weights={w} codebook={c}": {
            **METHODS["superpos"],
            "rates": {"weights": w},
            "relative": {"codebook": c},
        }
        for w in (0.01, 0.03, 0.1)
        for c in (0.0008, 0.01, 0.1)
    },
    # How p' starts, which the paper does not say.
    "weights_start": {
        f"superpos start={start} scale={c}": {
            "method": "superpos",
            "options": {"length": 10, "weights_start": start, "weights_scale": c},
        }
        for start, c in (("normal", 0.1), ("normal", 1.0), ("normal", 3.0), ("one_hot", 1.0))
    },
}


def limited(task: Task, train: int | None, test: int) -> Task:
    """A fixed draw of the test split (and of train), so that a CPU can do it."""
    examples = dict(task.examples)
    for split, limit in (("train", train), ("test", test)):
        rows = list(examples[split])  # type: ignore[index]
        random.Random(0).shuffle(rows)
        examples[split] = rows[:limit]  # type: ignore[index]
    return replace(task, examples=examples)


class Printer:
    def __init__(self) -> None:
        self.began = time.monotonic()

    def stepped(self, candidate: Candidate) -> None:
        pass

    def evaluated(self, candidate: Candidate) -> None:
        losses = [entry["loss"] for entry in candidate.history if "loss" in entry][-20:]
        print(
            f"{time.monotonic() - self.began:6.0f} s  {candidate.name:34} step {candidate.step:4}  "
            f"loss {statistics.mean(losses):6.3f}  dev {candidate.history[-1]['dev']}",
            flush=True,
        )

    def ended(self, candidate: Candidate) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", choices=VARIANTS)
    parser.add_argument("dataset", choices=["support", *DATASETS])
    parser.add_argument("backbone")
    parser.add_argument("--name", help="what to call the backbone in the file", default=None)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--evaluate-every", type=int, default=25)
    parser.add_argument("--dev-limit", type=int, default=200)
    parser.add_argument("--test-limit", type=int, default=400)
    parser.add_argument("--max-chars", type=int, help="leave longer sources out of all splits (a quicker experiment)")
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    began = time.monotonic()
    task = get_task("support") if given.dataset == "support" else DATASETS[given.dataset](given.data_dir)
    if given.max_chars:
        kept = {k: [e for e in rows if len(e.source) <= given.max_chars] for k, rows in task.examples.items()}
        task = replace(task, examples=kept)
    task = limited(task, None, given.test_limit)
    backbone = load_backbone(given.backbone, dtype=given.dtype, max_source=128)
    scale = backbone.scale()
    common = {
        "steps": given.steps, "batch": given.batch, "evaluate_every": given.evaluate_every,
        "dev_limit": given.dev_limit,
    }  # fmt: skip
    candidates = []
    for label, variant in VARIANTS[given.variants].items():
        fields = {key: value for key, value in variant.items() if key != "relative"}
        rates = {group: c * scale for group, c in variant.get("relative", {}).items()} | variant.get("rates", {})
        for seed in range(given.seeds):
            recipe = Recipe(**{**fields, **common, "rates": rates, "seed": seed})
            candidates.append(make_candidate(f"{label} seed={seed}", recipe, backbone, task))
    test = task.examples["test"]
    found: dict[str, Any] = {
        "command": {key: str(value) for key, value in vars(given).items() if key not in PATHS},
        "backbone": given.name or given.backbone, "scale": scale, "versions": versions(),
        "rows": {split: len(rows) for split, rows in task.examples.items()},
        "majority": majority(task, test).metrics,
        "zero_shot": score(evaluate_examples(backbone, test), task.metrics).metrics,
        "runs": [],
    }  # fmt: skip
    print(json.dumps({key: found[key] for key in ("rows", "scale", "majority", "zero_shot")}), flush=True)
    tune(backbone, candidates, listener=Printer())
    with backbone.using(Bank({c.name: c.prompt for c in candidates}).eval()), torch.no_grad():
        for index, candidate in enumerate(candidates):
            candidate.restore_best()
            scores = score(evaluate_examples(backbone, test, index), task.metrics).metrics
            label = candidate.name.rsplit(" seed=", 1)[0]
            found["runs"].append(
                {
                    "variant": label, "seed": candidate.recipe.seed, "rates": candidate.recipe.rates,
                    "trainable": candidate.prompt.trainable(), "best": candidate.best, "stopped": candidate.stopped,
                    "test": scores,
                    "dev": [{"step": e["step"], **e["dev"]} for e in candidate.history if "dev" in e],
                    "loss": [round(e["loss"], 4) for e in candidate.history if "loss" in e],
                }
            )  # fmt: skip
            write_json(given.output, {**found, "seconds": round(time.monotonic() - began)})
    for label in VARIANTS[given.variants]:
        mine = [run for run in found["runs"] if run["variant"] == label]
        values = [run["test"][task.metrics[0]] for run in mine]
        print(f"{label:36} test {statistics.mean(values):.3f}  ({', '.join(f'{v:.3f}' for v in values)})", flush=True)


if __name__ == "__main__":
    main()
