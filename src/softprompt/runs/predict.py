"""TODO."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from softprompt.backbones import Backbone, load_backbone
from softprompt.errors import BadInput
from softprompt.evaluation.evaluate import Record, evaluate_examples, score
from softprompt.methods.bank import Bank
from softprompt.runs.prompt import Prompt, load_prompt
from softprompt.runtime.files import write_lines
from softprompt.tasks import Example, Split, Task, Template, evaluation_examples, read_rows
from softprompt.tasks.metrics import measure
from softprompt.tasks.registry import task_like


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    label: str | None = None,
    generate: bool = False,
    predictions: str | Path | None = None,
    backbone: str | None = None,
    dtype: str = "float32",
    device: str | None = None,
    task: str | None = None,
    split: Split = "test",
    data_dir: str | Path | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Score a finished run on labelled data, with the floors: the data's commonest answer, and no prompt.

    The data is a file, or a split of a published task that is asked in the words the run was tuned with.
    """
    prompt = load_prompt(run)
    card = prompt.card
    if (data is None) == (task is None):
        raise BadInput("Give either --data FILE or --task NAME to evaluate on.")
    examples, longest = _labelled(prompt, run, data, label), Task.answer_tokens
    if task is not None:
        asked = task_like(task, card.template, tuple(card.choices), data_dir, {split: limit} if limit else None)
        examples, longest = list(asked.examples[split]), asked.answer_tokens
    frozen = load_for(prompt, backbone, dtype, device)
    frozen.tokens.remember()
    with frozen.using(Bank({card.name: prompt.soft_prompt()}).to(frozen.device)):
        records = evaluate_examples(frozen, examples, 0, generate=generate, max_new_tokens=longest)
    without = score(evaluate_examples(frozen, examples, generate=generate, max_new_tokens=longest), card.metrics)
    if predictions is not None:
        write_lines(Path(predictions), [record.as_json() for record in records])
    found = score(records, card.metrics)
    commonest = Counter(example.target for example in examples).most_common(1)[0][0]
    golds = [example.golds() for example in examples]
    majority = measure(card.metrics, [commonest] * len(golds), golds, [example.group for example in examples])
    floor = {"majority": majority, "zero_shot": without.metrics}
    on = str(data) if task is None else f"{task}, {split}"
    return {"run": str(run), "name": card.name, "data": on, **found.as_json(), "floors": floor}


def _labelled(prompt: Prompt, run: str | Path, data: str | Path | None, label: str | None) -> list[Example]:
    """The rows of a file as examples; none without a file."""
    card = prompt.card
    column = label or card.label
    if data is None:
        return []
    if column is None:
        raise BadInput(
            f"The run {run} does not know its label column; say which of {data} holds it: --label COLUMN. A run on a "
            "published task is evaluated with --task NAME."
        )
    return evaluation_examples(card.template, tuple(card.choices), Path(data), column, card.words)


def predict(
    run: str | Path,
    texts: Sequence[str] | None = None,
    data: str | Path | None = None,
    backbone: str | None = None,
    dtype: str = "float32",
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Answer texts (or the rows of a file, or the lines of stdin) with a finished run's prompt."""
    prompt = load_prompt(run)
    examples = _questions(prompt, texts, data)
    frozen = load_for(prompt, backbone, dtype, device)
    with frozen.using(Bank({prompt.card.name: prompt.soft_prompt()}).to(frozen.device)):
        return [_answer(record) for record in evaluate_examples(frozen, examples, 0)]


def load_for(prompt: Prompt, backbone: str | None, dtype: str, device: str | None) -> Backbone:
    card = prompt.card
    frozen = load_backbone(
        backbone or card.backbone, dtype=dtype, device=device, max_source=card.max_source, placement=card.placement
    )
    prompt.check(frozen)
    return frozen


def _questions(prompt: Prompt, texts: Sequence[str] | None, data: str | Path | None) -> list[Example]:
    form, choices = Template(prompt.card.template), tuple(prompt.card.choices)
    if data is not None:
        if texts:
            raise BadInput("Give texts or --data, not both.")
        rows = [row.values for row in read_rows(Path(data))]
    else:
        lines = texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
        if not lines:
            raise BadInput("Nothing to answer: give texts, --data FILE, or lines on stdin.")
        rows = [form.row(line) for line in lines]
    for row in rows:
        form.check(row)
    first = choices[0] if choices else ""
    return [Example(form.source(row), first, form.cue, choices, answer_at=form.answer_at(row)) for row in rows]


def _answer(record: Record) -> dict[str, Any]:
    shares = None
    if record.scores:
        values = torch.tensor(list(record.scores.values()), dtype=torch.float64).softmax(0).tolist()
        shares = dict(zip(record.scores, values, strict=True))
    return {
        "source": record.source,
        "prediction": record.prediction,
        "probability": shares and shares[record.prediction],
        "probabilities": shares,
        "truncated": record.truncated,
    }
