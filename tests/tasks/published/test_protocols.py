"""Protocols: which rows train, select and test; few-shot draws; the defects of published code."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from softprompt.errors import BadInput, UnknownName
from softprompt.tasks import CATALOGUE, SPLITS, Split, Task
from softprompt.tasks.published.entry import Values
from softprompt.tasks.published.protocols import (
    DEPT_DECLARED,
    DEPT_HALVED,
    DEPT_LARGE,
    PAPER_DEPT,
    PROTOCOLS,
    get_protocol,
)
from softprompt.tasks.registry import get_task, task_again
from tests.published import ROWS, folder_of, write_rows

DATA = os.environ.get("SOFTPROMPT_DATA")


def nli(folder: Path, train: int = 60, validation: int = 21) -> Path:
    """glue/rte with as many rows as it says, each of its own text; two thirds of the class 0."""
    for split, count in (("train", train), ("validation", validation)):
        rows = [{"sentence1": f"{split} {i}", "sentence2": "so", "label": int(i % 3 == 0)} for i in range(count)]
        write_rows(folder / f"glue/rte/{split}.jsonl", rows)
    return folder


def texts(task: Task, split: Split) -> list[str]:
    return [example.source for example in task.examples[split]]


def counts(task: Task) -> list[int]:
    return [len(task.examples[split]) for split in SPLITS]


# paper:dept


def test_a_small_task_halves_validation_by_a_permutation_of_seed_42(tmp_path: Path) -> None:
    task = get_task("glue/rte", data_dir=nli(tmp_path), protocol="paper:dept")
    order = torch.randperm(21, generator=torch.Generator().manual_seed(42)).tolist()
    expected = [f"sentence1: validation {i} sentence2: so" for i in order]
    assert texts(task, "dev") == expected[:10]
    assert texts(task, "test") == expected[10:]
    assert counts(task) == [60, 10, 11]
    assert task.choices == ("0", "1")
    assert task.scoring == "generated"


def test_a_large_task_takes_a_thousand_rows_of_train(tmp_path: Path) -> None:
    for split, count in (("train", 1200), ("validation", 7)):
        rows = [{"sentence": f"{split} {i}", "label": i % 2} for i in range(count)]
        write_rows(tmp_path / f"glue/sst2/{split}.jsonl", rows)
    task = get_task("glue/sst2", data_dir=tmp_path, protocol="paper:dept")
    order = torch.randperm(1200, generator=torch.Generator().manual_seed(42)).tolist()
    assert counts(task) == [200, 1000, 7]
    assert texts(task, "dev") == [f"sentence: train {i}" for i in order[:1000]]
    assert texts(task, "train") == [f"sentence: train {i}" for i in order[1000:]]


def test_mnli_selects_on_the_mismatched_genres(tmp_path: Path) -> None:
    for split in ("train", "validation_matched", "validation_mismatched"):
        rows = [{"premise": split, "hypothesis": str(i), "label": i} for i in range(3)]
        write_rows(tmp_path / f"glue/mnli/{split}.jsonl", rows)
    task = get_task("glue/mnli", data_dir=tmp_path, protocol="paper:dept")
    assert all("validation_mismatched" in text for text in texts(task, "dev"))
    assert all("validation_matched" in text for text in texts(task, "test"))


def test_every_task_of_the_paper_has_one_rule_and_others_are_refused(tmp_path: Path) -> None:
    rules = [DEPT_HALVED, DEPT_LARGE, set(DEPT_DECLARED)]
    assert sum(map(len, rules)) == len(set().union(*rules))
    assert set().union(*rules) <= set(CATALOGUE)
    with pytest.raises(BadInput, match="paper:dept does not define others/subj"):
        get_task(
            "subj", data_dir=folder_of(tmp_path, CATALOGUE["others/subj"], ROWS["others/subj"]), protocol="paper:dept"
        )


def test_published_sizes_of_the_splits(tmp_path: Path) -> None:
    """Sizes that ULPT (Wu et al. 2025, table 4) prints of the same code's splits."""
    sizes = {"glue/rte": (138, 139), "glue/mrpc": (204, 204), "glue/cola": (521, 522), "glue/stsb": (750, 750),
             "superglue/cb": (28, 28), "superglue/wsc": (52, 52), "superglue/wic": (319, 319)}  # fmt: skip
    for name, (dev, test) in sizes.items():
        published = CATALOGUE[name].rows["validation"]
        assert (published // 2, published - published // 2) == (dev, test)


@pytest.mark.skipif(not DATA, reason="needs the real files (SOFTPROMPT_DATA)")
def test_the_halves_are_those_of_the_authors_runs() -> None:
    """Their logs: WSC's constant answer scores 31/52 and 35/52; BoolQ's majority 62.63 on dev; RTE 70/138 at first."""
    said = {}
    for name in ("superglue/wsc", "superglue/boolq", "superglue/rte"):
        task = get_task(name, data_dir=DATA, protocol="paper:dept")
        said[name] = [Counter(e.target for e in task.examples[split]) for split in ("dev", "test")]
    assert [one["0"] for one in said["superglue/wsc"]] == [31, 35]
    boolq = said["superglue/boolq"][0]
    assert round(100 * boolq["1"] / boolq.total(), 2) == 62.63
    assert max(said["superglue/rte"][0].values()) == 70


# paper:peft


def test_peft_selects_on_fifty_rows_of_gsm8ks_own_train(tmp_path: Path) -> None:
    """Rows 6447, 6827 and 39 come first when NumPy's generator of seed 0 shuffles all 7,473 (their data.py)."""
    sums = [{"question": f"dev {i}", "answer": f"#### {i}"} for i in range(7473)]
    write_rows(tmp_path / "others/gsm8k/dev.jsonl", sums)
    write_rows(tmp_path / "others/gsm8k/test.jsonl", sums[:3])
    made = [{"query": f"train {i}", "response": f"It is {i}.", "type": "GSM_SV"} for i in range(5)]
    write_rows(tmp_path / "others/gsm8k/train.jsonl", made)
    task = get_task("others/gsm8k", data_dir=tmp_path, protocol="paper:peft")
    assert counts(task) == [5, 50, 3]
    assert texts(task, "dev")[:3] == [f"Question: dev {i}" for i in (6447, 6827, 39)]
    assert task.template.endswith("Think step by step.\nAnswer:")
    with pytest.raises(BadInput, match="paper:peft defines others/gsm8k alone"):
        get_task("glue/rte", data_dir=nli(tmp_path), protocol="paper:peft")


# paper:superpos


def test_superpos_selects_and_reports_on_validation(tmp_path: Path) -> None:
    task = get_task("glue/rte", data_dir=nli(tmp_path), protocol="paper:superpos")
    assert task.examples["dev"] == task.examples["test"]
    assert counts(task) == [60, 21, 21]
    assert task.strict
    assert task.scoring == "generated"


# fair


def test_fair_never_tests_on_what_trains_or_selects(tmp_path: Path) -> None:
    task = get_task("glue/rte", data_dir=nli(tmp_path))
    seen = [set(texts(task, split)) for split in SPLITS]
    assert len(set().union(*seen)) == sum(map(len, seen))
    assert counts(task) == [54, 6, 21]
    assert (task.scoring, task.strict) == ("ranked", False)


# Few-shot


@pytest.mark.parametrize("shots", [1, 4])
def test_few_shots_are_balanced_and_dev_is_no_larger(tmp_path: Path, shots: int) -> None:
    task = get_task("glue/rte", data_dir=nli(tmp_path), shots=shots)
    for split in ("train", "dev"):
        assert Counter(e.target for e in task.examples[split]) == {"yes": shots, "no": shots}  # type: ignore[index]
    assert not set(texts(task, "train")) & set(texts(task, "dev"))
    assert len(task.examples["test"]) == 21


def test_a_draw_depends_on_its_number_and_not_on_the_order_of_rows(tmp_path: Path) -> None:
    one, two = nli(tmp_path / "a"), nli(tmp_path / "b")
    path = two / "glue/rte/train.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    first = get_task("glue/rte", data_dir=one, shots=4)
    assert texts(first, "train") == texts(get_task("glue/rte", data_dir=two, shots=4), "train")
    assert texts(first, "train") != texts(get_task("glue/rte", data_dir=one, shots=4, draw=1), "train")


def test_as_in_depts_code_k_counts_all_classes_and_the_whole_half_selects(tmp_path: Path) -> None:
    task = get_task("glue/rte", data_dir=nli(tmp_path), protocol="paper:dept", shots=5)
    assert Counter(e.target for e in task.examples["train"]) == {"0": 3, "1": 2}
    assert counts(task)[1:] == [10, 11]


def test_too_many_shots_are_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match="shots=11 needs 11 to train on and 11 to select with, but train has 20 rows of the class"
    ):
        get_task("glue/rte", data_dir=nli(tmp_path), shots=11)


