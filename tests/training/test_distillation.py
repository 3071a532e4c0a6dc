"""MPT's source stage: its losses against numpy, one P* for all tasks, and what starts from it."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import softprompt
from softprompt.backbones import Backbone, Causal
from softprompt.errors import BadInput, Interrupted
from softprompt.methods.bank import Bank
from softprompt.methods.prompts.free import Free
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runs.prompt import load_prompt
from softprompt.runs.run_card import Distillation
from softprompt.tasks import Example
from softprompt.training.distillation import distil
from softprompt.training.gradients import Gradients
from softprompt.training.source_stage import Distilling, SourceStage, tune_source_stage
from tests import tiny
from tests.candidates import candidate, tiny_task
from tests.command_line import Cli
from tests.compare import assert_close, assert_same_tensors, copied, moved
from tests.sources import write_source

LENGTH = 3
PAPER = Distillation(teachers=[], weight=0.9, temperature=1.0)


def stage_of(backbone: Backbone, tasks: int = 2, **recipe: Any) -> SourceStage:
    members = []
    for i in range(tasks):
        one = replace(tiny_task(), name=f"task-{i}")
        members.append(candidate(backbone, "mpt", one, seed=3, **recipe))
        members[-1].name = one.name
        with torch.no_grad():  # the tasks start alike, and here should not
            for tensor in members[-1].prompt.parameters():
                tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    rows = torch.randn(tasks, LENGTH, backbone.d, generator=torch.Generator().manual_seed(9))
    return SourceStage("stage", members, [SoftPrompt(Free(one)) for one in rows])


def bank_of(stage: SourceStage) -> Bank:
    prompts = [member.prompt for member in stage.members] + stage.teachers
    return Bank({str(i): prompt for i, prompt in enumerate(prompts)}).train()


def gradients_of(
    backbone: Backbone, said: Distillation = PAPER, limit: int | None = None, tasks: int = 2
) -> tuple[dict[str, torch.Tensor], dict[int, float]]:
    stage = stage_of(backbone, tasks)
    with backbone.using(bank_of(stage)):
        losses = Distilling(backbone, said, limit)(stage.members, range(tasks))
    return {name: tensor.grad for name, tensor in stage.prompt.named_parameters() if tensor.grad is not None}, losses


def seen(backbone: Backbone, rows: np.ndarray, example: Example) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """One example alone, by transformers itself: logits (t,v) of its target, its tokens' last states, the target."""
    source, target = backbone.tokens.source_ids(example, 64)[0], backbone.tokens.target_ids(example)
    model: Any = backbone.model
    decodes = backbone.kind == "seq2seq"
    table = backbone.embedding.table
    embeds = table(torch.tensor([source if decodes else source + target[:-1]]))
    embeds = torch.cat([torch.tensor(rows, dtype=torch.float32)[None], embeds], 1)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    extra = {"labels": torch.tensor([target])} if decodes else {}
    with torch.no_grad():
        out = model(inputs_embeds=embeds, attention_mask=mask, output_hidden_states=True, use_cache=False, **extra)
    if decodes:
        states = [out.encoder_hidden_states[-1][0, len(rows) :], out.decoder_hidden_states[-1][0]]
        return out.logits[0].double().numpy(), torch.cat(states).double().numpy(), target
    states = [out.hidden_states[-1][0, len(rows) :]]
    return out.logits[0, -len(target) :].double().numpy(), torch.cat(states).double().numpy(), target


def log_softmax(z: np.ndarray) -> np.ndarray:
    return np.asarray(
        z - z.max(-1, keepdims=True) - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))
    )


