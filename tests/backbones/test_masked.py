"""Masked backbones: what stands in a gap, read against transformers' own forward, alone and in any batch."""

import json
import shutil
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertLMHeadModel, BertModel, ConvBertConfig, ConvBertForMaskedLM

from softprompt.backbones import PLACEMENTS, Masked, load_backbone
from softprompt.backbones.load import resolve
from softprompt.errors import BadInput
from softprompt.evaluation.evaluate import evaluate_examples
from softprompt.methods.bank import Bank
from softprompt.methods.offsets.token_network import second_table
from softprompt.methods.registry import METHODS
from softprompt.methods.soft_prompt import SoftPrompt, Text
from softprompt.recipes import Recipe
from softprompt.runs.prompt import load_prompt
from softprompt.tasks import Example, Template, from_files
from softprompt.tasks.registry import get_task
from softprompt.training.candidate import make_candidate
from tests import tiny
from tests.candidates import candidate, tiny_task
from tests.command_line import QUICK, Cli
from tests.compare import assert_close, copied, difference, moved
from tests.prompts import soft_prompt

FAMILIES = list(tiny.MASKED)
CHOICES = ("good", "very bad", "not very good", "yes", "yes sir")  # of one to three tokens; one begins another
EXAMPLES = [
    Example("where is my parcel", "very bad", " team :", CHOICES),
    Example("the invoice is wrong how do i log in", "good", " team :", CHOICES),
    Example("hello", "yes sir", " team :", CHOICES),
    Example("red blue", "good", " is , sure .", CHOICES, answer_at=12),  # "red blue is <mask>, sure ."
    Example("a b c d", "yes", " team :", CHOICES, answer_at=4),  # inside the source
]


def masked(family: str, **settings: Any) -> Masked:
    backbone = tiny.backbone(family, **settings)
    assert isinstance(backbone, Masked)
    return backbone


def in_words(example: Example, masks: int) -> str:
    """The cloze as one text, mask tokens in it."""
    text, at = example.source + example.cue, example.answer_at
    gap = "<mask>" * masks
    return f"{text} {gap}." if at is None else f"{text[:at]}{gap}{text[at:]}"


def by_hand(backbone: Masked, prompt: SoftPrompt | None, example: Example, masks: int) -> tuple[Tensor, list[int]]:
    """The embeddings (1, n, d) that an example must have, and the columns of its masks."""
    ids: list[int] = backbone.tokenizer(in_words(example, masks)).input_ids
    gap = [i for i, one in enumerate(ids) if one == backbone.tokenizer.mask_token_id]
    embeds = backbone.embed(ids)
    if prompt is None:
        return embeds.unsqueeze(0), gap
    own = [i for i in range(len(ids)) if i not in gap]
    source, rank = embeds[own].unsqueeze(0), torch.arange(len(own)).unsqueeze(0)
    if prompt.kind == "input":
        rows = prompt(Text(torch.tensor([[ids[i] for i in own]]), source, rank >= 0, rank)).prompt[0]
    else:
        folded = prompt.fold()
        rows = folded.prompt
        if folded.offset is not None:
            embeds[own] += folded.offset[: len(own)]
        if folded.network is not None:
            embeds[own] = second_table(folded.network, embeds[own])
    at = {"front": 0, "after_bos": 1, "after_source": gap[0]}[backbone.placement]
    columns = [i + len(rows) for i in gap]
    return torch.cat([embeds[:at], rows, embeds[at:]]).unsqueeze(0), columns


