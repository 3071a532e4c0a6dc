"""Baselines: trained by our loop inside a network that is afterwards what it was, and stored as PEFT stores them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import T5ForConditionalGeneration

import softprompt
from softprompt.backbones import Backbone, Causal, Seq2Seq
from softprompt.backbones.ops.fused import fuse
from softprompt.backbones.ops.layers import checkpoint_layers
from softprompt.errors import BadArtefact, BadInput, Interrupted, MissingPackage, PromptMismatch, UnknownName
from softprompt.evaluation.floors import measure_floors
from softprompt.methods.bank import Bank
from softprompt.methods.registry import BASELINES, InitContext, get_method, make, parse_options
from softprompt.recipes import Recipe, Setting
from softprompt.recipes.override import override_all
from softprompt.runs.prompt import load_prompt
from softprompt.runs.run_card import read_run_card
from softprompt.tasks import Example
from softprompt.training.candidate import Candidate, make_candidate
from softprompt.training.checkpoint import load_checkpoint, save_checkpoint
from softprompt.training.finish import finish
from softprompt.training.gradients import Gradients
from softprompt.training.loop import tune
from softprompt.training.request import make_recipes
from softprompt.training.run import Run, begin, resume_run, tune_runs
from tests import tiny
from tests.candidates import tiny_task
from tests.command_line import Cli
from tests.compare import assert_close, assert_same_tensors, copied, moved

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

OPTIONS: dict[str, dict[str, Any]] = {"peft:lora": {"rank": 2}, "peft:prefix": {"length": 3}}
NOT = {("llama", "bitfit"), ("t5", "bitfit"), ("bert", "peft:prefix")}  # no biases, no cache
ALL = [(family, name) for family in ("llama", "gpt2", "t5", "bert") for name in BASELINES if (family, name) not in NOT]
EXAMPLES = tiny_task().examples["test"]


def candidate(backbone: Backbone, name: str, **recipe: Any) -> Candidate:
    recipe = {"options": OPTIONS.get(name, {}), "steps": 6, "batch": 4, "evaluate_every": 3, **recipe}
    return make_candidate(name, Recipe(method=name, **recipe), backbone, tiny_task())


def ranked(backbone: Backbone, one: Any, examples: Any = EXAMPLES) -> torch.Tensor:
    with backbone.using(Bank({"one": one.eval()})):
        return backbone.rank(examples, [0] * len(examples))


def started(backbone: Backbone, name: str, **options: Any) -> Any:
    method = get_method(name)
    context = InitContext(backbone, 20, ("good", "bad"), model=backbone.model)
    return make(method, parse_options(method, OPTIONS.get(name, {}) | options), context)


@pytest.mark.parametrize(("family", "name"), ALL)
def test_a_baseline_learns_and_leaves_the_network_as_it_was(family: str, name: str) -> None:
    backbone = tiny.backbone(family)
    group = get_method(name).options.group  # type: ignore[attr-defined]
    steps = 40 if family == "t5" else 20  # what a random decoder reads off its encoder moves it slowly
    one = candidate(backbone, name, steps=steps, batch=8, evaluate_every=steps, rates={group: 0.05})
    before, frozen = copied(one.prompt), copied(backbone.model)
    modules, own = list(backbone.model.named_modules()), set(vars(backbone.model))
    modes = [module.training for module in backbone.model.modules()]
    tune(backbone, [one])
    assert moved(before, copied(one.prompt)) == {name for name, _ in one.prompt.named_parameters()}
    assert_same_tensors(copied(backbone.model), frozen)
    assert list(backbone.model.named_modules()) == modules
    assert set(vars(backbone.model)) == own
    assert not any(tensor.requires_grad for tensor in backbone.model.parameters())
    assert [module.training for module in backbone.model.modules()] == modes
    losses = [entry["loss"] for entry in one.history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.2
    assert all(tensor.dtype is torch.float32 for tensor in one.prompt.parameters())


@pytest.mark.parametrize(("family", "name"), [*ALL, ("bart", "peft:prefix"), ("bart", "full")])
def test_what_is_stored_answers_as_what_was_trained_and_the_same_in_any_batch(
    family: str, name: str, tmp_path: Path
) -> None:
    backbone = tiny.backbone(family)
    group = get_method(name).options.group  # type: ignore[attr-defined]
    one = candidate(backbone, name, rates={group: 0.05})
    plain = backbone.rank(EXAMPLES, [-1] * len(EXAMPLES))
    tune(backbone, [one])
    finish(backbone, begin(one, tmp_path, Setting(backbone=f"tiny-{family}")), measure_floors(backbone, one.task))
    trained = ranked(backbone, one.prompt)
    assert (trained - plain).abs().max() > 1e-3
    again = load_prompt(tmp_path)
    again.check(tiny.backbone(family))
    assert torch.equal(ranked(tiny.backbone(family), again.soft_prompt()), trained)
    alone = torch.cat([ranked(backbone, one.prompt, [example]) for example in EXAMPLES])
    assert_close(alone, trained, 2e-5)
    assert torch.equal(backbone.rank(EXAMPLES, [-1] * len(EXAMPLES)), plain)
    assert again.card.kind == "network"
    assert again.card.trainable == again.card.stored == sum(t.numel() for t in one.prompt.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bart"])
@pytest.mark.parametrize("name", [name for name in BASELINES if name.startswith("peft:")])
def test_peft_reads_the_folder_and_answers_alike(family: str, name: str, tmp_path: Path) -> None:
    backbone = tiny.backbone(family)
    group = get_method(name).options.group  # type: ignore[attr-defined]
    one = candidate(backbone, name, rates={group: 0.05})
    tune(backbone, [one])
    finish(backbone, begin(one, tmp_path, Setting(backbone=f"tiny-{family}")), {})
    theirs = PeftModel.from_pretrained(tiny.model(family), tmp_path).eval()
    example = Example("the invoice is wrong how do i log in", "bad")
    with backbone.using(Bank({"one": one.prompt.eval()})):
        batch = backbone.pose([example], [0], targets=True)
        ours = backbone.loss(batch).nll
        text = backbone.answer([example], [0], max_new_tokens=6)
    ids = backbone.pose([example], [-1]).ids
    target = torch.tensor([backbone.tokens.target_ids(example)])
    with torch.no_grad():
        if family in ("t5", "bart"):
            start = torch.full((1, 1), theirs.config.decoder_start_token_id)
            decoded = torch.cat([start, target[:, :-1]], 1)
            logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=decoded).logits
        else:
            whole = torch.cat([ids, target], 1)
            logits = theirs(input_ids=whole, attention_mask=torch.ones_like(whole)).logits[:, ids.shape[1] - 1 : -1]
        made = theirs.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0
        )
    expected = -torch.log_softmax(logits, -1).gather(2, target.unsqueeze(2)).sum()
    assert_close(ours.sum(), expected, 1e-5)
    made = made if family in ("t5", "bart") else made[:, ids.shape[1] :]
    assert text == [backbone.tokenizer.decode(made[0], skip_special_tokens=True).strip()]


@pytest.mark.parametrize("name", ["full", "bitfit"])
def test_trained_weights_are_transformers_own(name: str, tmp_path: Path) -> None:
    backbone = tiny.backbone("gpt2")
    one = candidate(backbone, name)
    tune(backbone, [one])
    finish(backbone, begin(one, tmp_path, Setting()), {})
    theirs = tiny.model("gpt2")
    strange = theirs.load_state_dict(load_file(tmp_path / "network.safetensors"), strict=False).unexpected_keys
    theirs.tie_weights()  # type: ignore[operator]
    assert strange == []
    with backbone.using(Bank({"one": one.prompt.eval()})):
        batch = backbone.pose(EXAMPLES[:1], [0])
        ours = backbone.model(input_ids=batch.ids).logits
    assert torch.equal(ours, theirs(input_ids=batch.ids).logits)
    assert not (tmp_path / "prompt.safetensors").exists()


@pytest.mark.parametrize("stop", [2, 3, 5])
@pytest.mark.parametrize("name", ["peft:lora", "peft:ia3", "peft:prefix", "bitfit", "full"])
def test_resumed_equals_uninterrupted_to_the_bit(name: str, stop: int, tmp_path: Path) -> None:
    backbone = tiny.backbone("gpt2", dropout=True)
    whole = candidate(backbone, name)
    torch.manual_seed(7)
    tune(backbone, [whole])
    first = candidate(backbone, name)
    torch.manual_seed(7)
    tune(
        backbone, [first], interrupted=lambda: first.step >= stop, on_checkpoint=lambda c: save_checkpoint(c, tmp_path)
    )
    assert first.step == stop
    torch.manual_seed(99)
    second = candidate(backbone, name)
    load_checkpoint(second, tmp_path)
    tune(backbone, [second])
    assert_same_tensors(second.prompt.state_dict(), whole.prompt.state_dict())
    assert_same_tensors(second.best_state, whole.best_state)
    assert second.history == whole.history


def gradients(backbone: Backbone, one: Candidate, tokens_per_pass: int | None = None) -> dict[str, torch.Tensor]:
    with backbone.using(Bank({one.name: one.prompt}).train()):
        Gradients(backbone, tokens_per_pass)([one], [0])
    return {name: tensor.grad.clone() for name, tensor in one.prompt.named_parameters()}  # type: ignore[union-attr]


def nudged(backbone: Backbone, name: str) -> Candidate:
    """A candidate whose tensors are none that give zero gradients, as LoRA's B at its start does."""
    one = candidate(backbone, name)
    torch.manual_seed(3)
    with torch.no_grad():
        for tensor in one.prompt.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return one


