"""Published tasks: fixtures in the hub's columns for all of them, and the real files where they are at hand."""

import json
import os
from io import StringIO
from pathlib import Path

import pytest
from docs.make_tasks import FILE, page
from rich.console import Console

from softprompt.cli.listing import list_rows, show_task
from softprompt.cli.printing import print_task
from softprompt.errors import BadInput, UnknownName
from softprompt.tasks import CATALOGUE, SPLITS, Split
from softprompt.tasks.published.catalogue import find, load_split
from softprompt.tasks.published.known_folders import KNOWN_FOLDERS, find_known_folder
from softprompt.tasks.published.mrqa import pad_punctuation, qa
from softprompt.tasks.published.others import gsm8k
from softprompt.tasks.published.sources import hub_call
from softprompt.tasks.published.superglue import wsc
from softprompt.tasks.registry import get_task, task_again
from softprompt.training.arguments import RunArguments
from softprompt.training.request import read_task
from tests.published import ROWS, folder_of, rte

# Every task


def test_every_issue_task_is_there() -> None:
    names = """glue: cola sst2 mrpc qqp stsb mnli mnli_mismatched qnli rte wnli
        superglue: boolq cb copa multirc record rte wic wsc
        mrqa: nq hotpotqa searchqa newsqa squad triviaqa
        others: winogrande yelp scitail paws snli ag_news trec sst5 mr subj imdb anli gsm8k"""
    wanted = {
        f"{family.strip()}/{task}"
        for family, tasks in (line.split(":") for line in names.split("\n"))
        for task in tasks.split()
    }
    assert set(CATALOGUE) == wanted == set(ROWS)


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_entry_does_not_contradict_itself(name: str) -> None:
    entry = CATALOGUE[name]
    entry.check()
    assert set(entry.read_columns()) <= set(ROWS[name][0])
    for names in entry.splits.values():
        assert set(names.split("+")) <= set(entry.rows)
    for words in (entry.words.words, entry.paper.words):
        assert len(set(words)) == len(words)


@pytest.mark.parametrize("form", ["words", "paper"])
@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_a_task_is_read_from_the_hubs_columns(tmp_path: Path, name: str, ending: str, form: str) -> None:
    entry = CATALOGUE[name]
    data_dir = folder_of(tmp_path, entry, ROWS[name], ending)
    task = get_task(name, data_dir=data_dir, template=form)
    assert all(task.examples[split] for split in SPLITS)
    assert task.choices == entry.form(form).words
    if task.choices:
        assert {e.target for e in task.examples["test"]} <= set(task.choices)
    for example in task.examples["test"]:
        assert example.source.strip()
        assert all(example.golds())
    assert task_again(json.loads(json.dumps(task.origin))) == task


# What is asked, literally

