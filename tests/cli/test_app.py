"""The command line as a user meets it, on tiny models in local folders."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import softprompt
from softprompt.backbones import Backbone
from softprompt.cli.app import VERBS, Verbs, app
from softprompt.errors import Interrupted
from softprompt.methods.registry import BASELINES, METHODS
from softprompt.runs.prompt import Prompt
from softprompt.training.candidate import Candidate
from softprompt.training.finish import finish
from softprompt.training.run import Run
from tests import tiny
from tests.candidates import candidate
from tests.command_line import QUICK, Cli
from tests.compare import assert_same_tensors


def test_the_verbs_are_these_and_their_help_is_what_the_list_says() -> None:
    assert list(VERBS) == [
        "train", "check", "sweep", "compare", "reproduce", "distil", "evaluate", "predict", "serve", "show", "list",
        "env", "export", "import",
    ]  # fmt: skip
    group = typer.main.get_command(app)
    assert isinstance(group, Verbs)
    for name, (_, text) in VERBS.items():
        assert group.get_command(None, name).help.split("\n")[0] == text


def test_help_and_version_load_no_model_code(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from softprompt.cli import main\n"
        "sys.argv = ['softprompt', sys.argv[1]]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'peft', 'scipy', 'ray', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for word, shown in (("--help", "reproduce"), ("--version", softprompt.__version__)):
        done = subprocess.run([sys.executable, "-c", script, word], capture_output=True, text=True, check=True)
        assert shown in done.stdout


def test_the_module_runs_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "softprompt", "--version"], capture_output=True, text=True, check=True)
    assert softprompt.__version__ in done.stdout


def test_train_evaluate_predict_show_with_three_flags(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = cli("train", "--data", data, "--backbone", model, "--output", run, *QUICK)
    assert (code, out) == (0, ""), err
    assert "zero-shot" in err
    assert "commonest answer" in err

    code, out, err = cli("evaluate", run, "--data", data, "--json")
    assert code == 0, err
    scores = json.loads(out)
    assert scores["n"] == 40
    assert set(scores["metrics"]) == {"accuracy", "macro_f1"}
    assert set(scores["floors"]) == {"majority", "zero_shot"}

    code, out, err = cli("predict", run, "a red b", "blue f", "--json")
    assert code == 0, err
    answers = json.loads(out)
    assert [answer["prediction"] in ("good", "bad") for answer in answers] == [True, True]
    assert abs(sum(answers[0]["probabilities"].values()) - 1) < 1e-9

    code, out, err = cli("show", run, "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["method"] == "prompt_tuning"
    assert [len(row) for row in shown["words"]] == [5, 5, 5]
    code, out, _ = cli("show", run)
    assert code == 0
    assert "nearest words" in out
    code, out, _ = cli("evaluate", run, "--data", data)
    assert "no prompt" in out


def test_several_methods_are_tuned_in_the_same_batches(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    methods = ("--method", "dept", "--method", "superpos", "--set", "rank=2", "--set", "sampled=8")
    code, _, err = cli("train", "--data", data, "--backbone", model, "--output", tmp_path / "r", *methods, *QUICK)
    assert code == 0, err
    cards = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "r").glob("*/prompt.json")}
    assert {name: card["kind"] for name, card in cards.items()} == {"dept": "prompt+position", "superpos": "prompt"}


def test_predict_reads_stdin_and_files(
    cli: Cli, data: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    cli("train", "--data", data, "--backbone", model, "--output", run, *QUICK)
    import io

    answers = []
    for ending in ("\n", "\r\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"a red b{ending}{ending}blue f{ending}", newline=""))
        code, out, err = cli("predict", run)
        assert (code, len(out.splitlines())) == (0, 3), err
        answers.append(out)
    assert answers[0] == answers[1], "the end of a line is not part of the text"
    assert answers[0].splitlines()[1] == "", "an answer stands in its question's line"
    code, out, err = cli("predict", run, "--data", data, "--json")
    assert (code, len(json.loads(out))) == (0, 40), err


def test_a_run_folder_is_never_overwritten_silently(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    words = ("train", "--data", data, "--backbone", model, "--output", tmp_path / "run", *QUICK)
    assert cli(*words)[0] == 0
    card = (tmp_path / "run" / "prompt.json").read_text()
    code, _, err = cli(*words)
    assert code == 2
    assert "already holds a finished run" in err
    assert (tmp_path / "run" / "prompt.json").read_text() == card
    assert cli(*words, "--overwrite", "--seed", "1")[0] == 0
    assert (tmp_path / "run" / "prompt.json").read_text() != card
    code, _, err = cli("train", "--resume", tmp_path / "run")
    assert code == 2
    assert "finished" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--data", "DATA", "--backbone", "MODEL"], "--output DIR"),
        (["train", "--backbone", "MODEL", "--output", "OUT"], "either --data FILE"),
        (["train", "--data", "DATA", "--task", "support", "--backbone", "MODEL", "--output", "OUT"], "either --data"),
        (["train", "--task", "suport", "--backbone", "MODEL", "--output", "OUT"], "Did you mean 'support'"),
        (["train", "--data", "DATA", "--backbone", "MODEL", "--output", "OUT", "--method", "det"], "'dept'"),
        (["train", "--data", "DATA", "--backbone", "smollm2-135", "--output", "OUT"], "'smollm2-135m'"),
        (["train", "--data", "DATA", "--backbone", "MODEL", "--output", "OUT", "--set", "stps=3"], "'steps'"),
        (["train", "--data", "DATA", "--backbone", "MODEL", "--output", "OUT", "--set", "rates.prmpt=3"], "'rates.pro"),
        (["train", "--data", "DATA", "--backbone", "MODEL", "--output", "OUT", "--set", "steps"], "NAME=VALUE"),
        (["train", "--data", "DATA", "--backbone", "MODEL", "--output", "OUT", "--steps", "0"], "steps=0"),
        (["train", "--data", "DATA", "--backbone", "MODEL", "--output", "OUT", "--dtype", "float8"], "float32"),
        (["train", "--data", "DATA", "--backbone", "MODEL", "--output", "OUT", "--device", "tpux"], "'tpux'"),
        (["train", "--data", "DATA", "--backbone", "MODEL", "--output", "OUT", "--set", "length=95"], "Shorten"),
        (["train", "--data", "DATA", "--backbone", "MODEL", "--output", "OUT", "--template", "{txt}"], "'txt'"),
        (["train", "--data", "DATA", "--backbone", "MODEL", "--output", "OUT", "--word", "good=yes"], "line 8: the"),
        (["train", "--data", "nowhere.csv", "--backbone", "MODEL", "--output", "OUT"], "no such file"),
        (["train", "--nonsense"], "No such option"),
        (["list", "metods"], "'methods'"),
        (["predict", "nowhere", "text"], "is not a folder"),
        (["nonsense"], "No such command"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_clear_error_with_code_2_and_nothing_written(
    cli: Cli, data: Path, model: str, tmp_path: Path, words: list[str], message: str
) -> None:
    out = tmp_path / "out"
    names = {"DATA": str(data), "MODEL": model, "OUT": str(out)}
    code, stdout, err = cli(*(names.get(word, word) for word in words))
    assert (code, stdout) == (2, "")
    assert message in " ".join(err.replace("│", " ").split()), err
    assert "Traceback" not in err
    assert not out.exists()


def test_a_choice_without_tokens_is_named(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    words = ("--word", "good= ", "--word", "bad=bad")
    code, _, err = cli("train", "--data", data, "--backbone", model, "--output", tmp_path / "out", *words)
    assert code == 2
    assert "no tokens" in err


def test_a_folder_that_cannot_be_made_fails_before_training(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = cli("train", "--data", data, "--backbone", model, "--output", tmp_path / "file" / "run", *QUICK)
    assert code == 1
    assert "cannot be made" in err


def test_check_reports_all_problems_at_once_and_loads_no_weights(
    cli: Cli, data: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    code, out, _ = cli("check", "--data", data, "--backbone", model, "--method", "dept", "--json")
    assert code == 0
    assert json.loads(out)["problems"] == []
    words = ("--task", "nope", "--backbone", "smollm2", "--method", "det", "--dtype", "int4", "--json")
    code, out, _ = cli("check", *words)
    assert code == 2
    assert len(json.loads(out)["problems"]) == 4
    words = ("--data", data, "--backbone", model, "--method", "dept", "--method", "superpos", "--set", "length=3")
    code, out, _ = cli("check", *words, "--set", "rank=2", "--set", "sampled=8", "--json")
    assert code == 0, out  # as train takes them: each method what it has
    found = json.loads(out)["resolved"]
    assert (found["dept"]["options"]["rank"], found["superpos"]["options"]["sampled"]) == (2, 8)
    code, out, _ = cli("check", *words, "--set", "rnak=2", "--json")
    assert code == 2
    assert [problem[:15] for problem in json.loads(out)["problems"]] == ["Unknown setting"]


def test_check_prints_words_and_counts_one_problem_as_one(cli: Cli, data: Path, model: str) -> None:
    code, out, _ = cli("check", "--data", data, "--backbone", model, "--method", "det")
    assert code == 2
    assert out.endswith("\n1 problem\n")
    code, out, _ = cli("check", "--data", data, "--backbone", model, "--method", "dept")
    assert code == 0
    assert out.endswith("\nno problems\n")
    assert ", options (length 20, rank 60, " in out
    assert not any(word in out for word in ("{'", "None", "['"))


def test_list_methods_is_json_with_the_promised_fields(cli: Cli) -> None:
    code, out, _ = cli("list", "methods", "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["name"] for row in rows] == [*METHODS, *BASELINES]
    assert all({"name", "kind", "prompt", "offset", "paper", "year"} <= row.keys() for row in rows)
    for what in ("backbones", "tasks"):
        code, out, _ = cli("list", what, "--json")
        assert code == 0
        assert json.loads(out)
    for what in ("methods", "backbones", "tasks"):
        assert cli("list", what)[0] == 0
    assert cli("env", "--json")[0] == 0


def test_list_methods_counts_for_a_backbone_without_its_weights(
    cli: Cli, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    code, out, err = cli("list", "methods", "--backbone", model, "--max-source", 40, "--json")
    assert code == 0, err
    found = {row["name"]: (row["trainable"], row["stored"]) for row in json.loads(out)}
    assert list(found) == [*METHODS, *BASELINES]
    assert found["dept"] == (20 * tiny.D + 60 * (40 + tiny.D), (20 + 40) * tiny.D)
    code, out, err = cli("list", "methods", "--backbone", model)
    assert code == 0, err
    head, *lines = out.splitlines()
    assert head.split() == ["name", "trainable", "stored", "kind", "prompt", "offset", "year", "authors", "title"]
    assert lines[1].split()[:4] == ["dept", f"{20 * tiny.D + 60 * (256 + tiny.D):,}", "4,416", "prompt+position"]
    code, _, err = cli("list", "tasks", "--backbone", model)
    assert code == 2
    assert "only methods" in err


@pytest.mark.processes
def test_ctrl_c_saves_and_resume_ends_where_an_uninterrupted_run_does(data: Path, model: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = {"rank": 2, "length": 3, "evaluate_every": 25}
    softprompt.train(data=data, backbone=model, output=whole, method="dept", batch=4, steps=200, settings=settings)
    command = [sys.executable, "-m", "softprompt.cli", "train", "--data", str(data), "--backbone", model]
    command += ["--method", "dept", "--batch", "4", "--steps", "200", "--output", str(cut)]
    command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 240  # a busy machine imports slowly
    while not (cut / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1, err
    assert f"softprompt train --resume {cut}" in err
    assert not (cut / "prompt.json").exists()
    softprompt.resume([cut])
    for name in ("prompt.safetensors", "method.safetensors"):
        assert_same_tensors(load_file(cut / name), load_file(whole / name))
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_a_run_stopped_while_it_was_being_scored_is_finished_by_resume(
    cli: Cli, data: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(
            "softprompt.training.train.measure_floors", lambda *_: (_ for _ in ()).throw(Interrupted("Interrupted."))
        )
        code, _, err = cli("train", "--data", data, "--backbone", model, "--output", run, *QUICK)
    assert code == 1, err
    assert not (run / "prompt.json").exists()
    code, _, err = cli("train", "--resume", run)
    assert code == 0, err
    assert (run / "prompt.json").exists()
    assert not (run / "checkpoint.safetensors").exists()


def test_ctrl_c_while_several_prompts_are_scored_stops_and_says_what_is_finished(
    cli: Cli, data: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def stop_at_the_second(backbone: Backbone, run: Run, *given: Any, **more: Any) -> Prompt:
        asked.append(run.candidate.recipe.method)
        if len(asked) == 2:
            raise Interrupted("Interrupted.")
        return finish(backbone, run, *given, **more)

    names = ("dept", "prompt_tuning", "mpt")
    words = ["--data", data, "--backbone", model, "--output", tmp_path / "runs", *QUICK]
    words += [word for name in names for word in ("--method", name)]
    with monkeypatch.context() as patch:
        patch.setattr("softprompt.training.train.finish", stop_at_the_second)
        code, _, err = cli("train", *words)
    said = " ".join(err.split())
    assert code == 1
    assert asked == ["dept", "prompt_tuning"]
    assert f"Finished: {tmp_path}/runs/dept." in said
    assert f"--resume {tmp_path}/runs/prompt_tuning --resume {tmp_path}/runs/mpt" in said
    assert "is in" not in said
    assert cli("train", "--resume", tmp_path / "runs")[0] == 0
    assert all((tmp_path / "runs" / name / "prompt.json").exists() for name in names)


def test_a_loss_that_is_not_finite_saves_the_best_prompt_and_fails(
    cli: Cli, data: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Candidate.update

    def poisoned(self: Candidate, loss: float) -> None:
        update(self, loss)
        if self.step == 2:
            next(iter(self.prompt.parameters())).data.fill_(float("nan"))

    monkeypatch.setattr(Candidate, "update", poisoned)
    words = ("--steps", "6", "--batch", "4", "--set", "evaluate_every=1")
    code, _, err = cli("train", "--data", data, "--backbone", model, "--output", tmp_path / "r", *words)
    assert code == 1
    assert "the best prompt (step 1). Lower its learning rates" in err
    card = json.loads((tmp_path / "r" / "prompt.json").read_text())
    assert "nan" in card["stopped"]
    assert card["best"]["step"] == 1
    assert cli("predict", tmp_path / "r", "a red b")[0] == 0


def test_a_step_that_makes_the_prompt_infinite_is_taken_back(model: str) -> None:
    one = candidate(tiny.backbone("llama"), "prompt_tuning", rates={"prompt": 3e37})
    next(iter(one.prompt.parameters())).grad = torch.ones(3, tiny.D)
    one.prompt.prompt.rows.data.fill_(-3.39e38)  # type: ignore[operator, union-attr]
    one.update(1.0)
    assert one.failed
    assert all(tensor.isfinite().all() for tensor in one.prompt.parameters())


def test_resume_refuses_data_that_changed(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("train", "--data", data, "--backbone", model, "--output", run, *QUICK)[0] == 0
    (run / "prompt.json").unlink()
    data.write_text(data.read_text() + "a red b,good\n")
    code, _, err = cli("train", "--resume", run)
    assert code == 2
    assert "same data" in err


def test_steps_in_tokens_small_passes_and_checkpointing_are_flags_that_a_run_remembers(
    cli: Cli, data: Path, model: str, tmp_path: Path
) -> None:
    common = ("train", "--data", data, "--backbone", model, *QUICK[:2], *QUICK[4:])
    plain, small = tmp_path / "plain", tmp_path / "small"
    assert cli(*common, "--output", plain, "--tokens-per-step", "40")[0] == 0
    flags = ("--tokens-per-step", "40", "--tokens-per-pass", "9", "--gradient-checkpointing")
    assert cli(*common, "--output", small, *flags)[0] == 0
    told = json.loads((small / "run.json").read_text())
    assert told["recipe"]["tokens_per_step"] == 40
    assert told["setting"]["tokens_per_pass"] == 9
    assert told["setting"]["gradient_checkpointing"] is True

    def losses(run: Path) -> list[float]:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]

    assert losses(small) == pytest.approx(losses(plain), rel=1e-4)


@pytest.mark.parametrize("verb", ["train", "check"])
def test_a_step_is_counted_in_examples_or_in_tokens(
    verb: str, cli: Cli, data: Path, model: str, tmp_path: Path
) -> None:
    code, out, err = cli(
        verb, "--data", data, "--backbone", model, "--output", tmp_path / "run", "--batch", 4, "--tokens-per-step", 40
    )
    assert code == 2
    assert "batch=4 and tokens_per_step=40" in out + err
    assert not (tmp_path / "run").exists()


def test_a_run_may_be_as_long_as_its_epochs(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    given = ("--data", data, "--backbone", model, "--batch", "8", "--epochs", "2", "--set", "length=3")
    assert cli("train", *given, "--output", tmp_path / "run")[0] == 0
    recipe = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert (recipe["steps"], recipe["epochs"]) == (2 * 32 // 8, None)
    code, _, err = cli("train", *given, "--steps", "3", "--output", tmp_path / "other")
    assert code == 2
    assert "steps and epochs are both given" in " ".join(err.split())


def test_label_words_are_what_the_model_says(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("--word", "good=yes", "--word", "bad=no", "--template", r"{text}\nteam :")
    assert cli("train", "--data", data, "--backbone", model, "--output", run, *words, *QUICK)[0] == 0
    card = json.loads((run / "prompt.json").read_text())
    assert card["choices"] == ["yes", "no"]
    assert card["template"] == "{text}\nteam :"
    code, out, _ = cli("evaluate", run, "--data", data, "--generate", "--json")
    assert code == 0
    assert json.loads(out)["n"] == 40


def test_the_python_api_has_the_command_lines_words(data: Path, model: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"length": 3, "rank": 2, "evaluate_every": 2}
    made = softprompt.train(
        data=str(data), backbone=model, output=str(run), method="dept", steps=4, batch=4, settings=settings
    )
    assert made["dept"].card.kind == "prompt+position"
    assert softprompt.predict(str(run), ["a red b"])[0].prediction in ("good", "bad")
    assert softprompt.evaluate(str(run), str(data)).n == 40
    assert softprompt.load_prompt(str(run)).folded.prompt.shape == (3, tiny.D)


def test_runs_on_different_data_are_not_resumed_together(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text(data.read_text() + "a red b,good\n")
    for name, path, method in (("one", data, "dept"), ("two", other, "prompt_tuning")):
        words = ("--method", method, "--data", path, "--backbone", model, "--output", tmp_path / name)
        assert cli("train", *words, *QUICK)[0] == 0
        (tmp_path / name / "prompt.json").unlink()
    code, _, err = cli("train", "--resume", tmp_path / "one", "--resume", tmp_path / "two")
    assert code == 2
    assert "one by one" in err
