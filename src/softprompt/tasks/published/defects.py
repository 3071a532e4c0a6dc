"""Known defects of the DePT authors' code, one by one, to reproduce its numbers (`compat=True`).

From github.com/ZhengxiangShi/DePT: src/tasks.py and src/metrics.py. Each function takes an entry and returns it with
the defect, or unchanged where the defect does not concern it.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from softprompt.tasks.published.entry import UNLABELLED, Entry, Form, Prepared, Values
from softprompt.tasks.published.mrqa import pad_punctuation


def winogrande_option_twice(entry: Entry) -> Entry:
    """Show option 1 as both options, so that the second cannot be known."""
    if entry.name != "others/winogrande":
        return entry
    template = entry.paper.template.replace("{option2}", "{option1}")
    return replace(entry, paper=Form(template, entry.paper.words))


def stsb_rounding(entry: Entry) -> Entry:
    """Round scores to 0.1 (the docstring there says 0.2), and count the rounded score as the truth."""
    return replace(entry, prepare=_stsb) if entry.name == "glue/stsb" else entry


def first_gold_only(entry: Entry) -> Entry:
    """Count only the first of several right answers."""
    if entry.prepare is None or entry.name.split("/")[0] not in ("mrqa", "superglue") or entry.labels:
        return entry
    return replace(entry, prepare=_First(entry.prepare))


def qa_selected_by_exact_match(entry: Entry) -> Entry:
    """Select checkpoints of question answering by exact match, although F1 is reported."""
    if "exact_match" not in entry.metrics:
        return entry
    return replace(entry, metrics=("exact_match", *(name for name in entry.metrics if name != "exact_match")))


def qa_targets_padded(entry: Entry) -> Entry:
    """Put spaces around the punctuation of an answer before it is learned and scored ("U . S ." for "U.S.")."""
    if not entry.name.startswith("mrqa/") or entry.prepare is None:
        return entry
    return replace(entry, prepare=_Padded(entry.prepare))


def free_answers_cut(entry: Entry) -> Entry:
    """Cut right answers without choices to 20 tokens before they are learned and scored (--max_target_length)."""
    if entry.labels or entry.name.split("/")[0] not in ("mrqa", "superglue"):
        return entry
    return replace(entry, cuts_answers=True)


def wsc_unmarked(entry: Entry) -> Entry:
    """Leave a span unmarked that is not spelled in the text exactly as and where the row says, as a pattern."""
    return replace(entry, prepare=_wsc) if entry.name == "superglue/wsc" else entry


def _wsc(values: Values) -> Prepared:
    first, second = int(values["span1_index"]), int(values["span2_index"])
    text = _marked(values["text"], values["span1_text"], first, "*")
    # Two words more, whether the first span was found or not.
    text = _marked(text, values["span2_text"], second + 2 * (first < second), "#")
    return Prepared({**values, "text": text}, values["label"])


def _marked(text: str, span: str, index: int, mark: str) -> str:
    try:
        return re.sub(rf"^((?:\S+\s){{{index}}})({span})", rf"\1{mark} \2 {mark}", text)
    except re.error:  # theirs stops here
        return text


def _stsb(values: Values) -> Prepared:
    if values["label"] in UNLABELLED:
        return Prepared(values, "")
    return Prepared(values, str(round(float(values["label"]), 1)))


class _First:
    """`prepare` with only the first reference."""

    def __init__(self, prepare: Callable[[Values], Prepared]) -> None:
        self.prepare = prepare

    def __call__(self, values: Values) -> Prepared:
        return self.prepare(values)._replace(references=())


class _Padded:
    """`prepare` with its answers as T5's preprocessor pads them."""

    def __init__(self, prepare: Callable[[Values], Prepared]) -> None:
        self.prepare = prepare

    def __call__(self, values: Values) -> Prepared:
        made = self.prepare(values)
        padded = tuple(pad_punctuation(text) for text in made.references)
        return made._replace(label=pad_punctuation(made.label), references=padded)


_FUNCTIONS = (
    winogrande_option_twice,
    stsb_rounding,
    first_gold_only,
    qa_selected_by_exact_match,
    qa_targets_padded,
    free_answers_cut,
    wsc_unmarked,
)
DEPT_DEFECTS: dict[str, Callable[[Entry], Entry]] = {defect.__name__: defect for defect in _FUNCTIONS}