@pytest.mark.parametrize("name", ["peft:lora", "peft:ia3"])
def test_packed_rows_give_the_gradients_of_padded_ones(name: str) -> None:
    backbone = tiny.backbone("llama")
    assert isinstance(backbone, Causal)
    found = []
    for share in (True, False):
        backbone.share = share
        one = nudged(backbone, name)
        with backbone.using(Bank({"one": one.prompt})):
            assert backbone.can_pack([0]) == share
        found.append(gradients(backbone, one))
    for tensor, grad in found[1].items():
        assert grad.abs().max() > 1e-4
        assert_close(found[0][tensor], grad, 2e-5)


@pytest.mark.parametrize("name", ["peft:prefix", "full", "bitfit"])
def test_what_packing_would_not_reach_takes_the_plain_route(name: str) -> None:
    backbone = tiny.backbone("gpt2")
    with backbone.using(Bank({"one": started(backbone, name)})):
        assert not backbone.can_pack([0])


@pytest.mark.parametrize(("family", "name"), [("llama", "peft:lora"), ("llama", "full"), ("t5", "full")])
def test_a_step_in_passes_or_with_layers_computed_twice_has_the_same_gradients(family: str, name: str) -> None:
    whole = gradients(tiny.backbone(family), nudged(tiny.backbone(family), name))
    twice = tiny.backbone(family)
    checkpoint_layers(twice.model)
    for found in (
        gradients(tiny.backbone(family), nudged(tiny.backbone(family), name), tokens_per_pass=20),
        gradients(twice, nudged(twice, name)),
    ):
        for tensor, grad in whole.items():
            assert_close(found[tensor], grad, 2e-5)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_full_trains_the_norms_that_a_frozen_network_computes_fused(family: str) -> None:
    backbone, plain = tiny.backbone(family), tiny.backbone(family)
    assert fuse(backbone.model) > 0
    forwards = [vars(module).get("forward") for module in backbone.model.modules()]
    found = gradients(backbone, candidate(backbone, "full"))
    expected = gradients(plain, candidate(plain, "full"))
    assert any(grad.ndim == 1 and grad.abs().max() > 1e-4 for grad in found.values())
    for tensor, grad in expected.items():
        assert_close(found[tensor], grad, 2e-5)
    assert [vars(module).get("forward") for module in backbone.model.modules()] == forwards


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_prefix_is_there_in_train_mode_too(family: str) -> None:
    """transformers drops a cache in train mode under its own gradient checkpointing, with only a warning."""
    backbone = tiny.backbone(family, dropout=True)
    assert all(grad.abs().max() > 1e-5 for grad in gradients(backbone, nudged(backbone, "peft:prefix")).values())
    checkpoint_layers(backbone.model)
    with (
        pytest.raises(BadInput, match=r"Leave out --gradient-checkpointing"),
        backbone.using(Bank({"one": started(backbone, "peft:prefix")})),
    ):
        pass