def expected_scores(backbone: Masked, prompt: SoftPrompt | None, example: Example) -> Tensor:
    """The mean log-probability of each choice's tokens, by a forward of its own each."""
    found = []
    for choice in example.choices:
        ids = backbone.tokenizer(choice, add_special_tokens=False).input_ids
        embeds, gap = by_hand(backbone, prompt, example, len(ids))
        logits = backbone.model(inputs_embeds=embeds).logits[0, gap]  # type: ignore[operator]
        found.append(torch.log_softmax(logits, -1)[range(len(ids)), ids].mean())
    return torch.stack(found)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_losses_equal_inputs_embeds_put_together_by_hand(family: str, method: str) -> None:
    backbone = masked(family)
    prompt = soft_prompt(backbone, method)
    with torch.no_grad(), backbone.using(Bank({"p": prompt})):
        found = backbone.rank(EXAMPLES, [0] * 5)
        losses = backbone.loss(backbone.pose(EXAMPLES, [0] * 5, targets=True))
        expected = torch.stack([expected_scores(backbone, prompt, e) for e in EXAMPLES])
    assert_close(found, expected)
    right = [e.choices.index(e.target) for e in EXAMPLES]
    assert losses.tokens.tolist() == [2, 1, 2, 1, 1]
    assert_close(losses.nll / losses.tokens, -expected[range(5), right])


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_prompt_it_is_transformers_own_forward_of_the_text(family: str) -> None:
    """With ids, as a user of fill-mask gives them: position ids and token types are the model's own."""
    backbone, plain = masked(family), tiny.model(family)
    with torch.no_grad(), backbone.using(Bank()):
        found = backbone.rank(EXAMPLES, [-1] * 5)
        for example, scores in zip(EXAMPLES, found, strict=True):
            given = backbone.tokenizer(in_words(example, 1), return_tensors="pt")
            gap = (given.input_ids[0] == backbone.tokenizer.mask_token_id).nonzero()[0, 0]
            logits = torch.log_softmax(plain(**given).logits[0, gap], -1)
            assert_close(scores[[0, 3]], logits[backbone.tokens("good yes")])


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_is_answered_learned_and_ranked_as_each_alone(family: str, placement: str) -> None:
    backbone = masked(family, placement=placement)
    lengths = dict(zip(METHODS, cycle((5, 3, 2, 4)), strict=False))
    bank = Bank({name: soft_prompt(backbone, name, length) for name, length in lengths.items()})
    prompts = [*range(len(METHODS)), -1]
    examples = list(islice(cycle(EXAMPLES), len(prompts)))
    with torch.no_grad(), backbone.using(bank):
        together = backbone.answer(examples, prompts)
        losses = backbone.loss(backbone.pose(examples, prompts, targets=True)).nll
        scores = backbone.rank(examples, prompts)
        alone = [([e], [p]) for e, p in zip(examples, prompts, strict=True)]
        assert together == [backbone.answer(*one)[0] for one in alone]
        assert_close(losses, torch.cat([backbone.loss(backbone.pose(*one, targets=True)).nll for one in alone]))
        assert_close(scores, torch.cat([backbone.rank(*one) for one in alone]))
        expected = [
            expected_scores(backbone, bank[p] if p >= 0 else None, e) for e, p in zip(examples, prompts, strict=True)
        ]
    assert_close(scores, torch.stack(expected))
    same = [difference(scores[i], scores[i + 5]) for i in range(len(prompts) - 5)]  # an example under two prompts
    assert min(same) > 1e-3, "the rows must differ, or this shows nothing"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_tensor_of_the_prompt_and_none_of_the_backbone(family: str, method: str) -> None:
    backbone = masked(family)
    bank = Bank({"p": soft_prompt(backbone, method)}).train()
    before = copied(backbone.model)
    with backbone.using(bank):
        backbone.loss(backbone.pose(EXAMPLES, [0] * 5, targets=True)).nll.sum().backward()
    for name, tensor in bank.named_parameters():
        assert tensor.grad is not None, name
        assert tensor.grad.abs().sum() > 0, name
    own = {id(tensor) for tensor in bank.parameters()}
    assert all(t.grad is None and not t.requires_grad for t in backbone.model.parameters() if id(t) not in own)
    assert moved(before, copied(backbone.model)) == set()


