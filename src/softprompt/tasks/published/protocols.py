"""Protocols: which rows train, select and test, and how answers are read.

fair            softprompt's own. Test is never used to select; dev is drawn from train unless a published one is not
                needed as test; the likeliest choice is scored, and generated text beside it.
paper:dept      Shi & Lipani 2024, from their code (github.com/ZhengxiangShi/DePT, src/tasks.py, which has the
                rules from ATTEMPT, Asai et al. 2022): a permutation of seed 42; small tasks halve validation into dev
                and test, large ones take 1,000 rows of train as dev; digits as targets; generated answers.
paper:peft      PEFT's comparison of methods (github.com/huggingface/peft, method_comparison/MetaMathQA/data.py): all of
                MetaMathQA's rows of at most 1,300 characters, 50 rows of GSM8K's train as dev, GSM8K's test.
paper:superpos  Sadraei et al. 2024, sections 3.1 to 3.4: published validation is dev and test at once (the best
                epoch on it is reported); generated answers, and one answer outside the labels scores the run 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol as Interface
from typing import runtime_checkable

import numpy as np
import torch

from softprompt.errors import BadInput, UnknownName
from softprompt.tasks.published.defects import DEPT_DEFECTS
from softprompt.tasks.published.entry import Entry
from softprompt.tasks.published.spec import TaskSpec
from softprompt.tasks.published.splits import MOST_DEV, Related, dev_count, draw, shuffled
from softprompt.tasks.task import SPLITS, Scoring, Split

Parted = dict[Split, list[Related]]


@runtime_checkable
class Reading(Interface):
    """Reads the splits of one entry as examples, in their published order; `most` rows may be enough."""

    entry: Entry

    def splits(self) -> list[Split]: ...
    def __call__(self, split: Split, most: int | None = None) -> list[Related]: ...


@dataclass(frozen=True)
class Protocol:
    """Which rows train, select and test, with which template, and how answers are read."""

    name: str
    about: str
    form: str
    """Name of its template, when none is given."""
    scoring: Scoring
    part: Callable[[Reading, TaskSpec], Parted]
    seeds: int = 1
    """Minimum runs of a score."""
    strict: bool = False
    """Whether one generated answer outside the choices makes the whole score 0."""
    defects: Mapping[str, Callable[[Entry], Entry]] = field(default_factory=dict)
    """Name -> function that puts a defect of the published code into an entry."""
    few_dev: bool = True
    """Whether a few-shot run selects on as few examples as it trains on."""

    def adapt(self, entry: Entry, compat: bool) -> Entry:
        """Return `entry` as the protocol reads it. Raises BadInput for `compat` where no defect is known."""
        if compat and not self.defects:
            raise BadInput(f"compat: the protocol {self.name} has no known defects; paper:dept has.")
        entry = replace(entry, splits=DEPT_DECLARED.get(entry.name, entry.splits)) if self is PAPER_DEPT else entry
        for defect in self.defects.values() if compat else ():
            entry = defect(entry)
        return entry

    def defects_of(self, entry: Entry) -> list[str]:
        """List the names of the defects that change `entry`."""
        return [name for name, defect in self.defects.items() if defect(entry) != entry]


def part_fairly(read: Reading, spec: TaskSpec) -> Parted:
    """Part the rows for the protocol fair: dev is drawn from train where no published split is left for it."""
    found: Parted = {}
    for split in read.splits():
        most = spec.limit.get(split)
        if split == "train" and most is not None and spec.shots is None:
            # dev may be drawn from the rows of train that are read.
            most += min(spec.limit.get("dev", MOST_DEV), MOST_DEV)
        found[split] = read(split, None if split == "train" and spec.shots else most)
    if "dev" in found:
        found["dev"] = shuffled(found["dev"], spec.seed)[:MOST_DEV] if len(found["dev"]) > MOST_DEV else found["dev"]
    elif spec.shots is None:
        count = dev_count(len(found["train"]), spec.limit.get("dev"))
        found["dev"], found["train"] = draw(found["train"], count, spec.seed)
    return found


def part_as_dept(read: Reading, spec: TaskSpec) -> Parted:
    """Part as DePT's code: small tasks halve validation, large ones take 1,000 rows of train as dev."""
    name = read.entry.name
    if name in DEPT_HALVED:
        validation: Split = "dev" if read.entry.splits.get("dev") == "validation" else "test"
        first, second = _permuted_in_two(read(validation), lambda n: n // 2)
        return {"train": read("train"), "dev": first, "test": second}
    if name in DEPT_LARGE:
        first, second = _permuted_in_two(read("train"), lambda n: 1000)
        if name == "others/yelp":  # select(range(100000)) of the rest, in their train.py
            second = second[:100_000]
        return {"train": second, "dev": first, "test": read("test", spec.limit.get("test"))}
    if name in DEPT_DECLARED:
        return {split: read(split) for split in SPLITS}
    known = ", ".join(sorted({*DEPT_HALVED, *DEPT_LARGE, *DEPT_DECLARED}))
    raise BadInput(f"paper:dept does not define {name}; it defines {known}. Use the protocol fair.")


def part_as_superpos(read: Reading, spec: TaskSpec) -> Parted:
    """Part as SuperPos-Prompt: the published validation split selects and is reported."""
    test = read("test", spec.limit.get("test"))
    return {"train": read("train", spec.limit.get("train")), "dev": test, "test": test}


def part_as_peft(read: Reading, spec: TaskSpec) -> Parted:
    """Part as PEFT's comparison: the first rows of GSM8K's train as NumPy's generator of seed 0 orders it select."""
    if read.entry.name != PEFT_TASK:
        raise BadInput(f"paper:peft defines {PEFT_TASK} alone, not {read.entry.name}. Use the protocol fair.")
    dev = read("dev")
    order = np.random.RandomState(0).permutation(len(dev))[:PEFT_DEV]
    test = read("test", spec.limit.get("test"))
    return {"train": read("train", spec.limit.get("train")), "dev": [dev[i] for i in order], "test": test}


def few_shot(parted: Parted, entry: Entry, shots: int, number: int, *, few_dev: bool, in_all: bool = False) -> Parted:
    """Draw a few-shot training set. It depends on `number` and the texts, not on the order of rows.

    Args:
        parted: All rows by split.
        entry: The task.
        shots: Examples of each class; of the whole set where there are no classes.
        number: Index of the draw.
        few_dev: Draw as many other examples of train for dev; related ones (of one passage) never on both sides.
        in_all: Draw `shots` examples in all, not of each class.

    Raises:
        BadInput: A class has too few rows.
    """
    pool = shuffled(parted["train"], number)
    classes = sorted({one.example.target for one in pool}) if entry.labels else [None]
    train: list[Related] = []
    dev: list[Related] = []
    for i, label in enumerate(classes):
        mine = [one for one in pool if label is None or one.example.target == label]
        # In all: as equal as possible, the first classes one more.
        wanted = shots // len(classes) + (i < shots % len(classes)) if in_all else shots
        if len(mine) < wanted * (1 + few_dev):
            of_class = "" if label is None else f" of the class {label!r}"
            need = f"{wanted} to train on and {wanted} to select with" if few_dev else f"{wanted}"
            raise BadInput(f"{entry.name}: shots={shots} needs {need}, but train has {len(mine)} rows{of_class}.")
        train += mine[:wanted]
        used = {one.kin for one in train}
        dev += [one for one in mine[wanted:] if one.kin not in used][:wanted] if few_dev else []
    return {**parted, "train": train, **({"dev": dev} if few_dev else {})}


def _permuted_in_two(rows: list[Related], count: Callable[[int], int]) -> tuple[list[Related], list[Related]]:
    """Split a permutation of seed 42 after `count(rows)` rows (`get_split_indices` in their code)."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(42)).tolist()
    cut = count(len(rows))
    return [rows[i] for i in order[:cut]], [rows[i] for i in order[cut:]]


# small_datasets_without_all_splits and large_data_without_all_splits of their src/tasks.py.
DEPT_HALVED = {
    "glue/cola", "glue/wnli", "glue/rte", "glue/mrpc", "glue/stsb", "superglue/boolq", "superglue/cb",
    "superglue/copa", "superglue/multirc", "superglue/rte", "superglue/wic", "superglue/wsc", "others/scitail",
}  # fmt: skip
DEPT_LARGE = {
    "glue/qqp", "glue/qnli", "glue/sst2", "superglue/record", "mrqa/squad", "mrqa/nq", "mrqa/hotpotqa",
    "mrqa/searchqa", "mrqa/newsqa", "mrqa/triviaqa", "others/winogrande", "others/yelp", "others/snli",
}  # fmt: skip
DEPT_DECLARED: dict[str, dict[Split, str]] = {
    "glue/mnli": {"train": "train", "dev": "validation_mismatched", "test": "validation_matched"},
    "others/paws": {"train": "train", "dev": "validation", "test": "test"},
}

PEFT_TASK, PEFT_DEV = "others/gsm8k", 50

FAIR = Protocol("fair", "ours: no peeking, at least three seeds", "words", "ranked", part_fairly, seeds=3)
PAPER_DEPT = Protocol(
    "paper:dept", "Shi & Lipani 2024: their splits, digits as targets, generated answers", "paper", "generated",
    part_as_dept, defects=DEPT_DEFECTS, few_dev=False,
)  # fmt: skip
PAPER_PEFT = Protocol(
    "paper:peft",
    "PEFT's comparison of methods: 50 rows of GSM8K's train select",
    "paper",
    "generated",
    part_as_peft,
    few_dev=False,
)
PAPER_SUPERPOS = Protocol(
    "paper:superpos", "Sadraei et al. 2024: best epoch on the validation set that is reported", "words",
    "generated", part_as_superpos, strict=True,
)  # fmt: skip
PROTOCOLS = {protocol.name: protocol for protocol in (FAIR, PAPER_DEPT, PAPER_PEFT, PAPER_SUPERPOS)}


def get_protocol(name: str) -> Protocol:
    """Return a protocol by name. Raises UnknownName."""
    if name not in PROTOCOLS:
        raise UnknownName("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