def test_a_prefix_has_the_sizes_of_the_decoder(tmp_path: Path) -> None:
    """flan-t5-small: heads of 64 that are not d_model / heads; PEFT alone fails there."""
    config = tiny.model("t5").config
    config.update({"d_kv": 6, "num_decoder_layers": 4, "num_heads": 2})  # type: ignore[operator]
    torch.manual_seed(0)
    network = T5ForConditionalGeneration(config).eval()
    backbone = Seq2Seq(network, tiny.tokenizer(eos=True), "tiny-t5")
    one = candidate(backbone, "peft:prefix", rates={"prefix": 0.1})
    tune(backbone, [one])
    assert one.prompt.state_dict()["tree.prompt_embeddings"].shape == (3, 2 * 4 * 2 * 6)
    finish(backbone, begin(one, tmp_path, Setting()), {})
    assert torch.equal(ranked(backbone, load_prompt(tmp_path).soft_prompt()), ranked(backbone, one.prompt))


def test_a_prefix_takes_positions() -> None:
    backbone = tiny.backbone("gpt2", max_source=96)
    with backbone.using(Bank({"one": started(backbone, "peft:prefix", length=90)})):
        assert backbone.pose([Example("red " * 80, "good")], [0]).ids.shape == (1, 6)
    with pytest.raises(BadInput, match=r"has 96 positions"):
        candidate(backbone, "peft:prefix", options={"length": 96})


