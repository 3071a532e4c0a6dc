"""Sweeps on tiny models: what is chosen, what is measured, and going on after a stop."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import softprompt
from softprompt.errors import BadInput, Interrupted, UnknownName
from softprompt.evaluation import floors
from softprompt.experiments.runner import Monitor
from softprompt.experiments.sweep import Sweep, folder_name
from softprompt.training import finish
from softprompt.training.arguments import RunArguments
from softprompt.training.candidate import Candidate
from softprompt.training.request import parse_arguments
from tests.command_line import Cli
from tests.compare import assert_same_tensors
from tests.many_runs import SETTINGS, after, cards, never_loaded

GRID = {"rates.prompt": [0.01, 0.1, 0.3], "length": [1, 3]}


Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def sweep(model: str, data: Path) -> Run:
    def run(output: Path, **words: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"grid": GRID, "seeds": 2, "settings": SETTINGS, "data": data, "backbone": model}
        return softprompt.sweep(output=output, console=Console(quiet=True), **{**given, **words}).as_json()

    return run


@pytest.fixture(scope="module")
def whole(sweep: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[int | None, tuple[Path, dict[str, Any]]]:
    """Twelve runs, four at a time, without halving and with; tests read them and leave them as they are."""
    folders = {halving: tmp_path_factory.mktemp("whole") / "run" for halving in (None, 3)}
    return {halving: (path, sweep(path, max_parallel=4, halving=halving)) for halving, path in folders.items()}


def test_a_sweep_runs_every_setting_and_measures_the_test_of_the_chosen_one_alone(
    sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    before = finish.score_task

    def counted(backbone: Any, task: Any, split: str, prompt: int = -1, **words: Any) -> Any:
        asked.append((split, prompt))
        return before(backbone, task, split, prompt, **words)

    for module in (finish, floors):
        monkeypatch.setattr(module, "score_task", counted)
    found = sweep(tmp_path)
    assert asked.count(("test", -1)) == 1, "the floor"
    assert asked.count(("test", 0)) == 2 * 2, "two seeds, read both ways"
    assert asked.count(("dev", 0)) == 12
    every = cards(tmp_path)
    assert len(every) == 12
    chosen = found["chosen"]
    assert {folder for folder, card in every.items() if "test" in card["scores"]} == set(chosen["folders"])
    assert found["tested"] == [chosen["label"]]
    means = {row["label"]: statistics.mean(row["dev"]) for row in found["settings"]}
    assert chosen["mean"] == max(means.values()) == means[chosen["label"]]
    for row in found["settings"]:
        assert row["dev"] == [every[folder]["scores"]["dev"]["metrics"]["accuracy"] for folder in row["folders"]]
        assert [every[folder]["seed"] for folder in row["folders"]] == [0, 1]
        assert row["values"]["rates.prompt"] == pytest.approx(row["rates"]["prompt"])
        assert every[row["folders"][0]]["length"] == row["values"]["length"]
    assert chosen["test"] == [every[f]["scores"]["test"]["metrics"]["accuracy"] for f in chosen["folders"]]
    assert chosen["test_mean"] == statistics.mean(chosen["test"])
    assert json.loads((tmp_path / "table.json").read_text()) == json.loads(json.dumps(found))
    assert chosen["label"] in (tmp_path / "table.md").read_text()
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [float(row["dev"]) for row in rows] == [dev for row in found["settings"] for dev in row["dev"]]

    # The same again only reads; its table is the same.
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed-*/*")}
    asked.clear()
    assert sweep(tmp_path) == found
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert asked == []


def test_a_candidate_is_what_train_makes_of_its_words(
    whole: dict[Any, tuple[Path, dict[str, Any]]], tmp_path: Path, model: str, data: Path
) -> None:
    softprompt.train(
        data=data, backbone=model, output=tmp_path / "alone", seed=1, console=Console(quiet=True),
        settings=SETTINGS | {"rates.prompt": 0.3, "length": 3},
    )  # fmt: skip
    folder = whole[None][0] / "rates.prompt=0.3__length=3" / "seed-1"
    one, alone = (load_file(path / "method.safetensors") for path in (folder, tmp_path / "alone"))
    assert torch.allclose(one["prompt.rows"], alone["prompt.rows"], atol=1e-5)
    other = load_file(folder.parent / "seed-0" / "method.safetensors")
    assert not torch.allclose(other["prompt.rows"], alone["prompt.rows"], atol=1e-2)
    dev = [json.loads((path / "prompt.json").read_text())["scores"]["dev"] for path in (folder, tmp_path / "alone")]
    assert dev[0] == dev[1]


@pytest.mark.parametrize(("halving", "steps", "done"), [(None, 1, 0), (None, 9, 8), (3, 3, 0), (3, 7, 8)])
def test_an_interrupted_sweep_goes_on_to_the_same_table_and_tensors(
    halving: int | None, steps: int, done: int, whole: dict[Any, tuple[Path, dict[str, Any]]], sweep: Run,
    tmp_path: Path, model: str, data: Path,
) -> None:  # fmt: skip
    settings = [{"rates.prompt": rate, "length": length} for rate in GRID["rates.prompt"] for length in GRID["length"]]
    request = parse_arguments(RunArguments(data=data, backbone=model, settings=SETTINGS))
    made = Sweep(tmp_path / "run", request, settings, seeds=2, max_parallel=4, halving=halving)
    with pytest.raises(Interrupted, match="The same command goes on from here"):
        made.run(Monitor(interrupted=after(steps)))
    assert len(cards(tmp_path / "run")) == done
    output, found = whole[halving]
    assert sweep(tmp_path / "run", max_parallel=4, halving=halving) == found
    for folder in cards(output):
        one, other = (load_file(path / folder / "method.safetensors") for path in (output, tmp_path / "run"))
        assert_same_tensors(one, other)
        assert not (tmp_path / "run" / folder / "checkpoint.safetensors").exists()


@pytest.mark.processes
def test_a_sweep_that_is_killed_goes_on_to_the_same_table(
    whole: dict[Any, tuple[Path, dict[str, Any]]], sweep: Run, tmp_path: Path, model: str, data: Path
) -> None:
    """The process dies without a word, in the middle of twelve runs."""
    words = [
        sys.executable, "-m", "softprompt.cli", "sweep", "--data", str(data), "--backbone", model, "--output",
        str(tmp_path / "run"), "--seeds", "2", "--together", "4", "--grid", "rates.prompt=0.01,0.1,0.3",
        "--grid", "length=1,3", *(f"--set={name}={json.dumps(value)}" for name, value in SETTINGS.items()),
    ]  # fmt: skip
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not cards(tmp_path / "run") and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it was to be killed before its end"
    assert 0 < len(cards(tmp_path / "run")) < 12
    assert not (tmp_path / "run" / "table.json").exists()
    assert sweep(tmp_path / "run", max_parallel=4) == whole[None][1]


def test_a_larger_grid_runs_only_what_is_new(sweep: Run, tmp_path: Path) -> None:
    first = sweep(tmp_path, grid={"length": [1, 2]}, seeds=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed-0/method.safetensors")}
    grown = sweep(tmp_path, grid={"length": [1, 2, 3]}, seeds=2)
    assert len(cards(tmp_path)) == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [row["dev"][0] for row in grown["settings"][:2]] == [row["dev"][0] for row in first["settings"]]
    assert set(first["tested"]) <= set(grown["tested"]), "what an earlier search measured is said"


def test_halving_stops_the_worse_where_they_are(sweep: Run, tmp_path: Path) -> None:
    words: dict[str, Any] = {"settings": SETTINGS | {"steps": 8, "evaluate_every": 1}, "halving": 2}
    found = sweep(tmp_path, **words)
    rungs = found["halving"]["rungs"]
    assert [(rung["step"], len(rung["dev"]), len(rung["kept"])) for rung in rungs] == [(2, 6, 3), (4, 3, 2)]
    kept = {row["label"] for row in found["settings"]}
    for rung in rungs:
        assert set(rung["dev"]) == kept
        worst = min(rung["dev"][label] for label in rung["kept"])
        assert all(score <= worst for label, score in rung["dev"].items() if label not in rung["kept"])
        for label in kept - set(rung["kept"]):
            row = next(row for row in found["settings"] if row["label"] == label)
            assert all(f"at step {rung['step']}" in why for why in row["stopped"])
            lines = (tmp_path / row["folders"][0] / "metrics.jsonl").read_text().splitlines()
            steps = [json.loads(line) for line in lines]
            assert max(entry["step"] for entry in steps) == rung["step"]
            # The schedule is that of the whole run, not of what it came to.
            factor = 1.0 if rung["step"] == 1 else (8 - rung["step"] + 1) / 8
            rate = next(e["rates"]["prompt"] for e in reversed(steps) if "rates" in e)
            assert rate == pytest.approx(row["values"]["rates.prompt"] * factor)
        kept = set(rung["kept"])
    assert found["chosen"]["label"] in kept
    assert found["chosen"]["stopped"] == [None, None]
    with pytest.raises(BadInput, match="another settings"):
        sweep(tmp_path, **words, grid={"length": [1, 2]})


def test_methods_are_searched_together_and_a_field_that_one_lacks_makes_no_second_candidate(
    sweep: Run, tmp_path: Path
) -> None:
    found = sweep(tmp_path, method=["prompt_tuning", "dept"], grid={"rank": [1, 2]}, seeds=1)
    assert [row["label"] for row in found["settings"]] == ["prompt_tuning: rank=1", "dept: rank=1", "dept: rank=2"]


def test_a_setting_that_breaks_leaves_the_others(sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Candidate.update

    def poisoned(self: Candidate, loss: float) -> None:
        update(self, loss)
        if self.step == 3 and self.name == "length=1 seed 1":
            next(iter(self.prompt.parameters())).data.fill_(float("nan"))

    monkeypatch.setattr(Candidate, "update", poisoned)
    found = sweep(tmp_path, grid={"length": [1, 2, 3]})
    stopped = {row["label"]: row["stopped"] for row in found["settings"]}
    assert stopped["length=2"] == stopped["length=3"] == [None, None]
    assert stopped["length=1"][0] is None
    assert "nan" in stopped["length=1"][1]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"grid": {"lenth": [1]}}, UnknownName, "Did you mean 'length'"),
        ({"grid": {"length": [-1]}}, BadInput, "length=-1"),
        ({"grid": {}}, BadInput, "A sweep searches something"),
        ({"seeds": 0}, BadInput, "at least 1 seed"),
        ({"halving": 1}, BadInput, "2 for halving"),
        ({"halving": 2, "grid": {"steps": [2, 4]}}, BadInput, "--halving and a search over steps"),
        ({"halving": 7}, BadInput, "leave no rung"),
        ({"backbone": "gpt5"}, BadInput, "gpt5"),
        ({"dtype": "float3"}, UnknownName, "float32"),
        ({"data": "no.csv"}, BadInput, "no.csv"),
    ],
)
def test_bad_words_are_refused_before_anything_is_loaded_or_written(
    words: dict[str, Any], error: type[Exception], message: str, sweep: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(Sweep.run.__globals__, "open_backbone", never_loaded)
    with pytest.raises(error) as caught:
        sweep(tmp_path / "run", **words)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_prompt_that_has_no_room_is_refused_before_the_first_step(sweep: Run, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"room|positions"):
        sweep(tmp_path, grid={"length": [1, 95]}, max_parallel=1)
    assert not list(tmp_path.rglob("run.json"))


def test_a_folder_of_another_sweep_or_of_other_files_is_refused(sweep: Run, tmp_path: Path) -> None:
    sweep(tmp_path / "run", grid={"length": [1]}, seeds=1)
    with pytest.raises(BadInput, match="another recipes"):
        sweep(tmp_path / "run", grid={"length": [2]}, seeds=1, settings=SETTINGS | {"steps": 6})
    with pytest.raises(BadInput, match="another setting"):
        sweep(tmp_path / "run", grid={"length": [2]}, seeds=1, max_source=9)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="holds files and no sweep"):
        sweep(tmp_path / "other")


def test_the_command_prints_a_table_or_one_json_document(cli: Cli, model: str, data: Path, tmp_path: Path) -> None:
    words = ["sweep", "--data", data, "--backbone", model, "--output", tmp_path / "run", "--range", "length=1..4",
             "--range", "rates.prompt=0.01..1:log", "--random", 3, "--seeds", 2, "--method", "dept",
             "--set", "rank=2", "--set", "pool=null", "--set", "evaluate_every=2",
             "--steps", 4, "--batch", 4]  # fmt: skip
    code, out, err = cli(*words)
    assert code == 0, err
    assert "3 settings, 6 runs, of which 6 are to do" in err
    assert "Chosen on dev: " in out
    assert out.count("length=") == 4
    code, out, err = cli(*words, "--json")
    assert code == 0, err
    assert "of which 0 are to do" in err
    assert json.loads(out)["chosen"]["test_mean"] >= 0
    code, out, err = cli(*words[:7])
    assert (code, out) == (2, "")
    assert "A sweep searches something" in err


def test_folders_are_named_so_that_settings_cannot_meet() -> None:
    assert folder_name("rates.prompt=0.1, length=3") == "rates.prompt=0.1__length=3"
    odd = [folder_name(label) for label in ("start_text=a/b", "start_text=a b", "start_text=a,b", "x" * 300, "x" * 301)]
    assert len(set(odd)) == 5
    assert all(len(name) < 120 and "/" not in name and " " not in name for name in odd)
