"""Runs whose prompts another run mixes: what is read, what is refused, what is recorded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.backbones import Backbone
from softprompt.errors import BadArtefact, BadInput, Interrupted, PromptMismatch
from softprompt.runs.run_card import read_run_card
from softprompt.training.candidate import Candidate, make_candidate
from softprompt.training.request import make_recipes
from softprompt.training.run import Run, Setting, begin, resume_run, tune_runs
from tests import tiny
from tests.candidates import finished, tiny_task
from tests.command_line import QUICK, Cli
from tests.compare import assert_same_tensors, copied
from tests.sources import write_source

QUIET = {"evaluate_every": 2, "steps": 6, "batch": 4, "length": 3, "width": 4}


def mixing(backbone: Backbone, folders: list[Path], **given: Any) -> Candidate:
    sources = [write_source(folder, backbone, seed=i) for i, folder in enumerate(folders)]
    recipe = make_recipes(["attempt"], {**QUIET, "sources": sources, **given}, 0)["attempt"]
    return make_candidate("mixing", recipe, backbone, tiny_task())


def begun(backbone: Backbone, tmp_path: Path, name: str) -> Run:
    one = mixing(backbone, [tmp_path / "a", tmp_path / "b"])
    return begin(one, tmp_path / name, Setting(backbone=backbone.name))


def test_the_rows_of_the_sources_are_mixed_in_their_order_and_not_trained(tmp_path: Path) -> None:
    backbone = tiny.backbone("llama")
    run = begun(backbone, tmp_path, "run")
    expected = torch.stack([torch.randn(3, tiny.D, generator=torch.Generator().manual_seed(i)) for i in (0, 1)])
    for _ in range(2):
        assert torch.equal(run.candidate.prompt.state_dict()["prompt.sources"], expected)
        tune_runs(backbone, [run])
    told = read_run_card(tmp_path / "run").sources
    assert [source.folder for source in told] == [str((tmp_path / name).resolve()) for name in "ab"]
    assert set(told[0].sha256) == {"prompt.safetensors"}


def test_sources_are_named_so_that_they_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(tmp_path / "a", tiny.backbone("llama"))
    monkeypatch.chdir(tmp_path)
    recipe = make_recipes(["attempt"], {**QUIET, "sources": "[a, a]"}, 0)["attempt"]
    assert recipe.options["sources"] == [str((tmp_path / "a").resolve())] * 2


def test_what_cannot_be_mixed_is_refused_before_a_backbone_is_loaded(tmp_path: Path) -> None:
    long = write_source(tmp_path / "long", tiny.backbone("llama"), length=5)
    finished(tmp_path / "dept", "dept")
    for sources, error, message in (
        ([long], BadInput, "has 5 rows, and this prompt 3.* Give length=5"),
        ([str(tmp_path / "dept")], BadInput, r"of kind 'prompt\+position'"),
        ([str(tmp_path / "nowhere")], BadArtefact, "is not a folder"),
    ):
        with pytest.raises(error, match=message):
            make_recipes(["attempt"], {**QUIET, "sources": sources}, 0)


def test_a_source_on_another_backbone_is_refused(tmp_path: Path) -> None:
    source = write_source(tmp_path / "a", tiny.backbone("gpt2"))
    recipe = make_recipes(["attempt"], {**QUIET, "sources": [source]}, 0)["attempt"]
    with pytest.raises(PromptMismatch, match=r"tuned for tiny-gpt2 .* not for tiny-llama"):
        make_candidate("mixing", recipe, tiny.backbone("llama"), tiny_task())


def test_an_interrupted_run_goes_on_without_its_sources(tmp_path: Path) -> None:
    backbone = tiny.backbone("llama")
    whole, cut = begun(backbone, tmp_path, "whole"), begun(backbone, tmp_path, "cut")
    tune_runs(backbone, [whole])
    with pytest.raises(Interrupted):
        tune_runs(backbone, [cut], interrupted=lambda: cut.candidate.step >= 3)
    shutil.rmtree(tmp_path / "a")
    run = resume_run(read_run_card(tmp_path / "cut"), tmp_path / "cut", backbone, tiny_task())
    tune_runs(backbone, [run])
    assert_same_tensors(copied(run.candidate.prompt), copied(whole.candidate.prompt))
    assert run.candidate.sources == whole.candidate.sources


def test_a_run_stopped_before_its_first_checkpoint_needs_its_sources_as_they_were(tmp_path: Path) -> None:
    backbone = tiny.backbone("llama")
    started = copied(begun(backbone, tmp_path, "run").candidate.prompt)
    card = read_run_card(tmp_path / "run")
    assert_same_tensors(copied(resume_run(card, tmp_path / "run", backbone, tiny_task()).candidate.prompt), started)
    write_source(tmp_path / "b", backbone, seed=7)
    with pytest.raises(BadArtefact, match=r"needs the run it reads, source-1, but .* its tensors have changed"):
        resume_run(card, tmp_path / "run", backbone, tiny_task())


def test_a_prompt_that_looks_at_its_input_goes_through_every_verb(
    cli: Cli, data: Path, model: str, tmp_path: Path
) -> None:
    common = ("train", "--data", data, "--backbone", model, *QUICK)
    source, run = tmp_path / "source", tmp_path / "run"
    assert cli(*common, "--output", source)[0] == 0
    mixed = ("--method", "attempt", "--method", "smop", "--set", f"sources={source},{source}")
    code, _, err = cli(*common, "--output", run, *mixed)
    assert code == 0, err
    for method in ("attempt", "smop"):
        folder = run / method
        code, out, err = cli("predict", folder, "a red b", "blue f", "--json")
        assert (code, len(json.loads(out))) == (0, 2), err
        code, out, err = cli("evaluate", folder, "--data", data, "--json")
        assert (code, json.loads(out)["n"]) == (0, 40), err
        code, out, err = cli("show", folder, "--json")
        shown = json.loads(out)
        assert (code, shown["kind"], shown["words"]) == (0, "input", []), err
        assert cli("show", folder)[0] == 0
    code, _, err = cli(*common, "--output", source, "--overwrite", *mixed[:2], *mixed[4:])
    assert code == 2
    assert "is a run that attempt reads" in " ".join(err.split())
