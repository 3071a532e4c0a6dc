"""Whole runs by name or from a file: recipes, config files and the run.json of a run, through the command line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from softprompt.errors import BadArtefact, BadInput, UnknownName
from softprompt.recipes import Recipe
from softprompt.recipes.plan import as_yaml
from softprompt.recipes.registry import RECIPES, get_recipe
from softprompt.training.config_file import plan_arguments
from tests import tiny
from tests.command_line import QUICK, Cli
from tests.compare import assert_same_tensors
from tests.published import rte


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_tiny("t5", tmp_path_factory.mktemp("models") / "t5")


def config(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def tensors(run: Path) -> dict[str, Any]:
    return load_file(run / "method.safetensors")


def told(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


# What a file says


TEXT = """
task: {task: glue/rte, data_dir: DATA, limit: 8}
setting: {backbone: MODEL, max_source: 32}
recipe:
  method: dept
  options: {length: 3, rank: 2}
  steps: 4
  rates: {prompt: 0.1, offset: 1e-4}
  evaluate_every: 2
"""


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_config_file_is_what_train_is_told(tmp_path: Path, ending: str) -> None:
    value = yaml.safe_load(TEXT)
    value["recipe"]["rates"]["offset"] = 1e-4
    path = config(tmp_path, TEXT if ending == "yaml" else json.dumps(value, indent="\t"), f"run.{ending}")
    assert plan_arguments(path) == {
        "task": "glue/rte", "data_dir": "DATA", "limit": {"train": 8, "dev": 8, "test": 8}, "backbone": "MODEL",
        "max_source": 32,
        "recipe": Recipe(method="dept", options={"length": 3, "rank": 2}, steps=4, evaluate_every=2,
                         rates={"prompt": 0.1, "offset": 1e-4}),
    }  # fmt: skip


def test_numbers_in_yaml_are_numbers_however_they_are_written(tmp_path: Path) -> None:
    text = "task: support\nrecipe: {steps: 1e3, rates: {prompt: 1e-4}, decay: {prompt: 5E-1}, options: {length: +3}}\n"
    recipe = plan_arguments(config(tmp_path, text))["recipe"]
    assert (recipe.steps, recipe.rates, recipe.decay) == (1000, {"prompt": 1e-4}, {"prompt": 0.5})
    text = "task: support\nrecipe: {method: dept, options: {alpha: 1e1, start: text, start_text: e1 1e}}\n"
    assert plan_arguments(config(tmp_path, text))["recipe"].options == {
        "alpha": 10.0,
        "start": "text",
        "start_text": "e1 1e",
    }
    assert isinstance(plan_arguments(config(tmp_path, text))["recipe"].options["alpha"], float)


def test_yes_and_no_in_yaml_are_words(tmp_path: Path) -> None:
    text = "data: {data: my.csv, words: {0: no, 1: yes, y: off}, label: on}\nsetting: {dropout: true, compile: no}\n"
    words = plan_arguments(config(tmp_path, text))
    assert (words["words"], words["label"]) == ({"0": "no", "1": "yes", "y": "off"}, "on")
    assert (words["dropout"], words["compile"]) == (True, False)
    for given in ("0: true", "false: 0"):
        with pytest.raises(BadInput, match="put true and false in quotes"):
            plan_arguments(config(tmp_path, f"data: {{data: my.csv, words: {{{given}}}}}\n"))


def test_the_least_that_a_file_can_say(tmp_path: Path) -> None:
    assert plan_arguments(config(tmp_path, "task: support\n")) == {"task": "support"}
    assert plan_arguments(config(tmp_path, "data: my.csv\nrecipe:\nsetting:\n")) == {"data": "my.csv"}
    assert plan_arguments() == {}


def test_ones_own_data_in_a_file(tmp_path: Path) -> None:
    text = "data: {data: my.csv, label: team, template: '{text}', words: {0: no, '1': yes}, split_seed: 3}\n"
    assert plan_arguments(config(tmp_path, text.replace("yes", '"yes"').replace("no,", '"no",'))) == {
        "data": "my.csv", "label": "team", "template": "{text}", "words": {"0": "no", "1": "yes"}, "split_seed": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tsk: support\n", "Did you mean 'task'"),
        ("task: {tsk: support}\n", "Did you mean 'task'"),
        ("task: {task: support, protocl: fair}\n", "Did you mean 'protocol'"),
        ("task: support\nsetting: {max_sorce: 9}\n", "Did you mean 'max_source'"),
        ("task: support\nrecipe: {stps: 9}\n", "Did you mean 'steps'"),
        ("task: support\nrecipe: {method: dept, options: {rnk: 9}}\n", "Did you mean 'rank'"),
        ("task: support\nrecipe: {rates: {prmpt: 0.3}}\n", "Did you mean 'prompt'"),
        ("data: {data: my.csv, lable: team}\n", "Did you mean 'label'"),
        ("task: support\ndata: my.csv\n", "either task"),
        ("setting: {backbone: x}\n", "either task"),
        ("task: support\nrecipe: {steps: many}\n", "steps='many'"),
        ("task: support\nrecipe: [1]\n", "recipe is [1]; expected names and values"),
        ("task: [1]\n", "task is [1]; expected names and values"),
        ("task: {protocol: fair}\n", "task={'protocol': 'fair'}|Task: task="),
        ("task: {task: glue/rte, shots: few}\n", "shots='few'"),
        ("task: support\nsetting: {max_source: none}\n", "max_source='none'"),
        ("task: support\nsetting: {dropout: maybe}\n", "dropout='maybe'"),
        ("data: {label: team}\n", "data names no file"),
        ("data: {data: 3}\n", "data.data is 3; expected text"),
        ("data: {data: my.csv, words: [a]}\n", "data.words is ['a']; expected LABEL: WORD"),
        ("data: 3\n", "data is 3; expected names and values"),
        ("task:\n", "Task: task="),
        ("- task\n", "expected keys like task, setting, recipe; found list"),
        ("", "found NoneType"),
        ("task: support\nrecipe: {steps: 4\nsetting: 3\n", ", line 3: is neither YAML nor JSON"),
        ("task: support\n\tsteps: 3\n", ", line 2: is neither YAML nor JSON"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    path = config(tmp_path, text)
    with pytest.raises(BadInput) as caught:
        plan_arguments(path)
    assert any(part in str(caught.value) for part in message.split("|")), str(caught.value)
    assert str(path) in str(caught.value)


def test_json_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"run\.json, line 2: is not valid JSON"):
        plan_arguments(config(tmp_path, '{"task":\n support}', "run.json"))


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no such file"):
        plan_arguments(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read"):
        plan_arguments(tmp_path / "bytes.yaml")
    with pytest.raises(BadInput, match=r"is a folder without a run\.json"):
        plan_arguments(tmp_path)
    with pytest.raises(BadInput, match="give one of them"):
        plan_arguments(tmp_path / "bytes.yaml", "dept/glue-rte")


# What `show recipe` prints


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith(("glue-rte", "multirc", "gsm8k", "cb"))])
def test_a_recipe_that_is_shown_is_a_config_file_that_says_the_same(name: str, tmp_path: Path) -> None:
    path = config(tmp_path, as_yaml(get_recipe(name)))
    assert plan_arguments(path) == plan_arguments(recipe=name)
    assert plan_arguments(path)["recipe"] == get_recipe(name).recipe
    path = config(tmp_path, get_recipe(name).model_dump_json(exclude_unset=True), "recipe.json")
    assert plan_arguments(path) == plan_arguments(recipe=name)


def test_a_recipe_trains_alike_by_name_and_from_the_file_that_show_prints(cli: Cli, t5: str, tmp_path: Path) -> None:
    code, shown, err = cli("show", "recipe", "dept/glue-rte")
    assert code == 0, err
    assert "# sources" in shown
    assert "#   steps: github.com/ZhengxiangShi/DePT, checkpoints/rte" in shown
    assert "#   rates.prompt: 0.3, 0.4, 0.5" in shown
    path = config(tmp_path, shown, "recipe.yaml")
    data = rte(tmp_path / "data")
    flags = (
        "--backbone",
        t5,
        "--data-dir",
        data,
        "--template",
        "words",
        "--max-source",
        16,
        "--steps",
        2,
        "--batch",
        4,
    )
    flags += ("--set", "evaluate_every=2", "--set", "warmup=0", "--set", "offset.rank=2", "--set", "prompt.length=3")
    flags += ("--set", "start=vocabulary", "--set", "start_text=null", "--set", "pool=null")
    named, filed = tmp_path / "named", tmp_path / "filed"
    code, _, err = cli("train", "--recipe", "dept/glue-rte", "--output", named, *flags)
    assert code == 0, err
    code, _, err = cli("train", "--config", path, "--output", filed, *flags)
    assert code == 0, err
    assert told(named) == told(filed)
    assert_same_tensors(tensors(named), tensors(filed))
    run = told(named)
    assert run["recipe"]["rates"] == {"prompt": 0.4, "offset": 1e-4}
    assert (run["recipe"]["seed"], run["recipe"]["epsilon"], run["recipe"]["dev_limit"]) == (42, 1e-6, None)
    assert (run["setting"]["dropout"], run["setting"]["max_source"]) == (True, 16)
    assert run["task"]["protocol"] == "paper:dept"

    # The folder of a run, its run.json, and a copy of that by another name all repeat it, dropout included.
    copy = Path(shutil.copy(named / "run.json", tmp_path / "again.json"))
    code, _, err = cli("train", copy, "--output", tmp_path / "again")
    assert code == 0, err
    assert_same_tensors(tensors(tmp_path / "again"), tensors(named))
    assert told(tmp_path / "again") == run
    code, _, err = cli("train", named, "--output", tmp_path / "other", "--seed", 1)
    assert code == 0, err
    with pytest.raises(AssertionError):
        assert_same_tensors(tensors(tmp_path / "other"), tensors(named))


# Beside the flags


def own(folder: Path, data: Path, model: str, more: str = "") -> Path:
    recipe = "recipe: {steps: 4, batch: 4, evaluate_every: 2, options: {length: 3}, seed: 5}\n"
    return config(folder, f"data: {data}\nsetting: {{backbone: {model}}}\n{more or recipe}")


def test_flags_go_before_the_file(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    path = own(tmp_path, data, model)
    code, _, err = cli("train", path, "--output", tmp_path / "plain")
    assert code == 0, err
    found = told(tmp_path / "plain")
    assert (found["recipe"]["steps"], found["recipe"]["seed"], found["setting"]["max_source"]) == (4, 5, 256)
    flags = ("--steps", 2, "--seed", 0, "--max-source", 8, "--set", "length=2", "--set", "rates.prompt=0.5")
    code, _, err = cli("train", path, "--output", tmp_path / "run", *flags, "--word", "good=yes", "--word", "bad=no")
    assert code == 0, err
    found = told(tmp_path / "run")
    recipe = found["recipe"]
    assert (recipe["steps"], recipe["seed"], recipe["batch"], recipe["options"]) == (2, 0, 4, {"length": 2})
    assert (recipe["rates"], found["setting"]["max_source"]) == ({"prompt": 0.5}, 8)
    assert found["task"]["words"] == {"good": "yes", "bad": "no"}


def test_other_data_on_the_command_line_stands_in_for_all_of_the_files(
    cli: Cli, data: Path, model: str, tmp_path: Path
) -> None:
    text = f"task: {{task: glue/rte, shots: 4}}\nsetting: {{backbone: {model}}}\nrecipe: {{steps: 2, batch: 4}}\n"
    code, _, err = cli("train", config(tmp_path, text), "--data", data, "--output", tmp_path / "run")
    assert code == 0, err
    assert "shots" not in told(tmp_path / "run")["task"]
    text = f"data: {{data: {data}, label: label}}\nsetting: {{backbone: {model}}}\nrecipe: {{steps: 2, batch: 4}}\n"
    words = ("--task", "glue/rte", "--data-dir", rte(tmp_path / "data"), "--output", tmp_path / "other")
    code, _, err = cli("train", config(tmp_path, text), *words)
    assert code == 0, err
    assert told(tmp_path / "other")["task"]["task"] == "glue/rte"


def test_a_file_without_a_recipe_leaves_the_methods_to_the_flags(
    cli: Cli, data: Path, model: str, tmp_path: Path
) -> None:
    path = own(tmp_path, data, model, "name: mine\n")
    methods = ("--method", "dept", "--method", "prompt_tuning", "--set", "rank=2")
    code, _, err = cli("train", path, "--output", tmp_path / "run", *methods, *QUICK)
    assert code == 0, err
    assert {one.parent.name for one in (tmp_path / "run").glob("*/prompt.json")} == {"dept", "prompt_tuning"}


def test_a_recipe_and_a_method_are_not_given_together(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    for words in (("--recipe", "dept/glue-rte", "--backbone", model), (own(tmp_path, data, model),)):
        code, _, err = cli("train", *words, "--method", "superpos", "--output", tmp_path / "run")
        assert code == 2
        assert "leave out --method superpos" in " ".join(err.split())
    code, _, err = cli("train", "--recipe", "dept/glue-rt", "--output", tmp_path / "run")
    assert code == 2
    assert "'dept/glue-rte'" in err
    code, _, err = cli("train", own(tmp_path, data, model), "--config", tmp_path / "x", "--output", tmp_path / "run")
    assert code == 2
    assert "give one of them" in err
    assert not (tmp_path / "run").exists()


def test_check_resolves_what_a_file_and_the_flags_beside_it_say(
    cli: Cli, data: Path, model: str, tmp_path: Path
) -> None:
    more = "recipe: {method: dept, steps: 4, options: {length: 3, rank: 2}}\n"
    text = f"data: {{data: {data}, words: {{good: yes, bad: no}}}}\nsetting: {{backbone: {model}, compile: false}}\n"
    code, out, err = cli("check", config(tmp_path, text + more), "--steps", 7, "--max-source", 9, "--json")
    assert code == 0, out + err
    found = json.loads(out)["resolved"]
    assert found["task"]["choices"] == ["yes", "no"]
    assert (found["dept"]["steps"], found["dept"]["options"]["rank"], found["max_source"]) == (7, 2, 9)
    text = f"task: {{task: glue/rte, data_dir: {rte(tmp_path / 'data')}, limit: 8, form: paper}}\n"
    code, out, err = cli("check", config(tmp_path, text + f"setting: {{backbone: {model}}}\n" + more), "--json")
    assert code == 0, out + err
    assert json.loads(out)["resolved"]["task"]["choices"] == ["0", "1"]
    path = config(tmp_path, text + f"setting: {{backbone: {model}}}\n" + more)
    code, out, _ = cli("check", path, "--method", "superpos", "--json")
    assert code == 2
    assert json.loads(out)["problems"] == ["The recipe is one of dept; leave out --method superpos."]


# run.json


def test_a_run_json_of_another_version_is_refused(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("train", "--data", data, "--backbone", model, "--output", run, *QUICK)[0] == 0
    found = told(run)
    for change in ({"format": 2}, {"format": 2, "versions": None}):
        path = config(tmp_path, json.dumps({**found, **change}), "later.json")
        with pytest.raises(BadArtefact, match="has format 2; this version of softprompt reads 1"):
            plan_arguments(path)
    with pytest.raises(BadArtefact, match=re.escape("recipe.steps")):
        plan_arguments(config(tmp_path, json.dumps({**found, "recipe": {**found["recipe"], "steps": 0}}), "bad.json"))
    recipe = {**found["recipe"], "method": "deptt"}
    with pytest.raises(UnknownName, match="'dept'"):
        plan_arguments(config(tmp_path, json.dumps({**found, "recipe": recipe}), "bad.json"))

    data.write_text(data.read_text() + "a red b,good\n")
    code, _, err = cli("train", run, "--output", tmp_path / "again")
    assert code == 2
    assert "the same data" in " ".join(err.split())
    assert not (tmp_path / "again").exists()


def test_a_run_that_started_from_another_is_repeated_with_its_start(
    cli: Cli, data: Path, model: str, tmp_path: Path
) -> None:
    words = ("train", "--data", data, "--backbone", model, *QUICK, "--set", "rates.prompt=0.5")
    assert cli(*words, "--output", tmp_path / "source")[0] == 0
    code, _, err = cli(*words, "--output", tmp_path / "target", "--start-from", tmp_path / "source", "--seed", 1)
    assert code == 0, err
    code, _, err = cli("train", tmp_path / "target" / "run.json", "--output", tmp_path / "again")
    assert code == 0, err
    assert told(tmp_path / "again") == told(tmp_path / "target")
    assert_same_tensors(tensors(tmp_path / "again"), tensors(tmp_path / "target"))
    assert cli(*words, "--output", tmp_path / "source", "--overwrite", "--seed", 3)[0] == 0
    code, _, err = cli("train", tmp_path / "target", "--output", tmp_path / "more")
    assert code == 2
    assert "no longer those" in " ".join(err.split())
