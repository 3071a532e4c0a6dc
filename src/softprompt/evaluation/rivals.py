"""Rivals: what a user could take instead of a tuned prompt, scored with the same labels.

    tfidf        logistic regression on TF-IDF of words (scikit-learn); sees no model
    probe        logistic regression on the frozen model's hidden states of the text (Alain & Bengio 2016,
                 https://arxiv.org/abs/1610.01644)
    calibrated   the frozen model without a prompt, less what it says of any text (batch calibration: Zhou et al. 2024,
                 section 3, https://arxiv.org/abs/2309.17249)

Each learns from train, chooses its settings on dev by the log-likelihood of the right answers, and answers test. They
answer tasks with choices whose texts are ranked one by one.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from softprompt.backbones import Backbone, passes
from softprompt.errors import UnknownName
from softprompt.evaluation.evaluate import Record, evaluate_examples, pass_tokens
from softprompt.tasks import Example, Task
from softprompt.tasks.splits import draw_at_most

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

LAYERS = 8
"""Layers whose states are tried, evenly spaced, the last among them."""
STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)
"""Values of scikit-learn's C that the probe tries; for words they are a hundred times larger."""
MOST_TRAIN = 4000
"""Examples of train that the probe reads: a forward pass each."""
MOST_TEXTS = 500
"""Texts of train, without their labels, that say what the frozen model answers anyway."""

LEAST = 1e-6
"""Probability of an answer that a classifier holds for impossible: no loss is infinite."""

Features = NDArray[np.float32]
Logs = NDArray[np.float64]
"""(n, choices), log-probabilities in nats."""


def rival_records(name: str, backbone: Backbone, task: Task) -> list[Record]:
    """Answer the test split by a rival, with the log-probability of each choice.

    Args:
        name: tfidf, probe or calibrated.
        backbone: Frozen model.
        task: One with choices.
    """
    return _records(task.examples["test"], RIVALS[name](backbone, task))


def check_rivals(names: Sequence[str]) -> Sequence[str]:
    """Return `names`. Raises UnknownName for one that is none of the rivals."""
    for name in names:
        if name not in RIVALS:
            raise UnknownName("rival", name, RIVALS)
    return names


def can_rival(task: Task) -> bool:
    """Tell whether the rivals can answer a task: it has choices, the same for all, and no gap to fill."""
    one = task.examples["train"][0]
    several = len({example.target for example in task.examples["train"]}) > 1
    return bool(task.choices) and one.answer_at is None and several


