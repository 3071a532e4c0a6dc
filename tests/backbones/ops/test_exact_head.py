"""Choices are scored from float32 logits, whatever the weights' type: close ones do not tie."""

import pytest
import torch

from softprompt.backbones.load import WIDE, find_dtype
from softprompt.methods.bank import Bank
from softprompt.tasks import Example
from tests import tiny
from tests.compare import assert_close, difference
from tests.smollm2 import needs_smollm2

CHOICES = ("good", "bad")
EXAMPLE = Example("the invoice is wrong", "bad", choices=CHOICES)


@pytest.mark.parametrize("family", ["llama", "bart", "t5", "bert"])
def test_choices_are_scored_in_float32_from_the_states_that_reach_the_head(family: str) -> None:
    backbone, seen = tiny.backbone(family), []
    backbone.model.to(torch.bfloat16)
    head = backbone.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad(), backbone.using(Bank()):
        seen.clear()
        scores = backbone.rank([EXAMPLE], [-1])[0]
        states = seen[-1].reshape(-1, tiny.D)[0 if family == "bert" else -1]
        ids = [one[-1] for one in backbone.tokens.choice_ids(CHOICES)]
        logits = states.double() @ head.weight.double().T + (0 if head.bias is None else head.bias.double())
        target = [backbone.tokens.choice_ids(CHOICES)[0]]
        rounded = backbone.log_probabilities(backbone.pose_ids([EXAMPLE], [-1], target))[0, -1, ids]
    assert states.dtype == torch.bfloat16
    assert_close(scores, torch.log_softmax(logits, -1)[ids].float(), 1e-6)
    assert difference(scores, rounded) > 1e-5, "the weights' own type rounds, or this shows nothing"
    assert "forward" not in vars(head)


def test_auto_is_bfloat16_where_that_is_native_and_the_backbone_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert find_dtype("auto", cpu, WIDE) is (torch.bfloat16 if native else torch.float32)
        assert find_dtype("auto", cpu, WIDE - 1) is torch.float32


@needs_smollm2
def test_no_two_choices_tie_on_a_real_model_in_bfloat16() -> None:
    from softprompt.backbones import load_backbone
    from softprompt.tasks.registry import get_task

    backbone, examples = load_backbone("smollm2-135m", dtype="bfloat16"), get_task("support").examples["test"][:24]
    with backbone.using(Bank()):
        scores = backbone.rank(examples, [-1] * len(examples))
    assert all(len(set(row.tolist())) == len(row) for row in scores)
