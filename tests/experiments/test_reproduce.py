"""A table on tiny models: run, gone on with, interrupted, refused, and what is printed beside what was published."""

import json
import math
import statistics
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import softprompt
from softprompt.errors import BadArtefact, BadInput, Interrupted, RunFailed, UnknownName
from softprompt.experiments.reports.published_table import as_markdown, make_cell
from softprompt.experiments.reproduce import Reproduction
from softprompt.experiments.runner import JobBatch, LocalRunner, Monitor
from softprompt.experiments.tables import ReproductionTable
from softprompt.recipes.registry import TABLES, get_table
from softprompt.tasks.published.catalogue import find, load_task
from softprompt.tasks.published.spec import TaskSpec
from softprompt.training.candidate import Candidate
from tests import tiny
from tests.command_line import Cli
from tests.compare import assert_same_tensors
from tests.many_runs import after, data_folder, never_loaded, rows
from tests.published import write_rows

TASKS, LINES = ["rte", "cb"], ["prompt_tuning", "dept"]
CHANGES = {"steps": 4, "batch": 4, "evaluate_every": 2, "length": 2, "rank": 2, "pool": None}
CHOICES = "true false neither"  # of CB


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_tiny("llama", tmp_path_factory.mktemp("models") / "llama", CHOICES)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_tiny("t5", tmp_path_factory.mktemp("models") / "t5", CHOICES)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


Reproduce = Callable[..., dict[str, Any]]


@pytest.fixture
def reproduce(model: str, data: Path) -> Reproduce:
    def run(output: Path, table: str = "fair", **words: Any) -> dict[str, Any]:
        given = {"backbone": model, "tasks": TASKS, "lines": LINES, "seeds": 2, "settings": CHANGES, **words}
        given = {"data_dir": data, **given}
        return softprompt.reproduce(table=table, output=output, console=Console(quiet=True), **given).as_json()

    return run


