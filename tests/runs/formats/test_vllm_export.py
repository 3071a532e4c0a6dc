"""The client for vLLM, beside a stand-in of vLLM on a plain model: it must answer as softprompt does."""

import ast
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BioGptConfig, Gemma3nTextConfig

from softprompt.backbones.causal import CausalTokenization
from softprompt.backbones.families import get_family
from softprompt.errors import BadInput
from softprompt.evaluation.evaluate import evaluate_examples
from softprompt.methods.bank import Bank
from softprompt.methods.folded import TokenOffset
from softprompt.methods.offsets.position_table import PositionTable
from softprompt.methods.offsets.token_network import TokenNetwork
from softprompt.methods.prompts.free import Free
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runs.convert import export_prompt
from softprompt.runs.external import unscored_card
from softprompt.runs.formats import vllm_client
from softprompt.runs.formats.vllm_client import Client
from softprompt.runs.formats.vllm_export import _notes
from softprompt.runs.prompt import Prompt, load_prompt
from softprompt.tasks import Example, Template
from softprompt.tasks.chat import Chat
from tests import tiny
from tests.candidates import finished
from tests.chats import CHATML, chat_tokenizer
from tests.command_line import Cli
from tests.compare import assert_close
from tests.vllm_stand_in import Engine, Server, block_keys, loaded

KINDS = ("prompt", "prompt+position", "prompt+token")
TEXTS = ("the invoice is wrong", "where is my parcel", "how do i log in how do i log in please")
LAST, FREE = ("not good", "not bad"), ()
NESTED = ("yes", "yes sir", "sure thing good", "no")
POSITIONS = 6  # the longest text has more


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny backbones."""
    root = tmp_path_factory.mktemp("backbones")
    return {family: tiny.save_tiny(family, root / family) for family in ("llama", "gpt2", "gemma3", "t5")}


def made(
    folder: Path, kind: str = "prompt", family: str = "llama", rows: torch.Tensor | None = None, **card: Any
) -> Path:
    """A run whose tensors are large enough to change answers; `card` is what its card says otherwise."""
    d, r = tiny.D, 3
    offset = {
        "prompt": None,
        "prompt+position": PositionTable(torch.randn(POSITIONS, d)),
        "prompt+token": TokenNetwork(TokenOffset(torch.randn(d, r), torch.randn(r), torch.randn(r, d), torch.randn(d))),
    }[kind]
    soft = SoftPrompt(Free(torch.randn(3, d) if rows is None else rows), offset)
    told = unscored_card(
        "made", soft, tiny.backbone(family), template="text : {text} team :", choices=LAST, method="prompt_tuning",
        options={"length": soft.length},
    )  # fmt: skip
    folder.mkdir()
    Prompt(told.model_copy(update=card), soft.fold()).save(folder)
    return folder


def exported(run: Path, place: str, folder: Path, **settings: Any) -> Client:
    export_prompt(run, folder, "vllm", backbone=place)
    return Client(place, folder, **settings)


def ours(prompt: Prompt, family: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What softprompt answers, as the client says it."""
    card, form = prompt.card, Template(prompt.card.template)
    backbone = tiny.backbone(family, max_source=card.max_source)
    choices = tuple(card.choices)
    examples = [Example(form.source({form.fields[0]: text}), "", form.cue, choices) for text in texts]
    with backbone.using(Bank({"p": prompt.soft_prompt()})):
        records = evaluate_examples(backbone, examples, 0)
    found = []
    for record in records:
        scores = record.scores and torch.tensor(list(record.scores.values()), dtype=torch.float64).softmax(0).tolist()
        shares = dict(zip(record.scores or {}, scores or [], strict=True)) or None
        found.append({"prediction": record.prediction, "probabilities": shares})
    return found


