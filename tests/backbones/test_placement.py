"""Where the prompt stands: each placement against embeddings put together by hand, alone and in any batch."""

import json
from pathlib import Path

import pytest
import torch

from softprompt.backbones import PLACEMENTS, Backbone, Causal, Placement, load_backbone
from softprompt.errors import BadInput, PromptMismatch, UnknownName
from softprompt.evaluation.evaluate import evaluate_examples
from softprompt.methods.bank import Bank
from softprompt.runs.formats.peft_export import write_peft
from softprompt.runs.formats.registry import BackboneFacts
from softprompt.runs.prompt import load_prompt
from softprompt.tasks import Example
from softprompt.training.finish import finish
from softprompt.training.loop import tune
from softprompt.training.run import Setting, begin
from tests import tiny
from tests.candidates import candidate
from tests.command_line import QUICK, Cli
from tests.compare import assert_close, difference
from tests.prompts import EXAMPLES, by_hand, check_equals_embeds, soft_prompt

FAMILIES = ["gpt2", "llama", "t5", "bart"]
METHODS = ["prompt_tuning", "dept", "adept", "smop"]  # one of each kind
BEHIND: list[Placement] = ["after_bos", "after_source"]


def placed(family: str, placement: str, **settings: object) -> Backbone:
    return tiny.backbone(family, bos=True, placement=placement, **settings)


def tokens_before(backbone: Backbone, example: Example) -> int:
    """Said without the code under test: the tiny tokenizers begin every text with one special token."""
    ids, _ = backbone.tokens.source_ids(example, 24)
    assert ids[0] == tiny.EOS
    return {"front": 0, "after_bos": 1, "after_source": len(ids)}[backbone.placement]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("placement", BEHIND)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_inputs_embeds_in_logits_and_generated_ids(family: str, placement: str, method: str) -> None:
    backbone = placed(family, placement)
    prompt = soft_prompt(backbone, method)
    embeds = by_hand(backbone, prompt, EXAMPLES[1], tokens_before(backbone, EXAMPLES[1]))
    check_equals_embeds(backbone, prompt, EXAMPLES[1], embeds)


