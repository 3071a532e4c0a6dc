"""Folders written by 0.1.0 still load, resume and repeat, whatever their methods are named now."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import softprompt
from softprompt.errors import BadInput
from softprompt.experiments.compare_finished import compare_finished
from softprompt.runs.prompt import load_prompt
from softprompt.runs.run_card import read_run_card
from softprompt.training.candidate import Candidate
from tests.command_line import Cli
from tests.compare import assert_close

pytestmark = pytest.mark.filterwarnings("ignore:The card of .* nothing of the network")

KEPT = Path(__file__).parent.parent / "fixtures" / "v0_1_0"
NAMES = {"low_rank": "dpt", "random_projection": "ulpt", "multitask": "mpt", "dept": "dept", "finished": "dpt"}
DATA = ("--data", "messages.csv", "--backbone", "llama", "--steps", "4", "--batch", "4")
SWEEP = ("sweep", *DATA, "--set", "length=3", "--set", "evaluate_every=2", "--set", "prompt_rank=2",
         "--grid", "rates.weights=0.1,0.3", "--seeds", "1", "--output", "sweep")  # fmt: skip
COMPARE = ("compare", *DATA, "--set", "length=3", "--set", "evaluate_every=2", "--budget", "1", "--seeds", "2",
           "--output", "compare")  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folders, in which the test stands."""
    here = shutil.copytree(KEPT, tmp_path / "kept")
    for path in here.rglob("*.json"):
        path.write_text(path.read_text(encoding="utf-8").replace("{HERE}", str(here)), encoding="utf-8")
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what trained, one for each step."""
    taken: list[str] = []
    update = Candidate.update

    def counted(self: Candidate, loss: float) -> None:
        taken.append(self.name)
        update(self, loss)

    monkeypatch.setattr(Candidate, "update", counted)
    return taken


def table(folder: Path) -> dict[str, Any]:
    """A table.json without its versions and without what 0.1.0 did not write."""
    found: dict[str, Any] = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    del found["versions"]
    found.pop("overall", None)
    found["notes"] = [note for note in found.get("notes", ()) if not note.startswith("Smallest difference")]
    for part in (found, *found.get("tasks", ())):
        part["floors"] = {name: part["floors"][name] for name in ("majority", "zero_shot") if "floors" in part}
        for row in part.get("rows", ()):
            for name in ("endpoints", "endpoint_differences"):
                row.pop(name, None)
    return found


def renamed(value: Any) -> Any:
    """`value` with the names that methods have now, wherever one stands alone; folders keep theirs."""
    if isinstance(value, dict):
        return {name: renamed(one) if name != "folders" else one for name, one in value.items()}
    if isinstance(value, list):
        return [renamed(one) for one in value]
    return NAMES.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("run", NAMES)
def test_finished_runs_predict_and_evaluate_as_they_did(run: str, here: Path, cli: Cli) -> None:
    card = load_prompt(run).card
    assert card.method == NAMES[run]
    records = [json.loads(line) for line in (here / run / "predictions-test.jsonl").read_text().splitlines()]
    code, out, err = cli("predict", run, *(record["source"].split("\n")[0][6:] for record in records), "--json")
    assert code == 0, err
    assert [answer["prediction"] for answer in json.loads(out)] == [record["prediction"] for record in records]
    code, out, err = cli("evaluate", run, "--data", "messages.csv", "--json")
    assert code == 0, err
    assert json.loads(out)["n"] == 40


def assert_alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Tensors that differ by roundings: another version multiplies in another order."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_close(found[name], tensor, 1e-6)


def test_an_interrupted_run_ends_with_the_tensors_of_one_that_was_not(here: Path, cli: Cli) -> None:
    code, _, err = cli("train", "--resume", "unfinished")
    assert code == 0, err
    for name in ("prompt.safetensors", "method.safetensors"):
        assert_alike(load_file(here / "unfinished" / name), load_file(here / "finished" / name))
    written = json.loads((here / "unfinished" / "prompt.json").read_text(encoding="utf-8"))
    assert written["method"] == "dpt", "what is written now has today's names"


def test_a_run_is_repeated_from_its_run_json(here: Path, cli: Cli) -> None:
    code, _, err = cli("train", "low_rank/run.json", "--output", "again")
    assert code == 0, err
    assert_alike(load_file(here / "again" / "prompt.safetensors"), load_file(here / "low_rank/prompt.safetensors"))
    assert json.loads((here / "again" / "run.json").read_text(encoding="utf-8"))["recipe"]["method"] == "dpt"


@pytest.mark.parametrize("method", ["low_rank", "dpt"])
def test_a_sweep_is_found_whole(method: str, here: Path, cli: Cli, steps: list[str]) -> None:
    before = table(here / "sweep")
    code, _, err = cli(*SWEEP, "--method", method)
    assert code == 0, err
    assert steps == []
    assert table(here / "sweep") == renamed(before)


@pytest.mark.parametrize("method", ["low_rank", "dpt"])
def test_a_comparison_is_found_whole_in_its_own_folders(method: str, here: Path, cli: Cli, steps: list[str]) -> None:
    before = table(here / "compare")
    code, _, err = cli(*COMPARE, "--methods", f"{method},dept", "--set", f"{method}.prompt_rank=2")
    assert code == 0, err
    assert steps == []
    assert table(here / "compare") == renamed(before)
    assert not (here / "compare" / "messages" / "dpt").exists()
    assert compare_finished(["compare"], baseline="low_rank").tasks[0].baseline == "dpt"


def test_a_comparison_that_was_interrupted_goes_on_in_its_own_folders(here: Path, cli: Cli, steps: list[str]) -> None:
    before = table(here / "compare")
    own = here / "compare" / "messages" / "low_rank" / "rates-x1"
    shutil.rmtree(own / "seed-1")
    code, _, err = cli(*COMPARE, "--methods", "low_rank,dept", "--set", "low_rank.prompt_rank=2")
    assert code == 0, err
    assert steps == ["dpt-messages-x1-seed1"] * 4
    assert (own / "seed-1" / "prompt.json").is_file()
    found = table(here / "compare")
    assert found["tasks"][0].pop("seconds") >= before["tasks"][0].pop("seconds")
    assert found == renamed(before)


def test_a_sweep_and_a_comparison_of_other_words_are_still_refused(here: Path, cli: Cli) -> None:
    code, _, err = cli(*SWEEP, "--method", "ulpt")
    assert code == 2
    assert "another recipes" in err
    code, _, err = cli(*COMPARE, "--methods", "low_rank,dept", "--set", "low_rank.prompt_rank=1")
    assert code == 2
    assert "another recipe" in err


@pytest.mark.parametrize("run", ["multitask", "low_rank"])
def test_a_run_goes_on_under_the_new_name(run: str, here: Path, cli: Cli) -> None:
    code, _, err = cli("train", *DATA, "--start-from", run, "--output", "next", "--set", "evaluate_every=2")
    assert code == 0, err
    assert read_run_card(here / "next").recipe.method == NAMES[run]
    assert (here / "next" / "README.md").read_text(encoding="utf-8").count(NAMES[run])


def test_a_name_and_its_alias_are_one_method(here: Path, cli: Cli) -> None:
    for words in (("--method", "low_rank", "--method", "dpt"), ("--method", "low_rank+dept", "--method", "dpt+dept")):
        code, _, err = cli("train", *DATA, *words, "--output", "twice")
        assert code == 2
        assert "each method once" in err
    with pytest.raises(BadInput, match="each method once"):
        softprompt.compare(data="messages.csv", backbone="llama", methods=["mpt", "multitask"], output="twice")
    assert not (here / "twice").exists()
    assert torch.equal(load_prompt("low_rank").folded.prompt, load_file("low_rank/prompt.safetensors")["prompt"])