@pytest.fixture(scope="module")
def done(model: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The table of two lines, two tasks and two seeds, run once; tests read it and leave it as it is."""
    output = tmp_path_factory.mktemp("table") / "run"
    found = softprompt.reproduce(
        table="fair", output=output, backbone=model, tasks=TASKS, lines=LINES, seeds=2, settings=CHANGES,
        data_dir=data, console=Console(quiet=True),
    )  # fmt: skip
    return output, found.as_json()


def folders(output: Path) -> list[Path]:
    return sorted(path.parent for path in output.glob("*/*/seed-*/run.json"))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "method.safetensors")


# A whole table


def test_a_table_runs_every_line_on_every_task_with_every_seed(done: tuple[Path, dict[str, Any]]) -> None:
    output, found = done
    expected = {
        f"{task}/{line}/seed-{seed}" for task in ("glue-rte", "superglue-cb") for line in LINES for seed in (0, 1)
    }
    assert {str(folder.relative_to(output)) for folder in folders(output)} == expected
    assert all((folder / "prompt.json").is_file() for folder in folders(output))
    assert json.loads((output / "table.json").read_text()) == json.loads(json.dumps(found))
    assert {(cell["line"], cell["task"]) for cell in found["cells"]} == {
        (line, task) for line in LINES for task in ("glue/rte", "superglue/cb")
    }
    for folder in folders(output):
        run = json.loads((folder / "run.json").read_text())
        assert (run["recipe"]["seed"], run["recipe"]["steps"]) == (int(folder.name[-1]), 4)
        assert run["setting"]["max_source"] == 128


def test_its_runs_are_done_by_the_cluster_that_is_asked_for(
    reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    @contextmanager
    def cluster(ray: str | None, workers: int | None, say: Any) -> Any:
        assert (ray, workers) == ("10.0.0.1:6379", 3)

        class Elsewhere(LocalRunner):
            def run(self, backbone: Any, batch: JobBatch, monitor: Monitor) -> list[str]:
                done.extend(job.name for job in batch.jobs)
                return super().run(backbone, batch, monitor)

        yield Elsewhere()

    monkeypatch.setitem(Reproduction.run.__globals__, "open_runner", cluster)
    reproduce(tmp_path, tasks=["rte"], lines=["dept"], ray="10.0.0.1:6379", workers=3)
    assert done == ["dept-glue/rte-seed0", "dept-glue/rte-seed1"]


def test_a_cell_is_the_mean_of_its_seeds_with_deviation_and_interval(done: tuple[Path, dict[str, Any]]) -> None:
    output, found = done
    for cell in found["cells"]:
        runs = [output / cell["task"].replace("/", "-") / cell["line"] / f"seed-{seed}" for seed in (0, 1)]
        cards = [json.loads((run / "prompt.json").read_text()) for run in runs]
        scores = [card["scores"]["test"]["metrics"][cell["metric"]] for card in cards]
        assert cell["scores"] == scores
        assert cell["mean"] == pytest.approx(statistics.mean(scores))
        assert cell["deviation"] == pytest.approx(statistics.stdev(scores))
        assert cell["interval"][0] <= cell["mean"] <= cell["interval"][1]
        assert cell["dev"] == [card["scores"]["dev"]["metrics"][cell["metric"]] for card in cards]
        assert cell["other"] == [card["scores"]["test_generated"]["metrics"][cell["metric"]] for card in cards]
        generated = [card["scores"]["test_generated"] for card in cards]
        assert cell["unparsable"] == pytest.approx(statistics.mean(one["unparsable"] / one["n"] for one in generated))
        assert cell["steps"] == [card["best"]["step"] for card in cards]
        assert cell["stopped"] == [None, None]
        assert cell["trainable"] == cards[0]["trainable"]
        assert cell["published"] is None


def test_the_floors_are_of_the_same_test_and_in_the_table(done: tuple[Path, dict[str, Any]]) -> None:
    output, found = done
    assert found["rows"]["glue/rte"] == {"train": 36, "dev": 4, "test": 12}
    for task in ("glue/rte", "superglue/cb"):
        floors = json.loads((output / task.replace("/", "-") / "floors.json").read_text())
        assert found["floors"][task] == floors
        assert floors["zero_shot"]["n"] == floors["majority"]["n"] == 12
    assert found["floors"]["glue/rte"]["majority"]["metrics"]["accuracy"] == 0.5
    text = (output / "table.md").read_text()
    assert "| commonest answer | 50.0 |" in text
    assert "| no prompt (zero-shot) |" in text
    assert "2 seeds (it asks for 3)" in text
    assert "Test rows: rte 12, cb 12." in text
    assert "Metrics: rte accuracy, cb macro_f1." in text
    assert all(f"| `{line}` |" in text for line in LINES)
    assert text.count(" ± ") == text.count("[") == 4
    assert as_markdown(ReproductionTable.model_validate(found)) == text


def test_each_run_is_what_it_would_be_by_itself(
    done: tuple[Path, dict[str, Any]], reproduce: Reproduce, tmp_path: Path
) -> None:
    alone = reproduce(tmp_path, tasks=["glue/rte"], lines=["dept"], seeds=1)
    assert alone["cells"][0]["deviation"] is None
    one, other = (tensors(output / "glue-rte" / "dept" / "seed-0") for output in (tmp_path, done[0]))
    for name in one:
        assert torch.allclose(one[name].float(), other[name].float(), atol=1e-5)
    assert not torch.equal(one["prompt.rows"], tensors(done[0] / "glue-rte" / "dept" / "seed-1")["prompt.rows"])


def test_the_same_call_again_trains_nothing_and_gives_the_same_table(
    done: tuple[Path, dict[str, Any]], reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, found = done
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.parent.name.startswith("seed-")}
    monkeypatch.setattr(Reproduction, "backbone", never_loaded)
    assert json.loads(json.dumps(reproduce(output))) == json.loads(json.dumps(found))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_finished_table_whose_floors_are_gone_measures_them_again(reproduce: Reproduce, tmp_path: Path) -> None:
    small: dict[str, Any] = {"tasks": ["rte"], "lines": ["dept"], "seeds": 1}
    first = reproduce(tmp_path, **small)
    (tmp_path / "glue-rte" / "floors.json").unlink()
    assert reproduce(tmp_path, **small) == first


# Going on


@pytest.mark.parametrize("steps", [3, 6])  # inside the first task, inside the second
def test_an_interrupted_table_goes_on_to_the_very_same_tensors(
    steps: int, done: tuple[Path, dict[str, Any]], model: str, data: Path, reproduce: Reproduce, tmp_path: Path
) -> None:
    made = Reproduction(
        get_table("fair"), tmp_path, tasks=TASKS, lines=LINES, seeds=2, changes=CHANGES,
        spec={"data_dir": str(data)}, setting={"backbone": model},
    )  # fmt: skip
    with pytest.raises(Interrupted, match="The same command goes on from here"):
        made.run(Monitor(interrupted=after(steps)))
    assert len(folders(tmp_path)) == (8 if steps == 6 else 4)
    assert len(list(tmp_path.rglob("prompt.json"))) == (4 if steps == 6 else 0)
    found = reproduce(tmp_path)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(done[1]))
    for folder in folders(done[0]):
        again = tmp_path / folder.relative_to(done[0])
        assert_same_tensors(tensors(again), tensors(folder))
        assert (again / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()
        assert not (again / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("words", "what"),
    [
        ({"settings": {**CHANGES, "rates.prompt": 0.5}}, "recipe"),
        ({"settings": {**CHANGES, "steps": 8}}, "recipe"),
        ({"limit": {"train": 8}}, "task"),
        ({"max_source": 9}, "setting"),
    ],
)
def test_a_folder_is_not_gone_on_with_in_other_words(
    words: dict[str, Any], what: str, finished: bool, model: str, data: Path, tmp_path: Path,
    done: tuple[Path, dict[str, Any]], reproduce: Reproduce,
) -> None:  # fmt: skip
    output = done[0]
    if not finished:
        output = tmp_path
        made = Reproduction(
            get_table("fair"), output, tasks=["rte"], lines=["dept"], seeds=1, changes=CHANGES,
            spec={"data_dir": str(data)}, setting={"backbone": model},
        )  # fmt: skip
        with pytest.raises(Interrupted):
            made.run(Monitor(interrupted=after(1)))
    before = {path: path.read_bytes() for path in output.rglob("*.*")}
    with pytest.raises(BadInput, match=f"holds a run with another {what}"):
        reproduce(output, tasks=["rte"], lines=["dept"], seeds=1, **words)
    assert {path: path.read_bytes() for path in output.rglob("*.*")} == before


def test_a_plan_that_is_damaged_is_named(reproduce: Reproduce, tmp_path: Path) -> None:
    path = tmp_path / "glue-rte" / "dept" / "seed-0" / "plan.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"task"')
    with pytest.raises(BadArtefact, match=r"plan\.json is not a valid plan\.json"):
        reproduce(tmp_path)


def test_a_run_whose_data_changed_is_not_gone_on_with(model: str, reproduce: Reproduce, tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data")
    words: dict[str, Any] = {"tasks": ["rte"], "lines": ["dept"], "seeds": 1}
    made = Reproduction(
        get_table("fair"), tmp_path / "run", changes=CHANGES, spec={"data_dir": str(data)},
        setting={"backbone": model}, **words,
    )  # fmt: skip
    with pytest.raises(Interrupted):
        made.run(Monitor(interrupted=after(1)))
    write_rows(data / "glue/rte/train.jsonl", rows(41, 2, ("sentence1", "sentence2")))
    with pytest.raises(BadInput, match="other data"):
        reproduce(tmp_path / "run", data_dir=data, **words)


def test_a_table_may_grow_and_its_data_and_computing_may_move(
    reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reproduce(tmp_path / "run", tasks=["rte"], lines=["dept"], seeds=1)
    moved = data_folder(tmp_path / "moved")
    more = {"data_dir": moved, "device": "cpu", "tokens_per_pass": 64}
    grown = reproduce(tmp_path / "run", tasks=["rte"], lines=LINES, seeds=2, **more)
    assert len(folders(tmp_path / "run")) == 4
    assert grown["cells"][1]["scores"][0] == first["cells"][0]["scores"][0]


def test_a_run_that_is_not_finite_leaves_the_others(
    done: tuple[Path, dict[str, Any]], reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Candidate.update

    def poisoned(self: Candidate, loss: float) -> None:
        update(self, loss)
        if self.step == 3 and self.name == "dept-glue/rte-seed1":
            next(iter(self.prompt.parameters())).data.fill_(math.nan)

    monkeypatch.setattr(Candidate, "update", poisoned)
    with pytest.raises(RunFailed, match="dept-glue/rte-seed1 stopped"):
        reproduce(tmp_path)
    found = json.loads((tmp_path / "table.json").read_text())
    assert len(found["cells"]) == 4
    stopped = {(cell["line"], cell["task"]): cell["stopped"] for cell in found["cells"]}
    assert [why is not None for why in stopped["dept", "glue/rte"]] == [False, True]
    assert "`dept` on glue/rte, seed 1: the loss was nan" in (tmp_path / "table.md").read_text()
    for folder in folders(done[0]):
        if (folder.parents[1].name, folder.parent.name, folder.name) != ("glue-rte", "dept", "seed-1"):
            again, whole = tensors(tmp_path / folder.relative_to(done[0])), tensors(folder)
            assert all(torch.allclose(again[n].float(), whole[n].float(), atol=1e-5) for n in whole)
    # The second call has nothing to do, and still says which run stopped.
    assert [cell["stopped"] for cell in reproduce(tmp_path)["cells"]] == list(stopped.values())


# Papers' tables


def test_attempt_of_superpos_table_mixes_the_runs_that_are_named(cli: Cli, t5: str, data: Path, tmp_path: Path) -> None:
    where = ("--backbone", t5, "--data-dir", data, "--max-source", 32)
    small = ("--set", "steps=2", "--set", "evaluate_every=2", "--set", "length=2")
    sources = [tmp_path / "source-0", tmp_path / "source-1"]
    for seed, source in enumerate(sources):
        words = ("--recipe", "superpos-simple/glue-rte", "--output", source, "--seed", seed)
        code, _, err = cli("train", *words, *where, *small)
        assert code == 0, err
    words = ("superpos/table1-small", "--lines", "attempt", "--tasks", "rte", *where, *small)
    code, _, err = cli("reproduce", *words, "--output", tmp_path / "without")
    assert code == 2
    assert "The line attempt of superpos/table1-small needs --set sources=..." in err
    assert not (tmp_path / "without").exists()
    named = ("--set", f"sources={sources[0]},{sources[1]}")
    code, out, err = cli("reproduce", *words, *named, "--output", tmp_path / "run", "--json")
    assert code == 0, err
    (cell,) = json.loads(out)["cells"]
    assert (cell["line"], cell["task"], cell["published"]) == ("attempt", "glue/rte", 59.9)
    mixed = tensors(tmp_path / "run/glue-rte/attempt/seed-0")["prompt.sources"]
    assert torch.equal(mixed, torch.stack([tensors(source)["prompt.rows"] for source in sources]))


def test_a_papers_table_stands_beside_what_was_published(cli: Cli, t5: str, data: Path, tmp_path: Path) -> None:
    words = ("superpos/table1-small", "--backbone", t5, "--data-dir", data, "--output", tmp_path / "run")
    words += ("--tasks", "rte,cb", "--lines", "superpos", "--lines", "superpos-dropout", "--set", "steps=2")
    words += ("--set", "evaluate_every=2", "--set", "length=2", "--set", "sampled=8", "--max-source", 32)
    code, out, err = cli("reproduce", *words, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["protocol"] == "paper:superpos"
    cells = {(cell["line"], cell["task"]): cell for cell in found["cells"]}
    assert cells["superpos", "glue/rte"]["published"] == 64.6
    assert cells["superpos", "superglue/cb"]["published"] == "73.6/76.8"
    assert cells["superpos", "superglue/cb"]["metric"] == "macro_f1+accuracy"
    score = cells["superpos", "glue/rte"]["mean"]
    text = (tmp_path / "run" / "table.md").read_text()
    assert "| SuperPos-Prompt, published | 64.6 | 73.6/76.8 | 69.9 |" in text
    assert "| SuperPos-Prompt, dropout, published | 58.5 | 39.6/60.7 | 54.3 |" in text
    assert f"| gap | {100 * score - 64.6:+.1f} |" in text
    assert "| Fine-tuning (quoted) | 66.1 | 47.9/69.6 | 62.4 |" in text
    assert "| Simple PT (quoted) | 49.1 | 0† | 24.6 |" in text
    assert "1 seed." in text
    assert {path.name for path in (tmp_path / "run" / "glue-rte").glob("*.json")} == {
        "floors.json", "floors-dropout.json"
    }  # fmt: skip
    on = json.loads((tmp_path / "run/glue-rte/superpos-dropout/seed-0/run.json").read_text())
    assert on["setting"]["dropout"] is True
    code, out, err = cli("reproduce", *words)
    assert code == 0, err
    assert "SuperPos-Prompt, published" in out
    assert "finished already" in err


def test_every_seed_of_a_few_shot_table_draws_other_examples(data: Path, t5: str, tmp_path: Path) -> None:
    changes = {"steps": 2, "evaluate_every": 2, "warmup": 0, "length": 2, "rank": 2, "batch": 4, "start": "noise"}
    found = Reproduction(
        get_table("dept/fewshot"), tmp_path, tasks=["cb"], lines=["k4", "k16"], seeds=2, changes=changes,
        spec={"form": "words", "data_dir": str(data)}, setting={"max_source": 32, "backbone": t5},
    ).run()  # fmt: skip
    assert found.rows["superglue/cb"] == {"train": 4, "dev": 6, "test": 6}
    tasks = {}
    for folder in folders(tmp_path):
        origin = json.loads((folder / "run.json").read_text())["task"]
        assert (origin["shots"], origin["draw"]) == (int(folder.parent.name[1:]), int(folder.name[-1]))
        again = TaskSpec.model_validate({name: origin[name] for name in TaskSpec.model_fields})
        tasks[folder.parent.name, folder.name] = load_task(find("superglue/cb"), again)
    train = {key: {one.id for one in task.examples["train"]} for key, task in tasks.items()}
    assert train["k4", "seed-0"] != train["k4", "seed-1"]
    assert {key: len(ids) for key, ids in train.items() if key[0] == "k16"} == {
        ("k16", f"seed-{i}"): 16 for i in (0, 1)
    }
    few, more = (found.cell(line, "superglue/cb") for line in ("k4", "k16"))
    assert few.interval is not None, "the test rows are the same for every draw"
    assert (few.published, more.published) == ("75.0±5.1", "78.6±4.3")

    # Runs that were tested on different rows have no common interval.
    runs = [tmp_path / "superglue-cb" / "k4" / f"seed-{seed}" for seed in (0, 1)]
    spec = TaskSpec(task="superglue/cb", data_dir=origin["data_dir"], form="words", protocol="paper:superpos")
    other = load_task(find("superglue/cb"), spec)
    table = get_table("dept/fewshot")
    column = next(column for column in table.columns if column.task == "superglue/cb")
    same = [tasks["k4", "seed-0"]] * 2
    assert make_cell(runs, same, column, table.lines[0]).interval is not None
    assert make_cell(runs, [same[0], other], column, table.lines[0]).interval is None


def test_a_table_may_start_from_a_run(done: tuple[Path, dict[str, Any]], reproduce: Reproduce, tmp_path: Path) -> None:
    source = done[0] / "superglue-cb" / "dept" / "seed-0"
    small: dict[str, Any] = {"tasks": ["rte"], "lines": ["dept"], "seeds": 1}
    changes = {"steps": 2, "batch": 4, "evaluate_every": 2, "length": 2, "rank": 2}
    reproduce(tmp_path, start_from=source, settings=changes, **small)
    run = json.loads((tmp_path / "glue-rte/dept/seed-0/run.json").read_text())
    assert run["start_from"]["folder"] == str(source.resolve())
    reproduce(tmp_path, start_from=source, settings=changes, **small)
    other = done[0] / "superglue-cb" / "dept" / "seed-1"
    with pytest.raises(BadInput, match="holds a run with another start_from"):
        reproduce(tmp_path, start_from=other, settings=changes, **small)


# Words that cannot be meant


@pytest.mark.parametrize(
    ("table", "words", "message"),
    [
        ("fare", {}, "Did you mean 'fair'"),
        ("fair", {"tasks": ["rt"]}, "Did you mean 'rte'"),
        ("fair", {"tasks": ["glue/rt"]}, "Did you mean 'glue/rte'"),
        ("fair", {"lines": ["dpt"]}, "Did you mean 'dept'"),
        ("fair", {"settings": {"stps": 3}}, "Did you mean 'steps'"),
        ("fair", {"settings": {"rates.ofset": 3}}, "Did you mean 'rates.offset'"),
        ("fair", {"protocl": "fair"}, "Did you mean 'protocol'"),
        ("fair", {"max_sorce": 3}, "Did you mean 'max_source'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest_before_anything_is_written(
    table: str, words: dict[str, Any], message: str, reproduce: Reproduce, tmp_path: Path
) -> None:
    with pytest.raises(UnknownName) as caught:
        reproduce(tmp_path / "run", table, **words)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_values_that_cannot_be_meant_are_refused_before_anything_is_written(
    reproduce: Reproduce, tmp_path: Path
) -> None:
    for words in ({"settings": {"steps": 0}}, {"shots": 0}, {"max_source": 0}):
        with pytest.raises(BadInput, match="=0"):
            reproduce(tmp_path / "run", **words)
    assert not (tmp_path / "run").exists()


def test_reproduce_needs_a_folder_and_lists_its_tables(cli: Cli) -> None:
    code, out, err = cli("reproduce", "fair")
    assert (code, out) == (2, "")
    assert "reproduce fair needs --output DIR" in " ".join(err.split())
    code, out, _ = cli("list", "tables", "--json")
    assert code == 0
    assert [row["name"] for row in json.loads(out)] == list(TABLES)
    code, out, _ = cli("list", "recipes")
    assert code == 0
    assert "dept/glue-rte" in out
