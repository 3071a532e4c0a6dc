"""Put comparisons of the same methods on several tasks, each made by its own `softprompt compare`, into one.

    python results/joined.py FOLDER ... --output FOLDER [--backbone NAME] [--name TASK=NAME] [--sources PATH]

A command takes tasks by name or one file of data; of both, two commands must be joined. All must have had the same
budget, seeds, steps and batch. `--name` gives a task that is called by its file a name of its own; paths of the runs
that ATTEMPT read are cut to what stands behind `--sources`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from softprompt.experiments.compare import write_comparison
from softprompt.experiments.tables import ComparisonTable

SAME = ("backbone", "setting", "budget", "factors", "seeds", "baseline", "steps", "epochs", "batch")


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    first = parts[0]
    for part in parts[1:]:
        differ = [name for name in SAME if part[name] != first[name]]
        if differ:
            raise SystemExit(f"The comparisons differ in {', '.join(differ)}, so their tables are not one.")
    methods = list(dict.fromkeys(name for part in parts for name in part["methods"]))
    title = f"{len(methods)} methods on {first['backbone']}"
    return first | {"title": title, "methods": methods, "tasks": [task for part in parts for task in part["tasks"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--backbone", help="what the backbone's folder is called elsewhere")
    parser.add_argument("--name", action="append", default=[])
    parser.add_argument("--sources", default="")
    given = parser.parse_args()
    texts = [(folder / "table.json").read_text(encoding="utf-8") for folder in given.folders]
    found = joined(
        [json.loads(text.replace(given.sources, "")) if given.sources else json.loads(text) for text in texts]
    )
    if given.backbone:
        found |= {"title": found["title"].replace(found["backbone"], given.backbone), "backbone": given.backbone}
    names = dict(pair.split("=") for pair in given.name)
    for task in found["tasks"]:
        task["task"] = names.get(task["task"], task["task"])
    given.output.mkdir(parents=True, exist_ok=True)
    write_comparison(given.output, ComparisonTable.model_validate(found))


if __name__ == "__main__":
    main()