@pytest.mark.parametrize(("family", "temperature"), [("llama", 1.0), ("llama", 2.0), ("t5", 1.0), ("bart", 2.0)])
def test_the_loss_is_the_papers(family: str, temperature: float) -> None:
    backbone = tiny.backbone(family)
    _, found = gradients_of(backbone, Distillation(teachers=[], weight=0.7, temperature=temperature))
    stage = stage_of(backbone)
    for i, member in enumerate(stage.members):
        part: Any = member.prompt.prompt
        shared, u, v = (tensor.detach().double().numpy() for tensor in (part.rows, part.u, part.v))
        teacher = stage.teachers[i].prompt(None).detach().double().numpy()
        nll, kl, mse, tokens = 0.0, 0.0, [], 0
        for example in member.next_examples():
            mine, states, target = seen(backbone, shared * (u @ v), example)
            theirs, wanted, _ = seen(backbone, teacher, example)
            nll -= sum(log_softmax(mine)[j, label] for j, label in enumerate(target))
            p, q = log_softmax(theirs / temperature), log_softmax(mine / temperature)
            kl += float((np.exp(p) * (p - q)).sum())
            mse.append(float(((states - wanted) ** 2).mean()))
            tokens += len(target)
        assert kl > 1e-3  # a random T5 decoder hardly looks at its encoder
        assert found[i] == pytest.approx(nll / tokens + 0.7 * (kl / tokens + np.mean(mse)), abs=2e-5)


@pytest.mark.parametrize("placement", ["front", "after_bos"])
def test_a_packed_step_is_a_plain_one_and_no_weight_leaves_the_task_loss(placement: str) -> None:
    backbone = tiny.backbone("gpt2", bos=True, placement=placement)
    assert isinstance(backbone, Causal)
    stage = stage_of(backbone)
    with backbone.using(bank_of(stage)):
        assert backbone.can_pack([0, 1, 2, 3])
        alone = Gradients(backbone)(stage.members, range(2))
    task = {name: tensor.grad for name, tensor in stage.prompt.named_parameters()}
    packed, losses = gradients_of(backbone)
    nothing, same = gradients_of(backbone, Distillation(teachers=[], weight=0.0, temperature=1.0))
    backbone.share = False
    plain, others = gradients_of(backbone)
    assert losses == pytest.approx(others, rel=1e-5)
    assert same == pytest.approx(alone, rel=1e-5)
    for name, grad in packed.items():
        assert_close(grad, plain[name], 1e-4)
        assert_close(nothing[name], task[name], 1e-4)
        assert float((grad - nothing[name]).abs().max()) > 1e-3


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_how_a_step_is_cut_does_not_matter(family: str) -> None:
    backbone = tiny.backbone(family)
    whole, losses = gradients_of(backbone)
    for limit in (20, 1):
        cut, same = gradients_of(backbone, limit=limit)
        assert same == pytest.approx(losses, rel=1e-5)
        for name, grad in whole.items():
            assert_close(cut[name], grad, 1e-4)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_every_tensor_of_every_task_moves_and_their_shared_rows_are_one(family: str) -> None:
    backbone = tiny.backbone(family)
    stage = stage_of(backbone, 3, steps=30, batch=4, evaluate_every=15, rates={"prompt": 0.1, "weights": 0.1})
    before, frozen = copied(stage.prompt), copied(backbone.model)
    teachers = [copied(teacher) for teacher in stage.teachers]
    tune_source_stage(backbone, stage, PAPER)
    assert moved(before, copied(stage.prompt)) == set(before)
    assert len(before) == 1 + 2 * 3
    assert moved(frozen, copied(backbone.model)) == set()
    for was, teacher in zip(teachers, stage.teachers, strict=True):
        assert_same_tensors(copied(teacher), was)
    assert len({id(member.prompt.prompt.rows) for member in stage.members}) == 1
    assert stage.prompt.trainable() == LENGTH * tiny.D + 3 * (LENGTH + tiny.D)
    losses = [entry["loss"] for entry in stage.history if "loss" in entry]
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5
    stage.hand_on_best()
    assert stage.best is not None
    for member in stage.members:
        dev = [entry["dev"]["accuracy"] for entry in member.history if "dev" in entry]
        assert dev == [entry["dev"][member.task.name] for entry in stage.history if "dev" in entry]
        assert 0 < sum("loss" in entry for entry in member.history) <= 30
    assert_same_tensors(copied(stage.prompt), stage.best_state)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_prompts_behind_the_source_are_taught_too(family: str) -> None:
    whole, _ = gradients_of(tiny.backbone(family, placement="after_source"))
    cut, _ = gradients_of(tiny.backbone(family, placement="after_source"), limit=1)
    for name, grad in whole.items():
        assert float(grad.abs().max()) > 0
        assert_close(cut[name], grad, 1e-4)


