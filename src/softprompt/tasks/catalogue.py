"""The published tasks by name, and how an entry becomes a Task.

Splits: train is the published one. Test is the published one where its labels are public, else validation.
Dev is validation where test does not need it, else a draw from train; at most 1,000 rows either way.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt.errors import BadData, BadInput, UnknownName
from softprompt.tasks import glue, mrqa, others, superglue
from softprompt.tasks.entry import Entry, Form
from softprompt.tasks.origins import Part, local_layout, notes_of, read_split, splits_of
from softprompt.tasks.splits import MOST_DEV, Related, dev_count, draw, shuffled
from softprompt.tasks.task import SPLITS, Example, Split, Task
from softprompt.tasks.template import Template

CATALOGUE: dict[str, Entry] = {
    entry.name: entry for family in (glue, superglue, mrqa, others) for entry in family.ENTRIES
}


def find(name: str) -> Entry:
    """An entry by its name, or by the last part of it where that is one task's alone. Raises UnknownName."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    meant = [entry for entry in CATALOGUE.values() if entry.name.split("/")[1] == name]
    if len(meant) > 1:
        raise BadInput(f"The task {name!r} is {' or '.join(entry.name for entry in meant)}; say which.")
    if not meant:
        raise UnknownName("task", name, CATALOGUE, "Your own file is given with --data FILE.")
    return meant[0]


def load_task(
    entry: Entry, data_dir: Path | None = None, form: str = "words", limit: int | None = None, seed: int = 0
) -> Task:
    """A catalogued task from the hub, or from the files of `data_dir` (softprompt.tasks.origins says their layout).

    `limit` is the most rows of each split: a draw, as dev is, that `seed` and the texts decide and the
    order of rows does not. Raises BadData (with file, line and column) and BadInput.
    """
    if limit is not None and limit < 1:
        raise BadInput(f"limit={limit}: expected at least one row of each split.")
    asked = entry.form(form)
    found: dict[Split, list[Related]] = {}
    digests: dict[str, dict[str, str]] = {}
    for split in splits_of(entry, data_dir):
        # A dev that is drawn comes out of what is read of train.
        most = None if limit is None else limit + (min(limit, MOST_DEV) if split == "train" else 0)
        parts = read_split(entry, split, data_dir, most, seed)
        found[split] = pose(entry, asked, split, parts)
        digests[split] = {str(part.place): _digest(part) for part in parts}
    if "dev" in found:
        found["dev"] = _at_most(found["dev"], MOST_DEV, seed)
    else:
        found["dev"], found["train"] = draw(found["train"], dev_count(len(found["train"]), limit), seed)
    for split in SPLITS:
        if limit is not None:
            found[split] = _at_most(found[split], limit, seed)
        if not found[split]:
            raise BadInput(f"{entry.name}: no rows are left for {split}; its files hold too few.")
    origin: dict[str, object] = {
        "task": entry.name, "version": entry.version, "data_dir": data_dir and str(data_dir.resolve()), "form": form,
        "limit": limit, "seed": seed, "sha256": digests, "notes": notes_of(entry, data_dir),
        # For new data in the same columns: what `prepare` does, a template and words cannot say.
        "label": None if entry.prepare else entry.label, "words": None if entry.prepare else _said(entry, asked),
    }  # fmt: skip
    examples: dict[Split, Sequence[Example]] = {split: [one.example for one in found[split]] for split in SPLITS}
    metrics = entry.metric_names(asked)
    return Task(entry.name, examples, asked.words, metrics, asked.template, origin, entry.version)


def load_split(entry: Entry, split: Split, data_dir: Path | None = None, form: str = "words") -> list[Example]:
    """All examples of one published split, in its order; a folder may hold no other."""
    parts = read_split(entry, split, data_dir)
    return [one.example for one in pose(entry, entry.form(form), split, parts)]


def load_again(origin: Mapping[str, Any]) -> Task:
    """The task that `load_task` recorded. Raises BadData when its data or its entry are no longer the same."""
    entry = find(origin["task"])
    if entry.version != origin["version"]:
        raise BadInput(
            f"The run began with version {origin['version']} of {entry.name}, this is {entry.version}; tune it anew."
        )
    data_dir = Path(origin["data_dir"]) if origin["data_dir"] else None
    task = load_task(entry, data_dir, origin["form"], origin["limit"], origin["seed"])
    now: Any = task.origin["sha256"]
    for split, files in origin["sha256"].items():
        for place, sha256 in files.items():
            if now[split].get(place) != sha256:
                raise BadData("is not what the run began with; a resumed run needs the same data", place)
    return task


def pose(entry: Entry, form: Form, split: str, parts: Sequence[Part]) -> list[Related]:
    """Rows as examples. Raises BadData for a row that does not fit, BadInput for a split without labelled rows."""
    template = Template(form.template)
    found: list[Related] = []
    for part in parts:
        stem = part.place.stem if isinstance(part.place, Path) else split
        seen: Counter[int] = Counter()
        for row in part.rows:
            seen[row.line] += 1  # a line of MultiRC holds many rows
            again = f".{seen[row.line]}" if seen[row.line] > 1 else ""
            try:
                one = _posed(entry, form, template, row.values, f"{stem}:{row.line}{again}")
            except KeyError as error:
                raise BadData(_no_column(entry, str(error.args[0]), row.values), part.place, row.line) from None
            except ValueError as error:
                raise BadData(str(error), part.place, row.line) from None
            if one is not None:
                found.append(one)
    if not found:
        raise BadInput(f"{entry.name}: the split {split} is empty; expected {local_layout(entry)}.")
    return found


def _posed(entry: Entry, form: Form, template: Template, values: Mapping[str, str], id: str) -> Related | None:
    """A row as an example; None for an undecided one that is left out."""
    prepared = entry.prepared(values)
    if entry.is_unlabelled(prepared.label):
        if entry.drops_unlabelled:
            return None
        said = f"no label (column {entry.label!r} is {values.get(entry.label)!r})"
        raise ValueError(f"{said}: the answers of this split are hidden; give one that has them")
    target = form.words[entry.class_of(prepared.label)] if entry.labels else prepared.label
    source = template.source(prepared.values)
    kin = prepared.values[entry.kin] if entry.kin else source
    example = Example(source, target, template.cue, form.words, prepared.references, id, prepared.group)
    return Related(example, kin)


def _at_most(items: list[Related], count: int, seed: int) -> list[Related]:
    return shuffled(items, seed)[:count] if len(items) > count else items


def _no_column(entry: Entry, missing: str, values: Mapping[str, str]) -> str:
    there, needed = ", ".join(values) or "none", ", ".join(entry.read_columns())
    return f"no column {missing!r} for {entry.name}; the columns are {there}; expected {needed}"


def _said(entry: Entry, form: Form) -> dict[str, str] | None:
    """The word for each way a file may name a class: its name in the file, or its number."""
    if not entry.labels:
        return None
    numbers = {str(i): word for i, word in enumerate(form.words)}
    return numbers | dict(zip(entry.labels, form.words, strict=True))


def _digest(part: Part) -> str:
    """sha256 of a file, or of the hub's rows."""
    if isinstance(part.place, Path):
        with part.place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    hashed = hashlib.sha256()
    for row in part.rows:
        hashed.update(repr(sorted(row.values.items())).encode())
    return hashed.hexdigest()
