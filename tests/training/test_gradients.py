"""How a step is cut into passes: by tokens, by memory, by dtype. None of it changes the result."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import softprompt
from softprompt.backbones import Backbone, Batch, Losses, passes
from softprompt.backbones.causal import Causal
from softprompt.backbones.ops.layers import between_attentions, checkpoint_layers, compile_layers, layers_of
from softprompt.backbones.placement import Placement
from softprompt.errors import BadInput, OutOfMemory
from softprompt.methods.bank import Bank
from softprompt.methods.prompts.free import Free
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.tasks import Example
from softprompt.training.gradients import Gradients
from softprompt.training.loop import tune
from tests import tiny
from tests.candidates import candidate, tiny_task
from tests.compare import assert_close, difference


def examples(sizes: list[int]) -> list[Example]:
    return [Example(" ".join(["red"] * n), "good", " team :", ("good", "bad"), (), str(i)) for i, n in enumerate(sizes)]


def bank_of(backbone: Backbone, *methods: str) -> Bank:
    return Bank({f"{i}": candidate(backbone, method).prompt for i, method in enumerate(methods)})


def gradient(backbone: Backbone, limit: int | None, methods: tuple[str, ...] = ("dept", "prompt_tuning")) -> Any:
    """The first step's gradient of a bank, as one vector, and its losses."""
    found = [candidate(backbone, method, batch=8, seed=i) for i, method in enumerate(methods)]
    bank = Bank({str(i): one.prompt for i, one in enumerate(found)}).train()
    with backbone.using(bank):
        losses = Gradients(backbone, limit)(found, range(len(found)))
    grads = [t.grad.flatten() for t in bank.parameters() if t.grad is not None]
    assert len(grads) == len(list(bank.parameters()))
    return torch.cat(grads), torch.tensor(list(losses.values()))


@pytest.mark.parametrize("family", ["llama", "t5", "bart", "mamba"])
@pytest.mark.filterwarnings("ignore:.*cannot compute a prompt once")
def test_the_gradient_does_not_depend_on_how_a_step_is_cut(family: str) -> None:
    backbone = tiny.backbone(family)
    whole, losses = gradient(backbone, 10_000)
    for limit in (64, 12, 1):
        cut, same = gradient(backbone, limit)
        assert difference(cut, whole) < 1e-5
        assert_close(same, losses)


def test_packed_passes_hold_real_tokens_and_each_prompt_once() -> None:
    backbone = tiny.backbone("llama")
    sizes = [1, 30, 2, 9, 4, 4, 17, 3]
    with backbone.using(bank_of(backbone, "prompt_tuning", "dept")):
        owners = [0, 1, -1, 0, 1, 0, 1, 0]
        found = list(passes(backbone, examples(sizes), owners, 30, targets=True))
        assert sorted(i for group in found for i in group) == list(range(8))
        for group in found:
            rows = sum(sizes[i] + 3 for i in group)  # the cue has two tokens, the target one
            prompts = 3 * len({owners[i] for i in group} - {-1})
            assert rows + prompts <= 30 or len(group) == 1
        assert len(list(passes(backbone, examples(sizes), owners, 200, targets=True))) == 1


@pytest.mark.filterwarnings("ignore:.*cannot compute a prompt once")
def test_padded_passes_put_like_lengths_together() -> None:
    backbone = tiny.backbone("mamba")
    sizes = [50, 3, 51, 2, 3, 49]
    with backbone.using(bank_of(backbone, "prompt_tuning")):
        found = list(passes(backbone, examples(sizes), [0] * 6, 2048))
    assert [sorted(group) for group in found] == [[1, 3, 4], [0, 2, 5]]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_runs_rows_of_like_length_together_and_the_decoder_runs_once(family: str) -> None:
    backbone = tiny.backbone(family)
    backbone.check()  # its own forwards are not counted
    sizes = [50, 3, 51, 2, 3, 49]
    widths: list[tuple[int, ...]] = []
    decoded: list[int] = []
    backbone.model.get_encoder().register_forward_hook(  # type: ignore[operator]
        lambda _, __, given, made: widths.append(tuple(made.last_hidden_state.shape[:2])), with_kwargs=True
    )
    backbone.model.get_decoder().register_forward_hook(  # type: ignore[operator]
        lambda _, __, made: decoded.append(len(made.last_hidden_state))
    )
    with backbone.using(bank_of(backbone, "dept")):
        batch = backbone.pose(examples(sizes), [0] * 6, targets=True)
        together = backbone.loss(batch).nll
        assert [b for b, _ in widths] == [3, 3]
        assert widths[0][1] < 12 < widths[1][1]
        assert decoded == [6]
        alone = [backbone.loss(backbone.pose([e], [0], targets=True)).nll for e in examples(sizes)]
    assert_close(together.detach(), torch.cat(alone).detach())


