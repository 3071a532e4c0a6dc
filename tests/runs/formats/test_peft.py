"""Prompts to and from HF PEFT, against the package itself. Where PEFT is wrong, the test says so and why."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from bench.padding_fault import measure
from peft import MultitaskPromptTuningConfig, PeftModel, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from softprompt.backbones import Backbone
from softprompt.errors import BadArtefact, BadInput, PromptMismatch, SoftPromptError
from softprompt.methods.bank import Bank
from softprompt.methods.folded import stored_tensors
from softprompt.methods.registry import METHODS
from softprompt.runs.convert import export_prompt, import_prompt
from softprompt.runs.formats.peft_adapter import read_adapter
from softprompt.runs.formats.peft_import import KEYS, interpret
from softprompt.runs.prompt import Prompt, load_prompt
from softprompt.tasks import Example
from tests import tiny
from tests.any_model import small_config
from tests.candidates import finished
from tests.command_line import Cli
from tests.compare import assert_close, assert_same_tensors

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]

SOURCE = Example("the invoice is wrong how do i log in", "bad")
TASK_TYPE = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bart": "SEQ_2_SEQ_LM"}
LENGTH = 4
DECODED = [0, 5, 9]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny backbones."""
    root = tmp_path_factory.mktemp("backbones")
    return {family: tiny.save_tiny(family, root / family) for family in TASK_TYPE}


def read(model: nn.Module, ids: Tensor, family: str) -> tuple[Tensor, list[int]]:
    """Logits of the last position (decoder: of the last three) and ids generated greedily, of one text (1, s)."""
    extra = {"decoder_input_ids": torch.tensor([DECODED])} if TASK_TYPE[family] == "SEQ_2_SEQ_LM" else {}
    mask = torch.ones_like(ids)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, **extra).logits[0, -3:]
        made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    return logits, made[0, 0 if extra else ids.shape[1] :].tolist()


def by_us(prompt: Prompt, backbone: Backbone, family: str) -> tuple[Tensor, list[int]]:
    with backbone.using(Bank({"p": prompt.soft_prompt()})):
        return read(backbone.model, backbone.pose([SOURCE], [0]).ids, family)


def text_ids(family: str) -> Tensor:
    return torch.tensor([tiny.backbone(family).tokens.source_ids(SOURCE, 64)[0]])


def assert_same_answers(found: tuple[Tensor, list[int]], expected: tuple[Tensor, list[int]]) -> None:
    assert_close(found[0], expected[0], 1e-5)
    assert found[1] == expected[1]


# To PEFT


FOLDING = [name for name, method in METHODS.items() if method.kind == "prompt"]


@pytest.mark.parametrize(
    ("family", "method"),
    [*(("llama", name) for name in FOLDING), *((family, "superpos") for family in TASK_TYPE if family != "llama")],
)
def test_an_exported_prompt_answers_in_peft_as_here(
    family: str, method: str, places: dict[str, str], tmp_path: Path
) -> None:
    prompt = finished(tmp_path / "run", method, family)
    export_prompt(tmp_path / "run", tmp_path / "peft", backbone=places[family])
    theirs = PeftModel.from_pretrained(tiny.model(family), tmp_path / "peft").eval()
    expected = by_us(prompt, tiny.backbone(family), family)
    assert_same_answers(read(theirs, text_ids(family), family), expected)
    bare = read(tiny.model(family), text_ids(family), family)
    assert not torch.allclose(bare[0], expected[0], atol=1e-2), "the prompt changes nothing, so this shows nothing"


