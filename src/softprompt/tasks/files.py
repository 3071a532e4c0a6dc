"""Make a task of data files: find columns, template and label words, and draw the splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

import torch

from softprompt.errors import BadData, BadInput
from softprompt.runtime.files import file_sha256
from softprompt.tasks.metrics import get_metric
from softprompt.tasks.readers import Row, read_rows
from softprompt.tasks.task import SPLITS, Example, Split, Task
from softprompt.tasks.template import MASK, Template

LABEL_COLUMNS = ("label", "labels", "target", "answer", "class", "category", "intent", "team", "sentiment", "output")
TEXT_COLUMNS = (
    "text", "sentence", "sentence1", "sentence2", "premise", "hypothesis", "question", "question1", "question2",
    "context", "passage", "message", "review", "title", "subject", "content", "body", "document", "source", "input",
    "utterance", "comment", "query",
)  # fmt: skip
MOST_CHOICES = 200
"""More different labels than this are free text."""


class FilesOrigin(TypedDict):
    """What run.json records of a task from files, to read it again."""

    data: str
    dev: str | None
    test: str | None
    template: str
    label: str
    words: dict[str, str] | None
    open_ended: bool
    fractions: list[float]
    seed: int
    metrics: list[str]
    name: str | None
    sha256: dict[str, str]
    """Hashes of the files, by split."""


def from_files(
    data: str | Path,
    *,
    dev: str | Path | None = None,
    test: str | Path | None = None,
    template: str | None = None,
    label: str | None = None,
    words: Mapping[str, str] | None = None,
    open_ended: bool | None = None,
    metrics: Sequence[str] | None = None,
    fractions: tuple[float, float] = (0.1, 0.1),
    seed: int = 0,
    name: str | None = None,
) -> Task:
    """Read a task from files. Label column, template and choices are found in the data when they are not given.

    Args:
        data: Training file.
        dev: File to select checkpoints on; None: a fraction of `data`.
        test: File to score on; None: a fraction of `data`.
        template: Input text with {columns}.
        label: Column of the answer.
        words: Label in the file -> word that the model answers with.
        open_ended: True: answers are free text; False: a fixed set of choices; None: choices where labels repeat.
        metrics: Names of metrics; the first selects checkpoints.
        fractions: Shares of `data` that become dev and test where they are not files.
        seed: Random seed of that draw.
        name: Name of the task; None: that of the file.

    Raises:
        BadData: A file cannot be used; with its line where one is at fault.
        BadInput: An argument cannot be used.
    """
    given = {"train": data, "dev": dev, "test": test}
    files = {split: Path(path) for split, path in given.items() if path is not None}
    data = files["train"]
    words = {str(one): said for one, said in words.items()} if words else None
    rows = {split: read_rows(path) for split, path in files.items()}
    label = label or _label_column(data, rows["train"])
    template = template or _template(rows["train"], label)
    if f"{{{MASK}}}" in template and MASK in _columns(rows["train"]):
        raise BadInput(
            f"{data} has a column {MASK!r}, and {{{MASK}}} in a template is the place of the answer. Rename the column."
        )
    form = Template(template)
    if label in form.fields:
        raise BadInput(f"The template {template!r} shows the label, {{{label}}}; leave it out, it is the answer.")
    for split, found in rows.items():
        _check_columns(files[split], found, [*form.fields, label], template)
    parts = _split(rows, fractions, seed)
    # All labels of the file, including those of rows drawn for dev and test: a rare label is a choice too.
    choices = _choices(data, [row.values[label] for row in rows["train"]], words, open_ended)
    examples: dict[Split, Sequence[Example]] = {}
    for split in SPLITS:
        path = files.get(split, data)
        examples[split] = [
            _example(path, row, form, label, words, choices, f"{path.stem}:{row.line}") for row in parts[split]
        ]
    named = tuple(metrics) if metrics else (("accuracy", "macro_f1") if choices else ("exact_match", "token_f1"))
    for metric in named:
        get_metric(metric)  # raises for an unknown one now, not after training
    origin: FilesOrigin = {
        "data": str(data.resolve()),
        "dev": str(files["dev"].resolve()) if "dev" in files else None,
        "test": str(files["test"].resolve()) if "test" in files else None,
        "template": template,
        "label": label,
        "words": words,
        "open_ended": not choices,
        "fractions": list(fractions),
        "seed": seed,
        "metrics": list(named),
        "name": name,
        "sha256": {split: file_sha256(path) for split, path in files.items()},
    }
    return Task(name or data.stem, examples, choices, named, template, dict(origin))


def evaluation_examples(
    template: str, choices: tuple[str, ...], path: Path, label: str, words: Mapping[str, str] | None = None
) -> list[Example]:
    """Read a file of new data with the columns and answers of a finished run.

    Args:
        template: Template of the run.
        choices: Answers that it chooses among; none: free text.
        path: File to read.
        label: Column of the answer.
        words: Label in the file -> word that the model answers with.
    """
    rows, form = read_rows(path), Template(template)
    _check_columns(path, rows, [*form.fields, label], template)
    return [_example(path, row, form, label, words, choices, f"{path.stem}:{row.line}") for row in rows]


def from_origin(origin: Mapping[str, object]) -> Task:
    """Read again the task that `from_files` recorded. Raises BadData when a file has changed."""
    was = cast(FilesOrigin, origin)  # run.json holds what from_files wrote
    files = {"train": was["data"], "dev": was["dev"], "test": was["test"]}
    for split, sha256 in was["sha256"].items():
        path = Path(files[split] or "")
        if not path.is_file() or file_sha256(path) != sha256:
            raise BadData("is missing or not the file that the run began with; a resumed run needs the same data", path)
    dev_share, test_share = was["fractions"]
    return from_files(
        was["data"], dev=was["dev"], test=was["test"], template=was["template"], label=was["label"],
        words=was["words"], open_ended=was["open_ended"], metrics=was["metrics"], fractions=(dev_share, test_share),
        seed=was["seed"], name=was.get("name"),
    )  # fmt: skip


def _label_column(path: Path, rows: list[Row]) -> str:
    columns = _columns(rows)
    for name in LABEL_COLUMNS:
        for column in columns:
            if column.lower() == name:
                return column
    if len(columns) == 2:
        return columns[1]
    raise BadData(f"has the columns {', '.join(columns)}; say which one is the label: --label COLUMN", path)


def _template(rows: list[Row], label: str) -> str:
    others = [column for column in _columns(rows) if column != label]
    fields = [column for column in others if column.lower() in TEXT_COLUMNS] or others
    lines = [f"{column.replace('_', ' ').capitalize()}: {{{column}}}" for column in fields]
    return "\n".join([*lines, f"{label.replace('_', ' ').capitalize()}:"])


def _columns(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row.values))


def _check_columns(path: Path | None, rows: list[Row], needed: Sequence[str], template: str) -> None:
    for row in rows:
        for column in needed:
            if column not in row.values:
                there = ", ".join(row.values) or "none"
                raise BadData(f"no column {column!r}; the columns are {there}; template {template!r}", path, row.line)


def _split(rows: dict[str, list[Row]], fractions: tuple[float, float], seed: int) -> dict[Split, list[Row]]:
    """Return rows by split: those of its file, else drawn from the training file with `seed`."""
    whole = rows["train"]
    if not all(0 < f < 0.5 for f in fractions):
        raise BadInput(f"Split fractions {fractions}: expected two numbers between 0 and 0.5, for dev and test.")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn: dict[Split, list[Row]] = {}
    wanted: tuple[tuple[Split, float], ...] = (("dev", fractions[0]), ("test", fractions[1]))
    for split, fraction in wanted:
        if split in rows:
            drawn[split] = rows[split]
        else:
            count = max(1, round(fraction * len(whole)))
            taken, order = order[:count], order[count:]
            drawn[split] = [whole[i] for i in sorted(taken)]
    if not order:
        raise BadInput(
            f"{len(whole)} rows are too few to draw dev and test from; give more, or --dev and --test files."
        )
    return {"train": [whole[i] for i in sorted(order)], **drawn}


def _choices(
    path: Path, targets: list[str], words: Mapping[str, str] | None, open_ended: bool | None
) -> tuple[str, ...]:
    counts = Counter(target.strip() for target in targets)
    said = {words.get(target, target) for target in counts} if words else set(counts)
    if len(said) == 1 and open_ended is not True:
        raise BadData(f"every training row has the label {next(iter(said))!r}; expected at least two labels", path)
    repeats = len(counts) <= MOST_CHOICES and len(counts) * 2 <= len(targets)
    if open_ended or (open_ended is None and not words and not repeats):
        return ()
    if words:
        return tuple(dict.fromkeys(words.values()))
    return tuple(sorted(counts))


def _example(
    path: Path, row: Row, form: Template, label: str, words: Mapping[str, str] | None, choices: tuple[str, ...], id: str
) -> Example:
    said = row.values[label].strip()
    if not said:
        raise BadData(f"the label (column {label!r}) is empty", path, row.line)
    if words and said not in words:
        raise BadData(f"the label {said!r} is not among the label words {', '.join(words)}", path, row.line)
    target = words[said] if words else said
    if choices and target not in choices:
        raise BadData(f"the label {said!r} is not among the labels to learn: {', '.join(choices)}", path, row.line)
    return Example(form.source(row.values), target, form.cue, choices, (), id, answer_at=form.answer_at(row.values))
