"""The loop: what moves, what does not, what a bank changes (nothing), and going on after a stop."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from softprompt.backbones import Causal
from softprompt.methods.bank import Bank
from softprompt.methods.prompts.free import Free
from softprompt.methods.registry import METHODS
from softprompt.methods.soft_prompt import SoftPrompt, Text
from softprompt.recipes import Recipe
from softprompt.tasks import Example, Task
from softprompt.training.candidate import Candidate
from softprompt.training.checkpoint import load_checkpoint, save_checkpoint
from softprompt.training.gradients import Gradients
from softprompt.training.loop import tune
from softprompt.training.order import ExampleOrder
from tests import tiny
from tests.candidates import candidate, on_families, one_of_each_kind, tiny_task
from tests.compare import assert_close, assert_same_tensors, copied, moved


@pytest.mark.parametrize(("family", "method"), on_families(METHODS))
def test_every_tensor_of_the_method_moves_and_none_of_the_backbone(family: str, method: str) -> None:
    backbone = tiny.backbone(family)
    one = candidate(backbone, method)
    before, frozen = copied(one.prompt), copied(backbone.model)
    tune(backbone, [one])
    trainable = {name for name, _ in one.prompt.named_parameters()}
    assert moved(before, copied(one.prompt)) >= trainable
    assert moved(frozen, copied(backbone.model)) == set()


@pytest.mark.parametrize(("family", "method"), on_families(METHODS))
def test_every_method_learns_eight_examples(family: str, method: str) -> None:
    backbone = tiny.backbone(family)
    steps = 60 if family == "t5" else 30  # what a random decoder reads off its encoder moves it slowly
    one = candidate(backbone, method, steps=steps, batch=8, evaluate_every=steps, rate_factor=3)
    tune(backbone, [one])
    losses = [entry["loss"] for entry in one.history if "loss" in entry]
    # A random decoder can do little with what its encoder reads, so the fall is not to zero.
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("family", ["gpt2", "bart", "roberta"])
def test_a_bank_of_mixed_methods_trains_each_prompt_as_it_would_alone(family: str) -> None:
    specs: list[tuple[str, dict[str, Any]]] = [
        ("prompt_tuning", {"seed": 0}),
        ("prompt_tuning", {"seed": 1, "rates": {"prompt": 0.3}}),
        ("dept", {"steps": 4}),
        ("superpos", {"batch": 3}),
        ("superpos_dept", {"clip": 0.01}),
        ("dept", {"options": {"length": 5, "rank": 2}}),
        ("adept", {"batch": 3}),
        ("attempt", {"steps": 5}),
    ]
    specs += [(method, {}) for method in METHODS if method not in dict(specs)]

    def bank() -> list[Candidate]:
        made = [candidate(tiny.backbone(family), method, **settings) for method, settings in specs]
        for i, one in enumerate(made):
            one.name = f"{one.name}-{i}"
        return made

    together, alone = bank(), bank()
    tune(tiny.backbone(family), together)
    for one in alone:
        tune(tiny.backbone(family), [one])
    for mixed, single in zip(together, alone, strict=True):
        assert mixed.step == single.step == mixed.recipe.steps
        for name, tensor in single.prompt.state_dict().items():
            assert_close(mixed.prompt.state_dict()[name].float(), tensor.float(), 2e-4)


def other_task() -> Task:
    """Five questions with three answers: another task, of another size."""
    texts = ["parcel late", "invoice wrong where", "log in", "my parcel", "invoice very bad"]
    answers = ("yes", "no", "maybe")
    examples = [Example(text, answers[i % 3], " label :", answers, (), str(i)) for i, text in enumerate(texts)]
    return Task(
        "other", {"train": examples, "dev": examples, "test": examples}, answers, ("accuracy",), "{text} label :"
    )


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_candidates_that_come_and_go_with_other_tasks_are_each_as_alone(family: str) -> None:
    """Six runs of two tasks in three places, ending at their last step or out of patience; one draws noise."""
    specs: list[tuple[str, Task, dict[str, Any]]] = [
        ("prompt_tuning", tiny_task(), {"steps": 2}),
        ("dept", other_task(), {"seed": 1, "rates": {"prompt": 0.05}}),
        ("smop", tiny_task(), {"seed": 2, "steps": 5, "batch": 3}),
        ("superpos", other_task(), {"rates": {"weights": 0.0, "codebook": 0.0}, "evaluate_every": 1, "patience": 2}),
        ("adept", tiny_task(), {"batch": 2, "steps": 3}),
        ("residual", other_task(), {"seed": 4, "schedule": "cosine"}),
    ]

    def bank() -> list[Candidate]:
        return [candidate(tiny.backbone(family), method, task, **recipe) for method, task, recipe in specs]

    together, alone = bank(), bank()
    order: list[str] = []
    held: list[list[int]] = []

    def look() -> bool:
        held.append([one.step for one in together])
        assert sum(step > 0 for step in held[-1]) <= 3 + len(order)
        return False

    tune(
        tiny.backbone(family),
        iter(together),
        max_parallel=3,
        on_done=lambda one: order.append(one.name),
        interrupted=look,
    )
    for one in alone:
        tune(tiny.backbone(family), [one])
    assert order[0] == "prompt_tuning"
    assert sorted(order) == sorted(one.name for one in together)
    assert held[2][:4] == [2, 2, 2, 0], "the fourth waits until a place is free"
    assert held[3][:4] == [2, 3, 3, 1]
    for mixed, single in zip(together, alone, strict=True):
        assert (mixed.step, mixed.stopped) == (single.step, single.stopped)
        for entry, expected in zip(mixed.history, single.history, strict=True):
            assert entry.keys() == expected.keys()
            assert entry.get("dev") == expected.get("dev")
            assert entry.get("rates") == expected.get("rates")
            assert entry.get("loss", 0.0) == pytest.approx(expected.get("loss", 0.0), abs=2e-4)
        for name, tensor in single.prompt.state_dict().items():
            assert_close(mixed.prompt.state_dict()[name].float(), tensor.float(), 2e-4)
    assert together[3].stopped is not None


@pytest.mark.parametrize(
    ("method", "stop"),
    [(name, 3) for name in METHODS] + [(name, i) for name in one_of_each_kind(METHODS) for i in (2, 5)],
)
def test_resumed_equals_uninterrupted_to_the_bit(method: str, stop: int, tmp_path: Any) -> None:
    backbone = tiny.backbone("llama", dropout=True)
    whole = candidate(backbone, method)
    torch.manual_seed(7)
    tune(backbone, [whole])

    first = candidate(backbone, method)
    torch.manual_seed(7)
    tune(
        backbone, [first], interrupted=lambda: first.step >= stop, on_checkpoint=lambda c: save_checkpoint(c, tmp_path)
    )
    assert first.step == stop
    torch.manual_seed(99)  # a new process has other random states
    second = candidate(backbone, method)
    load_checkpoint(second, tmp_path)
    tune(backbone, [second])

    assert_same_tensors(second.prompt.state_dict(), whole.prompt.state_dict())
    assert_same_tensors(second.best_state, whole.best_state)
    assert second.history == whole.history
    assert second.best == whole.best


def test_a_resumed_run_is_compared_against_something_that_differs() -> None:
    backbone = tiny.backbone("llama")
    one, other = candidate(backbone, "dept"), candidate(backbone, "dept", seed=1)
    tune(backbone, [one, candidate(backbone, "superpos")])
    tune(backbone, [other])
    with pytest.raises(AssertionError):
        assert_same_tensors(one.prompt.state_dict(), other.prompt.state_dict())


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_smops_penalty_which_is_no_sum_over_examples_is_the_same_however_a_step_is_cut(family: str) -> None:
    def gradient(tokens_per_pass: int | None, balance: float = 5.0) -> torch.Tensor:
        backbone = tiny.backbone(family)
        one = candidate(backbone, "smop", options={"length": 3, **tiny.small("smop", balance=balance)}, batch=8)
        with backbone.using(Bank({"one": one.prompt}).train()):
            Gradients(backbone, tokens_per_pass)([one], [0])
        grad = one.prompt.prompt.router.grad  # type: ignore[union-attr]
        assert isinstance(grad, torch.Tensor)
        return grad

    whole = gradient(None)
    assert_close(gradient(1), whole)
    assert_close(gradient(20), whole)
    assert float((gradient(None, 0.0) - whole).abs().max()) > 1e-3


class Charged(Free):
    """Free rows whose squares cost, once for each example: a penalty that is additive, so that it can be known."""

    has_penalty = True

    def penalty(self, text: Text) -> torch.Tensor:
        return self.rows.square().sum() * text.mask.any(1).float().mean()


@pytest.mark.parametrize("tokens_per_pass", [None, 40, 1])
@pytest.mark.parametrize("route", ["packed", "plain", "t5"])
def test_a_penalty_reaches_the_gradient_of_its_own_prompt_once_however_a_step_is_cut(
    route: str, tokens_per_pass: int | None
) -> None:
    backbone = tiny.backbone("t5" if route == "t5" else "llama")
    if isinstance(backbone, Causal):
        backbone.share = route == "packed"

    def gradients(charged: bool) -> list[torch.Tensor]:
        found = [candidate(backbone, "prompt_tuning", batch=batch, seed=batch) for batch in (7, 2, 3)]
        for one in found[: 2 if charged else 0]:
            one.prompt = SoftPrompt(Charged(one.prompt.prompt.rows))  # type: ignore[arg-type]
        for i, one in enumerate(found):
            one.name = str(i)
        with backbone.using(Bank({one.name: one.prompt for one in found}).train()):
            assert backbone.can_pack([0, 1]) == (route == "packed")
            Gradients(backbone, tokens_per_pass)(found, [0, 1, 2])
        return [torch.cat([one.prompt.prompt.rows, one.prompt.prompt.rows.grad]) for one in found]  # type: ignore

    for i, (with_it, without) in enumerate(zip(gradients(True), gradients(False), strict=True)):
        rows, grad = without.split(3)
        assert_close(with_it[3:], grad + (2 * rows if i < 2 else 0))


def test_smops_penalty_moves_its_router() -> None:
    moves = []
    for balance in (0.0, 5.0):
        backbone = tiny.backbone("llama")
        one = candidate(backbone, "smop", options={"length": 3, **tiny.small("smop", balance=balance)}, steps=1)
        tune(backbone, [one])
        moves.append(one.prompt.state_dict()["prompt.router"])
    assert not torch.allclose(moves[0], moves[1])


def test_two_learning_rates_one_for_each_part() -> None:
    backbone = tiny.backbone("llama")
    one = candidate(backbone, "dept", rates={"prompt": 1e-2, "offset": 0.0}, clip=None)
    before = copied(one.prompt)
    tune(backbone, [one])
    assert moved(before, copied(one.prompt)) == {"prompt.rows", "offset.reached"}


def test_the_codebook_is_left_alone_by_weight_decay() -> None:
    backbone = tiny.backbone("llama")
    one = candidate(backbone, "superpos", decay={"weights": 0.5, "codebook": 0.5})
    decays = {group["name"]: group["weight_decay"] for group in one.optimizer.param_groups}
    assert decays == {"weights": 0.5, "codebook": 0.0}


def test_warm_up_then_linear_decay_to_zero() -> None:
    recipe = Recipe(steps=10, warmup=4)
    factors = [recipe.factor(step) for step in range(10)]
    assert_close(factors, [0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert Recipe(steps=10, warmup=0, schedule="constant").factor(9) == 1.0


def taken(size: int, seed: int, batch: int, steps: range) -> list[list[int]]:
    order = ExampleOrder(size, seed, batch)
    return [order.indices(step) for step in steps]


def test_each_pass_over_the_data_takes_every_example_once() -> None:
    seen = [i for step in taken(10, 3, 4, range(7)) for i in step]
    for start in (0, 10):
        assert sorted(seen[start : start + 10]) == list(range(10))
    assert seen[:10] != seen[10:20]
    assert taken(10, 3, 4, range(5, 6)) == taken(10, 3, 4, range(6))[5:]
    assert taken(3, 0, 8, range(1))[0][:3] != taken(3, 1, 8, range(1))[0][:3]


def test_a_step_in_tokens_takes_what_fits_and_every_example_once_a_pass() -> None:
    sizes = [5, 9, 1, 30, 4, 4, 2, 7]
    order = ExampleOrder(8, 3, 16, tokens=12, size_of=sizes.__getitem__)
    steps = [order.indices(step) for step in range(30)]
    assert all(sum(sizes[i] for i in step) <= 12 or len(step) == 1 for step in steps)
    assert any(step == [3] for step in steps), "an example longer than a step is one by itself"
    flat = [i for step in steps for i in step]
    for start in range(0, len(flat) - 8, 8):
        assert sorted(flat[start : start + 8]) == list(range(8))
    for step, following in pairwise(steps):
        assert sum(sizes[i] for i in step) + sizes[following[0]] > 12, "a step is as full as it can be"
    fresh = ExampleOrder(8, 3, 16, tokens=12, size_of=sizes.__getitem__)
    assert fresh.indices(17) == steps[17], "a resumed run finds the same step"


def test_a_recipe_counts_its_steps_in_tokens() -> None:
    backbone = tiny.backbone("llama")
    one = candidate(backbone, "prompt_tuning", tokens_per_step=14)
    sizes = {len(one.next_examples())}
    tune(backbone, [one])
    assert one.step == 6
    assert sizes == {2}, "sources of 5 to 7 tokens with their cue, and one of target"


def test_patience_ends_a_run_and_the_best_state_comes_back() -> None:
    backbone = tiny.backbone("llama")
    one = candidate(backbone, "prompt_tuning", steps=50, evaluate_every=1, patience=2, rates={"prompt": 0.0})
    tune(backbone, [one])
    assert one.step == 3
    assert one.stopped is not None
    assert one.best is not None
    assert one.best["step"] == 1


def poison(one: Candidate, at: int) -> Callable[[], bool]:
    """Put a NaN into a prompt when it has made `at` steps; never interrupts."""

    def watch() -> bool:
        if one.step == at:
            with torch.no_grad():
                next(iter(one.prompt.parameters()))[0] = math.nan
        return False

    return watch


def test_a_loss_that_is_not_finite_ends_that_prompt_alone_and_keeps_its_best() -> None:
    backbone = tiny.backbone("llama")
    bad, good, alone = (candidate(backbone, "dept", evaluate_every=2) for _ in range(3))
    bad.name, good.name = "bad", "good"
    tune(backbone, [bad, good], interrupted=poison(bad, 3))
    tune(backbone, [alone])
    assert bad.stopped is not None
    assert "nan" in bad.stopped
    assert bad.best is not None
    assert bad.best["step"] == 2
    assert all(tensor.isfinite().all() for tensor in bad.best_state.values())
    assert good.step == 6
    for name, tensor in alone.prompt.state_dict().items():
        assert_close(good.prompt.state_dict()[name].float(), tensor.float(), 1e-4)


def test_open_ended_tasks_train_and_generate() -> None:
    backbone = tiny.backbone("t5")
    one = candidate(backbone, "dept", tiny_task(choices=()))
    tune(backbone, [one])
    assert one.best is not None
    assert one.best["metric"] == "exact_match"


def test_a_task_that_is_scored_by_generated_text_selects_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers get worse after step 2 whatever the ranking says, so step 2 is the best."""
    backbone = tiny.backbone("t5")
    one = candidate(backbone, "prompt_tuning", replace(tiny_task(), scoring="generated"), evaluate_every=1)
    right = {1: 4, 2: 6, 3: 5, 4: 0, 5: 1, 6: 2}

    def answer(examples: list[Example], *_: Any, **__: Any) -> list[str]:
        return [e.target if int(e.id) < right[one.step] else "red" for e in examples]

    monkeypatch.setattr(backbone, "answer", answer)
    monkeypatch.setattr(backbone, "rank", None)  # not asked
    tune(backbone, [one])
    dev = [entry["dev"]["accuracy"] for entry in one.history if "dev" in entry]
    assert dev == [4 / 8, 6 / 8, 5 / 8, 0.0, 1 / 8, 2 / 8]
    assert one.best is not None
    assert (one.best["step"], one.best["value"]) == (2, 6 / 8)
    assert all(entry["dev_loss"] is None for entry in one.history if "dev" in entry)
    assert not one.failed


def test_dev_is_evaluated_before_the_first_step_where_that_is_asked_for() -> None:
    backbone = tiny.backbone("llama")
    given = {"steps": 4, "evaluate_every": 2}
    plain, early = (candidate(backbone, "prompt_tuning", evaluate_at_start=start, **given) for start in (False, True))
    for one in (plain, early):
        tune(backbone, [one])
    assert [entry["step"] for entry in early.history if "dev" in entry] == [0, 2, 4]
    assert [entry for entry in early.history if entry["step"]] == plain.history
    assert_same_tensors(early.prompt.state_dict(), plain.prompt.state_dict())


def test_a_strict_task_that_never_says_a_label_keeps_its_first_evaluation() -> None:
    backbone = tiny.backbone("t5")
    task = replace(tiny_task(), scoring="generated", strict=True)
    one = candidate(backbone, "prompt_tuning", task, rates={"prompt": 0.0}, evaluate_every=2)
    tune(backbone, [one])
    assert [entry["dev"] for entry in one.history if "dev" in entry] == [{"accuracy": 0.0}] * 3
    assert one.best is not None
    assert one.best["step"] == 2