def tfidf(backbone: Backbone, task: Task) -> Logs:
    """Classify by words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    tried = []
    for longest in (1, 2):
        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, longest), token_pattern=r"(?u)\b\w+\b")
        train = words.fit_transform(_sources(task.examples["train"]))
        dev, test = (words.transform(_sources(task.examples[split])) for split in ("dev", "test"))
        tried += [_fit(task, train, dev, test, _answers(task.examples["train"]), 100 * c) for c in STRENGTHS]
    return max(tried, key=lambda one: one.dev).test


def probe(backbone: Backbone, task: Task) -> Logs:
    """Classify by the frozen model's states: the mean over the text, or those of its last token, of one layer."""
    drawn = draw_at_most(task.examples["train"], MOST_TRAIN)
    train, dev, test = (read_states(backbone, part) for part in (drawn, task.examples["dev"], task.examples["test"]))
    answers, found = _answers(drawn), []
    for parts in zip(train, dev, test, strict=True):
        mean, spread = parts[0].mean(0), parts[0].std(0) + 1e-6
        found.append([(part - mean) / spread for part in parts])
    # Layers are chosen at one strength, then the strength of the chosen one: a fifth of the fits.
    middle = STRENGTHS[len(STRENGTHS) // 2]
    layer = max(found, key=lambda one: _fit(task, one[0], one[1], one[2], answers, middle).dev)
    tried = [_fit(task, layer[0], layer[1], layer[2], answers, c) for c in STRENGTHS]
    return max(tried, key=lambda one: one.dev).test


def calibrated(backbone: Backbone, task: Task) -> Logs:
    """Answer without a prompt, less the mean log-probabilities over texts of train."""
    texts = draw_at_most(task.examples["train"], MOST_TEXTS)
    usual, asked = (_ranked(backbone, part, task) for part in (texts, task.examples["test"]))
    made: Logs = asked - usual.mean(0, keepdims=True)
    return made - np.logaddexp.reduce(made, 1, keepdims=True)


RIVALS: Mapping[str, Callable[[Backbone, Task], Logs]] = {"tfidf": tfidf, "probe": probe, "calibrated": calibrated}


def read_states(backbone: Backbone, examples: Sequence[Example]) -> list[Features]:
    """Read the frozen model's states of texts; returns (n, d) of each layer and way to pool, in a fixed order."""
    found: list[list[Features]] = [[] for _ in examples]
    with torch.no_grad():
        for group in passes(backbone, examples, [-1] * len(examples), pass_tokens(backbone.device)):
            alone = [[i] for i in group] if backbone.grouping != "padded" else [group]
            for rows in alone:
                batch = backbone.pose([examples[i] for i in rows], [-1] * len(rows))
                mask = batch.mask.unsqueeze(-1)
                last = batch.mask.long().cumsum(1).argmax(1)  # column of each row's last token
                for layer in map(torch.Tensor.float, backbone.layer_states(batch, LAYERS)):
                    mean = (layer * mask).sum(1) / mask.sum(1)
                    for pooled in (mean, layer[torch.arange(len(rows)), last]):
                        for i, row in zip(rows, pooled.cpu().numpy(), strict=True):
                            found[i].append(row)
    return [np.stack(columns) for columns in zip(*found, strict=True)]


class _Tried(NamedTuple):
    """A setting that was tried."""

    dev: float
    """Mean log-likelihood of the right answers on dev, in nats."""
    test: Logs


def _fit(task: Task, train: Features, dev: Features, test: Features, answers: list[str], strength: float) -> _Tried:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak penalties are tried, and dev judges what came out
        model = LogisticRegression(C=strength, max_iter=300).fit(train, answers)
    of_dev = _predict(model, dev, task.choices)
    golds = [task.choices.index(example.target) for example in task.examples["dev"]]
    return _Tried(float(of_dev[np.arange(len(golds)), golds].mean()), _predict(model, test, task.choices))


def _predict(model: "LogisticRegression", features: Features, choices: Sequence[str]) -> Logs:
    """Return log-probabilities (n, choices); none is below that of LEAST, which an answer has that train lacks."""
    shares = np.full((features.shape[0], len(choices)), LEAST)
    shares[:, [choices.index(answer) for answer in model.classes_]] = model.predict_proba(features)
    logs: Logs = np.log(np.maximum(shares, LEAST))
    return logs


def _ranked(backbone: Backbone, examples: Sequence[Example], task: Task) -> Logs:
    records = evaluate_examples(backbone, examples)
    logs = np.array([[(record.scores or {}).get(choice, np.nan) for choice in task.choices] for record in records])
    logs = logs - np.logaddexp.reduce(logs, 1, keepdims=True)
    made: Logs = np.nan_to_num(logs, nan=-np.log(len(task.choices)))
    return made


def _records(examples: Sequence[Example], logs: Logs) -> list[Record]:
    return [
        Record(
            id=example.id,
            source=example.source + example.cue,
            target=example.target,
            prediction=(answer := example.choices[int(row.argmax())]),
            correct=answer in example.golds(),
            truncated=False,
            empty=not example.source.strip(),
            parsed=True,
            scores=dict(zip(example.choices, row.tolist(), strict=True)),
            references=example.golds(),
            group=example.group,
        )
        for example, row in zip(examples, logs, strict=True)
    ]


def _sources(examples: Sequence[Example]) -> list[str]:
    return [example.source for example in examples]


def _answers(examples: Sequence[Example]) -> list[str]:
    return [example.target for example in examples]
