"""Metrics and tasks from outside the package: one function or one entry each, and one call."""

import importlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import softprompt
from softprompt.errors import BadInput, UnknownName
from softprompt.runtime import plugins
from softprompt.tasks import CATALOGUE, TASKS, Task, from_files, get_task, task_again
from softprompt.tasks.metrics import METRICS, Metric, References, get_metric, measure, register_metric
from softprompt.tasks.published.entry import Entry, Form
from softprompt.tasks.registry import is_published, register_task
from tests import tiny

QUICK = {"length": 2, "evaluate_every": 2}


def first_letter(predictions: Sequence[str], references: References) -> float:
    """Return the share of predictions that begin as their reference does."""
    right = [p[:1] == golds[0][:1] for p, golds in zip(predictions, references, strict=True)]
    return sum(right) / len(right)


def one_in_a_group(predictions: Sequence[str], references: References, groups: Sequence[str]) -> float:
    """Return the share of groups with a right prediction."""
    right = dict.fromkeys(groups, False)
    for prediction, golds, group in zip(predictions, references, groups, strict=True):
        right[group] |= prediction in golds
    return sum(right.values()) / len(right)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    kept = [(one, dict(one)) for one in (METRICS, TASKS, CATALOGUE)]
    yield
    for one, before in kept:
        one.clear()
        one.update(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_tiny("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"text": f"{word} {i % 7}", "label": word} for i in range(20) for word in ("good", "bad")]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_metric_of_another_package_selects_and_scores(data: Path, model: str, tmp_path: Path) -> None:
    register_metric(Metric("first_letter", first_letter, is_mean=True))
    task = from_files(data, metrics=["first_letter", "accuracy"])
    made = softprompt.train(
        task=task, backbone=model, output=tmp_path / "run", method="prompt_tuning", steps=2, batch=4, settings=QUICK
    )
    card = made["prompt_tuning"].card
    assert card.metrics == ["first_letter", "accuracy"]
    assert card.best is not None
    assert card.best["metric"] == "first_letter"
    found = softprompt.evaluate(tmp_path / "run", data)
    assert set(found.metrics) == {"first_letter", "accuracy"} == set(found.floors["majority"])
    assert found.metrics["first_letter"] == found.metrics["accuracy"], "good and bad differ in their first letter"
    assert repr(found).startswith(f"Evaluation({card.name!r} on {data}, 40 examples: first_letter ")
    with pytest.raises(BadInput, match="already a metric named 'first_letter'"):
        register_metric(Metric("first_letter", first_letter))
    with pytest.raises(BadInput, match=r"already a metric named 'f1\(good\)'"):
        register_metric(Metric("f1(good)", first_letter))


def test_a_metric_may_need_the_groups() -> None:
    register_metric(Metric("one_in_a_group", one_in_a_group, needs_groups=True))
    golds = [("a",), ("b",), ("c",), ("d",)]
    assert measure(["one_in_a_group"], ["a", "x", "x", "x"], golds, ["1", "1", "2", "2"]) == {"one_in_a_group": 0.5}


def test_a_task_of_another_package_is_trained_by_name(data: Path, model: str, tmp_path: Path) -> None:
    def mine() -> Task:
        """Say whether it is good."""
        read = from_files(data)
        return Task("mine", read.examples, read.choices, read.metrics, read.template)

    register_task(mine)
    assert not is_published("mine")
    softprompt.train(task="mine", backbone=model, output=tmp_path / "run", method="prompt_tuning", steps=2, batch=4,
                     settings=QUICK)  # fmt: skip
    origin = json.loads((tmp_path / "run" / "run.json").read_text())["task"]
    assert origin == {"task": "mine"}
    assert task_again(origin) == get_task("mine")
    with pytest.raises(BadInput, match="already a task named 'mine'"):
        register_task(mine)
    with pytest.raises(BadInput, match="'mine' is shipped"):
        get_task("mine", shots=3)


def test_an_entry_of_another_package_is_read_as_a_published_task(data: Path, model: str, tmp_path: Path) -> None:
    entry = Entry(
        name="mine/moods", about="Is it good?", citation="Nobody 2026", path="nobody/moods",
        rows={"train": 40, "validation": 40}, label="label", labels=("bad", "good"),
        paper=Form("text: {text}", ("0", "1")), words=Form("{text}\nIt is", ("bad", "good")),
    )  # fmt: skip
    register_task(entry)
    assert is_published("mine/moods")
    folder = tmp_path / "published" / "mine" / "moods"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text(data.read_text())
    softprompt.train(
        task="moods", data_dir=tmp_path / "published", backbone=model, output=tmp_path / "run", method="prompt_tuning",
        steps=2, batch=4, settings=QUICK,
    )  # fmt: skip
    found = softprompt.evaluate(tmp_path / "run", task="mine/moods", data_dir=tmp_path / "published")
    assert (found.n, found.data) == (40, "mine/moods, test")
    with pytest.raises(BadInput, match="expected a name like FAMILY/TASK"):
        register_task(
            Entry(name="moods", about="", citation="", path="", rows={}, paper=entry.paper, words=entry.words)
        )


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    rows = "".join(f"message {i},{('sales', 'returns')[i % 2]}\n" for i in range(20))
    (tmp_path / "tickets.csv").write_text(f"text,team\n{rows}")
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], {})
    assert get_task("tickets").metrics == ("accuracy", "length_match")


PLUGIN = """
from softprompt.tasks import Task, get_task
from softprompt.tasks.metrics import Metric, register_metric
from softprompt.tasks.registry import register_task

register_metric(Metric("plugged_metric", lambda predictions, references: 0.25))

def plugged_task():
    return get_task("support")

register_task(plugged_task)
"""


def test_installed_packages_declare_tasks_and_metrics_as_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownName, match="Unknown metric 'plugged_metric'"):
        get_metric("plugged_metric")
    (tmp_path / "plugged.py").write_text(PLUGIN)
    info = tmp_path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[softprompt.metrics]\nmine = plugged\n[softprompt.tasks]\nmine = plugged\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.reload(plugins)  # as in a new process: each group is loaded once
    assert measure(["plugged_metric"], ["a"], [("b",)]) == {"plugged_metric": 0.25}
    assert get_task("plugged_task").name == "support"
