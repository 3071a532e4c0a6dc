"""Run the comparisons of PLAN.md that train prompts, resumably: the same call goes on where it was.

    python results/claims/run.py e4 --data-dir DATA --t5 T5_FOLDER --runs RUNS

Each study is one `softprompt compare`; its table goes to results/claims/STUDY.json when it is whole, and what is done
of it to RUNS/STUDY/table.json after each task. One thread: OMP_NUM_THREADS=1 nice -n 10.
"""

import argparse
import csv
import io
import random
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import softprompt
from softprompt.runtime.files import write_json

HERE = Path(__file__).parent
LIMIT = {"train": 2000, "dev": 300, "test": 600}
ROWS = 4000
"""Rows that are taken of a set which is published as one file; a tenth each is dev and test."""


@dataclass(frozen=True)
class Study:
    """One comparison: the same steps, seeds and tries for every entrant."""

    tasks: Sequence[str]
    methods: Sequence[str]
    settings: Mapping[str, object]
    seeds: int
    budget: int
    steps: int
    baseline: str | None = None
    backbone: str = "t5"
    rivals: Sequence[str] = ("tfidf", "probe", "calibrated")
    options: Mapping[str, object] = field(default_factory=dict)


MEAN = ("glue/cola", "glue/sst2", "glue/mrpc", "pros_cons", "others/mr", "support")
STUDIES = {
    "e4": Study(
        ("glue/sst2", "pros_cons", "glue/cola"),
        ("m128=superpos", "softmax=superpos", "m4=superpos", "m16=superpos", "m64=superpos", "m256=superpos"),
        {"length": 10, "sampled": 128, "softmax.softmax": True, "m4.sampled": 4, "m16.sampled": 16, "m64.sampled": 64,
         "m256.sampled": 256},
        seeds=3, budget=3, steps=600, baseline="m128",
    ),
    "e1": Study(
        MEAN, ("prompt_tuning", "residual", "superpos"),
        {"length": 10, "sampled": 128, "residual.bottleneck": 128}, seeds=5, budget=3, steps=800,
    ),
    "e5": Study(
        MEAN, ("rows20=prompt_tuning", "dept12=dept", "dept8=dept"),
        {"rows20.length": 20, "dept12.length": 12, "dept12.rank": 7, "dept8.length": 8, "dept8.rank": 10,
         "positions": 64},
        seeds=5, budget=3, steps=800, baseline="rows20",
    ),
}  # fmt: skip
COMMON = {"batch": 8, "evaluate_every": 50, "evaluate_at_start": True, "dev_limit": 200}


def write_files(data: Path, place: Path) -> dict[str, str]:
    """Write the sets that are not published tasks as files of columns; returns the file of each by name."""
    place.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(data / "nltk_pros_cons" / "pros_cons.zip") as archive:
        parts = {Path(name).name: archive.read(name).decode("latin-1") for name in archive.namelist()}
    rows = [(_inside(line), "positive") for line in parts["IntegratedPros.txt"].splitlines()]
    rows += [(_inside(line), "negative") for line in parts["IntegratedCons.txt"].splitlines()]
    lines = (data / "uci_sentences" / "yelp_labelled.txt").read_text(encoding="utf-8").splitlines()
    yelp = [(text, "positive" if label == "1" else "negative") for text, label in (x.rsplit("\t", 1) for x in lines)]
    return {name: _write(place / f"{name}.csv", each) for name, each in (("pros_cons", rows), ("uci_yelp", yelp))}


def _inside(line: str) -> str:
    """Return the text of "<Pros>text</Pros>"."""
    return line.partition(">")[2].rpartition("<")[0].strip()


def _write(path: Path, rows: Sequence[tuple[str, str]]) -> str:
    kept = sorted({row for row in rows if row[0]})
    random.Random(0).shuffle(kept)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("text", "sentiment"), *kept[:ROWS]])
    path.write_text(text.getvalue(), encoding="utf-8")
    return str(path)


def run(name: str, data: Path, t5: str, runs: Path) -> None:
    study, files = STUDIES[name], write_files(data, runs / "data")
    table = softprompt.compare(
        tasks=[files.get(task, task) for task in study.tasks], methods=study.methods, seeds=study.seeds,
        budget=study.budget, baseline=study.baseline, rivals=study.rivals, output=runs / name, data_dir=data,
        limit=LIMIT, backbone=t5 if study.backbone == "t5" else study.backbone, dtype="bfloat16", max_source=128,
        settings={**COMMON, "steps": study.steps, **study.settings}, **study.options,
    )  # fmt: skip
    write_json(HERE / f"{name}.json", table.as_json())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--t5", default="", help="folder of flan-t5-small-title")
    parser.add_argument("--runs", type=Path, required=True)
    given = parser.parse_args()
    run(given.study, given.data_dir, given.t5, given.runs)


if __name__ == "__main__":
    main()
