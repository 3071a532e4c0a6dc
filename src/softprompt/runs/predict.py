"""evaluate(), predict(): score and use the prompt of a finished run."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from softprompt.backbones import Backbone, load_backbone
from softprompt.backbones.load import DTYPES
from softprompt.errors import BadInput, RunFailed
from softprompt.evaluation.evaluate import Record, Scores, evaluate_examples, score
from softprompt.methods.bank import Bank
from softprompt.runs.prompt import Prompt, load_prompt
from softprompt.runtime.files import write_lines
from softprompt.tasks import Example, Split, Task, Template, evaluation_examples
from softprompt.tasks.files import read_data
from softprompt.tasks.known_shapes import read_text
from softprompt.tasks.metrics import measure, percent
from softprompt.tasks.registry import task_like


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores of a finished run on labelled data."""

    run: str
    """Folder of the run."""
    name: str
    data: str
    """File, or published task and split, that it was scored on."""
    scores: Scores
    floors: dict[str, dict[str, float]]
    """The same metrics without training: "majority" (the data's commonest answer), "zero_shot" (no prompt)."""

    @property
    def metrics(self) -> dict[str, float]:
        """Value of each metric."""
        return self.scores.metrics

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.scores.n

    def as_json(self) -> dict[str, object]:
        """Return what `softprompt evaluate --json` prints."""
        return {
            "run": self.run, "name": self.name, "data": self.data, **self.scores.as_json(), "floors": self.floors,
        }  # fmt: skip

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {percent(value)}" for name, value in self.metrics.items())
        return f"Evaluation({self.name!r} on {self.data}, {self.n} examples: {values})"


@dataclass(frozen=True, repr=False)
class Prediction:
    """The answer to one text."""

    source: str
    prediction: str
    probability: float | None
    """Probability of the prediction among the choices; None for free text."""
    probabilities: dict[str, float] | None
    """Probability of each choice; None for free text."""
    truncated: bool
    """Whether the source was too long and was cut."""

    def as_json(self) -> dict[str, object]:
        """Return what `softprompt predict --json` prints for the text."""
        return {
            "source": self.source, "prediction": self.prediction, "probability": self.probability,
            "probabilities": self.probabilities, "truncated": self.truncated,
        }  # fmt: skip

    def __repr__(self) -> str:
        share = "" if self.probability is None else f", {100 * self.probability:.0f} %"
        return f"Prediction({self.prediction!r}{share})"


NOTHING = Prediction(source="", prediction="", probability=None, probabilities=None, truncated=False)
"""The answer to an empty line."""


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    label: str | None = None,
    generate: bool = False,
    predictions: str | Path | None = None,
    backbone: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    task: str | None = None,
    split: Split = "test",
    data_dir: str | Path | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Score a finished run on labelled data, with the floors: the data's commonest answer, and no prompt.

    Args:
        run: Folder of the run.
        data: Labelled file with the columns of the training data.
        label: Column of the label; None: the run's own.
        generate: Score generated text instead of the likeliest choice.
        predictions: File to write a record for each example to (JSONL).
        backbone: Folder or hub id where the run's backbone is now.
        dtype: Type of the backbone's weights; None: as in training.
        device: Device of the backbone; None: an accelerator where there is one.
        task: Name of a published task with the run's template and choices, instead of `data`.
        split: Split of `task` to score on.
        data_dir: Folder with the files of `task`; None: it is read from the hub.
        limit: Maximum examples of `task`, drawn at random.

    Raises:
        BadInput: An argument, the run or the data cannot be used.
    """
    prompt = load_prompt(run)
    card = prompt.card
    if (data is None) == (task is None):
        raise BadInput("Give either --data FILE or --task NAME to evaluate on.")
    examples, longest = _read_labelled(prompt, run, data, label), Task.answer_tokens
    if task is not None:
        loaded = task_like(task, card.template, tuple(card.choices), data_dir, {split: limit} if limit else None)
        examples, longest = list(loaded.examples[split]), loaded.answer_tokens
    frozen = load_for(prompt, backbone, dtype, device)
    frozen.tokens.remember()
    with frozen.using(Bank({card.name: prompt.soft_prompt()}).to(frozen.device)):
        records = evaluate_examples(frozen, examples, 0, generate=generate, max_new_tokens=longest)
    without = score(evaluate_examples(frozen, examples, generate=generate, max_new_tokens=longest), card.metrics)
    if predictions is not None:
        write_lines(Path(predictions), [record.as_json() for record in records])
    commonest = Counter(example.target for example in examples).most_common(1)[0][0]
    golds = [example.golds() for example in examples]
    majority = measure(card.metrics, [commonest] * len(golds), golds, [example.group for example in examples])
    return Evaluation(
        run=str(run),
        name=card.name,
        data=str(data) if task is None else f"{task}, {split}",
        scores=score(records, card.metrics),
        floors={"majority": majority, "zero_shot": without.metrics},
    )


def _read_labelled(prompt: Prompt, run: str | Path, data: str | Path | None, label: str | None) -> list[Example]:
    """Read a file's rows as examples; none without a file."""
    card = prompt.card
    column = label or card.label
    if data is None:
        return []
    if column is None:
        raise BadInput(
            f"The run {run} does not know its label column; name that of {data} with --label COLUMN. A run on a "
            "published task is evaluated with --task NAME."
        )
    return evaluation_examples(card.template, tuple(card.choices), Path(data), column, card.words, card.chat)