def test_passages_are_not_shared_by_train_and_dev_of_a_draw(tmp_path: Path) -> None:
    rows = [{"passage": f"passage {i // 3}", "question": f"question {i}", "label": i % 2} for i in range(60)]
    for split in ("train", "validation"):
        write_rows(tmp_path / f"superglue/boolq/{split}.jsonl", rows)
    task = get_task("boolq", data_dir=tmp_path, shots=6)
    passages = [{text.split("Passage: ")[1] for text in texts(task, split)} for split in ("train", "dev")]
    assert not passages[0] & passages[1]


def test_a_draw_is_recorded_and_read_again(tmp_path: Path) -> None:
    task = get_task("glue/rte", data_dir=nli(tmp_path), shots=3, draw=2, limit={"test": 5})
    assert counts(task) == [6, 6, 5]
    assert task_again(task.origin) == task


# Known defects


def test_compat_shows_option_1_of_winogrande_twice(tmp_path: Path) -> None:
    entry = CATALOGUE["others/winogrande"]
    right, wrong = (PROTOCOLS["paper:dept"].adapt(entry, compat) for compat in (False, True))
    assert "{option2}" in right.paper.template
    assert "option1: {option1}" in wrong.paper.template
    assert "{option2}" not in wrong.paper.template


def test_compat_rounds_stsb_to_tenths_and_takes_that_for_the_truth() -> None:
    values: Values = {"sentence1": "a", "sentence2": "b", "label": "3.27"}
    right, wrong = (
        PROTOCOLS["paper:dept"].adapt(CATALOGUE["glue/stsb"], compat).prepared(values) for compat in (False, True)
    )
    assert (right.label, right.references) == ("3.2", ("3.27",))
    assert (wrong.label, wrong.references) == ("3.3", ())


