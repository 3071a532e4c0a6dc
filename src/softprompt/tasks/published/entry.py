"""Entry: a published task as data. Where its rows are, its templates, and which answers count."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from softprompt.errors import BadInput, UnknownName
from softprompt.tasks.task import SPLITS, Split
from softprompt.tasks.template import Template

Values = Mapping[str, str]
"""A row as `read_rows` gives it: every value as text, lists and objects as JSON."""
UNLABELLED = ("-1", "", "-")
"""How published files mark a row without a label: GLUE's hidden test sets, SNLI's undecided pairs."""


class Prepared(NamedTuple):
    """A row after what a template cannot do."""

    values: Values
    label: str
    """The class (its name or number); for free text the target."""
    references: tuple[str, ...] = ()
    """The right answers, where there are others than the target."""
    group: str = ""
    """Name of the group that the row is scored in: in MultiRC all answers to a question must be right."""


@dataclass(frozen=True)
class Form:
    """How a row is put to the model: a template, and the word for each class, in order (none: free text)."""

    template: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A published task. `version` is raised when its templates or its rows change."""

    name: str
    """FAMILY/TASK; also its folder among local files."""
    about: str
    citation: str
    path: str
    """Id of the dataset on the Hugging Face hub."""
    rows: Mapping[str, int]
    """Published rows by the hub's split, including those with the label -1."""
    paper: Form
    """As in DePT's code (github.com/ZhengxiangShi/DePT, src/tasks.py), or in its style: numbers for classes."""
    words: Form
    """In natural language."""
    config: str | None = None
    splits: Mapping[Split, str] = field(default_factory=lambda: {"train": "train", "test": "validation"})
    """The hub's split for train, dev and test; "a+b" is both. Without dev, dev is drawn from train."""
    label: str = "label"
    labels: tuple[str, ...] = ()
    """Names of the classes in the hub's order (class 0 first); none: answers are free text."""
    metrics: tuple[str, ...] = ("accuracy",)
    """Names of metrics; the first selects checkpoints. "f1" is the F1 of class 1."""
    prepare: Callable[[Values], Prepared] | None = None
    columns: tuple[str, ...] = ()
    """The hub's columns that `prepare` reads; without `prepare`, those of the templates and the label."""
    kin: str = ""
    """Column whose equal rows a draw must keep together (the passage of a question)."""
    drops_unlabelled: bool = False
    answer_tokens: int = 20
    """Maximum tokens of a free-text answer (DePT's code: 20)."""
    cuts_answers: bool = False
    """Whether right answers are cut to so many tokens, too."""
    elsewhere: Mapping[Split, tuple[str, str | None, str]] = field(default_factory=dict)
    """Dataset, config and split on the hub of a split that is not `path`'s of that name."""
    version: str = "1"

    def form(self, name: str) -> Form:
        """Return the form `words` or `paper`. Raises UnknownName."""
        forms = {"words": self.words, "paper": self.paper}
        if name not in forms:
            raise UnknownName("template", name, forms, "A published task has its own templates.")
        return forms[name]

    def prepared(self, values: Values) -> Prepared:
        """Prepare a row. Raises KeyError for a missing column, ValueError for a value that does not fit."""
        return self.prepare(values) if self.prepare else Prepared(values, values[self.label])

    def is_unlabelled(self, label: str) -> bool:
        """Return whether a prepared label means that there is none; for free text only "" does."""
        return label in UNLABELLED if self.labels else not label

    def class_of(self, label: str) -> int:
        """Return the number of the class that a label names, by name or number. Raises ValueError."""
        names = [name.casefold() for name in self.labels]
        if label.casefold() in names:  # before numbers: WinoGrande's classes are called 1 and 2
            return names.index(label.casefold())
        if label.isdecimal() and int(label) < len(names):
            return int(label)
        known = f"{', '.join(self.labels)} or 0 to {len(names) - 1}"
        raise ValueError(f"the label {label!r} (column {self.label!r}) is none of {known}")

    def read_columns(self) -> tuple[str, ...]:
        """List the columns that are read."""
        if self.columns:
            return self.columns
        fields = [*Template(self.paper.template).fields, *Template(self.words.template).fields, self.label]
        return tuple(dict.fromkeys(fields))

    def published_rows(self) -> str:
        """Format the published rows as train/dev/test; dev is "-" where it is drawn from train."""
        counts = {split: sum(self.rows[part] for part in name.split("+")) for split, name in self.splits.items()}
        return "/".join(f"{counts[split]:,}" if split in counts else "-" for split in SPLITS)

    def metric_names(self, form: Form) -> tuple[str, ...]:
        """List the metrics, "f1" with the word of its class."""
        return tuple(f"f1({form.words[1]})" if name == "f1" else name for name in self.metrics)

    def check(self) -> None:
        """Raise BadInput for an entry that contradicts itself."""
        for form in (self.paper, self.words):
            if len(form.words) != len(self.labels):
                raise BadInput(f"{self.name}: {len(form.words)} words for {len(self.labels)} classes.")


def bullet_list(values: Values, column: str) -> list[str]:
    """Parse a column with a list of texts, or SQuAD's object with such a list `text`. Raises ValueError."""
    try:
        found = json.loads(values[column])
    except ValueError:
        found = None
    if isinstance(found, dict):
        found = found.get("text")
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(f"the column {column!r} is not a list of texts: {values[column][:60]!r}")
    return found


def digits(n: int) -> tuple[str, ...]:
    """Return the words of DePT's code: each class is its number."""
    return tuple(str(i) for i in range(n))