FIRST = {
    ("glue/cola", "paper"): ("sentence: A warm and clever film.", "", "1"),
    ("glue/rte", "paper"): ("sentence1: It rained all day. sentence2: It was dry.", "", "1"),
    ("glue/rte", "words"): ("Premise: It rained all day.\nHypothesis: It was dry.", "\nIs the hypothesis true?", "no"),
    ("glue/stsb", "paper"): ("sentence1: It rained all day. sentence2: It was dry.", "", "1.2"),
    ("glue/mnli", "paper"): ("premise: It rained all day. hypothesis: It was dry.", "", "2"),
    ("superglue/cb", "words"): (
        "Premise: It rained all day.\nHypothesis: It was dry.", "\nIs the hypothesis true, false or neither?", "false",
    ),
    ("superglue/copa", "paper"): (
        "premise: The ground was wet. choice1: It had rained. choice2: It was noon.", "", "0",
    ),
    ("superglue/multirc", "paper"): (
        "question: Where is the mill? answer: In the hills paragraph: Sent 1: The mill is old. "
        "Sent 2: It is by the river.", "", "0",
    ),
    ("superglue/record", "paper"): (
        "record query: @placeholder cut the ribbon entities: Anna Berg, Berg passage: Anna Berg opened the bridge on "
        "Monday. Crowds came. Berg had waited ten years", "", "Anna Berg",
    ),
    ("superglue/wic", "paper"): ("sentence1: It rained all day. sentence2: It was dry. word: dry", "", "0"),
    ("superglue/wsc", "paper"): ("text: Tom thanked * Sue * because # she #, at last, had helped him.", "", "1"),
    ("mrqa/squad", "paper"): (
        "question: When was it built ? context: The mill stands by the river . It was built by two brothers in 1871 .",
        "", "1871",
    ),
    ("others/winogrande", "paper"): (
        "sentence: Ann lent Bea a coat because _ was cold. option0: Ann option1: Bea", "", "1",
    ),
    ("others/scitail", "paper"): ("premise: It rained all day. hypothesis: It was dry.", "", "1"),
    ("others/gsm8k", "paper"): (
        "Question: A pen costs $2. What do 600 pens cost?", " Think step by step.\nAnswer:",
        "They cost 600*2=1200.\n#### 1,200",
    ),
    ("others/gsm8k", "words"): (
        "Question: A pen costs $2. What do 600 pens cost?", "\nAnswer:", "They cost 600*2=1200.\n#### 1,200",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "form"), FIRST)
def test_the_first_row_is_asked_so(tmp_path: Path, name: str, form: str) -> None:
    example = load_split(find(name), "test", folder_of(tmp_path, find(name), ROWS[name]), form)[0]
    assert (example.source, example.cue, example.target) == FIRST[name, form]


@pytest.mark.parametrize(
    ("name", "golds"),
    [
        ("mrqa/squad", ("1871", "in 1871")),
        ("superglue/record", ("Anna Berg", "Berg")),
        ("glue/stsb", ("1.25",)),
        ("others/gsm8k", ("1200",)),
    ],
)
def test_every_gold_answer_counts(tmp_path: Path, name: str, golds: tuple[str, ...]) -> None:
    example = load_split(find(name), "test", folder_of(tmp_path, find(name), ROWS[name]))[0]
    assert example.golds() == golds


def test_the_answers_of_a_question_are_one_group(tmp_path: Path) -> None:
    entry = find("superglue/multirc")
    other = [{**row, "question": "When was it built?"} for row in ROWS[entry.name]]
    examples = load_split(entry, "test", folder_of(tmp_path, entry, [*ROWS[entry.name], *other]))
    groups = [example.group for example in examples]
    assert groups[0] == groups[1] != groups[2] == groups[3]


@pytest.mark.parametrize(
    ("text", "one", "two", "marked"),
    [
        ("The dog saw it.", ("The dog", 0), ("it", 3), "* The dog * saw # it #."),
        ("it scared the dog", ("the dog", 2), ("it", 0), "# it # scared * the dog *"),
        ("We saw the cat, him.", ("The cat", 2), ("him", 4), "We saw * the cat *, # him #."),
        ("a  b", ("a", 0), ("b", 1), "* a *  # b #"),
        ("Ann's hat fits her", ("Anna", 0), ("her", 3), "* Ann's * hat fits # her #"),  # spelled otherwise: the words
        ("They want to use it , but", ("They", 0), ("it", 3), "* They * want to use # it # , but"),  # counted wrongly
        ("it hit it", ("hit", 1), ("it", 2), "it * hit * # it #"),
        ("and their mothers are", ("their mothers", 1), ("their", 1), "and * # their # mothers * are"),
        ("so are they both", ("both", 3), ("they both", 2), "so are # they * both * #"),
    ],
)
def test_spans_are_marked(text: str, one: tuple[str, int], two: tuple[str, int], marked: str) -> None:
    values = {"text": text, "span1_text": one[0], "span1_index": str(one[1]), "label": "1"}
    assert wsc({**values, "span2_text": two[0], "span2_index": str(two[1])}).values["text"] == marked


