"""Whatever the model, a row gives what its network computes for the ids alone, also beside others; or a clear error."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from docs import make_families
from torch import Tensor
from transformers import BertGenerationDecoder

from softprompt.backbones import Backbone, Causal, check_memory, load_backbone, packing_check
from softprompt.backbones.families import find_family
from softprompt.errors import BadInput
from softprompt.methods.bank import Bank
from softprompt.tasks import Example
from tests import any_model, tiny
from tests.compare import assert_close, difference
from tests.prompts import soft_prompt

CHOICES = ("good", "bad")
SHORT, LONG = Example("hello", "good", "", CHOICES), Example("the invoice is wrong how do i log in", "bad", "", CHOICES)


def small(kind: str, model_type: str) -> Backbone:
    model, masked = any_model.small_model(kind, model_type), kind == "masked"
    family = find_family(model.config)  # type: ignore[arg-type]
    assert family is not None
    tokenizer = tiny.tokenizer(bos=masked, eos=kind != "causal", mask=masked)
    return family.backbone(model, tokenizer, model_type)


def checked(kind: str, model_type: str) -> Backbone:
    backbone = small(kind, model_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backbone.check()
    return backbone


def own(backbone: Backbone, source: str, target: str) -> Tensor:
    """The negative log-likelihood of a target as transformers computes it from ids, without a mask or positions."""
    ids, labels = backbone.tokenizer(source).input_ids, backbone.tokens.target_ids(Example(source, target))
    if backbone.kind == "causal":
        logits = backbone.model(input_ids=torch.tensor([ids + labels])).logits[0, len(ids) - 1 : -1]
    else:
        inputs = torch.tensor([[tiny.PAD, *labels[:-1]]])
        logits = backbone.model(input_ids=torch.tensor([ids]), decoder_input_ids=inputs).logits[0]
    return -torch.log_softmax(logits, -1)[range(len(labels)), labels].sum()


@pytest.mark.parametrize(
    ("kind", "model_type"),
    [
        ("seq2seq", "marian"), ("seq2seq", "pegasus"), ("seq2seq", "blenderbot-small"),  # a scale outside the table
        ("seq2seq", "led"), ("seq2seq", "longt5"),  # blocks of attention
        ("seq2seq", "switch_transformers"), ("seq2seq", "nllb-moe"),  # outputs of their own
        ("causal", "roberta"), ("causal", "camembert"),  # positions that begin after the padding's
        ("causal", "bart"), ("causal", "rwkv"), ("causal", "gemma4"),
    ],
)  # fmt: skip
def test_without_a_prompt_the_loss_is_transformers_own(kind: str, model_type: str) -> None:
    backbone, examples = checked(kind, model_type), [Example("where is my parcel", "late"), Example("hello", "yes sir")]
    with torch.no_grad(), backbone.using(Bank()):
        found = backbone.loss(backbone.pose(examples, [-1, -1], targets=True)).nll
        assert_close(found, torch.stack([own(backbone, e.source, e.target) for e in examples]))


@pytest.mark.parametrize("model_type", ["esm", "mpnet", "fnet"])
def test_a_masked_model_reads_ids_as_transformers_gives_them(model_type: str) -> None:
    """ESM scales what stands beside masks, MPNet counts positions by id, FNet mixes all columns."""
    backbone = checked("masked", model_type)
    with torch.no_grad(), backbone.using(Bank()):
        found = backbone.rank([SHORT, LONG], [-1, -1])
        for example, scores in zip((SHORT, LONG), found, strict=True):
            given = backbone.tokenizer(f"{example.source} <mask>.", return_tensors="pt").input_ids
            logits = torch.log_softmax(backbone.model(input_ids=given).logits[0], -1)
            at = (given[0] == backbone.tokenizer.mask_token_id).nonzero()[0, 0]
            assert_close(scores, logits[at, backbone.tokens("good bad")])


@pytest.mark.parametrize("model_type", ["rwkv", "recurrent_gemma", "roformer", "bart"])
def test_a_neighbor_in_the_batch_changes_no_answer(model_type: str) -> None:
    backbone = small("causal", model_type)
    with pytest.warns(UserWarning, match=r"answers otherwise beside a longer text than alone, so rows go through it"):
        backbone.check()
    bank = Bank({"p": soft_prompt(backbone, "dept"), "q": soft_prompt(backbone, "smop", 3)})
    free = [Example(one.source, "late") for one in (SHORT, LONG)]
    with torch.no_grad(), backbone.using(bank):
        alone = [
            (backbone.rank([e], [p]), *backbone.answer([f], [p]))
            for p, (e, f) in enumerate(zip((SHORT, LONG), free, strict=True))
        ]
        assert_close(backbone.rank([SHORT, LONG], [0, 1]), torch.cat([scores for scores, _ in alone]))
        assert backbone.answer(free, [0, 1]) == [text for _, text in alone]
        states = backbone.observe(backbone.pose([SHORT, LONG], [0, 1], targets=True))
        first = backbone.observe(backbone.pose([SHORT], [0], targets=True))
        assert_close(states.scores[states.owner == 0], first.scores)
        assert_close(states.states[states.row == 0], first.states)
        backbone.grouping = "padded"
        if model_type != "bart":  # whose positions are not its caller's to give
            assert difference(backbone.rank([SHORT, LONG], [0, 1])[:1], alone[0][0]) > 1e-3, "or this shows nothing"


@pytest.mark.parametrize("model_type", ["mixtral", "gemma3", "llama4_text", "qwen3_moe", "gemma4"])
def test_a_head_that_looks_for_more_than_states_takes_the_fast_route(model_type: str) -> None:
    backbone = checked("causal", model_type)
    assert isinstance(backbone, Causal)
    assert backbone.can_pack(())


def test_a_mask_read_from_rows_is_found_when_a_prompt_is_read_from_memory() -> None:
    """Gemma 4's mask looks up each position of the text in its ids, and a packed row has fewer columns."""
    backbone = checked("causal", "gemma4_unified")
    with pytest.warns(UserWarning, match=r"cannot compute a prompt once"):
        assert not backbone.can_pack(())
    with backbone.using(Bank({"p": soft_prompt(backbone, "prompt_tuning")})), backbone.frozen_prompts():
        assert backbone.rank([SHORT], [0]).isfinite().all()


