"""Papers' recipes and tables: each number with its source, the sizes the papers count, the means they print."""

import statistics
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from docs.make_papers import FILE, page
from pydantic import ValidationError
from torch import Tensor

from softprompt.errors import BadInput, UnknownName
from softprompt.methods.registry import InitContext, get_method, make
from softprompt.recipes import Plan, Recipe, parse_recipe
from softprompt.recipes.registry import RECIPES, TABLES, get_recipe, get_table
from softprompt.recipes.tables import Line, as_number
from softprompt.tasks.published.catalogue import find
from softprompt.tasks.published.protocols import get_protocol
from softprompt.training.candidate import make_optimizer
from softprompt.training.checkpoint import load_checkpoint, save_checkpoint
from softprompt.training.loop import tune
from tests import tiny
from tests.candidates import candidate
from tests.compare import assert_close, assert_same_tensors

PAPERS = ("dept", "superpos", "lester", "peft", "ours")
D = 768  # T5-base


class T5Base:
    """A vocabulary of T5-base's width."""

    d = D

    def ordinary_ids(self) -> list[int]:
        return list(range(200))

    def tokens(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]

    def embed(self, ids: Sequence[int]) -> Tensor:
        return torch.ones(len(ids), D) * torch.tensor(ids, dtype=torch.float32).unsqueeze(1)


def trainable(plan: Plan) -> int:
    """Values that a plan trains on T5-base."""
    context = InitContext(T5Base(), plan.setting.max_source, ("no", "yes"))
    return make(get_method(plan.recipe.method), plan.recipe.parsed_options(), context).trainable()


def numbers_of(plan: Plan) -> set[str]:
    """Every field that a plan sets, by the name that `sources` has for it; the method is the paper's own."""
    recipe = plan.recipe.model_dump(exclude_unset=True)
    groups = {name: recipe.pop(name, {}) for name in ("options", "rates", "decay")}
    setting = {f"setting.{name}" for name in plan.setting.model_dump(exclude_unset=True)}
    return (recipe.keys() - {"method"}) | setting | {f"{head}.{name}" for head in groups for name in groups[head]}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_whole_and_bears_the_name_it_is_found_by(name: str) -> None:
    plan = get_recipe(name)
    assert plan.name == name
    assert plan.recipe.parsed_options().length > 0
    assert parse_recipe(plan.recipe.model_dump(exclude_unset=True)) == plan.recipe
    assert Plan.model_validate(plan.model_dump(exclude_unset=True)) == plan
    find(plan.task.task).form(plan.task.form or get_protocol(plan.task.protocol).form)
    with pytest.raises(ValidationError):
        plan.recipe.seed = 7  # type: ignore[misc]
    with pytest.raises(ValidationError):
        plan.notes = ()  # type: ignore[misc]


def test_a_recipe_that_was_changed_is_not_what_the_next_one_gets() -> None:
    get_recipe("dept/glue-rte").recipe.options["length"] = 1
    get_recipe("dept/glue-rte").sources.clear()
    assert get_recipe("dept/glue-rte").recipe.options["length"] == 60
    assert get_recipe("dept/glue-rte").sources


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith(PAPERS)])
def test_every_number_of_a_papers_recipe_has_its_source(name: str) -> None:
    plan = get_recipe(name)
    told = {number for number in numbers_of(plan) if number not in plan.sources}
    assert {number for number in told if number.split(".")[0] not in plan.sources} == set()
    assert all(plan.sources.values())


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("dept")])
def test_depts_recipes_train_as_many_values_as_the_paper_counts(name: str) -> None:
    plan = get_recipe(name)
    options, s = plan.recipe.parsed_options(), plan.setting.max_source
    expected = options.length * D + (s + D) * getattr(options, "rank", 0)
    longer = "multirc" in name and "prompt-tuning" not in name
    assert trainable(plan) == expected == (79_560 if longer else 76_800)
    if name == "dept/superglue-multirc":
        assert any("79,560" in note for note in plan.notes)


