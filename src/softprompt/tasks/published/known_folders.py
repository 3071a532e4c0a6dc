"""Read folders of public data in the form that other repositories publish it, as if they had the hub's columns.

They have other names of columns, no header, XML, or nested JSON.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from softprompt.errors import BadData
from softprompt.tasks.readers import Row, as_text, read_rows
from softprompt.tasks.task import Split

Reader = Callable[[Path], list[Row]]
Parsed = Any
"""A line of somebody else's JSON: `_each` reports what is missing or of another type in it."""


@dataclass(frozen=True)
class KnownFolder:
    """Files of one split, relative to the data folder, and how they are read."""

    task: str
    split: Split
    files: tuple[str, ...]
    read: Reader = read_rows
    note: str = ""
    """How it differs from the published split."""

    def paths(self, data_dir: Path) -> list[Path]:
        """List its files in `data_dir`."""
        return [data_dir / file for file in self.files]


def find_known_folder(task: str, split: Split, data_dir: Path) -> KnownFolder | None:
    """Find the known folder of a split whose files are all in `data_dir`."""
    for folder in KNOWN_FOLDERS:
        if (folder.task, folder.split) == (task, split) and all(path.is_file() for path in folder.paths(data_dir)):
            return folder
    return None


def read_renamed(path: Path, names: Mapping[str, str], labels: Mapping[str, str] | None = None) -> list[Row]:
    """Read rows with columns renamed and the values of the label replaced."""
    rows = []
    for row in read_rows(path):
        values = {names.get(key, key): value for key, value in row.values.items()}
        for column in ("label", "gold_label"):
            if labels and column in values:
                values[column] = labels.get(values[column], values[column])
        rows.append(Row(row.line, values))
    return rows


def read_without_header(path: Path, columns: Sequence[str]) -> list[Row]:
    """Read rows of a file without a header; a header that is there is left out."""
    return [row for row in read_rows(path, columns) if tuple(row.values.values()) != tuple(columns)]


def label_then_text(path: Path, encoding: str = "utf-8") -> list[Row]:
    """Read lines "LABEL text"."""
    rows = []
    for number, line in enumerate(_read(path, encoding).split("\n"), 1):
        if line.strip():
            label, _, text = line.partition(" ")
            rows.append(Row(number, {"text": text.strip(), "label": label}))
    return rows


def ag_news_csv(path: Path) -> list[Row]:
    """Read the original CSV of AG News: classes from 1, title and description in two columns."""
    return [
        Row(line, {"text": f"{v['title']} {v['description']}", "label": str(int(v["class"]) - 1)})
        for line, v in read_rows(path, ("class", "title", "description"))
    ]


def multirc_jsonl(path: Path) -> list[Row]:
    """Read SuperGLUE's own file of MultiRC: a paragraph per line, with its questions and their answers."""

    def rows(line: int, item: Parsed) -> Iterator[Row]:
        passage = item["passage"]
        for question in passage["questions"]:
            for answer in question["answers"]:
                yield _row(line, paragraph=passage["text"], question=question["question"], answer=answer["text"],
                           label=answer["label"])  # fmt: skip

    return _each(path, rows)


def record_jsonl(path: Path) -> list[Row]:
    """Read SuperGLUE's own file of ReCoRD: entities as positions in the passage, both ends inclusive."""

    def rows(line: int, item: Parsed) -> Iterator[Row]:
        text = item["passage"]["text"]
        entities = [text[span["start"] : span["end"] + 1] for span in item["passage"]["entities"]]
        for query in item["qas"]:
            answers = [answer["text"] for answer in query["answers"]]
            yield _row(line, passage=text, query=query["query"], entities=entities, answers=answers)

    return _each(path, rows)


def wsc_jsonl(path: Path) -> list[Row]:
    """Read SuperGLUE's own file of WSC: the spans are in an object `target`."""
    return _each(path, lambda line, item: iter([_row(line, text=item["text"], label=item["label"], **item["target"])]))