def predict(
    run: str | Path,
    texts: Sequence[str] | None = None,
    data: str | Path | None = None,
    backbone: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
) -> list[Prediction]:
    """Answer texts with a finished run's prompt.

    Args:
        run: Folder of the run.
        texts: Texts; for a template of several columns, JSON objects. Without `texts` and `data`: the lines of stdin.
        data: File with the template's columns, instead of `texts`.
        backbone: Folder or hub id where the run's backbone is now.
        dtype: Type of the backbone's weights; None: as in training.
        device: Device of the backbone; None: an accelerator where there is one.

    Raises:
        BadInput: An argument, the run or the data cannot be used.
    """
    prompt = load_prompt(run)
    examples = _read_questions(prompt, texts, data)
    frozen = load_for(prompt, backbone, dtype, device)
    asked = [example for example in examples if example is not None]
    with frozen.using(Bank({prompt.card.name: prompt.soft_prompt()}).to(frozen.device)):
        records = iter(evaluate_examples(frozen, asked, 0))
    # An answer stands in its question's line, also after empty ones.
    return [NOTHING if example is None else _as_prediction(next(records)) for example in examples]


def load_for(prompt: Prompt, backbone: str | None, dtype: str | None, device: str | None) -> Backbone:
    """Load the backbone of `prompt`, or `backbone` where it is now. Raises PromptMismatch for another one."""
    card = prompt.card
    trained = card.fingerprint.dtype if card.fingerprint.dtype in DTYPES else "float32"
    frozen = load_backbone(
        backbone or card.backbone,
        dtype=dtype or trained,
        device=device,
        max_source=card.max_source,
        placement=card.placement,
    )
    prompt.check(frozen)
    return frozen


def _read_questions(prompt: Prompt, texts: Sequence[str] | None, data: str | Path | None) -> list[Example | None]:
    """Read what is to be answered; None for an empty line."""
    form, choices = Template(prompt.card.template), tuple(prompt.card.choices)
    if data is not None:
        if texts:
            raise BadInput("Give texts or --data, not both.")
        rows: list[dict[str, str] | None] = [row.values for row in read_data(Path(data), prompt.card.chat)]
    else:
        lines = texts or _read_lines()
        if not any(line.strip() for line in lines):
            raise BadInput("Nothing to answer: give texts, --data FILE, or lines on stdin.")
        rows = [read_text(form, line, prompt.card.chat) if line.strip() else None for line in lines]
    first = choices[0] if choices else ""
    examples: list[Example | None] = []
    for row in rows:
        if row is not None:
            form.check(row)
            examples.append(Example(form.source(row), first, form.cue, choices, answer_at=form.answer_at(row)))
        else:
            examples.append(None)
    return examples


def _read_lines() -> list[str]:
    try:
        return [line.rstrip("\r\n") for line in sys.stdin]
    except UnicodeDecodeError as error:
        raise BadInput(f"stdin is not UTF-8: {error.reason}. Convert it, for instance with iconv.") from None


def _as_prediction(record: Record) -> Prediction:
    if not record.parsed:
        raise RunFailed(
            f"The scores of {record.source[:60]!r} are not numbers: the prompt's values are too large for this type. "
            "Give --dtype float32, or train the prompt again with a lower rate."
        )
    shares = None
    if record.scores:
        values = torch.tensor(list(record.scores.values()), dtype=torch.float64).softmax(0).tolist()
        shares = dict(zip(record.scores, values, strict=True))
    return Prediction(
        source=record.source,
        prediction=record.prediction,
        probability=None if shares is None else shares[record.prediction],
        probabilities=shares,
        truncated=record.truncated,
    )
