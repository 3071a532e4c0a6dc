"""Make a task of data files: find columns, template and label words, and draw the splits."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from softprompt.errors import BadData, BadInput
from softprompt.runtime.files import JsonObject, file_sha256
from softprompt.tasks.chat import Chat
from softprompt.tasks.columns import guess_columns, list_columns
from softprompt.tasks.known_shapes import CONVERSATION, add_columns, find_shape
from softprompt.tasks.labels import read_answers
from softprompt.tasks.metrics import get_metric
from softprompt.tasks.readers import Row, read_rows
from softprompt.tasks.splits import draw_splits, note_splits
from softprompt.tasks.task import SPLITS, Example, Split, Task
from softprompt.tasks.template import MASK, Template


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
    draw: int
    """Version of how splits are drawn: 2 keeps texts together and labels in their shares, 1 draws any rows."""
    chat: NotRequired[JsonObject]
    """Pieces of the chat template that `template` is put into, where there is one (softprompt.tasks.chat)."""


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
    draw: int = 2,
    chat: Chat | None = None,
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
        draw: How splits are drawn: 2 keeps rows of one text together and labels in their shares; 1 is that of 0.1.0.
        chat: Chat template to put the template into, or to write conversations with.

    Raises:
        BadData: A file cannot be used; with its line where one is at fault.
        BadInput: An argument cannot be used.
    """
    given = {"train": data, "dev": dev, "test": test}
    files = {split: Path(path) for split, path in given.items() if path is not None}
    data = files["train"]
    words = {str(one): word for one, word in words.items()} if words else None
    rows = {split: read_data(path, chat) for split, path in files.items()}
    label, template, notes = _find_columns(data, rows["train"], label, template, chat)
    form = _read_template(data, rows["train"], template, label)
    if chat is not None:
        form = Template(chat.close(template) if CONVERSATION in form.fields else chat.frame(template))
    for split, found in rows.items():
        _check_columns(files[split], found, [*form.fields, label], template)
    parts = _split(rows, form, label, fractions, seed, draw)
    # All labels of the file, including those of rows drawn for dev and test: a rare label is a choice too.
    answers = read_answers(data, rows["train"], label, words, open_ended)
    choices = answers.choices
    examples: dict[Split, Sequence[Example]] = {}
    for split in SPLITS:
        path = files.get(split, data)
        examples[split] = [
            _example(path, row, form, label, words, choices, f"{path.stem}:{row.line}") for row in parts[split]
        ]
    named = tuple(metrics) if metrics else answers.metrics
    for metric in named:
        get_metric(metric)  # raises for an unknown one now, not after training
    notes += [*answers.notes, *note_splits(examples, choices)]
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
        "draw": draw,
    }
    if chat is not None:
        origin["chat"] = chat.model_dump(mode="json")
    return Task(name or data.stem, examples, choices, named, form.text, dict(origin), chat=chat, notes=tuple(notes))


def evaluation_examples(
    template: str,
    choices: tuple[str, ...],
    path: Path,
    label: str,
    words: Mapping[str, str] | None = None,
    chat: Chat | None = None,
) -> list[Example]:
    """Read a file of new data with the columns and answers of a finished run.

    Args:
        template: Template of the run.
        choices: Answers that it chooses among; none: free text.
        path: File to read.
        label: Column of the answer.
        words: Label in the file -> word that the model answers with.
        chat: Chat template of the run, to write conversations with.
    """
    rows, form = read_data(path, chat), Template(template)
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
        seed=was["seed"], name=was.get("name"), draw=was.get("draw", 1),
        chat=Chat.model_validate(was["chat"]) if "chat" in was else None,
    )  # fmt: skip


def read_data(path: Path, chat: Chat | None = None) -> list[Row]:
    """Read a file's rows with the columns of their shape. Raises BadData, with the line where one is at fault."""
    return [Row(row.line, _completed(path, row, chat)) for row in read_rows(path)]


def _completed(path: Path, row: Row, chat: Chat | None) -> dict[str, str]:
    try:
        return add_columns(row.values, chat)
    except BadInput as error:
        raise BadData(str(error), path, row.line) from None


def _find_columns(
    path: Path, rows: list[Row], label: str | None, template: str | None, chat: Chat | None
) -> tuple[str, str, list[str]]:
    """Return label and template, each as it is given or found, and what is said of it."""
    if label and template:
        return label, template, []
    shape = find_shape(list_columns(rows))
    if shape and label in (None, shape.label) and all(name in row.values for row in rows for name in shape.texts):
        note = f"columns found: text {', '.join(shape.texts)}; label {shape.label}"
        shown = "\n".join(f"{{{name}}}" for name in shape.texts) if chat else shape.template
        return shape.label, template or shown, [note]
    found = guess_columns(path, rows, label)
    if template:
        return found.label, template, [f"column found: label {found.label}"]
    return found.label, found.template(), [found.note()]


def _read_template(path: Path, rows: list[Row], template: str, label: str) -> Template:
    """Read a template. Raises BadInput where it shows the label, or has {mask} and that is a column's name, too."""
    if f"{{{MASK}}}" in template and MASK in list_columns(rows):
        raise BadInput(
            f"{path} has a column {MASK!r}, and {{{MASK}}} in a template is the place of the answer. Rename the column."
        )
    form = Template(template)
    if label in form.fields:
        raise BadInput(f"The template {template!r} shows the label, {{{label}}}; leave it out, it is the answer.")
    return form


def _check_columns(path: Path | None, rows: list[Row], needed: Sequence[str], template: str) -> None:
    for row in rows:
        for column in needed:
            if column not in row.values:
                there = ", ".join(row.values) or "none"
                near = difflib.get_close_matches(column, row.values, n=1)
                meant = f" Did you mean {near[0]!r}?" if near else ""
                raise BadData(
                    f"no column {column!r}; the columns are {there}; template {template!r}.{meant}", path, row.line
                )


def _split(
    rows: dict[str, list[Row]], form: Template, label: str, fractions: tuple[float, float], seed: int, draw: int
) -> dict[Split, list[Row]]:
    """Return rows by split: those of its file, else drawn from the training file with `seed`."""
    whole = rows["train"]
    if not all(0 < f < 0.5 for f in fractions):
        raise BadInput(f"Split fractions {fractions}: expected two numbers between 0 and 0.5, for dev and test.")
    wanted: dict[Split, float] = {"dev": fractions[0], "test": fractions[1]}
    shares = {split: share for split, share in wanted.items() if split not in rows}
    # Version 1 knows neither texts nor labels: every row is a text of its own.
    texts = [" ".join(form.source(row.values).split()) if draw > 1 else str(i) for i, row in enumerate(whole)]
    labels = [row.values[label].strip() if draw > 1 else "" for row in whole]
    drawn = draw_splits(texts, labels, shares, seed)
    return {split: [whole[i] for i in drawn[split]] if split in drawn else rows[split] for split in SPLITS}


def _example(
    path: Path, row: Row, form: Template, label: str, words: Mapping[str, str] | None, choices: tuple[str, ...], id: str
) -> Example:
    text = row.values[label].strip()
    if not text:
        raise BadData(f"the label (column {label!r}) is empty", path, row.line)
    if words and text not in words:
        raise BadData(f"the label {text!r} is not among the label words {', '.join(words)}", path, row.line)
    target = words[text] if words else text
    if choices and target not in choices:
        raise BadData(f"the label {text!r} is not among the labels to learn: {', '.join(choices)}", path, row.line)
    return Example(form.source(row.values), target, form.cue, choices, (), id, answer_at=form.answer_at(row.values))
