"""A local Ray cluster comes to the same end as this process alone, whoever dies."""

import gc
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

import softprompt
from softprompt.errors import BadArtefact, BadInput, Interrupted, RunFailed
from softprompt.experiments.cluster.assignment import Assignment
from softprompt.experiments.cluster.driver import open_runner
from softprompt.experiments.cluster.worker import Ended, Saved, share_jobs
from softprompt.experiments.jobs import Job, JobSpec
from softprompt.experiments.runner import JobBatch, Monitor
from softprompt.experiments.sweep import Sweep
from softprompt.recipes import Recipe, Setting
from softprompt.runs.run_folder import FINISHED
from softprompt.runtime import ray_cluster
from softprompt.runtime.ray_cluster import is_address, room
from softprompt.training.arguments import RunArguments
from softprompt.training.loop import Tuned
from softprompt.training.request import parse_arguments
from tests.candidates import tiny_task
from tests.command_line import Cli
from tests.compare import assert_close
from tests.many_runs import SETTINGS, cards, never_loaded

pytestmark = pytest.mark.processes
GRID = [{"rates.prompt": rate, "length": length} for rate in (0.03, 0.3) for length in (1, 3)]


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


def _start(ray: Any) -> None:
    for last in (False, False, True):
        try:
            ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:  # on a busy machine Ray's own patience is too short
            if last or "timed out" not in str(error):
                raise
        with warnings.catch_warnings():  # what did not come up leaves processes that end by themselves
            warnings.simplefilter("ignore", ResourceWarning)
            ray.shutdown()
            gc.collect()