def test_a_span_outside_the_text_is_refused() -> None:
    values = {"text": "a b", "span1_text": "a", "span1_index": "0", "span2_text": "b c", "span2_index": "1"}
    with pytest.raises(ValueError, match="'b c' at word 1 is outside the text of 2 words"):
        wsc({**values, "label": "1"})


def test_punctuation_is_padded() -> None:
    assert pad_punctuation(' "It\'s"  1.5\n(no_way) ') == '" It \' s " 1 . 5 ( no_way )'
    assert pad_punctuation("naïve—“ok” 5€") == "naïve — “ ok ” 5 €"
    assert pad_punctuation("na\u0131\u0308ve हिन्दी ½") == "na\u0131\u0308ve हिन्दी ½"  # accents are no punctuation


def test_answers_are_told_apart() -> None:
    row = {"question": "q", "context": "c", "answers": '["b", " b ", "", "a"]'}
    assert qa(row).references == ("b", "a")


@pytest.mark.parametrize(
    ("score", "said"), [("0", "0.0"), ("5", "5.0"), ("3.8", "3.8"), ("2.25", "2.2"), ("2.333", "2.4"), ("0.09", "0.0")]
)
def test_similarity_is_said_to_a_fifth(score: str, said: str) -> None:
    prepared = find("glue/stsb").prepared({"sentence1": "a", "sentence2": "b", "label": score})
    assert (prepared.label, prepared.references) == (said, (score,))


def test_metamath_is_trained_on() -> None:
    prepared = gsm8k({"query": "2+2?", "response": "It is 4.\n#### 4\nThe answer is: 4", "type": "GSM_SV"})
    assert (prepared.values["question"], prepared.references) == ("2+2?", ("4",))
    entry = find("gsm8k")
    long = {"query": "a" * 700, "response": "b" * 599, "type": "GSM_SV"}
    assert not entry.is_unlabelled(entry.prepared(long).label)
    assert entry.is_unlabelled(entry.prepared({**long, "query": "a" * 701}).label)
    assert not entry.is_unlabelled(entry.prepared({"question": "a" * 2000, "answer": "#### 3"}).label)
    call = hub_call(entry, "train", None)
    assert call == {"path": "meta-math/MetaMathQA", "name": None, "split": "train", "streaming": False}
    assert hub_call(entry, "dev", None) == {**call, "path": "openai/gsm8k", "name": "main"}


# Names


def test_names() -> None:
    assert find("winogrande").name == "others/winogrande"
    with pytest.raises(BadInput, match="'rte' is glue/rte or superglue/rte; say which"):
        get_task("rte")
    with pytest.raises(UnknownName, match="Did you mean 'glue/sst2'"):
        get_task("glue/sst-2")
    with pytest.raises(UnknownName, match="Unknown template 'digits'"):
        get_task("glue/rte", template="digits")
    with pytest.raises(BadInput, match="is shipped"):
        get_task("support", limit=3)
    with pytest.raises(BadInput, match="limit=0"):
        get_task("glue/rte", limit=0)


def test_words_of_the_command_line_reach_the_task(tmp_path: Path) -> None:
    task = read_task(RunArguments(template="paper", data_dir=rte(tmp_path), limit=7, split_seed=3), "glue/rte")
    assert task == get_task("glue/rte", data_dir=tmp_path, template="paper", limit=7, seed=3)
    with pytest.raises(BadInput, match="--word only go with --data"):
        read_task(RunArguments(words={"0": "a"}, data_dir=tmp_path), "glue/rte")
    with pytest.raises(BadInput, match="--data-dir, --limit only go with --data"):
        read_task(RunArguments(data_dir=tmp_path, limit=3), "support")


def test_the_list_names_every_task() -> None:
    rows = {row["name"]: row for row in list_rows("tasks")}
    assert set(rows) == {"support", *CATALOGUE}
    assert rows["glue/rte"]["rows"] == "2,490/-/277"
    assert rows["glue/rte"]["hub"] == "nyu-mll/glue rte"
    assert rows["others/anli"]["rows"] == "162,865/3,200/3,200"