def test_superpos_and_prompt_tuning_train_as_many_values_as_the_papers_count() -> None:
    assert trainable(get_recipe("superpos/glue-rte")) == 984_320
    assert trainable(get_recipe("superpos-simple/glue-rte")) == 7_680
    assert trainable(get_recipe("lester/superglue-cb")) == 76_800


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dept/glue-cola", {"length": 80, "rank": 15, "prompt": 0.3, "offset": 5e-4, "steps": 40_000}),
        ("dept/superglue-boolq", {"length": 40, "rank": 45, "prompt": 0.3, "offset": 5e-3, "steps": 30_000}),
        ("dept/mrqa-newsqa", {"length": 60, "rank": 24, "prompt": 0.4, "offset": 1e-4, "steps": 200_000}),
    ],
)
def test_released_runs_have_the_numbers_of_their_folders(name: str, expected: dict[str, float]) -> None:
    recipe = get_recipe(name).recipe
    assert {**recipe.options, **recipe.rates, "steps": recipe.steps}.items() >= expected.items()
    common = {"batch": 32, "warmup": 500, "schedule": "linear", "epsilon": 1e-6, "clip": 1.0, "seed": 42}
    assert recipe.model_dump().items() >= common.items()


def test_dropout_is_all_that_parts_the_two_superpos_families() -> None:
    off, on = get_recipe("superpos/glue-rte"), get_recipe("superpos-dropout/glue-rte")
    assert (off.setting.dropout, on.setting.dropout) == (False, True)
    assert off.recipe == on.recipe
    assert off.task == on.task


def test_unknown_recipes_and_tables_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'dept/glue-rte'"):
        get_recipe("dept/glue-rt")
    with pytest.raises(UnknownName, match="Did you mean 'superpos/table3'"):
        get_table("superpos/tabel3")


# Tables


def test_a_score_is_a_number_of_a_pair_a_dagger_or_a_deviation() -> None:
    given = (None, 70.2, 41, "79.1/83.3", "0†", "73.2±.3", "-", "12.3/-", "", "81.2/0†")
    expected = [None, 70.2, 41, 81.2, 0.0, 73.2, None, None, None, 40.6]
    assert [pytest.approx(as_number(score)) if score is not None else score for score in given] == expected


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_a_score_for_each_column_and_a_recipe_for_each_line_it_runs(name: str) -> None:
    table = TABLES[name]
    tasks = [column.task for column in table.columns]
    for line in table.lines:
        assert line.plan or line.published, line.name
        assert list(line.published) == [task for task in tasks if task in line.published], line.name
        assert line.plan is None or len(line.published) in (0, len(line.tasks or tasks)), line.name
        assert all(as_number(score) is not None for score in line.published.values()), line.name
        for task in tasks if line.plan else ():
            plan = line.plan(task)  # type: ignore[misc]  # not None here
            assert plan.task.task == task
            assert plan.setting.backbone in (table.backbone, "")
    assert len({line.name for line in table.lines}) == len(table.lines)


@pytest.mark.parametrize("name", TABLES)
def test_a_tables_metrics_are_those_of_its_tasks(name: str) -> None:
    table = TABLES[name]
    for column in table.columns:
        entry = find(column.task)
        forms = {get_protocol(line.plan(column.task).task.protocol).form for line in table.lines if line.plan}
        for form in forms:
            metrics = entry.metric_names(entry.form(form))
            for part in column.metric.split("+"):
                assert any(metric == part or metric.startswith(f"{part}(") for metric in metrics), column


def line(table: str, name: str) -> Line:
    return next(line for line in get_table(table).lines if line.name == name)


def mean(table: str, name: str, tasks: slice = slice(None)) -> float:
    scores = list(line(table, name).published.values())[tasks]
    return statistics.mean(as_number(score) or 0.0 for score in scores)