def wic_text(path: Path) -> list[Row]:
    """Read word and sentences from one text, tokenized: "Word: w. Sentence 1: ... Sentence 2: ..."."""
    form = re.compile(r"Word: (.*?)\. Sentence 1: (.*) Sentence 2: (.*)", re.DOTALL)

    def rows(line: int, item: Parsed) -> Iterator[Row]:
        found = form.fullmatch(item["text"])
        if not found:
            raise BadData("the text is not 'Word: w. Sentence 1: ... Sentence 2: ...'", path, line)
        word, one, two = found.groups()
        yield _row(line, word=word, sentence1=one, sentence2=two, label=item["label"])

    return _each(path, rows)


def copa_xml(path: Path) -> list[Row]:
    """Read the original XML of COPA."""
    rows = []
    for number, item in enumerate(ElementTree.parse(path).getroot(), 1):
        premise, choice1, choice2 = ((item.findtext(tag) or "").strip() for tag in ("p", "a1", "a2"))
        label = int(item.attrib["most-plausible-alternative"]) - 1
        rows.append(
            _row(
                number, premise=premise, choice1=choice1, choice2=choice2, question=item.attrib["asks-for"], label=label
            )
        )
    return rows


def squad_json(path: Path) -> list[Row]:
    """Read the original JSON of SQuAD; the number of a row counts questions."""
    rows: list[Row] = []
    for article in json.loads(_read(path, "utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                answers = [answer["text"] for answer in asked["answers"]]
                rows.append(
                    _row(len(rows) + 1, context=paragraph["context"], question=asked["question"], answers=answers)
                )
    return rows


def mrqa_jsonl(path: Path) -> list[Row]:
    """Read MRQA's own file: a context per line with its questions; the first line may be a header."""

    def rows(line: int, item: Parsed) -> Iterator[Row]:
        for asked in item.get("qas", ()):
            yield _row(line, context=item["context"], question=asked["question"], answers=asked["answers"])

    return _each(path, rows)


def _each(path: Path, rows: Callable[[int, Parsed], Iterator[Row]]) -> list[Row]:
    """Read JSON Lines, each as the rows that `rows` makes of it. Raises BadData with the line that does not fit."""
    found: list[Row] = []
    for number, line in enumerate(_read(path, "utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.extend(rows(number, json.loads(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise BadData(f"is not in the form expected here ({type(error).__name__}: {error})", path, number) from None
    return found


def _row(line: int, **values: object) -> Row:
    return Row(line, {key: as_text(value) for key, value in values.items()})


def _read(path: Path, encoding: str) -> str:
    try:
        return path.read_text(encoding=encoding)
    except UnicodeDecodeError:
        raise BadData(f"is not {encoding.upper()}", path) from None
    except OSError as error:
        raise BadData(f"cannot be read: {error.strerror or error}", path) from None


_MRPC = partial(read_renamed, names={"Quality": "label", "#1 String": "sentence1", "#2 String": "sentence2"})
_NLI = partial(read_renamed, names={"sentence1": "premise", "sentence2": "hypothesis"})
_SCITAIL = partial(
    read_renamed,
    names={"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
    labels={"not_entailment": "neutral"},
)
_COLA = partial(read_without_header, columns=("source", "label", "mark", "sentence"))
_WNLI = partial(read_without_header, columns=("index", "sentence1", "sentence2", "label"))
_STSB = partial(read_without_header, columns=("sentence1", "sentence2", "label"))
_LATIN = partial(label_then_text, encoding="latin-1")
_FEW = "FewGLUE: 32 rows of the published split"


def _few(task: str, folder: str, read: Reader = read_rows, *, test: bool = True) -> list[KnownFolder]:
    place = f"superglue_fewglue32/{folder}"
    folders = [
        KnownFolder(f"superglue/{task}", "train", (f"{place}/train.jsonl",), read, _FEW),
        KnownFolder(f"superglue/{task}", "dev", (f"{place}/dev32.jsonl",), read, _FEW),
    ]
    return [*folders, KnownFolder(f"superglue/{task}", "test", (f"{place}/val.jsonl",), read)] if test else folders


KNOWN_FOLDERS = (
    KnownFolder("glue/sst2", "train", ("sst2_glue/train_full.tsv",)),
    KnownFolder("glue/sst2", "test", ("sst2_glue/dev.tsv",)),
    KnownFolder("glue/cola", "train", ("cola/train.tsv", "cola/val.tsv"), _COLA),
    KnownFolder("glue/cola", "test", ("cola/dev.tsv",), _COLA),
    KnownFolder("glue/mrpc", "train", ("mrpc/msr-para-train.tsv", "mrpc/msr-para-val.tsv"), _MRPC,
           "GLUE's train and validation together"),
    KnownFolder("glue/mrpc", "test", ("mrpc/msr-para-test.tsv",), _MRPC, "the test split, with its labels"),
    KnownFolder("glue/stsb", "train", ("stsb/stsb-en-train.csv",), _STSB),
    KnownFolder("glue/stsb", "test", ("stsb/stsb-en-dev.csv",), _STSB),
    KnownFolder("glue/mnli", "test", ("mnli/dev.jsonl",)),
    KnownFolder("glue/qnli", "test", ("qnli/dev.tsv",)),
    KnownFolder("glue/rte", "train", ("rte_glue/train.tsv",)),
    KnownFolder("glue/rte", "test", ("rte_glue/dev.tsv",)),
    KnownFolder("glue/wnli", "train", ("wnli/train.tsv", "wnli/val.tsv"), _WNLI),
    KnownFolder("glue/wnli", "test", ("wnli/dev.tsv",)),
    *_few("boolq", "BoolQ"),
    KnownFolder("superglue/cb", "train", ("superglue_full/CB/train.jsonl",), note="218 of the 250 rows"),
    KnownFolder("superglue/cb", "test", ("superglue_full/CB/val.jsonl",)),
    KnownFolder("superglue/copa", "train", ("superglue_full/COPA/train.jsonl",), note="368 of the 400 rows"),
    KnownFolder("superglue/copa", "test", ("superglue_full/COPA/val.jsonl",)),
    KnownFolder("superglue/copa", "train", ("copa_original/copa-dev.xml",), copa_xml,
                "SuperGLUE's train and validation"),
    KnownFolder("superglue/copa", "test", ("copa_original/copa-test.xml",), copa_xml,
                "the test split, with its labels"),
    *_few("multirc", "MultiRC", multirc_jsonl),
    *_few("record", "ReCoRD", record_jsonl, test=False),
    KnownFolder("superglue/rte", "train", ("rte_glue/train.tsv",), _NLI),
    KnownFolder("superglue/rte", "test", ("superglue_fewglue32/RTE/val.jsonl",)),
    KnownFolder("superglue/wic", "train", ("superglue_full/WiC/train.jsonl", "superglue_full/WiC/test.jsonl"), wic_text,
           "tokenised"),
    KnownFolder("superglue/wic", "test", ("superglue_fewglue32/WiC/val.jsonl",)),
    *_few("wsc", "WSC", wsc_jsonl),
    KnownFolder("mrqa/squad", "test", ("xquad_en/xquad.en.json",), squad_json, "XQuAD's 1,190 of the 10,570 questions"),
    KnownFolder("mrqa/newsqa", "test", ("mrqa_sample/NewsQA_sample.jsonl",), mrqa_jsonl, "a sample of a few questions"),
    KnownFolder("others/winogrande", "train", ("winogrande/train_l.jsonl",),
                note="size l, 10,234 rows; the hub's is xl"),
    KnownFolder("others/winogrande", "test", ("winogrande/dev.jsonl",)),
    KnownFolder("others/scitail", "test", ("scitail/test.jsonl",), _SCITAIL),
    KnownFolder("others/snli", "test", ("snli/dev.jsonl",), note="the validation split, without undecided pairs"),
    KnownFolder("others/anli", "test", ("anli/test.jsonl",)),
    KnownFolder("others/ag_news", "test", ("ag_news/test.csv",), ag_news_csv),
    KnownFolder("others/sst5", "train", ("sst5/stsa.fine.train",), label_then_text),
    KnownFolder("others/sst5", "dev", ("sst5/stsa.fine.dev",), label_then_text),
    KnownFolder("others/sst5", "test", ("sst5/stsa.fine.test",), label_then_text),
    KnownFolder("others/mr", "train", ("mr/rt-polarity.all",), _LATIN, "all 10,662 rows"),
)  # fmt: skip