def test_an_encoder_that_mixes_padding_in_reads_rows_of_one_length_together() -> None:
    """ConvBERT's convolutions read a token's neighbours, padding too."""
    small = {key: value for key, value in tiny._SMALL.items() if key != "num_attention_heads"}
    config = ConvBertConfig(**small, embedding_size=tiny.D, num_attention_heads=4, head_ratio=2, conv_kernel_size=3)
    model = ConvBertForMaskedLM(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(0, 0.3) if tensor.ndim > 1 else None
    backbone = Masked(model, tiny.tokenizer(bos=True, eos=True, mask=True), "tiny-convbert")
    bank = Bank({"p": soft_prompt(backbone, "smop")})
    with pytest.warns(UserWarning, match=r"one length after the other"):
        backbone.check()
    assert backbone.grouping == "alike"
    with torch.no_grad(), backbone.using(bank):
        found = backbone.rank(EXAMPLES, [0] * 5)
        assert_close(found, torch.cat([backbone.rank([e], [0]) for e in EXAMPLES]))
        backbone.grouping = "padded"
        assert difference(found, backbone.rank(EXAMPLES, [0] * 5)) > 1e-3, "padding must matter, or this shows nothing"


# Where the gap is


@pytest.mark.parametrize(
    ("template", "source", "cue", "at"),
    [
        ("{text} team :", "a b", " team :", None),
        ("{text} It was {mask}.", "a b", " It was .", 11),
        ("{text} It was {mask} ", "a b", " It was  ", 11),
        ("{mask} news: {text}!", " news: a b", "!", 0),
        ("{text}? {mask}, {other}", "a b? , c", "", 5),
    ],
)
def test_a_template_says_where_the_gap_is(template: str, source: str, cue: str, at: int | None) -> None:
    form, row = Template(template), {"text": "a b", "other": "c"}
    assert (form.source(row), form.cue, form.answer_at(row)) == (source, cue, at)
    assert "mask" not in form.fields


@pytest.mark.parametrize(("template", "message"), [("{mask}", "no column"), ("{text} {mask} {mask}", "more than once")])
def test_a_template_needs_a_column_and_at_most_one_gap(template: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Template(template)


def test_a_column_called_mask_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("mask,label\n" + "".join(f"red {i},good\nblue {i},bad\n" for i in range(9)))
    with pytest.raises(BadInput, match="Rename the column"):
        from_files(path)


@pytest.mark.parametrize(
    ("example", "before", "after"),
    [
        (EXAMPLES[1], "the invoice is wrong how team :", "."),
        (Example("a b c d e f g h", "good", " is , sure", CHOICES, answer_at=19), "a b c d e is", ", sure"),
        (Example("a b c d e f g h", "good", " team", CHOICES, answer_at=6), "a b c", "d e f g team"),
        (Example("a b c d e f g h", "good", " team", CHOICES, answer_at=16), "a b c d e f g", "team"),
    ],
)
def test_a_source_is_cut_behind_its_gap_first_and_keeps_its_cue(example: Example, before: str, after: str) -> None:
    backbone = masked("bert", max_source=10)
    kept = Example(example.source, "not very good", example.cue, CHOICES, answer_at=example.answer_at)
    with backbone.using(Bank()):
        batch = backbone.pose([example, kept], [-1, -1], targets=True)
    assert batch.truncated == (True, True)
    gap = backbone.tokenizer.mask_token_id
    for row, masks in ((0, 1), (1, 3)):
        told = [tiny.EOS, *backbone.tokens(before), *[gap] * masks, *backbone.tokens(after), tiny.EOS]
        assert batch.ids[row][batch.mask[row]].tolist() == told
        assert len(told) - masks <= 10


@pytest.mark.parametrize("family", FAMILIES)
def test_every_position_is_used_and_none_beyond(family: str) -> None:
    """RoBERTa's table has 96 rows, and texts begin behind the padding's: one position fewer."""
    backbone = masked(family, max_source=500)
    long = Example("red " * 200, "good", " team :", ("good", "bad"))
    with torch.no_grad(), backbone.using(Bank({"p": soft_prompt(backbone, "prompt_tuning", 7)})):
        batch = backbone.pose([long], [0])
        assert batch.mask.sum() == backbone.context == (95 if family == "roberta" else 96)
        assert bool(backbone.rank([long], [0]).isfinite().all())
    with pytest.raises(BadInput, match="Shorten the prompt"):
        backbone.room(backbone.context - 1, 1)


def test_how_much_is_read_of_a_source_does_not_depend_on_the_batch() -> None:
    backbone = masked("bert", max_source=500)
    long = Example("red " * 200, "good", " team :", ("good", "bad"))
    longer = Example("red " * 200, "good", " team :", ("good", "not very good"))
    bank = Bank({"a": soft_prompt(backbone, "prompt_tuning", 2), "b": soft_prompt(backbone, "prompt_tuning", 40)})
    with torch.no_grad(), backbone.using(bank):
        together = backbone.rank([long, longer], [0, 1])
        assert_close(together, torch.cat([backbone.rank([long], [0]), backbone.rank([longer], [1])]))


# What it cannot do


def test_free_text_generation_and_generated_scores_are_one_clear_error() -> None:
    backbone = masked("bert")
    free = [Example("a b c", "red blue")]
    with backbone.using(Bank()):
        for ask in (
            lambda: backbone.rank(free, [-1]),
            lambda: backbone.answer(free, [-1]),
            lambda: backbone.pose(free, [-1], targets=True),
            lambda: evaluate_examples(backbone, free),
            lambda: candidate(backbone, "prompt_tuning", tiny_task(())),
        ):
            with pytest.raises(BadInput, match="fills a gap with one of the choices"):
                ask()
        with pytest.raises(BadInput, match="generates nothing"):
            evaluate_examples(backbone, EXAMPLES, generate=True)
        with pytest.raises(BadInput, match="takes no num_beams"):
            backbone.answer(EXAMPLES, [-1] * 5, num_beams=2)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_gap_is_refused_where_none_can_be_filled(family: str) -> None:
    backbone = tiny.backbone(family)
    with backbone.using(Bank()), pytest.raises(BadInput, match=r"Leave \{mask\} out"):
        backbone.pose([EXAMPLES[3]], [-1])


def test_prefix_tuning_needs_a_cache_that_it_has_not() -> None:
    with pytest.raises(BadInput, match="Train peft:lora"):
        make_candidate("p", Recipe(method="peft:prefix", steps=1), masked("bert"), tiny_task())


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    with pytest.raises(BadInput, match="no mask token"):
        Masked(tiny.model("bert"), tiny.tokenizer(), "tiny")


# load


def test_load_picks_the_kind_from_the_config_and_refuses_a_model_without_its_head(tmp_path: Path) -> None:
    places = {family: tiny.save_tiny(family, tmp_path / family) for family in FAMILIES}
    assert {resolve(place)[0] for place in places.values()} == {"masked"}
    small = json.loads((tmp_path / "bert" / "config.json").read_text())
    decoder = tmp_path / "decoder"
    BertLMHeadModel(BertConfig(**{**small, "is_decoder": True})).save_pretrained(decoder)
    assert resolve(str(decoder))[0] == "causal"
    bare = tmp_path / "bare"
    BertModel(BertConfig(**small)).save_pretrained(bare)
    for file in (tmp_path / "bert").glob("tokenizer*"):
        shutil.copy(file, bare)
    assert resolve(str(bare))[0] == "masked"
    with pytest.raises(BadInput, match=r"saved without its head.*\(a ...ForMaskedLM\)"):
        load_backbone(str(bare))
    backbone = load_backbone(places["roberta"], placement="after_bos")
    assert (backbone.kind, backbone.placement) == ("masked", "after_bos")
    assert isinstance(backbone, Masked)


# As a user meets it


def test_train_evaluate_predict_show_and_a_gap_of_ones_own(
    cli: Cli,
    data: Path,
    tmp_path: Path,
) -> None:
    place = tiny.save_tiny("bert", tmp_path / "bert")
    words = ("train", "--data", data, "--backbone", place, *QUICK)
    for name, more in (("plain", ()), ("own", ("--template", "text {text} is {mask} .", "--method", "dept"))):
        run = tmp_path / name
        code, _, told = cli(*words, "--output", run, *more)
        assert code == 0, told
        assert "masked" in told
        assert not (run / "predictions-test_generated.jsonl").exists()
        assert set(load_prompt(run).card.scores) == {"majority", "zero_shot", "dev", "test"}
        code, out, told = cli("predict", run, "a red b", "--json")
        assert code == 0, told
        assert json.loads(out)[0]["prediction"] in ("good", "bad")
        code, out, told = cli("evaluate", run, "--data", data, "--json")
        assert code == 0, told
        assert json.loads(out)["n"] == 40
        code, _, told = cli("evaluate", run, "--data", data, "--generate")
        assert (code, "generates nothing" in told) == (2, True)
        assert cli("show", run)[0] == 0
    code, _, told = cli("export", tmp_path / "plain", "--to", "peft", "--output", tmp_path / "exported")
    assert (code, "models that fill masks" in told) == (2, True)
    llama = tiny.save_tiny("llama", tmp_path / "llama")
    code, out, _ = cli("check", "--data", data, "--backbone", llama, "--template", "{text} {mask}", "--json")
    assert code == 2
    assert "Leave {mask} out" in json.loads(out)["problems"][0]
    code, out, _ = cli("list", "backbones", "--json")
    assert "masked" in {row["kind"] for row in json.loads(out)}


def test_free_text_is_refused_before_anything_is_loaded(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "free.csv"
    path.write_text("text,label\n" + "".join(f"a b {i},red {i}\n" for i in range(30)))
    place = tiny.save_tiny("bert", tmp_path / "bert")
    code, out, _ = cli("check", "--data", path, "--backbone", place, "--json")
    assert (code, "fills a gap with one of the choices" in json.loads(out)["problems"][0]) == (2, True)


def test_the_shipped_task_is_a_cloze_of_single_words() -> None:
    first = get_task("support").examples["train"][0]
    assert first.answer_at is None
    assert all(len(choice.split()) == 1 for choice in first.choices)


def test_a_layout_of_the_row_leaves_the_gap_out_of_the_source() -> None:
    backbone = masked("bert", placement="after_source")
    with backbone.using(Bank({"p": soft_prompt(backbone, "dept", 2)})):
        batch = backbone.pose([EXAMPLES[4]], [0], targets=True)
    assert batch.layout.position.tolist() == [[0, 1, 2, -1, -1, -1, 3, 4, 5, 6, 7]]