def test_a_second_table_of_tokens_gets_no_soft_ids() -> None:
    """Gemma 4 and 3n look up each token once more for all layers."""
    for model_type in ("gemma4_text", "gemma3n_text"):
        backbone = checked("causal", model_type)
        seen: list[int] = []
        table = next(m for name, m in backbone.model.named_modules() if name.endswith("embed_tokens_per_layer"))
        table.register_forward_hook(lambda _, given, __, seen=seen: seen.append(int(given[0].max())))  # type: ignore[misc]
        with backbone.using(Bank({"p": soft_prompt(backbone, "dept")})):
            backbone.loss(backbone.pose([SHORT, LONG], [0, 0], targets=True)).nll.sum().backward()
        assert seen, "the second table was not read"
        assert max(seen) < tiny.V


@pytest.mark.parametrize(
    ("kind", "model_type", "message"),
    [
        ("causal", "cpmant", r"does not read soft tokens: .*do not fit a layout"),  # puts tokens of its own in front
        ("causal", "deepseek_v4", r"does not read soft tokens: its network raises IndexError"),
        ("causal", "xlnet", r"does not read soft tokens"),
        ("seq2seq", "fsmt", r"no input embedding that can be replaced"),
        ("causal", "reformer", r"does not read soft tokens: its network raises AssertionError"),
    ],
)
def test_what_does_not_read_soft_tokens_is_refused(kind: str, model_type: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        checked(kind, model_type)


def test_a_network_that_looks_ahead_is_no_decoder() -> None:
    config = any_model.small_config("causal", "bert-generation")
    config.is_decoder = False
    model = BertGenerationDecoder(config).eval()
    for tensor in model.parameters():
        tensor.data.normal_(0, 0.3)
    with pytest.raises(BadInput, match=r"its scores for a token depend on the tokens after it"):
        Causal(model, tiny.tokenizer(), "both-ways").check()


@pytest.mark.parametrize("model_type", ["roberta", "whisper"])
def test_free_text_is_refused_where_generation_follows_other_scores(model_type: str) -> None:
    backbone = checked("causal", model_type)
    assert not backbone.generates
    backbone.check_example(SHORT)
    with pytest.raises(BadInput, match=r"cannot answer in free text: what it generates follows other scores"):
        backbone.check_example(Example("hello", "late"))


def test_weights_that_are_not_numbers_are_refused() -> None:
    model = tiny.model("llama")
    next(model.parameters()).data[:] = torch.nan
    with pytest.raises(BadInput, match=r"computes values that are not numbers in torch.float32"):
        Causal(model, tiny.tokenizer(), "nan").check()


def test_what_was_found_is_remembered_per_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(check_memory, "SLOW", 0.0)
    monkeypatch.setattr(check_memory, "_known", {})
    folder, tried = tiny.save_tiny("llama", tmp_path / "llama"), []
    check = check_memory.check_rows
    monkeypatch.setattr(check_memory, "check_rows", lambda backbone: (tried.append(backbone.name), check(backbone))[1])
    load_backbone(folder)
    (kept,) = (tmp_path / "cache" / "checks").iterdir()
    assert json.loads(kept.read_text()) == {"grouping": "padded", "no_text": ""}
    check_memory._known.clear()  # another process
    load_backbone(folder)
    assert len(tried) == 1
    for damaged in ("{", '{"grouping": "sideways", "no_text": ""}', "[]"):
        kept.write_text(damaged)
        check_memory._known.clear()
        assert load_backbone(folder).grouping == "padded"
    assert len(tried) == 4
    load_backbone(folder, dtype="bfloat16")
    load_backbone(tiny.save_tiny("qwen3", tmp_path / "qwen3"))
    assert len(tried) == 6


def test_that_rows_may_be_packed_is_remembered_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(check_memory, "SLOW", 0.0)
    folder, tried = tiny.save_tiny("llama", tmp_path / "llama"), []
    compare = packing_check._difference
    monkeypatch.setattr(packing_check, "_difference", lambda *given: (tried.append(1), compare(*given))[1])

    def packs(dtype: str = "float32") -> bool:
        backbone = load_backbone(folder, dtype=dtype)
        assert isinstance(backbone, Causal)
        return backbone.can_pack([-1])

    assert [packs() for _ in range(3)] == [True] * 3
    assert len(tried) == 1
    (kept,) = (tmp_path / "cache" / "packing").iterdir()
    assert json.loads(kept.read_text()) == {"difference": ""}
    kept.write_text('{"difference": "its packed losses differ by 2.0% from the plain ones"}')
    with pytest.warns(UserWarning, match=r"cannot compute a prompt once .* differ by 2.0%"):
        assert not packs()
    kept.write_text("{")
    assert packs()
    assert packs("bfloat16")
    assert len(tried) == 3


def test_the_table_in_the_docs_is_the_one_that_was_made() -> None:
    text = make_families.FILE.read_text(encoding="utf-8")
    assert make_families.page(text) == text, "python -m docs.make_families"
    found = json.loads(make_families.RESULTS.read_text(encoding="utf-8"))["families"]
    assert len([one for one in found if "refused" not in one]) >= 60


@pytest.mark.parametrize(("kind", "model_type"), [("causal", "qwen3_next"), ("seq2seq", "t5gemma"), ("masked", "yoso")])
def test_the_table_says_what_is_found_today(kind: str, model_type: str) -> None:
    found = json.loads(make_families.RESULTS.read_text(encoding="utf-8"))["families"]
    assert make_families.try_family(kind, model_type) in found
