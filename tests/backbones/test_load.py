"""What is refused at load: weights that transformers would make up at random, other ones each time."""

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaModel

from softprompt.backbones.load import load_backbone
from softprompt.errors import BadInput
from tests import tiny


def change(folder: Path, **values: object) -> None:
    """Change the config of a saved model."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    config.pop("layer_types", None)  # as many as there were layers
    path.write_text(json.dumps(config))


def test_a_decoder_without_its_head_is_refused(tmp_path: Path) -> None:
    tiny.tokenizer().save_pretrained(tmp_path)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaModel(LlamaConfig(vocab_size=tiny.V, **shape)).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"lacks 1 of its tensors \(lm_head\.weight\).*\(a \.\.\.ForCausalLM\)"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "t5", "bart"])
def test_a_head_that_is_tied_to_the_table_is_not_missing(family: str, tmp_path: Path) -> None:
    load_backbone(tiny.save_tiny(family, tmp_path))


@pytest.mark.parametrize("family", ["llama", "t5", "bert"])
def test_layers_that_are_not_there_and_shapes_that_differ_are_named(family: str, tmp_path: Path) -> None:
    layers = {"llama": "num_hidden_layers", "t5": "num_layers", "bert": "num_hidden_layers"}[family]
    width = {"llama": "intermediate_size", "t5": "d_ff", "bert": "intermediate_size"}[family]
    tiny.save_tiny(family, tmp_path / "more")
    change(tmp_path / "more", **{layers: 3})
    with pytest.raises(BadInput, match="random values would stand there"):
        load_backbone(str(tmp_path / "more"))
    tiny.save_tiny(family, tmp_path / "wide")
    change(tmp_path / "wide", **{width: 48})
    with pytest.raises(BadInput, match=r"has the shape \(.*32.*\) in the checkpoint, and its config.json means \(.*48"):
        load_backbone(str(tmp_path / "wide"))


def test_a_file_that_was_cut_is_one_error(tmp_path: Path) -> None:
    tiny.save_tiny("llama", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    with pytest.raises(BadInput, match=r"cannot be loaded: .*file not fully covered"):
        load_backbone(str(tmp_path))
