"""What a terminal shows of many runs."""

import io
from pathlib import Path

from rich.console import Console

from softprompt.experiments.jobs import Job, JobSpec
from softprompt.experiments.progress import JobsView, watch
from softprompt.recipes import Recipe, Setting
from softprompt.training.loop import tune
from softprompt.training.progress import TrainingView
from tests import tiny
from tests.candidates import candidate, tiny_task


def jobs(count: int) -> list[Job]:
    asked = JobSpec(task={}, setting=Setting(), recipe=Recipe(steps=6))
    return [Job(f"run {i}", Path(f"run-{i}"), asked, tiny_task()) for i in range(count)]


def test_lines_elsewhere_a_table_on_a_terminal() -> None:
    assert isinstance(watch(Console(file=io.StringIO()), jobs(2)), TrainingView)
    assert isinstance(watch(Console(file=io.StringIO(), force_terminal=True), jobs(2)), JobsView)


def test_the_table_has_a_row_for_each_run_under_way_and_counts_the_others() -> None:
    backbone = tiny.backbone("llama")
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=20)
    candidates = [candidate(backbone, "prompt_tuning", seed=i, steps=(2, 6, 6, 6)[i]) for i in range(4)]
    for i, one in enumerate(candidates):
        one.name = f"run {i}"
    view = JobsView(console, jobs(4))
    seen: list[str] = []

    def look() -> bool:
        with console.capture() as capture:
            console.print(view.table())
        seen.append(capture.get())
        return False

    with view:
        tune(backbone, candidates, listener=view, interrupted=look, max_parallel=2)
    assert "0 of 4 runs at their end, 0 begun, 4 wait" in seen[0]
    assert "0 of 4 runs at their end, 2 begun, 2 wait" in seen[1]
    assert "run 0" in seen[1]
    assert "1/2" in seen[1]
    assert "run 2" not in seen[1]
    assert "1 of 4 runs at their end" in seen[3]
    assert "run 2" in seen[4], "it has taken the place of run 0"
    assert "4 of 4 runs at their end, 0 begun, 0 wait" in view.summary()
    look()
    assert all(f"run {i}" in seen[-1] for i in range(4))
    assert not view.running, "nothing of a run that is over is kept"
