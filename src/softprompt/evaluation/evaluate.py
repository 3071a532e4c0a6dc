"""Evaluate: a record for each example first, then scores from the records."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypedDict

import torch

from softprompt.backbones import Backbone, passes
from softprompt.runtime import distributed
from softprompt.tasks import Example, Task
from softprompt.tasks.metrics import measure
from softprompt.tasks.task import Scoring, Split


@dataclass(frozen=True)
class Record:
    """The answer to one example."""

    id: str
    source: str
    target: str
    prediction: str
    """The choice or the generated text; "" where a text is none of the choices, or scores are not numbers."""
    correct: bool
    truncated: bool
    empty: bool
    """The source, or the generated answer, was empty."""
    parsed: bool
    text: str | None = None
    """The generated text as it was, where there was generation."""
    scores: dict[str, float] | None = None
    """Log-probability of each choice, in nats, where the choices were ranked."""
    references: tuple[str, ...] = ()
    group: str = ""

    def as_json(self) -> dict[str, object]:
        """Return what is not empty, as predictions-*.jsonl holds it."""
        hidden = set() if self.group else {"group"}
        hidden |= {"references"} if self.references == (self.target,) else set()
        return {key: value for key, value in asdict(self).items() if value is not None and key not in hidden}


class ScoresJson(TypedDict):
    """Scores as run.json, prompt.json and floors.json hold them."""

    metrics: dict[str, float]
    n: int
    truncated: int
    empty: int
    unparsable: int


@dataclass(frozen=True)
class Scores:
    """Scores by metric name, and what was counted beside them."""

    metrics: dict[str, float]
    n: int
    """Examples."""
    truncated: int = 0
    empty: int = 0
    unparsable: int = 0

    def as_json(self) -> ScoresJson:
        """Return scores and counts by name, as run.json and prompt.json hold them."""
        return ScoresJson(
            metrics=dict(self.metrics), n=self.n, truncated=self.truncated, empty=self.empty, unparsable=self.unparsable
        )

    def notes(self) -> str:
        """Write the counts beside the scores in words; "" when all are 0."""
        counts = {"truncated": self.truncated, "empty": self.empty, "unparsable": self.unparsable}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def evaluate_examples(
    backbone: Backbone,
    examples: Sequence[Example],
    prompt: int = -1,
    *,
    generate: bool = False,
    max_new_tokens: int = 20,
) -> list[Record]:
    """Answer every example with prompt `prompt` of the active bank, and return the records in the same order.

    Examples with choices are ranked (the answer is the likeliest choice) unless `generate`; other answers are
    generated, greedily. Where there are choices no more tokens are generated than the longest has, and one to end it.
    With several processes, each answers a share.

    Args:
        backbone: With a bank in use (`Backbone.using`).
        examples: All with choices, or all without.
        prompt: Index in the bank; -1: no prompt.
        generate: Generate although there are choices.
        max_new_tokens: Most tokens of a generated answer.

    Raises:
        BadInput: The backbone cannot answer such examples.
    """
    if examples:
        backbone.check_example(examples[0], "generated" if generate else "ranked")
    mine = distributed.share(len(examples))
    if backbone.sharded and examples:
        mine = mine or [0]  # every process must call the layers
    own = [examples[i] for i in mine]
    records: dict[int, Record] = {}
    limit = pass_tokens(backbone.device)
    if examples and examples[0].choices and not generate:
        limit //= backbone.ranking_rows(examples[0])
    with backbone.frozen_prompts():
        groups = list(passes(backbone, own, [prompt] * len(own), limit))
        if backbone.sharded and groups:  # and all of them equally often: the last answer again is the same
            groups += groups[-1:] * (distributed.most(len(groups)) - len(groups))
        for group in groups:
            asked = [own[i] for i in group]
            truncated = backbone.pose(asked, [prompt] * len(asked)).truncated
            made = _generated(backbone, asked, prompt, max_new_tokens) if generate or not asked[0].choices else None
            ranked = made or _ranked(backbone, asked, prompt)
            for i, example, record, cut in zip(group, asked, ranked, truncated, strict=True):
                records[mine[i]] = _record(example, backbone.tokens.golds(example), record, cut)
    for found in distributed.gather(records):
        records |= found
    return [records[i] for i in range(len(examples))]


def pass_tokens(device: torch.device) -> int:
    """Return the most tokens of a pass without gradients."""
    return 2_048 if device.type == "cpu" else 32_768


def score(records: Sequence[Record], metrics: Sequence[str], *, strict: bool = False) -> Scores:
    """Score records by metric name, with the counts that must stand beside the scores.

    With `strict`, a single answer that is not among the choices makes every score 0.
    """
    predictions = [record.prediction for record in records]
    references = [record.references for record in records]
    measured = measure(metrics, predictions, references, [record.group for record in records])
    if strict and not all(record.parsed for record in records):
        measured = dict.fromkeys(measured, 0.0)
    return Scores(
        measured,
        len(records),
        sum(record.truncated for record in records),
        sum(record.empty for record in records),
        sum(not record.parsed for record in records),
    )


def mean_loss(records: Sequence[Record]) -> float:
    """Compute the mean negative log-probability of the right choice among the choices, in nats; nan without ranking."""
    losses = []
    for record in records:
        if record.scores is None:
            return float("nan")
        losses.append(answer_loss(record.scores, record.references[0]))
    return sum(losses) / len(losses)


def answer_loss(scores: Mapping[str, float], right: str) -> float:
    """Compute the negative log-probability of the answer `right` among the choices, in nats, from all their scores."""
    values = torch.tensor(list(scores.values()), dtype=torch.float64)
    return float(torch.logsumexp(values, 0) - values[list(scores).index(right)])


def score_task(
    backbone: Backbone, task: Task, split: Split, prompt: int = -1, *, scoring: Scoring | None = None
) -> tuple[Scores, list[Record]]:
    """Score a split of a task.

    Args:
        backbone: With a bank in use (`Backbone.using`).
        task: It says how answers are read, and by which metrics they are scored.
        split: The examples to score.
        prompt: Index in the bank; -1: no prompt.
        scoring: Read answers this way instead.
    """
    return score_examples(backbone, task, task.examples[split], prompt, scoring=scoring)


def score_examples(
    backbone: Backbone, task: Task, examples: Sequence[Example], prompt: int = -1, *, scoring: Scoring | None = None
) -> tuple[Scores, list[Record]]:
    """Score some examples of a task.

    Args:
        backbone: With a bank in use (`Backbone.using`).
        task: It says how answers are read, and by which metrics they are scored.
        examples: The examples to score.
        prompt: Index in the bank; -1: no prompt.
        scoring: Read answers this way instead.
    """
    generate = (scoring or task.scoring) == "generated"
    records = evaluate_examples(backbone, examples, prompt, generate=generate, max_new_tokens=task.answer_tokens)
    return score(records, task.metrics, strict=task.strict), records


def majority(backbone: Backbone, task: Task, examples: Sequence[Example]) -> Scores:
    """Score the floor that asks no model: always the commonest target of train."""
    commonest = Counter(example.target for example in task.examples["train"]).most_common(1)[0][0]
    predictions = [commonest] * len(examples)
    references = [backbone.tokens.golds(example) for example in examples]
    groups = [example.group for example in examples]
    return Scores(measure(task.metrics, predictions, references, groups), len(examples))


@dataclass(frozen=True)
class _Answer:
    prediction: str
    parsed: bool = True
    text: str | None = None
    scores: dict[str, float] | None = None


def _ranked(backbone: Backbone, examples: Sequence[Example], prompt: int) -> list[_Answer]:
    scores = backbone.rank(examples, [prompt] * len(examples)).double().cpu()
    return [
        _Answer(example.choices[int(row.argmax())], scores=dict(zip(example.choices, row.tolist(), strict=True)))
        if bool(row.isfinite().all())
        else _Answer("", parsed=False)  # a prompt whose values have grown past all measure
        for example, row in zip(examples, scores, strict=True)
    ]


def _generated(backbone: Backbone, examples: Sequence[Example], prompt: int, max_new_tokens: int) -> list[_Answer]:
    if examples[0].choices:
        max_new_tokens = max(len(ids) for e in examples for ids in backbone.tokens.choice_ids(e.choices, e.cue)) + 1
    texts = backbone.answer(examples, [prompt] * len(examples), max_new_tokens=max_new_tokens)
    return [
        _read(example, text, ends=backbone.family.ends_choices) for example, text in zip(examples, texts, strict=True)
    ]


def _read(example: Example, text: str, *, ends: bool) -> _Answer:
    """Find the choice that a generated text names: all of its first line, or what begins it.

    A decoder-only model learns a choice without an end-of-sequence token (`CausalTokenization.target_ids`), so it goes
    on after it; unless `ends`, the longest choice with which the line begins is the answer.
    """
    if not example.choices:
        return _Answer(text, text=text)
    said = text.split("\n")[0].strip()
    if not ends:
        begins = [c for c in example.choices if said.startswith(c) and not said[len(c) : len(c) + 1].isalnum()]
        said = max(begins, key=len, default="")
    parsed = said in example.choices
    return _Answer(said if parsed else "", parsed, text)


def _record(example: Example, golds: tuple[str, ...], answer: _Answer, truncated: bool) -> Record:
    return Record(
        id=example.id,
        source=example.source + example.cue,
        target=example.target,
        prediction=answer.prediction,
        correct=answer.prediction in golds,
        truncated=truncated,
        empty=not example.source.strip() or answer.text == "",
        parsed=answer.parsed,
        text=answer.text,
        scores=answer.scores,
        references=golds,
        group=example.group,
    )