@pytest.fixture(scope="module")
def cluster(said: list[str]) -> Iterator[Any]:
    """Two workers on a cluster of two processors, which all tests share."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        _start(ray)
        try:
            with open_runner("auto", 2, said.append) as cluster:
                yield cluster
            assert ray.is_initialized(), "who has started it ends it"
        finally:
            ray.shutdown()


@pytest.fixture(scope="module")
def alone(model: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int | None, Any]:
    """The same sweeps without Ray, without halving and with: folder and table."""
    folders = {halving: tmp_path_factory.mktemp("alone") / "run" for halving in (None, 2)}
    return {h: (path, made(path, model, data, h).run()) for h, path in folders.items()}


def made(output: Path, model: str, data: Path, halving: int | None = None, **words: Any) -> Sweep:
    request = parse_arguments(RunArguments(data=data, backbone=model, settings=SETTINGS, **words))
    return Sweep(output, request, GRID, seeds=2, halving=halving, max_parallel=2)


def assert_same_runs(one: Path, other: Path) -> None:
    assert cards(one).keys() == cards(other).keys()
    for folder in cards(one):
        tensors, expected = (load_file(path / folder / "method.safetensors") for path in (one, other))
        for name in expected:
            assert_close(tensors[name], expected[name], 2e-4)
        names = [sorted(path.name for path in (root / folder).iterdir()) for root in (one, other)]
        assert set(names[0]) - {"learning_curve.png"} == set(names[1])


class Killer:
    """Kills the first worker, without a word to it, when a run has ended and another has been evaluated since."""

    def __init__(self, said: list[str], output: Path) -> None:
        self.said, self.output, self.finished = said, output, {}

    @contextmanager
    def watch(self, jobs: list[Job]) -> Iterator["Killer"]:
        yield self

    def on_step(self, run: Tuned) -> None:
        pass

    def on_end(self, run: Tuned) -> None:
        pass

    def on_evaluation(self, run: Tuned) -> None:
        if not self.finished and cards(self.output) and run.step < run.recipe.steps:
            self.finished = {path: path.stat().st_mtime_ns for path in self.output.rglob(FINISHED)}
            pid = next(re.search(r"process (\d+)", line) for line in reversed(self.said) if "process" in line)
            os.kill(int(pid.group(1)), signal.SIGKILL)


def test_a_worker_is_killed_and_the_sweep_ends_as_it_would_have(
    cluster: Any, said: list[str], alone: dict[Any, Any], model: str, data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    killer = Killer(said, tmp_path / "run")
    found = made(tmp_path / "run", model, data).run(Monitor(watch=killer.watch), cluster)
    assert any("died; its" in line for line in said)
    assert capsys.readouterr() == ("", ""), "Ray says nothing of its own"
    assert cluster.started == 3, "another has taken its place"
    assert 0 < len(killer.finished) < 8
    assert found == alone[None][1]
    assert_same_runs(tmp_path / "run", alone[None][0])
    # What was finished before is as it was, but for the cards that have got their test score.
    chosen = {tmp_path / "run" / folder / FINISHED for folder in found.chosen.folders}
    assert all(path.stat().st_mtime_ns == time for path, time in killer.finished.items() if path not in chosen)


def test_halving_goes_rung_by_rung(
    cluster: Any, alone: dict[Any, Any], model: str, data: Path, tmp_path: Path
) -> None:  # fmt: skip
    found = made(tmp_path / "run", model, data, 2).run(runner=cluster)
    assert found == alone[2][1]
    assert_same_runs(tmp_path / "run", alone[2][0])


def test_an_interrupted_sweep_goes_on_without_ray(
    cluster: Any, alone: dict[Any, Any], model: str, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    with pytest.raises(Interrupted, match="The same command goes on from here"):
        made(output, model, data).run(Monitor(interrupted=lambda: bool(cards(output))), cluster)
    assert 0 < len(cards(output)) < 8
    assert not list(output.rglob(".*")), "no part of a file is left"
    assert made(output, model, data).run() == alone[None][1]


def test_an_error_of_a_worker_is_ours_and_names_the_folder_here(
    cluster: Any, model: str, data: Path, tmp_path: Path
) -> None:
    sweep = made(tmp_path / "run", model, data)
    folder = sweep.settings[1].jobs[0].folder
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadArtefact) as caught:
        sweep.run(runner=cluster)
    assert str(caught.value).startswith(f"{folder} holds no run.json")


def test_a_comparison_goes_to_workers_with_the_runs_that_its_methods_read(
    cluster: Any, alone: dict[Any, Any], model: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def same(ray: str | None, workers: int | None, say: Any) -> Iterator[Any]:
        assert (ray, workers) == ("auto", 2)
        yield cluster

    monkeypatch.setattr("softprompt.experiments.experiment.open_runner", same)
    sources = [str(alone[None][0] / "rates.prompt=0.3__length=3" / f"seed-{seed}") for seed in (0, 1)]
    started = cluster.started
    found = softprompt.compare(
        data=data, methods=["prompt_tuning", "attempt"], backbone=model, output=tmp_path / "run", seeds=1, budget=1,
        settings=SETTINGS | {"length": 3, "attempt.sources": sources}, ray="auto", workers=2,
        console=Console(quiet=True),
    )  # fmt: skip
    assert cluster.started == started, "the workers of before: the setting is the same"
    assert [row.method for row in found.tasks[0].rows] == ["prompt_tuning", "attempt"]
    assert len(cards(tmp_path / "run")) == 2


# What needs no cluster


def jobs(folder: Path, count: int) -> list[Job]:
    spec = JobSpec(task={}, setting=Setting(), recipe=Recipe(steps=6))
    return [Job(f"run {i}", folder / str(i), spec, tiny_task()) for i in range(count)]


def test_a_job_over_which_workers_die_is_tuned_alone_and_then_given_up(tmp_path: Path) -> None:
    assignment = Assignment(JobBatch(jobs(tmp_path, 3), {}), None)
    for worker in (1, 2):
        assert [assignment.give(worker), assignment.give(worker)] != [None, None]
        assert assignment.lose(worker) == 2
    order = assignment.give(3)
    assert order is not None
    assert order.name == "run 0", "in the order they had"
    assert assignment.give(3) is None, "who dies now has died over this one"
    assignment.lose(3)
    assert assignment.left == 2
    assert assignment.give(4).name == "run 1"  # type: ignore[union-attr]
    assignment.receive(4, Ended("run 1", None, {FINISHED: b"{}"}))
    assert (tmp_path / "1" / FINISHED).read_bytes() == b"{}"
    assert assignment.give(4).name == "run 2"  # type: ignore[union-attr]
    assignment.receive(4, Ended("run 2", "it failed", {FINISHED: b"{}"}))
    assert (assignment.left, assignment.failed) == (0, ["it failed"])
    with pytest.raises(RunFailed, match="run 0: 3 workers died over it"):
        assignment.check()


def test_a_job_that_gets_on_is_not_given_up(tmp_path: Path) -> None:
    assignment = Assignment(JobBatch(jobs(tmp_path, 1), {}), None)
    for worker in range(10):
        order = assignment.give(worker)
        assert order is not None
        assert order.files == ({} if worker == 0 else {"checkpoint.safetensors": b"%d" % (worker - 1)})
        assignment.receive(worker, Saved("run 0", worker, False, {"checkpoint.safetensors": b"%d" % worker}))
        assignment.lose(worker)
    assignment.check()
    for worker in (20, 21):
        assignment.give(worker)
        assignment.receive(worker, Saved("run 0", 9, False, {"checkpoint.safetensors": b"9"}))
        assignment.lose(worker)
    with pytest.raises(RunFailed, match="run 0"):
        assignment.check()


def test_a_job_leaves_its_worker_at_the_rung(tmp_path: Path) -> None:
    assignment = Assignment(JobBatch(jobs(tmp_path, 2), {}, stop_at_step=4), None)
    assignment.give(1)
    assignment.give(1)
    assignment.receive(1, Saved("run 0", 4, False, {}))
    assignment.receive(1, Saved("run 1", 4, True, {}))
    assert assignment.held == {1: {"run 1"}}, "it stopped of itself, and is finished first"


@pytest.mark.parametrize(
    ("count", "workers", "most", "expected"), [(12, 2, 32, 6), (12, 5, 32, 3), (100, 2, 32, 25), (1, 1, 8, 1)]
)
def test_shares_leave_no_worker_idle(count: int, workers: int, most: int, expected: int) -> None:
    assert share_jobs(count, workers, most) == expected


ONE, TWO, GPU = {"CPU": 4.0}, {"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(("machines", "workers", "device", "expected"), [
    ([ONE, TWO], None, None, (2, {"num_cpus": 4})),
    ([ONE, TWO], 3, None, (3, {"num_cpus": 4})),
    ([TWO, TWO], 3, None, (3, {"num_cpus": 4})),
    ([GPU, ONE], None, None, (2, {"num_gpus": 1, "num_cpus": 0})),
    ([GPU, GPU], 3, "cuda", (3, {"num_gpus": 1, "num_cpus": 0})),
    ([GPU, ONE], None, "cpu", (2, {"num_cpus": 4})),
])  # fmt: skip
def test_a_worker_for_each_gpu_or_machine(machines: Any, workers: Any, device: Any, expected: Any) -> None:
    assert room(machines, workers, device) == expected


@pytest.mark.parametrize(("machines", "workers", "device", "message"), [
    ([GPU], 3, None, "2 GPUs"), ([ONE], 5, None, "4 CPUs"), ([ONE], 0, None, "at least 1"),
    ([GPU], None, "cuda:1", "one device"), ([{}], None, None, "0 CPUs"),
])  # fmt: skip
def test_more_than_there_is_room_for_is_refused(machines: Any, workers: Any, device: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        room(machines, workers, device)


def test_an_address_may_be_left_out(
    cli: Cli, model: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [is_address(word) for word in ("auto", "10.0.0.1:6379", "ray://head:10001", "plan.yaml", "")] == [
        True, True, True, False, False
    ]  # fmt: skip
    monkeypatch.setitem(Sweep.run.__globals__, "open_backbone", never_loaded)
    words = ["sweep", "--data", data, "--backbone", model, "--grid", "length=1,2", "--output", tmp_path / "run"]
    code, _, err = cli(*words, "--workers", 2)
    assert code == 2
    assert "expected --ray beside it" in err
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    code, _, err = cli(*words, "--ray", "10.0.0.1:6379")
    assert code == 2
    assert "no Ray cluster can be joined there, or started: a test tried to reach ('10.0.0.1', 6379)" in err
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    for given in (["--ray"], ["--ray", "--workers", 2], ["--ray", "10.0.0.1:6379"], ["--ray=auto"]):
        code, out, err = cli(*words, *given)
        assert (code, out) == (2, "")
        assert 'pip install "softprompt[ray]"' in err
    assert not (tmp_path / "run").exists()