class _Small:
    """A backbone that runs out of memory above `most` examples, sometimes after it has made gradients."""

    def __init__(self, backbone: Backbone, most: int) -> None:
        self.inner, self.most, self.failures = backbone.loss, most, 0
        backbone.loss = self  # type: ignore[method-assign]

    def __call__(self, batch: Batch) -> Losses:
        found = self.inner(batch)
        if len(batch.ids) > self.most:
            self.failures += 1
            found.nll.sum().backward()  # what a backward pass may leave behind before it fails
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return found


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_out_of_memory_halves_the_pass_and_leaves_the_gradient_as_it_is(family: str) -> None:
    backbone = tiny.backbone(family)
    whole, losses = gradient(backbone, None)
    small = _Small(backbone, 3)
    with pytest.warns(UserWarning, match="does not fit in memory; going on with"):
        halved, same = gradient(backbone, None)
    assert small.failures > 0
    assert difference(halved, whole) < 1e-5
    assert_close(same, losses)


def test_an_example_that_does_not_fit_is_an_error_that_says_what_to_do_after_saving() -> None:
    backbone = tiny.backbone("llama")
    _Small(backbone, 0)
    one = candidate(backbone, "dept")
    saved: list[str] = []
    with (
        pytest.warns(UserWarning, match="does not fit in memory"),
        pytest.raises(OutOfMemory, match=r"One example of \d+ tokens .* --gradient-checkpointing"),
    ):
        tune(backbone, [one], on_checkpoint=lambda c: saved.append(c.name))
    assert saved == ["dept"]
    assert one.step == 0


def test_other_runtime_errors_are_not_taken_for_memory() -> None:
    backbone = tiny.backbone("llama")

    def broken(_: Batch) -> Losses:
        raise RuntimeError("shapes do not match")

    backbone.loss = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes do not match"):
        gradient(backbone, None)


@pytest.mark.parametrize(("dtype", "angle"), [(torch.float16, 0.999), (torch.bfloat16, 0.98)])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_gradients_in_half_precision_are_near_those_in_float32(family: str, dtype: torch.dtype, angle: float) -> None:
    exact, losses = gradient(tiny.backbone(family), None)
    backbone = tiny.backbone(family)
    backbone.model.to(dtype)
    rough, near = gradient(backbone, None)
    assert rough.dtype == torch.float32
    assert torch.cosine_similarity(rough, exact, 0) > angle
    assert_close(near, losses, 0.05)


def test_a_float16_scale_that_overflows_is_lowered_and_the_step_done_again() -> None:
    backbone = tiny.backbone("llama")
    exact, _ = gradient(backbone, None)
    half = tiny.backbone("llama")
    half.model.half()
    one = candidate(half, "prompt_tuning", batch=8, seed=1)
    with half.using(Bank({"0": one.prompt}).train()):
        gradients = Gradients(half)
        gradients.scale = 2.0**24
        gradients([one], [0])
        assert 1.0 <= gradients.scale < 2.0**24
    found = next(iter(one.prompt.parameters())).grad
    assert found is not None
    assert difference(found.flatten(), exact[-found.numel() :]) < 0.02


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "neox", "t5", "bart", "mamba"])
@pytest.mark.filterwarnings("ignore:.*cannot compute a prompt once")
def test_checkpointed_layers_give_the_same_gradient_and_keep_less(family: str) -> None:
    found, kept = [], []
    for again in (False, True):
        backbone = tiny.backbone(family)
        if again:
            checkpoint_layers(backbone.model)
        gradient(backbone, None)  # the probe of packing, once, is not what is measured
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found.append(gradient(backbone, None)[0])
        kept.append(sum(sizes))
    assert torch.equal(found[0], found[1]) or difference(found[1], found[0]) < 1e-6
    assert kept[1] < 0.7 * kept[0]


def test_a_model_without_layers_to_compute_again_is_refused() -> None:
    with pytest.raises(BadInput, match="no layers that can be computed again"):
        checkpoint_layers(torch.nn.Linear(2, 2))


def test_compiling_is_refused_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(BadInput, match=r"needs a C\+\+ compiler"):
        compile_layers(tiny.model("llama"))


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_what_is_compiled_is_whole_parts_without_attention(family: str) -> None:
    model = tiny.model(family)
    names = {type(part).__name__ for layer in layers_of(model) for part in between_attentions(layer)}
    expected = {
        "llama": {"LlamaMLP", "LlamaRMSNorm"},
        "gpt2": {"GPT2MLP", "LayerNorm"},
        "t5": {"T5LayerFF", "T5LayerNorm"},
    }
    assert names == expected[family]