@pytest.mark.parametrize("name", ["peft:lora", "peft:ia3", "peft:prefix"])
def test_adapters_of_a_bfloat16_network_are_trained_in_float32(name: str) -> None:
    backbone = Causal(tiny.model("llama").bfloat16(), tiny.tokenizer(), "tiny")
    one = candidate(backbone, name)
    before = copied(one.prompt)
    tune(backbone, [one])
    assert all(tensor.dtype is torch.float32 for tensor in one.prompt.state_dict().values())
    assert moved(before, copied(one.prompt)) == set(before)


def test_weights_of_a_bfloat16_network_are_refused() -> None:
    backbone = Causal(tiny.model("gpt2").bfloat16(), tiny.tokenizer(), "tiny")
    with pytest.raises(BadInput, match=r"is bfloat16; .* Give --dtype float32"):
        candidate(backbone, "full")


def test_a_baseline_is_alone_in_its_bank() -> None:
    backbone = tiny.backbone("llama")
    lora, prompt = started(backbone, "peft:lora"), started(backbone, "prompt_tuning")
    for one, other in ((lora, prompt), (prompt, lora), (lora, lora)):
        with pytest.raises(BadInput, match=r"cannot share a bank"):
            Bank({"one": one, "other": other})
    with (
        backbone.using(Bank({"one": lora})),
        pytest.raises(BadInput, match=r"one works inside the network; ask without it outside"),
    ):
        backbone.rank(EXAMPLES, [-1] * len(EXAMPLES))


