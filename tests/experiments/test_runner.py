"""Jobs in this process: how many at a time, and what a runner passes over."""

from pathlib import Path

from softprompt.experiments.jobs import FINISHED, Job, JobSpec
from softprompt.experiments.runner import MOST_TOGETHER, JobBatch, LocalRunner, Monitor, count_places
from softprompt.recipes import Recipe, Setting
from tests import tiny
from tests.candidates import tiny_task


def job(folder: Path, method: str = "prompt_tuning") -> Job:
    return Job("run", folder, JobSpec(task={}, setting=Setting(), recipe=Recipe(method=method)), tiny_task())


def test_baselines_alone_leave_the_number_of_places_open() -> None:
    backbone = tiny.backbone("llama")
    assert count_places([job(Path("full"), "full")], backbone) == MOST_TOGETHER
    assert 1 <= count_places([job(Path("free")), job(Path("full"), "full")], backbone) <= MOST_TOGETHER


def test_finished_jobs_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / FINISHED).write_text("{}")
    batch = JobBatch([job(tmp_path)], floors={})
    assert LocalRunner().run(tiny.backbone("llama"), batch, Monitor(watch=None)) == []  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == [FINISHED]
