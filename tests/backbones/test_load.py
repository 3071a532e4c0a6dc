"""What is refused at load: weights that transformers would make up at random, other ones each time."""

import asyncio
import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaModel, TorchAoConfig

import softprompt
from softprompt.backbones.load import load_backbone
from softprompt.errors import BadInput, MissingPackage
from softprompt.serving.engine.engine import Engine
from softprompt.serving.http.app import make_app
from softprompt.serving.http.auth import Keys
from softprompt.serving.limits import Limits
from softprompt.serving.prompt_store import PromptStore
from tests import tiny
from tests.served import SMALL, client_of


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
    with pytest.raises(BadInput, match=r"model.safetensors is damaged or cut off"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("family", ["llama", "t5", "bert"])
def test_layers_that_the_config_does_not_have_are_refused(family: str, tmp_path: Path) -> None:
    name = {"llama": "num_hidden_layers", "t5": "num_layers", "bert": "num_hidden_layers"}[family]
    tiny.save_tiny(family, tmp_path)
    change(tmp_path, **{name: 1})
    with pytest.raises(BadInput, match=r"holds \d+ tensors of layers that its config.json does not have"):
        load_backbone(str(tmp_path))


def test_a_folder_without_a_tokenizer_is_told_so(tmp_path: Path) -> None:
    tiny.save_tiny("llama", tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(BadInput, match=r"holds no tokenizer .*tokenizer.save_pretrained\(FOLDER\)"):
        load_backbone(str(tmp_path))


def test_a_model_with_code_of_its_own_is_not_run(tmp_path: Path) -> None:
    tiny.save_tiny("llama", tmp_path)
    change(tmp_path, model_type="parrot", auto_map={"AutoConfig": "code.ParrotConfig"})
    (tmp_path / "code.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(BadInput, match=r"brings code of its own .* which is not run here"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("method", "package"), [("bitsandbytes", "bitsandbytes"), ("compressed-tensors", "compressed-tensors")]
)
def test_a_quantised_folder_whose_package_is_not_there_is_one_error(method: str, package: str, tmp_path: Path) -> None:
    tiny.save_tiny("llama", tmp_path)
    change(tmp_path, quantization_config={"quant_method": method, "load_in_8bit": True})
    with pytest.raises(MissingPackage, match=rf"is quantised \({method}\).*pip install {method}"):
        load_backbone(str(tmp_path))


@pytest.mark.filterwarnings("ignore")  # torchao's own, about torch
def test_a_prompt_is_trained_stored_and_served_on_a_quantised_backbone(data: Path, tmp_path: Path) -> None:
    """Int8 weights by torchao, as transformers saves and loads them."""
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig

    tiny.save_tiny("llama", tmp_path / "plain")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=TorchAoConfig(Int8WeightOnlyConfig())
    )
    model.save_pretrained(tmp_path / "int8")
    tiny.tokenizer().save_pretrained(tmp_path / "int8")
    made = softprompt.train(
        data=data, backbone=str(tmp_path / "int8"), output=tmp_path / "runs" / "one", method="dept", steps=6, batch=4,
        settings={"evaluate_every": 3, "length": 3, "rank": 2},
    )["dept"]  # fmt: skip
    (predicted,) = softprompt.predict(tmp_path / "runs" / "one", ["a red b"])
    backbone = load_backbone(str(tmp_path / "int8"))
    assert type(backbone.model.get_parameter("model.layers.0.mlp.up_proj.weight")).__name__ == "Int8Tensor"
    assert made.card.fingerprint.network, "norms, which are not quantised"

    async def classify() -> dict[str, float]:
        app = make_app(Engine(backbone, SMALL), PromptStore(tmp_path / "runs", backbone), keys=Keys(), limits=Limits())
        async with client_of(app) as client:
            answer = (await client.post("/v1/classify", json={"model": "one", "input": "a red b"})).json()
        found: dict[str, float] = answer["data"][0]["probabilities"]
        return found

    served, probabilities = asyncio.run(classify()), predicted.probabilities
    assert probabilities is not None
    assert served == pytest.approx(probabilities, abs=1e-4)