def test_a_task_is_shown_with_its_balance(tmp_path: Path) -> None:
    found = show_task("glue/rte", {"data_dir": rte(tmp_path)})
    assert found["rows"] == {"train": 36, "dev": 4, "test": 10}
    assert found["balance"]["test"] == {"yes": 5, "no": 5}
    assert json.loads(json.dumps(found)) == found
    shown = Console(file=StringIO(), width=80)
    print_task(shown, found)
    assert "\ntest        10 rows  yes 5, no 5\n" in shown.file.getvalue()  # type: ignore[attr-defined]


def test_the_page_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == page(), "python -m docs.make_tasks"


# The real files

DATA = Path(os.environ.get("SOFTPROMPT_DATA", "none"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="SOFTPROMPT_DATA names no folder")
# Rows of files that are not the published split, and why.
OTHERWISE: dict[tuple[str, Split], int] = {
    ("glue/mrpc", "train"): 3668 + 408,  # the Microsoft corpus: GLUE cut its validation from this train
    ("glue/mrpc", "test"): 1725,  # its test split with labels, which GLUE hides
    ("superglue/cb", "train"): 218,  # without 32 rows that FewGLUE holds
    ("superglue/copa", "train"): 368,  # the same
    ("superglue/boolq", "train"): 32,  # FewGLUE: 32 rows; MultiRC: 32 questions, with all their answers
    ("superglue/wsc", "train"): 32,
    ("superglue/record", "train"): 32,
    ("superglue/multirc", "train"): 154,
    ("superglue/boolq", "dev"): 32,
    ("superglue/wsc", "dev"): 32,
    ("superglue/record", "dev"): 32,
    ("superglue/multirc", "dev"): 167,
    ("mrqa/squad", "test"): 1190,  # XQuAD's sample of SQuAD's validation split
    ("mrqa/newsqa", "test"): 17,  # a sample of the format
    ("others/winogrande", "train"): 10234,  # size l, not xl
    ("others/snli", "test"): 9842,  # the validation split, without 158 undecided pairs
    ("others/mr", "train"): 10662,  # all splits in one file
}


@needs_data
@pytest.mark.parametrize(("name", "split"), sorted({(layout.task, layout.split) for layout in KNOWN_FOLDERS}))
def test_the_real_files_hold_the_published_rows(name: str, split: Split) -> None:
    entry = find(name)
    if find_known_folder(name, split, DATA) is None:
        pytest.skip("not in the folder")
    examples = load_split(entry, split, DATA)
    expected = OTHERWISE.get((name, split))
    if expected is None:
        expected = sum(entry.rows[part] for part in entry.splits[split].split("+"))
    assert len(examples) == expected
    assert len({example.id for example in examples}) == len(examples)
    if entry.labels and (name, split) != ("superglue/wsc", "train"):  # FewGLUE's WSC trains on right pairs alone
        assert {example.target for example in examples} == set(entry.words.words)


@needs_data
def test_a_real_task_is_read_again_as_it_was() -> None:
    # A tenth of COPA's 368 rows, at most the limit of the others.
    for name, dev in (("glue/rte", 50), ("superglue/multirc", 50), ("others/sst5", 50), ("superglue/copa", 37)):
        task = get_task(name, data_dir=DATA, limit=50)
        assert [len(task.examples[split]) for split in SPLITS] == [50, dev, 50]
        assert task_again(json.loads(json.dumps(task.origin))) == task


@needs_data
def test_the_layouts_of_copa_agree() -> None:
    ours = {example.source for example in load_split(find("copa"), "train", DATA)}
    original = next(layout for layout in KNOWN_FOLDERS if layout.files[0].endswith("copa-dev.xml"))
    rows = original.read(original.paths(DATA)[0])
    assert len(rows) == 500
    there = {row.values["premise"] for row in rows}
    assert sum(source.split(" What ")[0] in there for source in ours) >= 360