def assert_same_answers(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [one["prediction"] for one in found] == [one["prediction"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one["probabilities"] or {}).keys() == (other["probabilities"] or {}).keys()
        assert_close(list((one["probabilities"] or {}).values()), list((other["probabilities"] or {}).values()), 1e-5)


def fed(prompt: Prompt, family: str, text: str) -> torch.Tensor:
    """Embeddings (n,d) that softprompt's backbone feeds its network."""
    form = Template(prompt.card.template)
    backbone = tiny.backbone(family, max_source=prompt.card.max_source)
    with backbone.using(Bank({"p": prompt.soft_prompt()})), torch.no_grad():
        batch = backbone.pose([Example(form.source({form.fields[0]: text}), cue=form.cue)], [0])
        with backbone.embedding.laid_out(batch.layout):
            made: torch.Tensor = backbone.embedding(batch.ids)[0]
    return made


CASES = [
    *(("llama", kind, choices) for kind in KINDS for choices in (LAST, NESTED, FREE)),
    ("gpt2", "prompt", FREE),
    ("gpt2", "prompt+position", NESTED),
    ("gemma3", "prompt", NESTED),
    ("gemma3", "prompt+position", LAST),
    ("gemma3", "prompt+token", FREE),
]


@pytest.mark.parametrize(("family", "kind", "choices"), CASES)
def test_vllm_is_asked_what_softprompt_asks(
    family: str, kind: str, choices: tuple[str, ...], places: dict[str, str], tmp_path: Path
) -> None:
    run = made(tmp_path / "run", kind, family, choices=list(choices))
    client, prompt = exported(run, places[family], tmp_path / "vllm"), load_prompt(run)
    model: Any = tiny.model(family)
    engine, server = Engine(model, tiny.tokenizer()), Server(model, tiny.tokenizer())
    for text in TEXTS:
        whole = client.prompts(text, whole=True)[0]["prompt_embeds"]
        assert_close(whole[: 3 + len(client.source_ids(text))], fed(prompt, family, text), 1e-6)
        assert_close(engine.inputs(client.prompts(text)[0]), whole, 1e-6)
    expected = ours(prompt, family, TEXTS)
    in_process = [client.read(engine.generate(client.prompts(text), client.sampling())) for text in TEXTS]
    assert_same_answers(in_process, expected)
    bodies = [json.loads(json.dumps(client.body(text, "m"))) for text in TEXTS]
    assert_same_answers([client.read_response(server.complete(body)) for body in bodies], expected)
    client.tensors = {name: tensor * 0 for name, tensor in client.tensors.items()}
    bare = [client.read(engine.generate(client.prompts(text), client.sampling())) for text in TEXTS]
    assert bare != in_process, "the prompt changes nothing, so this shows nothing"


def test_only_what_must_be_is_sent(places: dict[str, str], tmp_path: Path) -> None:
    client = exported(made(tmp_path / "run", choices=["good", "bad"]), places["llama"], tmp_path / "rows")
    (prompt,) = client.prompts(TEXTS[0])
    assert prompt["prompt_is_token_ids"] == [False] * 3 + [True] * len(client.source_ids(TEXTS[0]))
    assert client._table is None, "rows and ids need no table"
    assert client.sampling() == {"temperature": 0.0, "max_tokens": 1, "logprob_token_ids": client.labels}
    half = Client(places["llama"], tmp_path / "rows", dtype=torch.bfloat16).body(TEXTS[0], "m")["prompt_embeds"]
    assert loaded(half[0]).dtype == torch.bfloat16
    position = exported(made(tmp_path / "other", "prompt+position"), places["llama"], tmp_path / "position")
    assert position.prompts(TEXTS[0])[0].keys() == {"prompt_embeds"}


@pytest.mark.parametrize("max_source", [4, 6, 9])
def test_a_long_source_is_cut_as_softprompt_cuts_it(max_source: int, places: dict[str, str], tmp_path: Path) -> None:
    client = exported(made(tmp_path / "run", max_source=max_source), places["llama"], tmp_path / "vllm")
    prompt = load_prompt(tmp_path / "run")
    assert len(client.source_ids(TEXTS[2])) == max_source
    assert_close(client.embeds(client.source_ids(TEXTS[2])), fed(prompt, "llama", TEXTS[2]), 1e-6)
    client.card["max_source"] = 2
    with pytest.raises(ValueError, match="no room beside the cue"):
        client.source_ids(TEXTS[2])


def test_the_source_leaves_room_in_the_context(places: dict[str, str], tmp_path: Path) -> None:
    run = made(tmp_path / "run", family="gpt2", choices=[])
    client = exported(run, places["gpt2"], tmp_path / "vllm")
    assert len(client.source_ids("the parcel " * 90, max_tokens=20)) == 96 - 3 - 20
    with pytest.raises(ValueError, match="fill all 96 positions"):
        client.source_ids("the", max_tokens=93)


def test_a_row_with_several_columns_and_braces(places: dict[str, str], tmp_path: Path) -> None:
    template = "text : {a} {{b}} {Q1: is it?} label {{ : "
    run = made(tmp_path / "run", template=template)
    client, form = exported(run, places["llama"], tmp_path / "vllm"), Template(template)
    row = {"a": "good", "Q1: is it?": "bad", "c": "no"}
    assert client._fill(row) == (form.source(row), form.cue)
    with pytest.raises(ValueError, match="reads 2 columns; give a, Q1: is it"):
        client.source_ids("good")
    with pytest.raises(ValueError, match=r"the column 'Q1: is it\?'; given: a"):
        client.source_ids({"a": "good"})
    with pytest.raises(ValueError, match="has no tokens"):
        exported(made(tmp_path / "bare", template="{a}"), places["llama"], tmp_path / "empty").source_ids("")


@pytest.mark.parametrize("cue", ["\nAnswer:", "\nA:\n", "<|im_end|>\n<|im_start|>assistant\n", "<|head|>a<|/head|>"])
def test_an_answer_in_a_chat_begins_without_a_space_as_ours(cue: str) -> None:
    client = object.__new__(Client)
    client.tokenizer, client.cue = chat_tokenizer(CHATML), cue
    tokens = CausalTokenization(client.tokenizer, get_family("causal"), "tiny", 512)
    assert client._continuation("yes") == tokens.continuation("yes", cue)


def test_equal_cache_keys_are_equal_inputs(places: dict[str, str], tmp_path: Path) -> None:
    """vLLM's keys leave the mask out: a row of zeros looks like id 0. The salt keeps prompts apart."""
    rows = torch.randn(4, tiny.D)
    rows[3] = 0
    one = exported(made(tmp_path / "three", rows=rows[:3]), places["llama"], tmp_path / "one")
    two = exported(made(tmp_path / "four", rows=rows), places["llama"], tmp_path / "two")
    engine = Engine(tiny.model("llama"), tiny.tokenizer())
    first, second = one._mixed([0, 5, 6]), two._mixed([5, 6])
    assert not torch.equal(engine.inputs(first), engine.inputs(second))
    assert not {*block_keys(first, 2)} & {*block_keys(second, 2)}
    assert block_keys(first, 3)[0] == block_keys(one._mixed([9, 8]), 3)[0], "requests share the rows' blocks"
    for prompt in (first, second):
        del prompt["cache_salt"]
    assert block_keys(first, 2) == block_keys(second, 2), "without the salt they are taken for one another"


# The folder


def test_the_folder_is_whole_and_stands_alone(
    cli: Cli,
    places: dict[str, str],
    tmp_path: Path,
) -> None:
    run, folder = made(tmp_path / "run", "prompt+position"), tmp_path / "vllm"
    words = ("export", run, "--to", "vllm", "--backbone", places["llama"], "--output", folder)
    code, out, err = cli(*words)
    assert (code, out) == (0, ""), err
    assert "note: 3 rows are not a multiple of 16" in err
    assert "--set length=16" in err
    names = {"client.py", "prompt.safetensors", "prompt.json", "vllm.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == names
    assert "enable_prompt_embeds=True" in (folder / "README.md").read_text()
    assert cli(*words)[0] == 2
    assert cli(*words, "--overwrite")[0] == 0
    code, out, err = cli("predict", folder, TEXTS[0], "--backbone", places["llama"])
    assert code == 0, err

    tree = ast.parse((folder / "client.py").read_text())
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imports |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in imports} - sys.stdlib_module_names
    assert roots == {"torch", "safetensors", "transformers"}


def test_client_prints_a_body_for_curl(
    places: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = exported(made(tmp_path / "run", "prompt"), places["llama"], tmp_path / "vllm")
    monkeypatch.setattr(vllm_client, "__file__", str(tmp_path / "vllm" / "client.py"))
    vllm_client.main([TEXTS[0], "--backbone", places["llama"], "--model", "m"])
    assert json.loads(capsys.readouterr().out) == client.body(TEXTS[0], "m")


def test_a_long_enough_prompt_gets_no_note_and_an_unread_type_does(places: dict[str, str], tmp_path: Path) -> None:
    card = load_prompt(made(tmp_path / "run")).card
    assert _notes(card.model_copy(update={"length": 32}), "llama") == []
    assert "keeps 16, and 4 are" in _notes(card.model_copy(update={"length": 20}), "llama")[0]
    assert "was not read" in _notes(card.model_copy(update={"length": 32}), "mamba")[0]


# Refusals: one clear error, before anything is written


def test_what_vllm_cannot_be_asked_is_refused(places: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "vllm"
    finished(tmp_path / "smop", "smop")
    with pytest.raises(BadInput, match=r"kind 'input'.*softprompt predict"):
        export_prompt(tmp_path / "smop", out, "vllm", backbone=places["llama"])
    finished(tmp_path / "t5", "prompt_tuning", "t5")
    with pytest.raises(BadInput, match=r"not a decoder-only model \(seq2seq\)"):
        export_prompt(tmp_path / "t5", out, "vllm", backbone=places["t5"])
    chat = Chat(opening="a", reply="b", user="c", answer="d", system=None)
    made(tmp_path / "chat", template="{conversation} d", chat=chat)
    with pytest.raises(BadInput, match="does not put into a chat template"):
        export_prompt(tmp_path / "chat", out, "vllm", backbone=places["llama"])
    made(tmp_path / "behind", placement="after_source")
    with pytest.raises(BadInput, match=r"'after_source'.*puts rows in front"):
        export_prompt(tmp_path / "behind", out, "vllm", backbone=places["llama"])
    assert not out.exists()
    with pytest.raises(BadInput, match="is a run; choose another"):
        export_prompt(tmp_path / "t5", tmp_path / "smop", "peft", backbone=places["t5"], overwrite=True)


def test_a_backbone_that_embeds_in_its_own_way_is_refused(places: dict[str, str], tmp_path: Path) -> None:
    made(tmp_path / "run")
    small: dict[str, Any] = {"vocab_size": tiny.V, "hidden_size": tiny.D, "num_hidden_layers": 2}
    for name, config, message in (
        ("biogpt", BioGptConfig(**small, num_attention_heads=2), r"BioGptScaledWordEmbedding"),
        (
            "gemma3n",
            Gemma3nTextConfig(
                **small, intermediate_size=[32, 32], vocab_size_per_layer_input=8, num_kv_shared_layers=0,
                activation_sparsity_pattern=[0.0, 0.0],
            ),
            "in every layer",
        ),
    ):  # fmt: skip
        config.save_pretrained(tmp_path / name)
        with pytest.raises(BadInput, match=message):
            export_prompt(tmp_path / "run", tmp_path / "vllm", "vllm", backbone=str(tmp_path / name))
    assert not (tmp_path / "vllm").exists()


def test_the_client_refuses_another_backbone_and_a_damaged_folder(places: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "vllm"
    exported(made(tmp_path / "run", "prompt+position"), places["llama"], folder)
    with pytest.raises(ValueError, match=r"has no model\.embed_tokens"):
        Client(places["gpt2"], folder).prompts(TEXTS[0])
    weights = load_file(Path(places["llama"]) / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((Path(places["llama"]) / name).read_text())
    save_file(weights | {"model.embed_tokens.weight": torch.randn(tiny.V, tiny.D)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"tuned for tiny-llama .*, not for"):
        Client(tmp_path, folder).prompts(TEXTS[0])
    save_file(load_file(folder / "prompt.safetensors"), folder / "prompt.safetensors", {"edited": "yes"})
    with pytest.raises(ValueError, match="not the file that was exported"):
        Client(places["llama"], folder)
    (folder / "vllm.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(ValueError, match="format 2"):
        Client(places["llama"], folder)


def test_a_backbone_in_several_files_with_shorter_names(places: dict[str, str], tmp_path: Path) -> None:
    """As on the hub: GPT-2 leaves out "transformer.", large models come with an index."""
    client = exported(made(tmp_path / "run", "prompt+position", "gpt2"), places["gpt2"], tmp_path / "vllm")
    expected = client.prompts(TEXTS[0])[0]["prompt_embeds"]
    weights = load_file(Path(places["gpt2"]) / "model.safetensors")
    short = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    split = tmp_path / "split"
    split.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (split / name).write_text((Path(places["gpt2"]) / name).read_text())
    save_file({"wte.weight": short["wte.weight"]}, split / "model-00002-of-00002.safetensors")
    index = {"weight_map": dict.fromkeys(short, "model-00001-of-00002.safetensors")}
    index["weight_map"]["wte.weight"] = "model-00002-of-00002.safetensors"
    (split / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(Client(split, tmp_path / "vllm").prompts(TEXTS[0])[0]["prompt_embeds"], expected)


def test_too_many_labels_are_refused(places: dict[str, str], tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "vllm"
    exported(made(tmp_path / "run", "prompt"), places["llama"], folder)
    monkeypatch.setattr(vllm_client, "MOST_LABELS", 1)
    with pytest.raises(ValueError, match="at most 1"):
        Client(places["llama"], folder)
