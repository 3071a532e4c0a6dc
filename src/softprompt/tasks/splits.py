"""Draw dev and test from one file: rows with the same text stay together, and labels keep their shares."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from softprompt.errors import BadInput
from softprompt.tasks.task import SPLITS, Example, Split

NAMED = 3
"""Texts that a note quotes, at most."""


def draw_splits(
    texts: Sequence[str], labels: Sequence[str], shares: Mapping[Split, float], seed: int
) -> dict[Split, list[int]]:
    """Draw the indices of each split with `seed`; train is what is left, and all are in the order of the rows.

    Args:
        texts: Text of each row; rows of one text go into one split.
        labels: Label of each row; each split has its share of every label, as far as whole rows allow.
        shares: Fractions of the rows, of dev and test where they are drawn.
        seed: Random seed.

    Raises:
        BadInput: There are too few rows.
    """
    groups: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        groups.setdefault(text, []).append(i)
    every = list(groups.values())
    order = [every[i] for i in torch.randperm(len(every), generator=torch.Generator().manual_seed(seed)).tolist()]
    drawn: dict[Split, list[int]] = {}
    for split, share in shares.items():
        taken = _take(order, labels, max(1, round(share * len(texts))))
        drawn[split] = sorted(i for at in taken for i in order[at])
        order = [group for at, group in enumerate(order) if at not in taken]
    if not order:
        different = f" with {len(every)} different texts" if len(every) < len(texts) else ""
        raise BadInput(
            f"{len(texts)} rows{different} are too few to draw dev and test from; give more, or --dev and --test files."
        )
    return {"train": sorted(i for group in order for i in group), **drawn}


def _take(order: Sequence[list[int]], labels: Sequence[str], count: int) -> set[int]:
    """Take groups of about `count` rows, by the shares of labels first, then whatever fits; return their indices."""
    counts = Counter(labels[i] for group in order for i in group)
    quotas = _quotas(counts, count)
    taken, left = set(), count
    for at, group in enumerate(order):
        if quotas[labels[group[0]]] >= len(group):
            quotas[labels[group[0]]] -= len(group)
            taken.add(at)
            left -= len(group)
    for at, group in enumerate(order):
        if len(group) <= left and at not in taken:
            taken.add(at)
            left -= len(group)
    if order and not taken:
        taken.add(min(range(len(order)), key=lambda at: len(order[at])))
    return taken


def _quotas(counts: Mapping[str, int], count: int) -> dict[str, int]:
    """Share `count` rows among labels: whole parts first, then the largest remainders."""
    total = sum(counts.values())
    exact = {label: count * n / total for label, n in counts.items()}
    quotas = {label: int(share) for label, share in exact.items()}
    rest = sorted(exact, key=lambda label: (quotas[label] - exact[label], label))[: count - sum(quotas.values())]
    return {label: quota + (label in rest) for label, quota in quotas.items()}


def note_splits(examples: Mapping[Split, Sequence[Example]], choices: Sequence[str]) -> list[str]:
    """Say what readers of a score should know of the splits: texts that stand in two, labels that are not in one."""
    notes = []
    texts = {split: [_key(example) for example in examples[split]] for split in SPLITS}
    train = set(texts["train"])
    for split in ("dev", "test"):
        shared = [text for text in texts[split] if text in train]
        if shared:
            notes.append(
                f"{len(shared)} of {len(texts[split])} {split} texts also stand in train; its score is too high"
            )
    double = len(texts["train"]) - len(train)
    answers = {(_key(example), example.target) for example in examples["train"]}
    if double:
        told = f"{double} of {len(texts['train'])} train texts are repeated"
        against = len(answers) - len(train)
        notes.append(told + (f", {against} of them with another answer" if against else ""))
    for split in SPLITS:
        there = {example.target for example in examples[split]}
        absent = [choice for choice in choices if choice not in there]
        if choices and len(there) == 1 and len(examples[split]) > 1:
            notes.append(f"all {len(examples[split])} {split} rows have the answer {next(iter(there))!r}")
        elif absent and split == "train":
            notes.append(f"train has no row with the answer {', '.join(map(repr, absent[:NAMED]))}")
    return notes


def _key(example: Example) -> str:
    return " ".join((example.source + example.cue).split())


def draw_at_most(examples: Sequence[Example], most: int) -> Sequence[Example]:
    """Return all examples, or the same draw of `most` of them each time, in their order."""
    if len(examples) <= most:
        return examples
    drawn = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))[:most]
    return [examples[i] for i in sorted(drawn.tolist())]
