"""The artefact: what is saved answers as what was tuned, and nothing else is accepted in its place."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from softprompt.errors import BadArtefact, BadInput, CannotWrite, PromptMismatch
from softprompt.evaluation.evaluate import evaluate_examples
from softprompt.methods.bank import Bank
from softprompt.methods.parameter_count import count_parameters
from softprompt.methods.registry import METHODS, get_method, parse_options
from softprompt.runs.fingerprint import fingerprint
from softprompt.runs.prompt import load_prompt
from softprompt.training.finish import finish
from softprompt.training.loop import tune
from softprompt.training.run import Setting, begin
from tests import tiny
from tests.candidates import candidate, finished, on_families, tiny_task
from tests.compare import assert_close


@pytest.mark.parametrize(("family", "method"), on_families([*METHODS, "superpos+adept", "smop+dept"]))
def test_a_loaded_prompt_answers_as_the_tuned_one(family: str, method: str, tmp_path: Path) -> None:
    backbone = tiny.backbone(family)
    one = candidate(backbone, method)
    run = begin(one, tmp_path / "run", Setting(backbone=backbone.name))
    tune(backbone, [one])
    finish(backbone, run, {})
    examples = tiny_task().examples["test"]
    with torch.no_grad(), backbone.using(Bank({"tuned": one.prompt.eval()})):
        expected = backbone.rank(examples, [0] * len(examples))
    loaded = load_prompt(tmp_path / "run")
    loaded.check(backbone)
    with torch.no_grad(), backbone.using(Bank({"loaded": loaded.soft_prompt()})):
        found = backbone.rank(examples, [0] * len(examples))
        records = evaluate_examples(backbone, examples, 0)
    assert_close(found, expected)
    assert [record.prediction for record in records] == [
        json.loads(line)["prediction"]
        for line in (tmp_path / "run" / "predictions-test.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_counted_without_weights_as_its_run_counts_it(method: str, tmp_path: Path) -> None:
    card = finished(tmp_path, method).card
    one = get_method(method)
    found = count_parameters(one, parse_options(one, card.options), d=tiny.D, positions=card.max_source)
    assert found == (card.trainable, card.stored)


@pytest.mark.usefixtures("curves")
def test_a_finished_run_holds_what_the_documentation_says(tmp_path: Path) -> None:
    finished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "run.json", "metrics.jsonl", "prompt.json", "prompt.safetensors", "method.safetensors", "README.md",
        "learning_curve.png", "predictions-dev.jsonl", "predictions-test.jsonl", "predictions-test_generated.jsonl",
    } - {"metrics.jsonl"}  # written by tune_runs, with the checkpoints  # fmt: skip
    card = json.loads((tmp_path / "prompt.json").read_text())
    assert set(card["scores"]) == {"majority", "zero_shot", "dev", "test", "test_generated"}
    assert card["stored"] == 3 * tiny.D + 256 * tiny.D
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert "base_model: tiny-llama" in (tmp_path / "README.md").read_text()


def test_an_offset_by_token_is_stored_as_its_network(tmp_path: Path) -> None:
    prompt = finished(tmp_path, "adept")
    found = load_file(tmp_path / "prompt.safetensors")
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        "prompt": (3, tiny.D), "network.down": (tiny.D, 3), "network.down_bias": (3,), "network.up": (3, tiny.D),
        "network.up_bias": (tiny.D,),
    }  # fmt: skip
    assert prompt.card.kind == "prompt+token"
    assert prompt.card.stored == sum(tensor.numel() for tensor in found.values()) == prompt.card.trainable
    assert found["network.up"].any()


@pytest.mark.parametrize("method", ["attempt", "smop", "smop+dept"])
def test_what_looks_at_its_input_is_stored_unfolded(tmp_path: Path, method: str) -> None:
    finished(tmp_path, "prompt_tuning")
    prompt = finished(tmp_path, method)  # over another run
    assert not (tmp_path / "prompt.safetensors").exists()
    loaded = load_prompt(tmp_path)
    assert loaded.card.kind == "input"
    assert loaded.card.stored == sum(t.numel() for t in load_file(tmp_path / "method.safetensors").values())
    for one in (prompt, loaded):
        with pytest.raises(BadInput, match=f"{re.escape(repr(method))} .* depends on the input"):
            _ = one.folded
    assert "made for each input" in (tmp_path / "README.md").read_text()
    assert loaded.card.positions == (256 if method == "smop+dept" else None)


def test_another_backbone_is_refused_with_both_named(tmp_path: Path) -> None:
    prompt = finished(tmp_path)
    with pytest.raises(PromptMismatch, match=r"tuned for tiny-llama .* not for tiny-gpt2"):
        prompt.check(tiny.backbone("gpt2"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_same_backbone_in_another_dtype_is_accepted(tmp_path: Path, dtype: torch.dtype) -> None:
    prompt = finished(tmp_path)
    backbone = tiny.backbone("llama")
    backbone.model.to(dtype)
    prompt.check(backbone)


def test_a_table_that_was_trained_a_little_is_another_backbone() -> None:
    one, other = tiny.backbone("llama"), tiny.backbone("llama")
    assert fingerprint(one).agrees(fingerprint(other))
    with torch.no_grad():
        other.embedding.weight[5, 3] *= 1.1
    assert not fingerprint(one).agrees(fingerprint(other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_another_network_under_the_same_table_is_another_backbone(tmp_path: Path, dtype: torch.dtype) -> None:
    prompt, other = finished(tmp_path), tiny.backbone("llama")
    with torch.no_grad():
        for name, tensor in other.model.named_parameters():
            if "mlp" in name:
                tensor *= 1.01
    other.model.to(dtype)
    with pytest.raises(PromptMismatch, match=r"table \w+, network (\w+)\), not for .* table \w+, network (?!\1)"):
        prompt.check(other)


def test_a_card_that_knows_no_network_is_accepted_with_a_note(tmp_path: Path) -> None:
    finished(tmp_path)
    card = json.loads((tmp_path / "prompt.json").read_text())
    del card["fingerprint"]["network"]
    (tmp_path / "prompt.json").write_text(json.dumps(card))
    with pytest.warns(UserWarning, match=r"knows the backbone's embedding table and nothing of the network"):
        load_prompt(tmp_path).check(tiny.backbone("llama"))


def _truncate(folder: Path) -> None:
    path = folder / "prompt.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def _foreign(folder: Path) -> None:
    save_file({"weight": torch.ones(2, 2)}, folder / "prompt.safetensors")


def _wrong_shape(folder: Path) -> None:
    save_file({"prompt": torch.ones(3, 7), "offset": torch.ones(256, 7)}, folder / "prompt.safetensors")


def _not_finite(folder: Path) -> None:
    rows = {"prompt": torch.full((3, tiny.D), torch.nan), "offset": torch.ones(256, tiny.D)}
    save_file(rows, folder / "prompt.safetensors")


def _edit(**changes: Any) -> Any:
    def edit(folder: Path) -> None:
        path = folder / "prompt.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "truncated"),
        (_foreign, r"holds \{'weight'"),
        (_wrong_shape, "prompt.json says"),
        (_not_finite, "not finite"),
        (lambda folder: (folder / "prompt.safetensors").unlink(), "is missing"),
        (lambda folder: (folder / "prompt.safetensors").write_bytes(b"PK pickle"), "no safetensors"),
        (lambda folder: (folder / "prompt.json").unlink(), "--resume"),
        (lambda folder: (folder / "prompt.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "prompt.json").write_text("[]"), "cannot be read"),
        (_edit(format=99), "format 99"),
        (_edit(kind="magic"), "kind"),
        (_edit(surprise=1), "surprise"),
    ],
)
def test_a_damaged_or_foreign_artefact_is_one_clear_error(tmp_path: Path, damage: Any, message: str) -> None:
    finished(tmp_path)
    load_prompt(tmp_path)
    damage(tmp_path)
    with pytest.raises(BadArtefact, match=message):
        load_prompt(tmp_path)


def _tensors(file: str, **changes: torch.Tensor | None) -> Any:
    def change(folder: Path) -> None:
        tensors: dict[str, Any] = load_file(folder / file) | {n.replace("__", "."): t for n, t in changes.items()}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / file)

    return change


@pytest.mark.parametrize(
    ("method", "damage", "message"),
    [
        ("adept", _tensors("prompt.safetensors", network__up=None), "prompt.json says"),
        ("adept", _tensors("prompt.safetensors", network__down=None), "prompt.json says"),
        ("adept", _tensors("prompt.safetensors", network__up=torch.ones(4, tiny.D)), "prompt.json says"),
        ("adept", _tensors("prompt.safetensors", network__down_bias=torch.full((3,), torch.inf)), "not finite"),
        ("smop", _tensors("method.safetensors", prompt__router=None), "prompt.json says"),
        ("smop", _tensors("method.safetensors", prompt__more=torch.ones(1)), "prompt.json says"),
        (
            "smop",
            _tensors("method.safetensors", prompt__router=torch.ones(2, tiny.D).half()),
            "expected finite float32",
        ),
        ("smop", _tensors("method.safetensors", prompt__rows=torch.full((2, 3, tiny.D), torch.nan)), "not finite"),
        ("smop+dept", _tensors("method.safetensors", offset__reached=torch.ones(256)), "expected finite bool"),
        ("smop", lambda folder: (folder / "method.safetensors").unlink(), "is missing"),
        ("smop", _edit(method="smup"), "names a method that cannot be made: Unknown method 'smup'"),
        ("smop", _edit(options={"prompts": 0}), "names a method that cannot be made"),
        ("smop", _edit(options={"prompts": 3, "length": 3}), "prompt.json says"),
    ],
)
def test_a_damaged_artefact_of_another_kind_is_one_clear_error(
    tmp_path: Path, method: str, damage: Any, message: str
) -> None:
    finished(tmp_path, method)
    load_prompt(tmp_path)
    damage(tmp_path)
    with pytest.raises(BadArtefact, match=message):
        load_prompt(tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArtefact, match="is not a folder"):
        load_prompt(tmp_path / "nowhere")
    with pytest.raises(BadArtefact, match=r"no prompt\.json"):
        load_prompt(tmp_path)


def test_a_disk_that_fills_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = finished(tmp_path)
    before = (tmp_path / "prompt.safetensors").read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("softprompt.runtime.files.save_file", full)
    with pytest.raises(CannotWrite, match="No space left on device"):
        prompt.save(tmp_path)
    assert (tmp_path / "prompt.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*part"))
