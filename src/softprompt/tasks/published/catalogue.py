"""Published tasks by name, and load_task(): an entry becomes a Task by a protocol
(softprompt.tasks.published.protocols)."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from softprompt.errors import BadData, BadInput, UnknownName
from softprompt.tasks.published import glue, mrqa, others, superglue
from softprompt.tasks.published.entry import Entry, Form
from softprompt.tasks.published.protocols import PAPER_DEPT, few_shot, get_protocol
from softprompt.tasks.published.sources import Part, local_layout, notes_of, read_split, splits_of
from softprompt.tasks.published.spec import TaskSpec, parse_spec
from softprompt.tasks.published.splits import Related, shuffled
from softprompt.tasks.task import SPLITS, Example, Split, Task
from softprompt.tasks.template import Template

Digests = dict[str, dict[str, str]]
"""Split -> file, or dataset of the hub -> hash."""
CATALOGUE: dict[str, Entry] = {
    entry.name: entry for family in (glue, superglue, mrqa, others) for entry in family.ENTRIES
}


def register_entry(entry: Entry) -> None:
    """Add a published task under its name, FAMILY/TASK. Raises BadInput for a bad entry or a name that is taken."""
    if entry.name in CATALOGUE:
        raise BadInput(f"There is already a task named {entry.name!r}; give yours another name.")
    if entry.name.count("/") != 1:
        raise BadInput(f"The task {entry.name!r}: expected a name like FAMILY/TASK, which is also its folder.")
    entry.check()
    CATALOGUE[entry.name] = entry


def find(name: str) -> Entry:
    """Return an entry by its name, or by the last part of it where that is unique. Raises UnknownName."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    meant = [entry for entry in CATALOGUE.values() if entry.name.split("/")[1] == name]
    if len(meant) > 1:
        raise BadInput(f"The task {name!r} is {' or '.join(entry.name for entry in meant)}; say which.")
    if not meant:
        raise UnknownName("task", name, CATALOGUE, "Your own file is given with --data FILE.")
    return meant[0]


class LoadedRows:
    """Reads the splits of one entry as examples, in their published order, and keeps the hashes of what it read."""

    def __init__(self, entry: Entry, form: Form, spec: TaskSpec) -> None:
        self.entry, self.form, self.spec = entry, form, spec
        self.data_dir = None if spec.data_dir is None else Path(spec.data_dir)
        self.digests: Digests = {}

    def splits(self) -> list[Split]:
        """List the splits that can be read."""
        return splits_of(self.entry, self.data_dir)

    def __call__(self, split: Split, most: int | None = None) -> list[Related]:
        """Read a split; from the hub `most` rows may be enough."""
        parts = read_split(self.entry, split, self.data_dir, most, self.spec.seed)
        self.digests[split] = {str(part.place): _digest(part) for part in parts}
        return pose(self.entry, self.form, split, parts)


def load_task(entry: Entry, spec: TaskSpec) -> Task:
    """Load a published task from the hub, or from files (softprompt.tasks.published.sources describes their layout).

    Raises BadData (with file, line and column) and BadInput.
    """
    protocol = get_protocol(spec.protocol)
    entry = protocol.adapt(entry, spec.compat)
    form = entry.form(spec.form or protocol.form)
    read = LoadedRows(entry, form, spec)
    parted = protocol.part(read, spec)
    if spec.shots is not None:
        parted = few_shot(parted, entry, spec.shots, spec.draw, few_dev=protocol.few_dev, in_all=protocol is PAPER_DEPT)
    for split in SPLITS:
        if split in spec.limit:
            parted[split] = _at_most(parted[split], spec.limit[split], spec.seed)
        if not parted[split]:
            raise BadInput(f"{entry.name}: no rows are left for {split}; its files hold too few.")
    origin: dict[str, object] = {
        **spec.model_dump(), "task": entry.name, "version": entry.version,
        "data_dir": read.data_dir and str(read.data_dir.resolve()), "form": spec.form or protocol.form,
        "sha256": read.digests, "notes": notes_of(entry, read.data_dir),
        # To evaluate on new data in the same columns; a template and words cannot express what `prepare` does.
        "label": None if entry.prepare else entry.label, "words": None if entry.prepare else _label_words(entry, form),
    }  # fmt: skip
    if spec.compat:
        origin["defects"] = protocol.defects_of(find(entry.name))
    examples: dict[Split, Sequence[Example]] = {split: [one.example for one in parted[split]] for split in SPLITS}
    return Task(
        entry.name, examples, form.words, entry.metric_names(form), form.template, origin, entry.version,
        protocol.scoring, protocol.strict, entry.answer_tokens,
    )  # fmt: skip