@pytest.mark.parametrize("choices", [("good", "bad"), ("good", "not good at all", "bad")])
def test_near_the_context_limit_a_source_is_cut_for_its_own_prompt_alone(choices: tuple[str, ...]) -> None:
    backbone = tiny.backbone("llama", max_source=90)
    bank = bank_of(backbone, "prompt_tuning")
    bank.add("long", SoftPrompt(Free(torch.randn(60, tiny.D))))
    asked = [Example("red sir " * n, "good", " team :", choices) for n in (44, 40)]
    with backbone.using(bank):
        mixed = backbone.rank(asked, [0, 1])
        assert_close(mixed[:1], backbone.rank(asked[:1], [0]))
        assert_close(mixed[1:], backbone.rank(asked[1:], [1]))
        assert backbone.pose(asked, [0, 1], targets=True).mask.sum(1).tolist() == [94, 96]  # max_source; all there are


def test_balanced_classes_weigh_an_example_by_the_inverse_share_of_its_answer() -> None:
    """With n examples and k answers, n / (k * count): every answer has the same part of the loss."""
    backbone, task = tiny.backbone("llama"), tiny_task()
    few = [e for e in task.examples["train"] if e.target == "good"][:1]
    many = [e for e in task.examples["train"] if e.target == "bad"][:3]
    task = replace(task, examples={**task.examples, "train": [*few, *many]})
    plain, weighed = (
        candidate(backbone, "prompt_tuning", task, batch=4, class_weights=how) for how in (None, "balanced")
    )
    assert [weighed.weight(example) for example in task.examples["train"]] == [2.0, 2 / 3, 2 / 3, 2 / 3]
    bank = Bank({"plain": plain.prompt, "weighed": weighed.prompt})
    with backbone.using(bank):
        nll = backbone.loss(backbone.pose([*few, *many], [0] * 4, targets=True)).nll
        losses = Gradients(backbone)([plain, weighed], [0, 1])
    assert_close(torch.tensor(losses[0]), nll.mean())
    assert_close(torch.tensor(losses[1]), (nll * torch.tensor([2.0, 2 / 3, 2 / 3, 2 / 3])).mean())


def test_class_weights_need_choices(data: Path) -> None:
    free = data.with_name("free.csv")
    free.write_text("text,label\n" + "".join(f"a {i},red {i}\n" for i in range(30)))
    with pytest.raises(BadInput, match=r"--class-weights balanced weighs the answers of a task with choices"):
        softprompt.train(data=free, backbone="smollm2-135m", output=data.with_name("run"), class_weights="balanced")


@pytest.mark.parametrize("placement", ["front", "after_bos"])
@pytest.mark.parametrize("share", [True, False])
def test_inputs_are_learned_token_by_token_from_the_second_on(share: bool, placement: Placement) -> None:
    """The mean over all text after its first token, as computed from the network's own logits, example by example."""
    backbone = tiny.backbone("llama", placement=placement)
    assert isinstance(backbone, Causal)
    backbone.share = share
    asked = tiny_task().examples["train"][:4]
    task = replace(tiny_task(), examples={**tiny_task().examples, "train": asked})
    both, answers = (candidate(backbone, "dept", task, batch=4, train_on_inputs=learn) for learn in (True, False))
    expected, tokens = torch.zeros(()), 0
    with backbone.using(Bank({"both": both.prompt})), torch.no_grad():
        for example in asked:
            batch = backbone.pose([example], [0], targets=True)
            with backbone.embedding.laid_out(batch.layout):
                scores = backbone.model(batch.ids).logits[0].log_softmax(-1)
            last = int((batch.ids[0] >= backbone.v).nonzero()[-1])  # of the soft tokens
            columns = range(last + 2, batch.ids.shape[1])
            expected = expected - sum(scores[i - 1, batch.ids[0, i]] for i in columns)
            tokens += len(columns)
    with backbone.using(Bank({"both": both.prompt, "answers": answers.prompt})):
        losses = Gradients(backbone)([both, answers], [0, 1])
        assert_close(torch.tensor(losses[0]), expected / tokens)
    with backbone.using(Bank({"answers": answers.prompt})):
        assert losses[1] == pytest.approx(Gradients(backbone)([answers], [0])[0], rel=1e-5)


def test_inputs_are_learned_alike_however_a_step_is_cut() -> None:
    backbone, found = tiny.backbone("llama"), []
    for limit in (10_000, 30, 1):
        one = candidate(backbone, "dept", batch=8, train_on_inputs=True)
        with backbone.using(Bank({"0": one.prompt}).train()):
            losses = Gradients(backbone, limit)([one], [0])
        found.append(torch.cat([losses[0] * torch.ones(1), *(t.grad.flatten() for t in one.prompt.parameters())]))  # type: ignore[union-attr]
    assert difference(found[1], found[0]) < 1e-5
    assert difference(found[2], found[0]) < 1e-5


def test_inputs_are_refused_where_no_prompt_predicts_them() -> None:
    for backbone, said in (
        (tiny.backbone("t5"), "an encoder-decoder"),
        (tiny.backbone("llama", placement="after_source"), "after_source"),
    ):
        with pytest.raises(BadInput, match=f"train_on_inputs.*{said}"):
            candidate(backbone, "prompt_tuning", train_on_inputs=True)
