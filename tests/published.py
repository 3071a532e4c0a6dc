"""Two rows for every published task in the hub's own columns, and folders of them. All written for these tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from softprompt.tasks.published.entry import Entry

PASSAGE = "The mill stands by the river. It was built by two brothers in 1871."
NEWS = "Anna Berg opened the bridge on Monday. Crowds came.\n@highlight\nBerg had waited ten years"


def _pair(one: str, two: str, labels: tuple[Any, Any], *, label: str = "label", **more: Any) -> list[dict[str, Any]]:
    texts = (("It rained all day.", "It was dry."), ("She sold the boat.", "The boat was sold."))
    return [{one: first, two: second, label: said, **more} for (first, second), said in zip(texts, labels, strict=True)]


def _text(column: str, labels: tuple[Any, Any], *, label: str = "label", **more: Any) -> list[dict[str, Any]]:
    texts = ("A warm and clever film.", "Nothing in it works.")
    return [{column: text, label: said, **more} for text, said in zip(texts, labels, strict=True)]


def _qa(**more: Any) -> list[dict[str, Any]]:
    asked = {"When was it built?": ["1871", "in 1871"], "Who built it?": ["two brothers"]}
    return [{"context": PASSAGE, "question": q, "answers": answers, **more} for q, answers in asked.items()]


ROWS: dict[str, list[dict[str, Any]]] = {
    "glue/cola": _text("sentence", (1, 0), idx=0),
    "glue/sst2": _text("sentence", (1, 0), idx=0),
    "glue/mrpc": _pair("sentence1", "sentence2", (0, 1), idx=0),
    "glue/qqp": _pair("question1", "question2", (0, 1), idx=0),
    "glue/stsb": _pair("sentence1", "sentence2", (1.25, 4.5), idx=0),
    "glue/mnli": _pair("premise", "hypothesis", (2, 0), idx=0),
    "glue/mnli_mismatched": _pair("premise", "hypothesis", (2, 0), idx=0),
    "glue/qnli": _pair("question", "sentence", (1, 0), idx=0),
    "glue/rte": _pair("sentence1", "sentence2", (1, 0), idx=0),
    "glue/wnli": _pair("sentence1", "sentence2", (0, 1), idx=0),
    "superglue/boolq": [
        {"question": "was the mill built in 1871", "passage": PASSAGE, "idx": 0, "label": 1},
        {"question": "was the bridge opened on a friday", "passage": NEWS, "idx": 1, "label": 0},
    ],
    "superglue/cb": _pair("premise", "hypothesis", (1, 0), idx=0),
    "superglue/copa": [
        {"premise": "The ground was wet.", "choice1": "It had rained.", "choice2": "It was noon.",
         "question": "cause", "idx": 0, "label": 0},
        {"premise": "He dropped the cup.", "choice1": "He sang.", "choice2": "It broke.",
         "question": "effect", "idx": 1, "label": 1},
    ],
    "superglue/multirc": [
        {"paragraph": "<b>Sent 1: </b>The mill is old.<br><b>Sent 2: </b>It is by the river.",
         "question": "Where is the mill?", "answer": answer, "label": label,
         "idx": {"paragraph": 0, "question": 0, "answer": label}}
        for answer, label in (("In the hills", 0), ("By the river", 1))
    ],
    "superglue/record": [
        {"passage": NEWS, "query": query, "entities": ["Anna Berg", "Berg"],
         "entity_spans": {"text": [], "start": [], "end": []}, "answers": answers,
         "idx": {"passage": 0, "query": 0}}
        for query, answers in (("@placeholder cut the ribbon", ["Anna Berg", "Berg"]), ("@placeholder spoke", ["Berg"]))
    ],
    "superglue/rte": _pair("premise", "hypothesis", (1, 0), idx=0),
    "superglue/wic": _pair("sentence1", "sentence2", (0, 1), word="dry", start1=0, start2=0, end1=1, end2=1, idx=0),
    "superglue/wsc": [
        {"text": "Tom thanked Sue because she, at last, had helped him.", "span1_index": 2, "span1_text": "Sue",
         "span2_index": 4, "span2_text": "she", "idx": 0, "label": 1},
        {"text": "Tom thanked Sue because she, at last, had helped him.", "span1_index": 2, "span1_text": "Sue",
         "span2_index": 9, "span2_text": "him", "idx": 1, "label": 0},
    ],
    **{f"mrqa/{task}": _qa(key="0", labels=[]) for task in ("nq", "hotpotqa", "searchqa", "newsqa", "triviaqa")},
    "mrqa/squad": [
        {**row, "id": "0", "title": "Mill", "answers": {"text": row["answers"], "answer_start": [0]}} for row in _qa()
    ],
    "others/winogrande": [
        {"sentence": "Ann lent Bea a coat because _ was cold.", "option1": "Ann", "option2": "Bea", "answer": "2"},
        {"sentence": "Ann lent Bea a coat because _ was kind.", "option1": "Ann", "option2": "Bea", "answer": "1"},
    ],
    "others/yelp": _text("text", (1, 0)),
    "others/scitail": _pair("sentence1", "sentence2", ("neutral", "entailment"), label="gold_label"),
    "others/paws": _pair("sentence1", "sentence2", (0, 1), id=1),
    "others/snli": [*_pair("premise", "hypothesis", (2, 0)), {"premise": "A.", "hypothesis": "B.", "label": -1}],
    "others/ag_news": _text("text", (1, 3)),
    "others/trec": _text("text", ("DESC", "NUM"), label="label_coarse_original", label_coarse=0),
    "others/sst5": _text("text", (4, 0), label_text="ignored"),
    "others/mr": _text("text", (1, 0)),
    "others/subj": _text("text", (1, 0), label_text="ignored"),
    "others/imdb": _text("text", (1, 0)),
    "others/anli": _pair("premise", "hypothesis", (2, 0), uid="0", reason=""),
    "others/gsm8k": [
        {"question": "A pen costs $2. What do 600 pens cost?",
         "answer": "They cost 600*2=<<600*2=1200>>1200.\n#### 1,200"},
        {"question": "Five birds sat; two flew. How many sit?", "answer": "5-2=<<5-2=3>>3 sit.\n#### 3"},
    ],
}  # fmt: skip

Rows = Sequence[dict[str, Any]]


def write_rows(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        separator = {".tsv": "\t", ".csv": ","}[path.suffix]
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines), encoding="utf-8")
    return path


def folder_of(root: Path, entry: Entry, rows: Rows, ending: str = ".parquet") -> Path:
    """A data folder with every split of a task; train holds each row twice, of two passages where there are such."""
    more = [{**row, entry.kin: f"{row[entry.kin]} More."} for row in rows] if entry.kin else rows
    for split, names in entry.splits.items():
        for name in names.split("+"):
            write_rows(root / entry.name / f"{name}{ending}", [*rows, *more] if split == "train" else rows)
    return root


def numbered(n: int) -> Rows:
    return [{"sentence1": f"one {i}", "sentence2": f"two {i}", "label": i % 2, "idx": i} for i in range(n)]


def rte(root: Path, n: int = 40, ending: str = ".jsonl") -> Path:
    write_rows(root / f"glue/rte/train{ending}", numbered(n))
    write_rows(root / f"glue/rte/validation{ending}", numbered(n + 10)[n:])
    return root
