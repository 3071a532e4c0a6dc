"""Finish a run: score its best state, and write what stands in its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from softprompt.backbones import Backbone
from softprompt.errors import NotFinite
from softprompt.evaluation.evaluate import ScoresJson, score_task
from softprompt.methods.bank import Bank
from softprompt.methods.folded import AdapterTensors, Folded, Unfolded, stored
from softprompt.runs.fingerprint import fingerprint
from softprompt.runs.model_card import write_model_card
from softprompt.runs.prompt import Prompt, PromptCard, load_prompt
from softprompt.runs.run_folder import versions
from softprompt.runtime import distributed
from softprompt.runtime.files import write_json, write_lines
from softprompt.tasks import Split, Task
from softprompt.tasks.task import Scoring
from softprompt.training.candidate import Candidate
from softprompt.training.checkpoint import FILE
from softprompt.training.learning_curve import write_curve
from softprompt.training.run import Run


def finish(backbone: Backbone, run: Run, floors: Mapping[str, ScoresJson], *, test: bool = True) -> Prompt:
    """Score the best state on dev and (with `test`) on test, and write the finished run.

    Raises NotFinite after saving, where the loss or the prompt was not finite.
    """
    candidate, task = run.candidate, run.candidate.task
    candidate.restore_best()
    bank = Bank({candidate.name: candidate.prompt.eval()})
    scores = dict(floors) | _score(backbone, bank, task, run.folder, ("dev", "test") if test else ("dev",))
    run.scores = scores
    form = candidate.prompt.deployable()
    prompt = Prompt(_card(backbone, candidate, form, scores), form)
    if distributed.is_first():
        write_curve(run.folder, candidate.history, candidate.name, task.metrics[0])
        write_model_card(run.folder, prompt.card)
        prompt.save(run.folder, candidate.prompt)
        (run.folder / FILE).unlink(missing_ok=True)
    if candidate.failed:
        best = candidate.best
        kept = f"the best prompt (step {best['step']})" if best else "the last good prompt"
        raise NotFinite(
            f"{candidate.name} stopped: {candidate.stopped}. Saved in {run.folder}: {kept}. Lower its learning rates "
            f"({', '.join(f'{k}={v:g}' for k, v in candidate.recipe.rates.items())}), or use float32."
        )
    return prompt


def measure_test(backbone: Backbone, folder: Path, task: Task) -> PromptCard:
    """Return the card of a finished run with its test score, which is measured now where it was not yet."""
    prompt = load_prompt(folder)
    if "test" in prompt.card.scores:
        return prompt.card
    prompt.check(backbone)
    bank = Bank({prompt.card.name: prompt.soft_prompt()}).to(backbone.device)
    scores = prompt.card.scores | _score(backbone, bank, task, folder, ("test",))
    card = prompt.card.model_copy(update={"scores": scores})
    write_model_card(folder, card)
    write_json(folder / "prompt.json", card.model_dump())
    return card


def _score(backbone: Backbone, bank: Bank, task: Task, folder: Path, splits: Sequence[Split]) -> dict[str, ScoresJson]:
    """Score the one prompt in `bank` on each split, as JSON, and write its answers to `folder`."""
    readings: list[tuple[str, Split, Scoring]] = [(split, split, task.scoring) for split in splits]
    # Beside the score, the other way to read an answer.
    if task.choices and "test" in splits and backbone.generates:
        other: Scoring = "generated" if task.scoring == "ranked" else "ranked"
        readings.append((f"test_{other}", "test", other))
    scores = {}
    with backbone.using(bank):
        for name, split, scoring in readings:
            found, records = score_task(backbone, task, split, 0, scoring=scoring)
            scores[name] = found.as_json()
            if distributed.is_first():
                write_lines(folder / f"predictions-{name}.jsonl", [record.as_json() for record in records])
    return scores


def _card(
    backbone: Backbone, candidate: Candidate, form: Folded | Unfolded | AdapterTensors, scores: Mapping[str, ScoresJson]
) -> PromptCard:
    prompt, recipe, task = candidate.prompt, candidate.recipe, candidate.task
    offset, zeroed = (None, 0) if prompt.offset is None else prompt.offset.fold()
    label, words = task.origin.get("label"), task.origin.get("words")
    return PromptCard(
        name=candidate.name,
        kind=prompt.kind,
        method=recipe.method,
        options=recipe.parsed_options().model_dump(),
        backbone=backbone.name,
        fingerprint=fingerprint(backbone),
        length=prompt.length,
        positions=offset.shape[0] if isinstance(offset, torch.Tensor) else None,
        zeroed=zeroed,
        max_source=backbone.max_source,
        placement=backbone.placement,
        task=task.name,
        template=task.template,
        chat=task.chat,
        choices=list(task.choices),
        label=label if isinstance(label, str) else None,
        words=words if isinstance(words, dict) else None,
        metrics=list(task.metrics),
        trainable=prompt.trainable(),
        stored=stored(form),
        seed=recipe.seed,
        start_from=None if candidate.start_from is None else candidate.start_from.name,
        scores=dict(scores),
        best=candidate.best and {k: v for k, v in candidate.best.items() if v == v},
        stopped=candidate.stopped,
        versions=versions(*recipe.parsed_options().packages),
    )