@pytest.mark.parametrize(
    ("table", "name", "tasks", "published"),
    [
        ("dept/table1", "dept", slice(8), 85.9),
        ("dept/table1", "dept", slice(8, None), 76.5),
        ("dept/table1", "prompt-tuning", slice(8), 84.8),
        ("dept/table1", "prompt-tuning", slice(8, None), 60.0),
        ("dept/table1", "prompt-tuning-again", slice(8, None), 73.3),
        ("dept/table1", "fine-tuning", slice(8), 84.9),
        ("dept/table1", "lora", slice(8, None), 76.5),
        ("dept/table1", "mpt", slice(8), 85.6),
        ("dept/table1", "attempt", slice(8, None), 70.5),
        ("dept/table2", "dept", slice(4), 72.8),  # 73.0 in the paper, whose four scores have the mean 72.8
        ("dept/table2", "dept", slice(4, None), 86.3),
        ("dept/table2", "prompt-tuning", slice(4), 70.8),
        ("superpos/table1-small", "superpos", slice(None), 70.2),
        ("superpos/table1-small", "simple", slice(None), 41.5),
        ("superpos/table1-small", "fine-tuning", slice(None), 71.7),
        ("superpos/table1-base", "superpos", slice(None), 75.8),
        ("superpos/table1-base", "superpos-dropout", slice(None), 68.0),
        ("superpos/table1-base", "residual", slice(None), 70.8),
        ("superpos/table1-base", "simple-dropout", slice(None), 35.3),
        ("superpos/table3", "superpos", slice(None), 81.2),
    ],
)
def test_the_lines_have_the_means_that_the_papers_print(table: str, name: str, tasks: slice, published: float) -> None:
    assert mean(table, name, tasks) == pytest.approx(published, abs=0.0501)


def test_a_part_of_a_table_is_chosen_by_name() -> None:
    table = get_table("dept/table1")
    columns, lines = table.select(["rte", "superglue/cb"], ["dept"])
    assert [column.task for column in columns] == ["glue/rte", "superglue/cb"]
    assert [line.name for line in lines] == ["dept"]
    twice = table.select(["rte", "glue/rte"], ["dept", "dept"])
    assert [len(part) for part in twice] == [1, 1]
    assert [line.name for line in table.select(None, None)[1]] == ["prompt-tuning", "dept"]
    with pytest.raises(UnknownName, match="Did you mean 'prompt-tuning'"):
        table.select(None, ["prompt_tuning"])
    with pytest.raises(UnknownName, match="line of dept/table1 'mpt'"):
        table.select(None, ["mpt"])  # quoted only
    with pytest.raises(UnknownName, match="Did you mean 'glue/mrpc'"):
        table.select(["glue/mrcp"], None)


# Recipe


def test_a_run_is_as_long_as_one_of_steps_and_epochs_says() -> None:
    with pytest.raises(BadInput, match="steps and epochs are both given"):
        parse_recipe({"steps": 10, "epochs": 2})
    with pytest.raises(BadInput, match="no fixed number of steps"):
        parse_recipe({"tokens_per_step": 100, "epochs": 2})
    with pytest.raises(BadInput, match="no fixed number of steps"):
        parse_recipe({"tokens_per_step": 100, "evaluate_every": "epoch"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"evaluate_every": "epochs"}, "evaluate_every='epochs': Input"),
        ({"evaluate_every": 0}, "evaluate_every=0: expected at least 1, or epoch"),
        ({"rates": 0.3}, "rates=0.3: Input should be a valid dictionary"),
        ({"rates": {"prompt": "fast"}}, "rates.prompt='fast': Input should be a valid number"),
        ({"rates": {"prmpt": 0.3}}, "Did you mean 'prompt'"),
        ({"decay": {"offset": 0.3}}, "Unknown group of prompt_tuning 'offset'"),
        ({"shedule": "linear"}, "Did you mean 'schedule'"),
        ({"method": "deptt"}, "Did you mean 'dept'"),
        ({"options": {"lenght": 3}}, "Did you mean 'length'"),
        ({"options": {"length": "long"}}, "option length='long'"),
        ({"clip": 0}, "clip=0"),
        ({"betas": [0.9]}, "betas"),
    ],
)
def test_a_recipe_that_is_none_says_what_is_wrong(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message.replace("(", r"\(")):
        parse_recipe(given)