def test_a_baseline_inside_another_bank_leaves_that_one_trainable() -> None:
    backbone = tiny.backbone("llama")
    prompt, lora = started(backbone, "prompt_tuning"), started(backbone, "peft:lora")
    with backbone.using(Bank({"prompt": prompt})):
        with backbone.using(Bank({"lora": lora})):
            backbone.rank(EXAMPLES, [0] * len(EXAMPLES))
        assert all(tensor.requires_grad for tensor in prompt.parameters())


def test_what_cannot_be_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.backbone("llama")
    for options, said in (
        ({"targets": "q_prj"}, r"PEFT cannot put this into LlamaForCausalLM: .*q_prj"),
        ({"targets": "lm_head"}, r"output layer is left as it is"),
        ({"targets": "embed_tokens"}, r"PEFT cannot put this"),
    ):
        with pytest.raises(BadInput, match=said):
            started(backbone, "peft:lora", **options)
    assert_same_tensors(copied(backbone.model), copied(tiny.backbone("llama").model))
    with pytest.raises(BadInput, match=r"BertForMaskedLM has none"):
        started(tiny.backbone("bert"), "peft:prefix")
    with pytest.raises(BadInput, match=r"no biases"):
        started(backbone, "bitfit")
    with pytest.raises(UnknownName, match=r"Did you mean 'rank'"):
        started(backbone, "peft:lora", ranks=4)
    with pytest.raises(BadInput, match=r"rank=0"):
        started(backbone, "peft:lora", rank=0)
    with pytest.raises(UnknownName, match=r"Did you mean 'bitfit'"):
        get_method("peft:bitfit")
    with pytest.raises(BadInput, match=r"Name it alone"):
        get_method("residual+peft:lora")
    with pytest.raises(UnknownName, match=r"group of peft:lora"):
        override_all([Recipe(method="peft:lora", rates={"prompt": 1.0})], {})
    backbone.model.model.layers[0].mlp._compiled_call_impl = print  # type: ignore[union-attr,index]
    with pytest.raises(BadInput, match=r"Leave out --compile"):
        started(backbone, "peft:lora")
    with pytest.raises(BadInput, match=r"tune it with softprompt train"):
        softprompt.make_prompt("full", tiny.backbone("llama"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r'pip install "softprompt\[peft\]"'):
        make_recipes(["prompt_tuning", "peft:lora"], {}, None)
    make_recipes(["full", "bitfit"], {}, None)


def test_targets_are_said_by_name_or_all_of_them() -> None:
    backbone = tiny.backbone("llama")
    names = {
        name.split(".")[-3] for name, _ in started(backbone, "peft:lora", targets="k_proj, o_proj").tensors.items()
    }
    assert names == {"k_proj", "o_proj"}
    every = started(backbone, "peft:lora", targets="all-linear").tensors
    assert len({name.split(".")[-3] for name in every}) == 7
    assert not any("lm_head" in name for name in every)


def test_two_seeds_start_apart_and_the_random_state_is_left_alone() -> None:
    backbone = tiny.backbone("llama")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (candidate(backbone, "peft:lora", seed=seed) for seed in (0, 0, 1))
    with backbone.using(Bank({"one": one.prompt})):
        pass
    assert torch.equal(torch.rand(3), expected)
    assert_same_tensors(copied(same.prompt), copied(one.prompt))
    assert moved(copied(one.prompt), copied(other.prompt))


def test_a_damaged_or_foreign_folder_is_refused(tmp_path: Path) -> None:
    backbone = tiny.backbone("llama")
    one = candidate(backbone, "peft:lora")
    finish(backbone, begin(one, tmp_path, Setting()), {})
    with (
        pytest.raises(PromptMismatch, match=r"does not fit this network"),
        tiny.backbone("gpt2").using(Bank({"one": load_prompt(tmp_path).soft_prompt()})),
    ):
        pass
    card = json.loads((tmp_path / "prompt.json").read_text())
    (tmp_path / "prompt.json").write_text(json.dumps(card | {"stored": 7}))
    with pytest.raises(BadArtefact, match=r"but prompt.json says 7"):
        load_prompt(tmp_path)
    (tmp_path / "prompt.json").write_text(json.dumps(card))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(BadArtefact, match=r"truncated"):
        load_prompt(tmp_path)


def test_soft_prompts_and_baselines_of_one_call_end_as_each_alone(
    cli: Cli,
    data: Path,
    model: str,
    tmp_path: Path,
) -> None:
    methods = ["prompt_tuning", "dept", "peft:lora", "full"]
    words = ["train", "--data", data, "--backbone", model, "--steps", "4", "--batch", "4", "--dropout", "--seed", 3]
    code, _, err = cli(*words, "--output", tmp_path / "all", *(w for name in methods for w in ("--method", name)))
    assert code == 0, err
    for name, file in (("peft:lora", "adapter_model.safetensors"), ("full", "network.safetensors")):
        assert cli(*words, "--output", tmp_path / name, "--method", name)[0] == 0
        folder = tmp_path / "all" / name.replace(":", "-")
        assert_same_tensors(load_file(folder / file), load_file(tmp_path / name / file))
        assert (folder / "metrics.jsonl").read_text() == (tmp_path / name / "metrics.jsonl").read_text()
        code, out, err = cli("evaluate", folder, "--data", data, "--json")
        assert code == 0, err
        assert set(json.loads(out)["floors"]) == {"majority", "zero_shot"}
        assert cli("predict", folder, "a red b")[0] == 0
        assert cli("show", folder)[0] == 0
        code, _, err = cli("export", folder, "--output", tmp_path / "out")
        assert code == 2
        assert "is a baseline, not a prompt" in err
        code, _, err = cli(*words, "--output", tmp_path / "next", "--start-from", folder)
        assert code == 2
        assert "nothing starts from it" in err
    assert "peft" in read_run_card(tmp_path / "all" / "peft-lora").versions
    assert "HF PEFT: `PeftModel.from_pretrained" in (tmp_path / "all" / "peft-lora" / "README.md").read_text()


def test_an_interrupted_call_goes_on_with_its_baselines(tmp_path: Path) -> None:
    def runs(backbone: Backbone, name: str) -> list[Run]:
        found = [candidate(backbone, method, seed=2) for method in ("peft:lora", "prompt_tuning", "bitfit")]
        return [begin(one, tmp_path / name / one.name.replace(":", "-"), Setting()) for one in found]

    backbone = tiny.backbone("gpt2", dropout=True)
    whole, cut = runs(backbone, "whole"), runs(backbone, "cut")
    tune_runs(backbone, whole)
    with pytest.raises(Interrupted, match=r"after step 4; .*--resume .*peft-lora --resume .*bitfit"):
        tune_runs(backbone, cut, interrupted=lambda: cut[0].candidate.step == 4)
    torch.manual_seed(99)
    again = [resume_run(read_run_card(run.folder), run.folder, backbone, tiny_task()) for run in reversed(cut)]
    assert sorted(run.candidate.step for run in again) == [0, 4, 6]
    tune_runs(backbone, again)
    for one, other in zip(whole, reversed(again), strict=True):
        assert_same_tensors(other.candidate.prompt.state_dict(), one.candidate.prompt.state_dict())
        assert other.candidate.history == one.candidate.history


def test_the_list_counts_baselines_in_the_network(cli: Cli, model: str) -> None:
    code, out, err = cli("list", "methods", "--backbone", model, "--json")
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)}
    weights = sum(tensor.numel() for tensor in tiny.model("llama").parameters())
    assert rows["full"]["trainable"] == rows["full"]["stored"] == weights
    d, kv = tiny.D, tiny.D // 2
    assert rows["peft:lora"]["trainable"] == 2 * 8 * ((d + d) + (d + kv))  # two layers, rank 8, at q and v
    assert rows["peft:prefix"]["trainable"] == 20 * 2 * 2 * kv
    assert rows["bitfit"]["trainable"] is None
    assert {row["kind"] for name, row in rows.items() if name in BASELINES} == {"network"}