def test_a_step_takes_two_tasks_or_more_all_of_them_in_turn() -> None:
    stage, drawn = stage_of(tiny.backbone("llama"), 4), []
    for step in range(60):
        stage.step = step
        drawn.append(tuple(stage.draw_tasks()))
    assert {len(tasks) for tasks in drawn} == {2, 3, 4}
    assert {task for tasks in drawn for task in tasks} == {0, 1, 2, 3}
    assert len(set(drawn)) > 6
    stage.step = 7
    assert tuple(stage.draw_tasks()) == drawn[7]


# On disk


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone, three tasks of one word each, and the runs of prompt tuning on two of them."""
    root = tmp_path_factory.mktemp("distil")
    model = tiny.save_tiny("llama", root / "model")
    for name, words in {"colour": ("red", "blue"), "answer": ("yes", "no"), "other": ("green", "sir")}.items():
        with (root / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for i in range(40):
                writer.writerow([f"{'a b c d'[: 1 + 2 * (i % 4)]} {words[i % 2]} {'e ' * (i // 8)}", words[i % 2]])
        if name != "other":
            train(root, name, root / "runs" / name)
    assert model
    return root


def train(root: Path, name: str, output: Path, **more: Any) -> None:
    settings = {"length": LENGTH, "evaluate_every": 2, **more.pop("settings", {})}
    softprompt.train(
        data=root / f"{name}.csv",
        backbone=str(root / "model"),
        output=output,
        steps=2,
        batch=4,
        settings=settings,
        **more,
    )


def distilled(place: Path, output: Path, **more: Any) -> Any:
    teachers = [place / "runs" / "colour", place / "runs" / "answer"]
    return distil(teachers, output, **{"steps": 6, "batch": 4, "settings": {"evaluate_every": 2}, **more})


def test_a_target_task_starts_at_the_shared_prompt_and_each_task_has_its_run(
    cli: Cli, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shared"
    teachers = [place / "runs" / "colour", place / "runs" / "answer"]
    code, _, err = cli("distil", *teachers, "--output", out, "--steps", 6, "--batch", 4, "--set", "evaluate_every=2")
    assert code == 0, err
    assert f"softprompt train --method mpt --start-from {out}" in err
    assert "teacher, prompt_tuning-colour" in err
    shared = load_file(out / "method.safetensors")
    parts = [load_file(out / name / "method.safetensors") for name in ("colour", "answer")]
    for part in parts:
        assert torch.equal(part["prompt.rows"], shared["prompt.rows"])
    assert not torch.equal(parts[0]["prompt.u"], parts[1]["prompt.u"])
    for name in ("prompt.u", "prompt.v"):
        assert_close(shared[name], (parts[0][name] + parts[1][name]) / 2)
    for name, part in zip(("colour", "answer"), parts, strict=True):
        folded = load_prompt(out / name)
        assert_close(folded.folded.prompt, part["prompt.rows"] * (part["prompt.u"] @ part["prompt.v"]))
        assert folded.card.task == name
        assert cli("predict", out / name, "a red")[0] == 0
        assert cli("show", out / name)[0] == 0
    assert not (out / "checkpoint.safetensors").exists()
    train(place, "other", tmp_path / "target", start_from=out, settings={"rates.prompt": 0.0, "rates.weights": 0.0})
    assert_same_tensors(load_file(tmp_path / "target" / "method.safetensors"), shared)
    train(place, "other", tmp_path / "rows", start_from=out, method="prompt_tuning", settings={"rates.prompt": 0.0})
    assert_close(load_prompt(tmp_path / "rows").folded.prompt, load_prompt(out).folded.prompt)


def test_an_interrupted_source_stage_goes_on_to_the_same_bits(
    cli: Cli, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    distilled(place, whole)
    asked = iter([False] * 3 + [True])

    @contextmanager
    def at_the_third_step(_: Callable[[], None]) -> Iterator[Callable[[], bool]]:
        yield lambda: next(asked)

    with monkeypatch.context() as patch:
        patch.setattr("softprompt.training.distillation.interruptible", at_the_third_step)
        with pytest.raises(Interrupted, match=f"after step 3; .* softprompt train --resume {cut}"):
            distilled(place, cut)
    assert not list(cut.glob("**/prompt.json"))
    assert cli("train", "--resume", cut)[0] == 0
    for name in (".", "colour", "answer"):
        assert_same_tensors(
            load_file(cut / name / "method.safetensors"), load_file(whole / name / "method.safetensors")
        )
        assert (cut / name / "metrics.jsonl").read_text() == (whole / name / "metrics.jsonl").read_text()
    assert load_prompt(cut).card.best == load_prompt(whole).card.best
    code, _, err = cli("train", "--resume", cut)
    assert (code, "is a finished run" in err) == (2, True)


def test_what_a_source_stage_refuses_before_it_starts(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, out = place / "runs", tmp_path / "out"
    colour, answer = runs / "colour", runs / "answer"
    train(place, "other", tmp_path / "longer", settings={"length": LENGTH + 1})
    train(place, "other", tmp_path / "read", max_source=99)
    train(place, "other", tmp_path / "dept", method="dept", settings={"rank": 2})
    write_source(tmp_path / "bare", tiny.backbone("llama"))
    cases: list[tuple[list[Path], dict[str, Any], str]] = [
        ([colour], {}, "1 run is given; a prompt is shared by two tasks or more"),
        ([colour, colour], {}, "The runs are on colour, colour; expected one run a task"),
        ([colour, tmp_path / "bare"], {}, "holds no run.json, so its task is not known"),
        (
            [colour, tmp_path / "longer"],
            {},
            r"longer \(prompt_tuning on other\) has 4 rows, .* 3; teachers and students",
        ),
        ([colour, tmp_path / "read"], {}, "--max-source 99 .* with --max-source 256 .*expected the same"),
        (
            [colour, tmp_path / "dept"],
            {},
            "cannot be a teacher; expected runs trained on a single task, of kind 'prompt'",
        ),
        ([colour, answer], {"settings": {"length": 5}}, "length=5: the teachers have 3 rows"),
        ([colour, answer], {"settings": {"epochs": 2}}, "Several tasks have no epoch in common"),
        ([colour, answer], {"output": runs, "overwrite": True}, "holds a run to learn from"),
        ([colour, answer], {"output": place}, "already holds files"),
    ]
    for given, more, said in cases:
        with pytest.raises(BadInput, match=said):
            distil(given, **{"output": out, **more})
    monkeypatch.setattr("softprompt.training.distillation.describe", lambda _: {"kind": "masked"})
    with pytest.raises(BadInput, match="fills gaps; softprompt distil works on backbones that write"):
        distil([colour, answer], out)
    assert not out.exists()


def test_a_source_stage_needs_its_teachers_and_is_not_a_run_of_one_task(
    cli: Cli, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    shutil.copytree(place / "runs", kept)
    with monkeypatch.context() as patch:
        patch.setattr("softprompt.training.distillation.tune_source_stage", lambda *_, **__: None)
        with pytest.raises(Interrupted):
            distil([kept / "colour", kept / "answer"], out, steps=2, batch=4)
    code, _, err = cli("train", out / "run.json", "--output", tmp_path / "again")
    assert (code, "is of a run on several tasks; do it again with softprompt distil" in err) == (2, True)
    card = json.loads((out / "run.json").read_text())
    assert [one["name"] for one in card["distillation"]["teachers"]] == ["prompt_tuning-colour", "prompt_tuning-answer"]
    code, _, err = cli("train", "--resume", out, "--resume", kept / "colour")
    assert code == 2
    shutil.copy(kept / "answer" / "prompt.safetensors", kept / "colour" / "prompt.safetensors")
    code, _, err = cli("train", "--resume", out)
    assert (code, "whose tensors are no longer those" in err) == (2, True)