def test_compat_pads_the_punctuation_of_mrqas_targets() -> None:
    values = {"question": "Where?", "context": "In the U.S., he said.", "answers": '["the U.S."]'}
    right, wrong = (
        PROTOCOLS["paper:dept"].adapt(CATALOGUE["mrqa/squad"], compat).prepared(values) for compat in (False, True)
    )
    assert (right.label, wrong.label) == ("the U.S.", "the U . S .")


@pytest.mark.parametrize(
    ("text", "spans", "marked"),
    [
        ("This is a test sentence .", (("test", 3), ("This", 0)), "# This # is a * test * sentence ."),
        (
            "Mark told Pete lies . He was sure .",
            (("Mark", 0), ("He", 5)),
            "* Mark * told Pete lies . # He # was sure .",
        ),
        ("The cat sat . It slept .", (("the cat", 0), ("It", 4)), "The cat sat . It slept ."),  # spelled otherwise
        ("It (a cat) slept", (("(a cat)", 1), ("It", 0)), "# It # (a cat) slept"),  # brackets group, and match nothing
    ],
)
def test_compat_marks_what_the_pattern_finds(text: str, spans: tuple[tuple[str, int], ...], marked: str) -> None:
    entry = PAPER_DEPT.adapt(CATALOGUE["superglue/wsc"], compat=True)
    row = {"text": text, "label": "0"}
    for i, (span, index) in enumerate(spans, 1):
        row |= {f"span{i}_text": span, f"span{i}_index": str(index)}
    assert entry.prepared(row).values["text"] == marked


def test_compat_cuts_free_answers_and_no_others(tmp_path: Path) -> None:
    cut = [name for name in sorted(CATALOGUE) if PAPER_DEPT.adapt(CATALOGUE[name], compat=True).cuts_answers]
    assert cut == [*sorted(name for name in CATALOGUE if name.startswith("mrqa/")), "superglue/record"]
    assert not any(entry.cuts_answers for entry in CATALOGUE.values())
    for split in ("train", "validation"):
        rows = [
            {"question": f"{split} {i}?", "context": f"{split} {i}", "answers": ["one"]}
            for i in range(1200 if split == "train" else 3)
        ]
        write_rows(tmp_path / f"mrqa/squad/{split}.jsonl", rows)
    task = get_task("squad", data_dir=tmp_path, protocol="paper:dept", compat=True)
    assert {example.answer_limit for example in task.examples["train"]} == {20}
    assert "free_answers_cut" in task.origin["defects"]  # type: ignore[operator]


def test_compat_counts_the_first_answer_alone_and_selects_by_exact_match() -> None:
    entry = CATALOGUE["mrqa/squad"]
    values: Values = {"question": "q", "context": "c", "answers": '["one", "two"]'}
    right, wrong = (PROTOCOLS["paper:dept"].adapt(entry, compat) for compat in (False, True))
    assert right.prepared(values).references == ("one", "two")
    assert wrong.prepared(values).references == ()
    assert (right.metrics[0], wrong.metrics[0]) == ("token_f1", "exact_match")


def test_the_defects_of_a_task_are_named_in_its_record(tmp_path: Path) -> None:
    data_dir = tmp_path
    for split in ("train", "validation"):
        rows = [{"sentence1": f"{split} {i}", "sentence2": "so", "label": i / 4} for i in range(12)]
        write_rows(data_dir / f"glue/stsb/{split}.jsonl", rows)
    assert get_task("stsb", data_dir=data_dir, protocol="paper:dept", compat=True).origin["defects"] == [
        "stsb_rounding"
    ]
    again = get_task("stsb", data_dir=data_dir, protocol="paper:dept", compat=True)
    assert task_again(again.origin) == again
    with pytest.raises(BadInput, match=r"began with the defects \['another'\] of glue/stsb, and --compat now means"):
        task_again({**again.origin, "defects": ["another"]})
    with pytest.raises(BadInput, match="compat: the protocol fair has no known defects"):
        get_task("stsb", data_dir=data_dir, compat=True)


def test_an_unknown_protocol_is_named_with_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'paper:dept'"):
        get_protocol("paper:dep")