def test_epochs_become_steps_when_the_examples_are_known() -> None:
    recipe = Recipe(epochs=3, evaluate_every="epoch", batch=16)
    resolved = recipe.resolved(0.5, {"prompt"}, 100)
    assert (resolved.steps, resolved.evaluate_every, resolved.epochs) == (21, 7, None)
    assert resolved.warmup == round(0.06 * 21)
    assert resolved.rates == {"prompt": pytest.approx(0.3 * 0.5)}
    assert resolved.decay == {"prompt": 0.0}
    assert resolved.resolved(0.5, {"prompt"}, 100) == resolved
    assert Recipe.model_validate_json(resolved.model_dump_json()) == resolved
    with pytest.raises(UnknownName, match="'prompt'"):
        Recipe(rates={"prmpt": 1.0}).resolved(0.5, {"prompt"}, 100)


def test_given_rates_hold_and_the_methods_rule_gives_the_others() -> None:
    recipe = Recipe(method="dept", rates={"offset": 0.7}, decay={"offset": 0.1}, steps=1000, warmup=0)
    resolved = recipe.resolved(2.0, {"prompt", "offset"}, 8)
    assert resolved.rates == {"prompt": pytest.approx(0.6), "offset": 0.7}
    assert resolved.decay == {"prompt": 0.0, "offset": 0.1}
    assert (resolved.steps, resolved.warmup, resolved.evaluate_every) == (1000, 0, 50)


def test_a_cosine_falls_from_one_to_zero_behind_the_warm_up() -> None:
    recipe = Recipe(steps=12, warmup=4, schedule="cosine")
    halves = [0.5 + 0.5 * torch.cos(torch.tensor(torch.pi * i / 8)).item() for i in range(8)]
    assert_close([recipe.factor(step) for step in range(12)], [0.25, 0.5, 0.75, 1.0, *halves], 1e-6)
    assert recipe.factor(8) == pytest.approx(0.5)
    assert recipe.factor(12) == pytest.approx(0.0)


def test_adamw_is_told_the_betas_and_epsilon_of_the_recipe() -> None:
    one = candidate(tiny.backbone("llama"), "dept", betas=(0.5, 0.6), epsilon=1e-3)
    assert all(group["betas"] == (0.5, 0.6) and group["eps"] == 1e-3 for group in one.optimizer.param_groups)
    assert isinstance(one.optimizer, torch.optim.AdamW)


def test_adafactor_steps_by_the_rate_as_given_without_scaling_by_the_parameter() -> None:
    """Its first step is the rate in every entry (RMS 1), for small and for large parameters alike."""
    for size in (1e-3, 1e3):
        rows = torch.nn.Parameter(torch.full((2, 4), size, dtype=torch.float64))
        group = {"name": "prompt", "params": [rows], "lr": 0.25, "weight_decay": 0.0}
        made = make_optimizer(Recipe(optimizer="adafactor"), [group])
        rows.grad = torch.ones_like(rows)
        made.step()
        assert_close(size - rows.detach(), torch.full((2, 4), 0.25), 1e-4)


def test_adafactor_is_that_of_t5x() -> None:
    """The second moment is kept whole, and the decay is taken off once a step whatever the rate is."""
    rows = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
    group = {"name": "prompt", "params": [rows], "lr": 0.0, "weight_decay": 1e-5}
    made = make_optimizer(Recipe(optimizer="adafactor"), [group])
    for _ in range(300):
        rows.grad = torch.zeros_like(rows)
        made.step()
    assert float(rows.detach().mean()) ** 100 == pytest.approx(0.741, abs=1e-3)  # after 30,000 steps
    group["lr"], gradients, moment = 0.3, torch.randn(3, 2, 3, dtype=torch.float64), torch.zeros(2, 3)
    made = make_optimizer(Recipe(optimizer="adafactor"), [group | {"weight_decay": 0.0}])
    expected = rows.detach().clone()
    for step, gradient in enumerate(gradients, 1):
        rows.grad = gradient.clone()
        made.step()
        kept = 1 - step**-0.8
        moment = kept * moment + (1 - kept) * gradient**2
        update = gradient / moment.sqrt()
        expected -= 0.3 * update / max(1.0, float(update.square().mean().sqrt()))
        assert_close(rows.detach(), expected, 1e-9)