def load_split(entry: Entry, split: Split, data_dir: Path | None = None, form: str = "words") -> list[Example]:
    """Read all examples of one published split, in its order; a folder needs no other split."""
    parts = read_split(entry, split, data_dir)
    return [one.example for one in pose(entry, entry.form(form), split, parts)]


def load_again(origin: Mapping[str, object]) -> Task:
    """Load again the task that `load_task` recorded. Raises BadData when its data or its entry has changed."""
    entry = find(str(origin["task"]))
    if entry.version != origin["version"]:
        raise BadInput(
            f"The run began with version {origin['version']} of {entry.name}, this is {entry.version}; train it again."
        )
    spec = parse_spec({name: origin[name] for name in TaskSpec.model_fields if name in origin})
    task = load_task(entry, spec)
    if origin.get("defects") != task.origin.get("defects"):
        raise BadInput(
            f"The run began with the defects {origin.get('defects')} of {entry.name}, and --compat now means "
            f"{task.origin.get('defects')}; train it again."
        )
    was, now = (cast(Digests, one["sha256"]) for one in (origin, task.origin))
    for split, files in was.items():
        for place, sha256 in files.items():
            if now[split].get(place) != sha256:
                raise BadData("is not what the run began with; a resumed run needs the same data", place)
    return task


def pose(entry: Entry, form: Form, split: str, parts: Sequence[Part]) -> list[Related]:
    """Turn rows into examples. Raises BadData for a row that does not fit, BadInput when no row has a label."""
    template = Template(form.template)
    found: list[Related] = []
    for part in parts:
        stem = part.place.stem if isinstance(part.place, Path) else split
        seen: Counter[int] = Counter()
        for row in part.rows:
            seen[row.line] += 1  # one line of MultiRC has many rows
            again = f".{seen[row.line]}" if seen[row.line] > 1 else ""
            try:
                one = _as_example(entry, form, template, row.values, f"{stem}:{row.line}{again}")
            except KeyError as error:
                raise BadData(_no_column(entry, str(error.args[0]), row.values), part.place, row.line) from None
            except ValueError as error:
                raise BadData(str(error), part.place, row.line) from None
            if one is not None:
                found.append(one)
    if not found:
        raise BadInput(f"{entry.name}: the split {split} is empty; expected {local_layout(entry)}.")
    return found


def _as_example(entry: Entry, form: Form, template: Template, values: Mapping[str, str], id: str) -> Related | None:
    """Turn a row into an example; None for an undecided one, which is left out."""
    prepared = entry.prepared(values)
    if entry.is_unlabelled(prepared.label):
        if entry.drops_unlabelled:
            return None
        missing = f"no label (column {entry.label!r} is {values.get(entry.label)!r})"
        raise ValueError(f"{missing}: the answers of this split are hidden; give one that has them")
    target = form.words[entry.class_of(prepared.label)] if entry.labels else prepared.label
    source = template.source(prepared.values)
    kin = prepared.values[entry.kin] if entry.kin else source
    limit = entry.answer_tokens if entry.cuts_answers else None
    example = Example(
        source, target, template.cue, form.words, prepared.references, id, prepared.group, answer_limit=limit
    )
    return Related(example, kin)


def _at_most(items: list[Related], count: int, seed: int) -> list[Related]:
    return shuffled(items, seed)[:count] if len(items) > count else items


def _no_column(entry: Entry, missing: str, values: Mapping[str, str]) -> str:
    there, needed = ", ".join(values) or "none", ", ".join(entry.read_columns())
    return f"no column {missing!r} for {entry.name}; the columns are {there}; expected {needed}"


def _label_words(entry: Entry, form: Form) -> dict[str, str] | None:
    """Map each way that a file may name a class (its name, its number) to the word for it; None for free text."""
    if not entry.labels:
        return None
    numbers = {str(i): word for i, word in enumerate(form.words)}
    return numbers | dict(zip(entry.labels, form.words, strict=True))


def _digest(part: Part) -> str:
    """Compute the SHA-256 of a file, or of the hub's rows."""
    if isinstance(part.place, Path):
        with part.place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    hashed = hashlib.sha256()
    for row in part.rows:
        hashed.update(repr(sorted(row.values.items())).encode())
    return hashed.hexdigest()
