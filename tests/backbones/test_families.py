"""A backbone family is one file and one registration, also outside the package."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

import softprompt
from softprompt.backbones import Causal, Family, load_backbone, register_family
from softprompt.backbones.causal import CausalTokenization
from softprompt.backbones.families import BACKBONE_FAMILIES, get_family
from softprompt.backbones.load import describe, skeleton
from softprompt.errors import BadInput, UnknownName
from softprompt.tasks import Example
from tests import tiny


class ParrotConfig(LlamaConfig):  # type: ignore[misc]
    model_type = "parrot"


class ParrotForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    config_class = ParrotConfig


class ParrotTokenization(CausalTokenization):
    """Choices end with end-of-sequence, unlike those of other decoder-only models."""

    def separate(self, ids: list[list[int]]) -> list[list[int]]:
        return [[*tokens, self.eos()] for tokens in ids]


class Parrot(Causal):
    kind = "parrot"
    tokenization = ParrotTokenization


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    AutoConfig.register("parrot", ParrotConfig, exist_ok=True)
    before = dict(BACKBONE_FAMILIES)
    yield register_family(
        Family(
            name="parrot",
            title="a parrot",
            models="Parrot",
            backbone=Parrot,
            auto_class=ParrotForCausalLM,
            recognizes=lambda config: config.model_type == "parrot",
            decoder_only=True,
        )
    )
    BACKBONE_FAMILIES.clear()
    BACKBONE_FAMILIES.update(before)


@pytest.fixture
def folder(family: Family, tmp_path: Path) -> str:
    """A parrot on disk, as transformers saves it."""
    made = ParrotForCausalLM(ParrotConfig(**tiny.model("llama").config.to_diff_dict() | {"model_type": "parrot"}))  # type: ignore[operator, union-attr]
    made.save_pretrained(tmp_path / "parrot")
    tiny.tokenizer().save_pretrained(tmp_path / "parrot")
    return str(tmp_path / "parrot")


def test_a_family_from_outside_trains_and_predicts(folder: str, tmp_path: Path) -> None:
    data, run = tmp_path / "messages.csv", tmp_path / "run"
    with data.open("w", newline="", encoding="utf-8") as file:
        rows = [
            (f"{'really ' * i}{word}", label) for i in range(10) for word, label in (("late", "bad"), ("green", "good"))
        ]
        csv.writer(file).writerows([("text", "label"), *rows])
    settings = {"length": 3, "evaluate_every": 2}
    softprompt.train(data=data, backbone=folder, output=run, steps=4, batch=4, settings=settings)
    assert softprompt.load_prompt(run).card.length == 3
    assert len(softprompt.predict(run, texts=["late", "really green"])) == 2
    with pytest.raises(BadInput, match="a parrot, and PEFT has no prompt tuning"):
        softprompt.export_prompt(run, tmp_path / "peft")


def test_it_is_found_by_its_config_and_says_its_own_facts(folder: str, family: Family) -> None:
    backbone = load_backbone(folder)
    assert type(backbone) is Parrot
    assert (backbone.kind, backbone.family, describe(folder)["kind"]) == ("parrot", family, "parrot")
    assert type(skeleton(folder)) is ParrotForCausalLM
    assert backbone.labels_on_right()
    example = Example("the parcel is late", "bad", choices=("good", "bad"))
    assert backbone.tokens.target_ids(example)[-1] == tiny.EOS
    assert tiny.backbone("llama").tokens.target_ids(example)[-1] != tiny.EOS


def test_without_a_family_for_it_a_model_is_one_error_that_lists_those_there_are(folder: str) -> None:
    del BACKBONE_FAMILIES["parrot"]
    with pytest.raises(BadInput, match=r"type 'parrot'; expected .*an encoder-decoder \(T5, BART\)"):
        load_backbone(folder)
    with pytest.raises(UnknownName, match="'parrot'"):
        get_family("parrot")


def test_what_the_families_of_the_package_say() -> None:
    facts = {
        name: (one.generates, one.decoder_only, one.fills_gaps, one.ends_choices, one.peft_task)
        for name, one in BACKBONE_FAMILIES.items()
    }
    assert facts == {
        "causal": (True, True, False, False, "CAUSAL_LM"),
        "seq2seq": (True, False, False, True, "SEQ_2_SEQ_LM"),
        "masked": (False, False, True, True, None),
    }
    for name, one in BACKBONE_FAMILIES.items():
        assert one.backbone.kind == name
        assert one.model_class.__name__ == one.class_name