def test_residual_prompt_tuning_is_in_the_table_it_is_the_headline_of() -> None:
    for name in ("small", "base"):
        lines = {line.name: line for line in get_table(f"superpos/table1-{name}").lines}
        for line in ("residual", "residual-dropout"):
            plan = lines[line].plan
            assert plan is not None
            made = plan("glue/rte")
            assert made.recipe.options["bottleneck"] == 128
            assert (made.recipe.rates["network"], made.recipe.decay["network"]) == (0.3, 0.01)
            assert made.setting.dropout is (line == "residual-dropout")


def test_attempt_is_in_the_table_where_its_source_prompts_are_given() -> None:
    table = get_table("superpos/table1-small")
    assert not any(line.name.startswith("attempt") for line in table.select(None, None)[1])
    columns, lines = table.select(None, ["attempt", "attempt-dropout"], {"sources": ["a"]})
    assert " ".join(column.heading for column in columns) == "stsb mrpc cola multirc rte cb copa wic boolq"
    for line in lines:
        assert line.plan is not None
        made = line.plan("glue/rte")
        assert made.recipe.options["width"] == 100
        assert (set(made.recipe.rates.values()), set(made.recipe.decay.values())) == ({0.3}, {1e-5})
        assert made.setting.dropout is (line.name == "attempt-dropout")
    with pytest.raises(BadInput, match=r"The line attempt of superpos/table1-small needs --set sources=\.\.\."):
        table.select(None, ["attempt"])
    with pytest.raises(BadInput, match=r"No such line of .* has a recipe for glue/sst2; .* glue/stsb, glue/mrpc"):
        table.select(["sst2"], ["attempt"], {"sources": ["a"]})


def test_adafactor_learns() -> None:
    backbone = tiny.backbone("t5")
    rates = {"prompt": 0.3}
    one = candidate(backbone, "prompt_tuning", optimizer="adafactor", rates=rates, steps=40, batch=8, evaluate_every=40)
    tune(backbone, [one])
    losses = [entry["loss"] for entry in one.history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.3


def test_adafactor_resumed_equals_uninterrupted_to_the_bit(tmp_path: Any) -> None:
    backbone = tiny.backbone("llama")

    def made() -> Any:
        return candidate(backbone, "dept", optimizer="adafactor", decay={"prompt": 1e-3})

    whole, first, second = made(), made(), made()
    tune(backbone, [whole])
    tune(backbone, [first], interrupted=lambda: first.step >= 4, on_checkpoint=lambda c: save_checkpoint(c, tmp_path))
    load_checkpoint(second, tmp_path)
    assert second.step == 4
    tune(backbone, [second])
    assert_same_tensors(second.prompt.state_dict(), whole.prompt.state_dict())
    with pytest.raises(AssertionError):
        assert_same_tensors(first.prompt.state_dict(), whole.prompt.state_dict())


def test_the_page_of_papers_is_made_of_their_recipes() -> None:
    assert FILE.read_text(encoding="utf-8") == page(), "python -m docs.make_papers"


@pytest.mark.parametrize(
    ("name", "rates", "optimizer"),
    [
        ("residual/glue-rte", {"prompt": 0.3, "network": 0.3, "norm": 0.3}, "adamw"),
        ("ulpt/glue-rte", {"weights": 0.6, "affine": 0.6}, "adamw"),
        ("adept/superglue-cb", {"prompt": 0.3, "offset": 1e-4, "offset_bias": 1e-4}, "adamw"),
        ("smop/superglue-wic", {"prompt": 0.5, "router": 0.5}, "adafactor"),
        ("dpt/glue-cola", {"weights": 0.3, "basis": 0.3}, "adamw"),
    ],
)
def test_sibling_methods_have_their_papers_rates(name: str, rates: dict[str, float], optimizer: str) -> None:
    recipe = get_recipe(name).recipe
    assert (recipe.rates, recipe.optimizer) == (rates, optimizer)