def test_an_exported_folder_says_what_it_is_and_warns(places: dict[str, str], tmp_path: Path) -> None:
    finished(tmp_path / "run", "prompt_tuning")
    export_prompt(tmp_path / "run", tmp_path / "peft", backbone=places["llama"])
    names = {path.name for path in (tmp_path / "peft").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    config = PromptTuningConfig.from_pretrained(tmp_path / "peft")
    assert (config.num_virtual_tokens, config.token_dim, config.base_model_name_or_path) == (3, tiny.D, "tiny-llama")
    readme = (tmp_path / "peft" / "README.md").read_text()
    assert "base_model: tiny-llama" in readme
    assert "one text at a time" in readme
    with pytest.raises(BadInput, match="there already"):
        export_prompt(tmp_path / "run", tmp_path / "peft", backbone=places["llama"])
    export_prompt(tmp_path / "run", tmp_path / "peft", backbone=places["llama"], overwrite=True)


def test_without_the_number_of_submodules_peft_expects_twice_the_rows_of_t5(
    places: dict[str, str], tmp_path: Path
) -> None:
    """Why it is written. PEFT takes 2 for an encoder-decoder, and reads the first half of the rows only."""
    finished(tmp_path / "run", "prompt_tuning", "t5")
    export_prompt(tmp_path / "run", tmp_path / "peft", backbone=places["t5"])
    edit(tmp_path / "peft", num_transformer_submodules=None)
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(tiny.model("t5"), tmp_path / "peft")


def test_what_peft_cannot_hold_is_refused_with_the_reason(places: dict[str, str], tmp_path: Path) -> None:
    finished(tmp_path / "run", "dept")
    with pytest.raises(BadInput, match=r"offset .* by position.*softprompt predict"):
        export_prompt(tmp_path / "run", tmp_path / "peft", backbone=places["llama"])
    finished(tmp_path / "rows", "prompt_tuning")
    wide = tmp_path / "wide"
    wide.mkdir()
    config = json.loads((Path(places["llama"]) / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(PromptMismatch, match="d=32"):
        export_prompt(tmp_path / "rows", tmp_path / "peft", backbone=str(wide))
    with pytest.raises(SoftPromptError, match="Unknown format 'peff'"):
        export_prompt(tmp_path / "rows", tmp_path / "peft", "peff", backbone=places["llama"])
    with pytest.raises(BadInput, match="is the run itself"):
        export_prompt(tmp_path / "rows", tmp_path / "rows", backbone=places["llama"], overwrite=True)
    assert not (tmp_path / "peft").exists()


@pytest.mark.parametrize("scaled", [True, False])
def test_a_scale_after_the_table_is_refused_as_peft_reads_before_it(tmp_path: Path, scaled: bool) -> None:
    config = small_config("seq2seq", "marian")
    config.scale_embedding = scaled
    config.save_pretrained(tmp_path / "marian")
    finished(tmp_path / "rows", "prompt_tuning", "t5")
    if scaled:
        with pytest.raises(BadInput, match="scales embeddings after its table"):
            export_prompt(tmp_path / "rows", tmp_path / "peft", backbone=str(tmp_path / "marian"))
    else:
        export_prompt(tmp_path / "rows", tmp_path / "peft", backbone=str(tmp_path / "marian"))
    assert (tmp_path / "peft").exists() is not scaled


# From PEFT


def prompt_tuning(task_type: str) -> Any:
    return PromptTuningConfig(task_type=task_type, num_virtual_tokens=LENGTH)


def p_tuning(task_type: str) -> Any:
    return PromptEncoderConfig(task_type=task_type, num_virtual_tokens=LENGTH, encoder_hidden_size=8)


def multitask(task_type: str) -> Any:
    return MultitaskPromptTuningConfig(task_type=task_type, num_virtual_tokens=LENGTH, num_tasks=3, num_ranks=2)


def saved_by_peft(family: str, make: Callable[[str], Any], folder: Path) -> PeftModel:
    """An adapter that PEFT has trained for two steps and saved; the model that it was loaded into again."""
    model = get_peft_model(tiny.model(family), make(TASK_TYPE[family]))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    ids = text_ids(family)
    tasks = {"task_ids": torch.tensor([1])} if make is multitask else {}
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, **tasks).loss.backward()
        optimizer.step()
    if make is multitask:
        with torch.no_grad():  # PEFT starts these at 4e-4 of an embedding: nothing could be told apart
            for tensor in (
                model.prompt_encoder["default"].prefix_task_cols,
                model.prompt_encoder["default"].prefix_task_rows,
            ):
                tensor.normal_()
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(tiny.model(family), folder).eval()


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("make", [prompt_tuning, p_tuning])
@pytest.mark.parametrize("family", TASK_TYPE)
def test_an_imported_prompt_answers_here_as_in_peft(
    family: str, make: Callable[[str], Any], places: dict[str, str], tmp_path: Path
) -> None:
    theirs = saved_by_peft(family, make, tmp_path / "peft")
    expected = read(theirs, text_ids(family), family)
    prompt = import_prompt(tmp_path / "peft", places[family], tmp_path / "run")
    assert prompt.folded.prompt.shape == (LENGTH, tiny.D)
    assert_same_answers(by_us(load_prompt(tmp_path / "run"), tiny.backbone(family), family), expected)


@pytest.mark.parametrize("task", [0, 2])
def test_an_imported_multitask_prompt_is_that_of_its_task(task: int, places: dict[str, str], tmp_path: Path) -> None:
    theirs = saved_by_peft("llama", multitask, tmp_path / "peft")
    ids, mask = text_ids("llama"), torch.ones_like(text_ids("llama"))
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, task_ids=torch.tensor([task])).logits[0, -3:]
    import_prompt(tmp_path / "peft", places["llama"], tmp_path / "run", peft_task=task)
    found, _ = by_us(load_prompt(tmp_path / "run"), tiny.backbone("llama"), "llama")
    assert_close(found, expected, 1e-5)


def test_a_multitask_prompt_of_t5_is_imported_as_peft_generates_with_it(places: dict[str, str], tmp_path: Path) -> None:
    """PEFT is wrong here: its forward puts rows before the decoder's input too, its generate does not."""
    theirs = saved_by_peft("t5", multitask, tmp_path / "peft")
    ids, mask = text_ids("t5"), torch.ones_like(text_ids("t5"))
    with torch.no_grad():
        made = theirs.generate(
            input_ids=ids, attention_mask=mask, task_ids=torch.tensor([1]), max_new_tokens=8, do_sample=False
        )
        trained = theirs(input_ids=ids, attention_mask=mask, labels=ids, task_ids=torch.tensor([1])).logits
    assert trained.shape[1] == LENGTH + ids.shape[1], "PEFT no longer trains with rows in the decoder: change the note"
    prompt = import_prompt(tmp_path / "peft", places["t5"], tmp_path / "run", peft_task=1)
    assert by_us(prompt, tiny.backbone("t5"), "t5")[1] == made[0].tolist()
    assert "that it generates with" in json.loads((tmp_path / "run" / "import.json").read_text())["notes"][0]


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_export_of_an_import_is_the_same_file(family: str, places: dict[str, str], tmp_path: Path) -> None:
    saved_by_peft(family, prompt_tuning, tmp_path / "peft")
    import_prompt(tmp_path / "peft", places[family], tmp_path / "run")
    export_prompt(tmp_path / "run", tmp_path / "back")
    before = load_file(tmp_path / "peft" / "adapter_model.safetensors")["prompt_embeddings"][:LENGTH]  # T5: see above
    assert_same_tensors(load_file(tmp_path / "back" / "adapter_model.safetensors"), {"prompt_embeddings": before})
    again = import_prompt(tmp_path / "back", places[family], tmp_path / "again")
    assert torch.equal(again.folded.prompt, load_prompt(tmp_path / "run").folded.prompt)
    if family == "llama":
        one, other = (tmp_path / f / "adapter_model.safetensors" for f in ("peft", "back"))
        assert one.read_bytes() == other.read_bytes()


def test_an_imported_prompt_is_a_run_like_others(cli: Cli, places: dict[str, str], tmp_path: Path) -> None:
    saved_by_peft("llama", prompt_tuning, tmp_path / "peft")
    run, where = tmp_path / "run", places["llama"]
    words = ("import", tmp_path / "peft", "--backbone", where, "--output", run)
    code, out, err = cli(*words, "--template", "text : {text}\\nlabel :", "--choice", "good", "--choice", "bad")
    assert (code, out) == (0, ""), err
    card = load_prompt(run).card
    assert (card.task, card.template, card.choices, card.seed) == (
        "imported", "text : {text}\nlabel :", ["good", "bad"], None,
    )  # fmt: skip
    code, out, err = cli("predict", run, "where is my parcel", "--json")
    assert json.loads(out)[0]["prediction"] in ("good", "bad"), err
    code, out, err = cli("show", run)
    assert (code, "imported-peft" in out) == (0, True), err
    code, _, err = cli(*words)
    assert (code, "already holds" in err) == (2, True)
    assert cli(*words, "--overwrite")[0] == 0
    code, out, err = cli("predict", run, "where is my parcel")
    assert (code, len(out.splitlines())) == (0, 1), err
    assert cli("export", run, "--output", tmp_path / "back")[0] == 0


def test_older_and_narrower_files_are_read(places: dict[str, str], tmp_path: Path) -> None:
    """A .bin in bfloat16, as PEFT wrote them once, with a config of four fields."""
    rows = torch.randn(LENGTH, tiny.D).to(torch.bfloat16)
    torch.save({"prompt_embeddings": rows}, tmp_path / "adapter_model.bin")
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": LENGTH}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    prompt = import_prompt(tmp_path, places["llama"], tmp_path / "run")
    assert torch.equal(prompt.folded.prompt, rows.float())


def test_the_configs_that_are_known_are_those_that_peft_writes() -> None:
    for config in (PromptTuningConfig, PromptEncoderConfig, MultitaskPromptTuningConfig):
        name = config(num_virtual_tokens=1).peft_type.value
        assert {field.name for field in dataclasses.fields(config)} == KEYS[name], f"PEFT {peft.__version__}: {name}"


# From DePT's authors: keys, config and shapes of checkpoints/sst2 in https://github.com/ZhengxiangShi/DePT @ f0266a7


def released(folder: Path, rank: int = 3, positions: int = 24, reached: int = 14, **changes: Any) -> dict[str, Tensor]:
    """A checkpoint as they released it, small."""
    folder.mkdir(parents=True, exist_ok=True)
    bound = 1 / math.sqrt(rank)
    tensors = {
        "prompt_embeddings": torch.randn(LENGTH, tiny.D),
        "prompt_encoder.lora_embedding_A": torch.rand(positions, rank) * 2 * bound - bound,
        "prompt_encoder.lora_embedding_B": torch.randn(rank, tiny.D),
    }
    tensors["prompt_encoder.lora_embedding_A"][:reached] *= 9
    torch.save(tensors, folder / "adapter_model.bin")
    config = {
        "base_model_name_or_path": "t5-base", "bias": "none", "hidden_size": tiny.D, "inference_mode": True,
        "init_lora_weights": True, "lora_alpha": 8, "max_length": positions, "num_attention_heads": 2, "num_layers": 2,
        "num_transformer_submodules": 1, "num_virtual_tokens": LENGTH, "peft_type": "PROMPT_TUNING_LORA",
        "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Classify this text is postive or not:", "r": rank,
        "revision": None, "save_lora_embeddings": True, "task_type": "SEQ_2_SEQ_LM", "token_dim": tiny.D,
        "tokenizer_name_or_path": "t5-base", **changes,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return tensors


def by_authors(tensors: dict[str, Tensor], ids: Tensor) -> tuple[Tensor, list[int]]:
    """What peft_model.py of DePT's authors computes on T5: padded to s, the offset on every column, rows in front."""
    model = tiny.model("t5")
    rows, a, b = tensors.values()
    padded = torch.nn.functional.pad(ids, (0, len(a) - ids.shape[1]), value=tiny.PAD)
    embeds = model.get_input_embeddings()(padded) + 8 / math.sqrt(a.shape[1]) * (a @ b)  # type: ignore[operator]
    mask = torch.cat([torch.ones(1, len(rows)), (padded != tiny.PAD).float()], 1)
    given: Any = {"inputs_embeds": torch.cat([rows[None], embeds], 1), "attention_mask": mask}
    with torch.no_grad():
        logits = model(**given, decoder_input_ids=torch.tensor([DECODED])).logits[0]
        made = model.generate(**given, max_new_tokens=8, do_sample=False)  # type: ignore[operator]
    return logits, made[0].tolist()


def test_a_released_dept_checkpoint_answers_as_its_authors_code(places: dict[str, str], tmp_path: Path) -> None:
    tensors = released(tmp_path / "sst2")
    prompt = import_prompt(tmp_path / "sst2", places["t5"], tmp_path / "run")
    card = load_prompt(tmp_path / "run").card
    assert (card.kind, card.method, card.positions, card.max_source) == ("prompt+position", "dept", 24, 24)
    assert card.options == {"length": LENGTH, "rank": 3, "positions": 24, "alpha": 8.0}
    expected = by_authors(tensors, text_ids("t5"))
    assert_same_answers(by_us(prompt, tiny.backbone("t5"), "t5"), expected)
    note = json.loads((tmp_path / "run" / "import.json").read_text())["notes"][0]
    assert "last 10 of 24 rows" in note


def test_tuning_goes_on_from_a_released_checkpoint(cli: Cli, places: dict[str, str], tmp_path: Path) -> None:
    tensors = released(tmp_path / "sst2")
    assert cli("import", tmp_path / "sst2", "--backbone", places["t5"], "--output", tmp_path / "run")[0] == 0
    (tmp_path / "data.csv").write_text(
        "".join(["text,label\n", *(f"where is {i},good\nlog in {i},bad\n" for i in range(20))])
    )
    code, _, err = cli(
        "train", "--data", tmp_path / "data.csv", "--backbone", places["t5"], "--output", tmp_path / "on",
        "--start-from", tmp_path / "run", "--max-source", "24", "--steps", "2", "--batch", "2",
        "--set", "rates.offset=0",
    )  # fmt: skip
    assert code == 0, err
    b = load_file(tmp_path / "on" / "method.safetensors")["offset.b"]
    assert torch.equal(b, tensors["prompt_encoder.lora_embedding_B"])


@pytest.mark.parametrize("left_out", ["lora_embedding_A", "lora_embedding_B", "lora_embedding"])
def test_a_released_checkpoint_without_its_offset_is_refused(left_out: str, tmp_path: Path) -> None:
    tensors = released(tmp_path)
    torch.save({k: v for k, v in tensors.items() if left_out not in k}, tmp_path / "adapter_model.bin")
    with pytest.raises(BadArtefact, match=r"not prompt_encoder.lora_embedding_.*another prompt"):
        interpret(read_adapter(tmp_path))


def test_a_released_checkpoint_without_weights_or_of_a_decoder_is_refused(tmp_path: Path) -> None:
    released(tmp_path / "gpt2", task_type="CAUSAL_LM")
    with pytest.raises(BadArtefact, match="from the end of the text"):
        interpret(read_adapter(tmp_path / "gpt2"))
    released(tmp_path / "mnli")
    (tmp_path / "mnli" / "adapter_model.bin").unlink()
    with pytest.raises(BadArtefact, match="12 lack them"):
        read_adapter(tmp_path / "mnli")


# Faults: one clear error, before anything is written


def _foreign(folder: Path) -> None:
    save_file({"weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")


def _extra(folder: Path) -> None:
    rows = load_file(folder / "adapter_model.safetensors")
    save_file(rows | {"base_model.score.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")


def _not_finite(folder: Path) -> None:
    save_file({"prompt_embeddings": torch.full((LENGTH, tiny.D), torch.nan)}, folder / "adapter_model.safetensors")


def _pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"prompt_embeddings": Path("code")}, folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), r"holds no adapter_config\.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "not a config of PEFT"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"PK"), "truncated or no safetensors"),
        (_foreign, "prompt_embeddings is missing"),
        (_extra, r"base_model\.score\.weight"),
        (_not_finite, "not finite"),
        (_pickle, "more than tensors"),
        (lambda folder: edit(folder, peft_type="LORA"), "'LORA'.*not a soft prompt"),
        (lambda folder: edit(folder, peft_type="PREFIX_TUNING"), "'PREFIX_TUNING'"),
        (lambda folder: edit(folder, task_type="SEQ_CLS"), "'SEQ_CLS'"),
        (lambda folder: edit(folder, task_type="SEQ_2_SEQ_LM", num_transformer_submodules=1), "encoder-decoder"),
        (lambda folder: edit(folder, num_virtual_tokens=9), r"is \(4, 16\).*needs \(9, 16\)"),
        (lambda folder: edit(folder, num_virtual_tokens="many"), "expected a count"),
        (lambda folder: edit(folder, num_transformer_submodules=2), "cannot run"),
        (lambda folder: edit(folder, modules_to_save=["lm_head"]), "were trained with the prompt"),
        (lambda folder: edit(folder, peft_version="9.0", depth=2), r"PEFT 9\.0, has depth=2"),
    ],
)
def test_a_foreign_or_damaged_adapter_is_one_clear_error(
    damage: Callable[[Path], Any], message: str, places: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "peft"
    saved_by_peft("llama", prompt_tuning, folder)
    damage(folder)
    with pytest.raises(SoftPromptError, match=message):
        import_prompt(folder, places["llama"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_wrong_backbone_task_or_folder_is_one_clear_error(places: dict[str, str], tmp_path: Path) -> None:
    saved_by_peft("llama", multitask, tmp_path / "peft" / "mine")
    given: dict[str, Any] = {"backbone": places["llama"], "output": tmp_path / "run"}
    for folder, changes, message in (
        ("peft/mine", {}, "--peft-task 0 to 2"),
        ("peft/mine", {"peft_task": 3}, "tasks 0 to 2"),
        ("peft/mine", {"peft_task": 0, "backbone": places["t5"]}, "is an encoder-decoder"),
        ("peft/mine", {"peft_task": 0, "template": "{text"}, "cannot be read"),
        ("peft/mine", {"peft_task": 0, "choices": ["good", "good"]}, "the same tokens"),
        ("peft", {}, "its folders: mine"),
        ("nowhere", {}, "is neither a folder nor a hub id"),
    ):
        with pytest.raises(SoftPromptError, match=message):
            import_prompt(tmp_path / folder, **(given | changes))
    wide = tmp_path / "wide"
    wide.mkdir()
    config = json.loads((Path(places["llama"]) / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(PromptMismatch, match=r"have 16 values.*have 32"):
        import_prompt(tmp_path / "peft" / "mine", str(wide), tmp_path / "run", peft_task=0)
    assert not (tmp_path / "run").exists()


# What PEFT gets wrong and we do not (docs/peft.md)


def test_peft_answers_otherwise_in_a_padded_batch_and_we_do_not() -> None:
    """PEFT is wrong here: it puts the prompt before the padding of a left-padded batch, and drops the position ids."""
    scores = measure("llama", texts=60, size=30)["scores"]
    assert scores["PEFT"]["alone"] == scores["softprompt"]["alone"] >= 0.9
    assert scores["PEFT"]["batch"] < 0.7
    assert scores["PEFT"]["batch_and_16"] < 0.7
    assert scores["softprompt"]["batch_as_alone"] == scores["softprompt"]["batch_and_16_as_alone"] == 1.0


# From the hub


def on_hub(cache: Path, repo: str, commit: str = "c0ffee" * 6 + "c0ff") -> Path:
    """A folder for a repository's files, as the hub's client keeps what it has fetched."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    return place / "snapshots" / commit


def test_an_adapter_of_the_hub_is_imported_as_its_folder_is(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = on_hub(tmp_path / "cache", "owner/dept-sst2")
    released(folder)
    released(folder / "other", reached=9)
    for name, again in (("owner/dept-sst2", folder), ("owner/dept-sst2/other", folder / "other")):
        where = tmp_path / name.replace("/", "-")
        prompt = import_prompt(name, places["t5"], where)
        expected = import_prompt(again, places["t5"], tmp_path / f"{where.name}-again")
        assert_same_tensors(stored_tensors(prompt.form), stored_tensors(expected.form))
        assert prompt.card.name == f"imported-{Path(name).name}"
        assert json.loads((where / "import.json").read_text())["from"] == f"{name}@{folder.name}"


def test_from_the_hub_safetensors_come_first_and_only_what_is_needed(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = tmp_path / ("ab" * 20), []
    tensors = released(folder)

    def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    read_adapter("owner/name@v1")
    config = "adapter_config.json"
    first = ("owner/name", "v1", [config, "adapter_model.safetensors"])
    assert asked == [first, ("owner/name", folder.name, [config, "adapter_model.bin"])]
    save_file(tensors, folder / "adapter_model.safetensors")
    found = read_adapter("owner/name@v1")
    assert asked[2:] == [first]
    assert (found.name, found.origin) == ("name", f"owner/name@{folder.name}")
    assert set(found.sha256) == {config, "adapter_model.safetensors"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "owner/name",
            "'owner/name' is not a local folder, and cannot be downloaded from the Hugging Face hub .* Check name",
        ),
        ("runs/no/such@@", "is neither a folder nor a hub id"),
        ("./runs/none", "is neither a folder nor a hub id"),
        ("none", "is neither a folder nor a hub id"),
    ],
)
def test_a_hub_that_cannot_be_reached_and_a_name_that_is_no_id_are_clear_errors(
    name: str, said: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BadInput, match=said):
        import_prompt(name, places["t5"], tmp_path / "run")
    assert not (tmp_path / "run").exists()