@pytest.mark.parametrize("placement", BEHIND)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_is_answered_learned_and_ranked_as_each_alone(family: str, placement: str) -> None:
    backbone = placed(family, placement)
    bank = Bank({name: soft_prompt(backbone, name, 2 + i) for i, name in enumerate(METHODS)})
    examples = [Example(e.source, "good", e.cue, ("good", "bad", "very good")) for e in (*EXAMPLES, *EXAMPLES[:2])]
    prompts = [0, 1, 2, 3, -1]
    with torch.no_grad(), backbone.using(bank):
        together = backbone.answer(examples, prompts, max_new_tokens=8)
        losses = backbone.loss(backbone.pose(examples, prompts, targets=True)).nll
        scores = backbone.rank(examples, prompts)
        alone = [([e], [p]) for e, p in zip(examples, prompts, strict=True)]
        assert together == [backbone.answer(*one, max_new_tokens=8)[0] for one in alone]
        assert_close(losses, torch.cat([backbone.loss(backbone.pose(*one, targets=True)).nll for one in alone]), 1e-4)
        assert_close(scores, torch.cat([backbone.rank(*one) for one in alone]), 1e-4)
    assert len(set(together)) > 1, "the rows must differ, or this shows nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_placements_answer_differently(family: str) -> None:
    found = []
    for placement in PLACEMENTS:
        backbone = placed(family, placement)
        with torch.no_grad(), backbone.using(Bank({"p": soft_prompt(backbone, "prompt_tuning")})):
            found.append(backbone.loss(backbone.pose(EXAMPLES, [0] * 3, targets=True)).nll)
    assert min(difference(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_bos_token_after_bos_is_front(family: str) -> None:
    rows = []
    for placement in ("front", "after_bos"):
        backbone = tiny.backbone(family, placement=placement)
        with backbone.using(Bank({"p": soft_prompt(backbone, "dept")})):
            rows.append(backbone.pose(EXAMPLES, [0] * 3).ids.tolist())
    assert rows[0] == rows[1]


# The shared prompt: behind BOS it is exact, behind the source there is nothing to share


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_behind_bos_packed_rows_give_the_losses_and_gradients_of_the_plain_route(family: str) -> None:
    backbone = placed(family, "after_bos")
    assert isinstance(backbone, Causal)
    bank = Bank({name: soft_prompt(backbone, name, 2 + i) for i, name in enumerate(METHODS[:3])})
    nothing = Example("", "good")  # BOS alone: no token behind the prompt, which then cannot be shared
    examples, prompts = [nothing, *EXAMPLES, *EXAMPLES], [0, 0, 1, 2, -1, 1, 0]
    found = []
    with backbone.using(bank):
        batch = backbone.pose(examples, prompts, targets=True)
        assert batch.heads == (0, 3, 4, 5, 0, 4, 3)
        assert backbone.can_pack(prompts)
        for route in (backbone.packed_losses, backbone.plain_losses):
            nll = route(batch).nll
            grads = torch.autograd.grad((nll * torch.linspace(1, 2, len(nll))).sum(), list(bank.parameters()))
            found.append((nll.detach(), torch.cat([grad.flatten() for grad in grads])))
    assert difference(found[0][0], found[1][0]) < 1e-5
    assert difference(found[0][1], found[1][1]) < 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("placement", BEHIND)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_remembered_prompt_answers_and_ranks_as_one_that_is_read_again(
    family: str, placement: str, method: str
) -> None:
    backbone = placed(family, placement)
    examples = [Example(e.source, "good", e.cue, ("good", "bad", "very good")) for e in EXAMPLES]
    with torch.no_grad(), backbone.using(Bank({"p": soft_prompt(backbone, method)})):
        expected = backbone.answer(examples, [0] * 3, max_new_tokens=8), backbone.rank(examples, [0] * 3)
        with backbone.frozen_prompts():
            found = backbone.answer(examples, [0] * 3, max_new_tokens=8), backbone.rank(examples, [0] * 3)
    assert found[0] == expected[0]
    assert_close(found[1], expected[1], 1e-4)


def test_behind_the_source_no_prompt_is_shared() -> None:
    backbone = placed("llama", "after_source")
    with backbone.using(Bank({"p": soft_prompt(backbone, "prompt_tuning")})):
        assert not backbone.can_pack([0])
        assert set(backbone.pose(EXAMPLES, [0] * 3).heads) == {0}


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_source_that_is_cut_keeps_its_first_token_and_its_cue(family: str, placement: str) -> None:
    backbone = placed(family, placement, max_source=8)
    with backbone.using(Bank({"p": soft_prompt(backbone, "prompt_tuning", 2)})):
        batch = backbone.pose(EXAMPLES[:2], [0, 0])
    assert batch.truncated == (False, True)
    row = batch.ids[1][batch.mask[1]].tolist()
    closing = [tiny.EOS] if family == "t5" else []
    kept = [tiny.EOS, *backbone.tokens("the invoice is wrong how do")][: 8 - 2 - len(closing)]
    source = [*kept, *backbone.tokens("team :"), *closing]
    at = {"front": 0, "after_bos": 1, "after_source": 8}[placement]
    assert row == [*source[:at], backbone.v, backbone.v + 1, *source[at:]]


# What a run remembers


def test_a_prompt_of_another_placement_is_refused_and_not_exported(tmp_path: Path) -> None:
    backbone = placed("llama", "after_bos")
    one = candidate(backbone, "prompt_tuning")
    run = begin(one, tmp_path / "run", Setting(backbone=backbone.name, placement=backbone.placement))
    tune(backbone, [one])
    finish(backbone, run, {})
    prompt = load_prompt(tmp_path / "run")
    assert prompt.card.placement == "after_bos"
    prompt.check(backbone)
    with pytest.raises(PromptMismatch, match=r"'after_bos'.*places prompts 'front'"):
        prompt.check(placed("llama", "front"))
    with pytest.raises(BadInput, match="PEFT puts every prompt in front"):
        write_peft(prompt, BackboneFacts("x", "causal", tiny.D, tiny.V, None), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_an_artefact_of_before_placements_stands_in_front(tmp_path: Path) -> None:
    backbone = tiny.backbone("llama")
    one = candidate(backbone, "prompt_tuning")
    run = begin(one, tmp_path, Setting(backbone=backbone.name))
    tune(backbone, [one])
    finish(backbone, run, {})
    card = json.loads((tmp_path / "prompt.json").read_text())
    assert card.pop("placement") == "front"
    (tmp_path / "prompt.json").write_text(json.dumps(card))
    load_prompt(tmp_path).check(backbone)


def test_an_unknown_placement_gets_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="after_source"):
        tiny.backbone("llama", placement="after_sourc")


def test_train_resume_predict_and_start_from_keep_to_the_placement(
    cli: Cli,
    data: Path,
    model: str,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    words = ("train", "--data", data, "--backbone", model, *QUICK)
    code, _, told = cli(*words, "--output", run, "--placement", "after_source")
    assert code == 0, told
    assert "prompts after source" in told
    assert json.loads((run / "run.json").read_text())["setting"]["placement"] == "after_source"
    text = "a red b"
    code, out, _ = cli("predict", run, text, "--json")
    [answer] = json.loads(out)
    backbone = load_backbone(model, placement="after_source")
    prompt = load_prompt(run)
    choices = tuple(prompt.card.choices)
    with backbone.using(Bank({"p": prompt.soft_prompt()})):
        [record] = evaluate_examples(backbone, [Example(f"Text: {text}", choices[0], "\nLabel:", choices)], 0)
    assert record.scores is not None
    shares = torch.tensor(list(record.scores.values())).softmax(0)
    assert_close(torch.tensor(list(answer["probabilities"].values())), shares)
    (run / "prompt.json").unlink()
    assert cli("train", "--resume", run)[0] == 0
    again = load_prompt(run)
    assert again.card.placement == "after_source"
    assert_close(again.folded.prompt, prompt.folded.prompt)
    code, out, told = cli("check", "--data", data, "--backbone", model, "--start-from", run, "--json")
    assert code == 2
    assert "places prompts 'front'" in json.loads(out)["problems"][0]
    code, _, told = cli(*words, "--output", tmp_path / "other", "--start-from", run)
    assert code != 0
    assert "places prompts 'front'" in told
    code, _, told = cli(*words, "--output", tmp_path / "no", "--placement", "middle")
    assert code == 2
    assert "Unknown placement 'middle'" in told
    assert not (tmp_path / "no").exists()
