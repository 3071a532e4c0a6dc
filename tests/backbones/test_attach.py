"""transformers' own Trainer tunes what `attach` has made tunable, and nothing else."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

import softprompt
from softprompt import attach
from softprompt.backbones import Backbone
from softprompt.errors import BadInput
from softprompt.methods.bank import Bank
from softprompt.methods.embedding import Layout
from softprompt.tasks import Example
from tests import tiny
from tests.compare import assert_close, copied, moved
from tests.prompts import soft_prompt

EXAMPLES = [
    Example("where is my parcel", "late"),
    Example("the invoice is wrong how do i log in", "bad"),
    Example("hello", "really good"),
]
FAMILIES = ["llama", "t5"]
METHODS = ["prompt_tuning", "dept"]


def rows(backbone: Backbone, bank: Bank) -> list[dict[str, list[int]]]:
    """What a user feeds Trainer: soft ids, source and, in a decoder-only model, target in one row."""
    made = []
    for example in EXAMPLES:
        batch = backbone.pose([example], [0], targets=True)
        assert batch.labels is not None
        labels = batch.labels[0].tolist()
        if backbone.kind == "causal":
            labels = [-100] * (batch.ids.shape[1] - len(labels)) + labels
        made.append({"input_ids": batch.ids[0].tolist(), "labels": labels})
    return made


def trainer(backbone: Backbone, data: Any, folder: Path, **settings: Any) -> Trainer:
    arguments = TrainingArguments(
        str(folder), report_to="none", use_cpu=True, disable_tqdm=True, logging_steps=1, lr_scheduler_type="constant",
        **{"max_steps": 12, "learning_rate": 0.03, "per_device_train_batch_size": 3, "save_steps": 4, **settings},
    )  # fmt: skip
    return Trainer(backbone.model, arguments, DataCollatorForSeq2Seq(backbone.tokenizer), data, data)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_trainer_moves_the_prompt_alone_and_the_loss_falls(family: str, method: str, tmp_path: Path) -> None:
    backbone = tiny.backbone(family)
    prompt = soft_prompt(backbone, method)
    with backbone.using(Bank({"p": prompt})):
        data = rows(backbone, backbone.embedding.bank)
    frozen, before = copied(backbone.model), copied(prompt)
    with attach(backbone.model, prompt, tiny.PAD):
        one = trainer(backbone, data, tmp_path, learning_rate=0.15)
        one.train()
        checkpoint = load_file(tmp_path / "checkpoint-12" / "model.safetensors")
        state = backbone.model.state_dict()
    losses = [entry["loss"] for entry in one.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.15, losses  # a random T5 has little to say; Llama falls by 2
    assert moved(frozen, copied(backbone.model)) == set()
    parameters = {name for name, _ in prompt.named_parameters()}
    assert moved(before, copied(prompt)) == parameters
    assert len(checkpoint) == len(prompt.state_dict())
    assert all(".bank." in name for name in checkpoint)
    assert state.keys() == checkpoint.keys()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("family", "side"), [("llama", "right"), ("llama", "left"), ("t5", "right")])
def test_the_gradients_are_those_of_our_own_loop(family: str, side: str, method: str) -> None:
    backbone = tiny.backbone(family)
    prompt = soft_prompt(backbone, method).train()
    bank = Bank({"p": prompt})
    with backbone.using(bank):
        data = rows(backbone, bank)
        batch = backbone.pose(EXAMPLES, [0] * 3, targets=True)
        losses = backbone.loss(batch)
        (losses.nll.sum() / losses.tokens.sum()).backward()
    expected = {name: tensor.grad for name, tensor in prompt.named_parameters()}
    prompt.zero_grad()
    collator = DataCollatorForSeq2Seq(backbone.tokenizer, padding=True)
    backbone.tokenizer.padding_side = side
    try:
        given = dict(collator(data))
    finally:
        backbone.tokenizer.padding_side = "right"
    if family == "llama":
        given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with attach(backbone.model, bank, tiny.PAD):
        backbone.model(**given).loss.backward()
    for name, tensor in prompt.named_parameters():
        assert_close(tensor.grad, expected[name], 1e-4)


def test_an_interrupted_trainer_goes_on_where_it_was(tmp_path: Path) -> None:
    def tuned(folder: Path, *, stop: bool) -> dict[str, torch.Tensor]:
        backbone = tiny.backbone("llama")
        prompt = soft_prompt(backbone, "dept")
        with backbone.using(Bank({"p": prompt})):
            data = rows(backbone, backbone.embedding.bank)
        if stop:
            with attach(backbone.model, prompt, tiny.PAD):
                trainer(backbone, data, folder, max_steps=4).train()
            prompt = soft_prompt(backbone, "dept", seed=5)
        with attach(backbone.model, prompt, tiny.PAD):
            trainer(backbone, data, folder).train(resume_from_checkpoint=stop or None)
        return copied(prompt)

    whole, resumed = tuned(tmp_path / "whole", stop=False), tuned(tmp_path / "resumed", stop=True)
    for name, tensor in whole.items():
        assert_close(resumed[name].float(), tensor.float(), 1e-5)


def test_targets_get_no_offset_and_a_pad_that_is_a_word_does() -> None:
    backbone = tiny.backbone("llama")
    bank = Bank({"p": soft_prompt(backbone, "dept", 2)})
    soft, source, target = bank.soft_ids(0, backbone.v), [7, tiny.PAD, 8], [9, 10]
    ids = torch.tensor([[*soft, *source, *target]])
    seen: list[Layout] = []
    with attach(backbone.model, bank, tiny.PAD) as embedding:
        read = embedding._layout_of
        embedding._layout_of = lambda ids: seen.append(read(ids)) or seen[-1]  # type: ignore[method-assign, arg-type, func-returns-value]
        labels = torch.tensor([[-100] * 5 + target])
        backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    assert seen[0].position.tolist() == [[-1, -1, 0, 1, 2, -1, -1]]


def test_after_attach_the_model_is_as_it_was() -> None:
    model = tiny.model("llama").train()
    model.lm_head.requires_grad_(False)  # type: ignore[union-attr]
    grads = {name: tensor.requires_grad for name, tensor in model.named_parameters()}
    keys = list(model.state_dict())
    backbone = tiny.backbone("llama")
    with attach(model, soft_prompt(backbone, "prompt_tuning"), tiny.PAD) as embedding:
        assert [name for name, tensor in model.named_parameters() if tensor.requires_grad] == list(model.state_dict())
        model.train()
        assert (model.training, embedding.bank.training) == (False, True)
    assert {name: tensor.requires_grad for name, tensor in model.named_parameters()} == grads
    assert all(module.training for module in model.modules())
    assert list(model.state_dict()) == keys
    assert "train" not in vars(model)
    with attach(model, soft_prompt(backbone, "prompt_tuning"), tiny.PAD, dropout=True):
        assert model.train().training


@pytest.mark.parametrize("family", FAMILIES)
def test_the_example_of_the_documentation_runs(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    folder = tiny.save_tiny(family, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert "google-t5/t5-small" in code
    names: dict[str, Any] = {}
    exec(code.replace("google-t5/t5-small", folder), names)
    card = softprompt.load_prompt("run").card
    assert (card.method, card.kind, card.length, card.seed) == ("dept", "prompt+position", 4, None)
    with names["frozen"].using(Bank({"p": names["prompt"].eval()})):
        expected = names["frozen"].answer([Example("where is my parcel", "")], [0])
    assert [answer.prediction for answer in softprompt.predict("run", ["where is my parcel"])] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_trainer_ends_with_its_best_checkpoint_when_asked(family: str, tmp_path: Path) -> None:
    backbone = tiny.backbone(family)
    prompt = soft_prompt(backbone, "dept")
    with backbone.using(Bank({"p": prompt})):
        data = rows(backbone, backbone.embedding.bank)
    frozen = copied(backbone.model)
    with attach(backbone.model, prompt, tiny.PAD):
        one = trainer(
            backbone, data, tmp_path, eval_strategy="steps", eval_steps=4, load_best_model_at_end=True,
            metric_for_best_model="eval_loss", greater_is_better=True,  # so that the best is not the last
        )  # fmt: skip
        one.train()
        state = copied(backbone.model)
        found = one.evaluate()["eval_loss"]
    losses = {entry["step"]: entry["eval_loss"] for entry in one.state.log_history if "eval_loss" in entry}
    assert one.state.best_global_step == 4 == max(losses, key=losses.__getitem__)
    assert moved(load_file(tmp_path / "checkpoint-4" / "model.safetensors"), state) == set()
    assert moved(load_file(tmp_path / "checkpoint-12" / "model.safetensors"), state) != set()
    assert found == pytest.approx(losses[4])
    assert moved(frozen, copied(backbone.model)) == set()


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")  # the name that Trainer has had so far
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_trainer_computes_layers_again_and_gets_the_same_gradients(family: str, dropout: bool, tmp_path: Path) -> None:
    def trained(checkpointing: bool) -> tuple[dict[str, torch.Tensor], int]:
        backbone = tiny.backbone(family)
        for module in backbone.model.modules():  # drawn anew in each run, and here two are compared
            for name in [name for name in ("p", "dropout", "activation_dropout") if name in vars(module)]:
                setattr(module, name, 0.0)
        prompt, runs = soft_prompt(backbone, "dept"), []
        with backbone.using(Bank({"p": prompt})):
            data = rows(backbone, backbone.embedding.bank)
        norm = next(module for name, module in backbone.model.named_modules() if name.endswith(NORMS[family]))
        norm.register_forward_hook(lambda *_: runs.append(1))
        with attach(backbone.model, prompt, tiny.PAD, dropout=dropout):
            trainer(
                backbone,
                data,
                tmp_path,
                max_steps=3,
                learning_rate=0.5,
                optim="sgd",
                gradient_checkpointing=checkpointing,
            ).train()
            assert backbone.model.training == dropout
        assert not any(getattr(module, "gradient_checkpointing", False) for module in backbone.model.modules())
        return copied(prompt), len(runs)

    (plain, once), (recomputed, twice) = trained(False), trained(True)
    assert twice == 2 * once
    for name, tensor in plain.items():
        assert_close(recomputed[name].float(), tensor.float(), 1e-5)  # Adam would make rounding as large as a step


NORMS = {
    "llama": "layers.0.input_layernorm",
    "t5": "encoder.block.0.layer.0.layer_norm",
    "bart": "self_attn_layer_norm",
}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
def test_a_cache_that_checkpointing_would_drop_is_refused() -> None:
    backbone = tiny.backbone("llama")
    ids = torch.tensor([[7, 8, 9]])
    with attach(backbone.model, soft_prompt(backbone, "prompt_tuning"), tiny.PAD):
        model: Any = backbone.model
        before = model(input_ids=ids, use_cache=True).past_key_values
        model.gradient_checkpointing_enable()
        with pytest.raises(BadInput, match="past_key_values hold tokens"):
            model(input_ids=ids, past_key_values=before)
        with torch.no_grad():  # nothing is computed again where there is no backward pass
            assert model(input_ids=ids, past_key_values=before).logits.shape[1] == 3
