"""Generation options that read the ids work although soft ids lie past the vocabulary."""

from typing import Any

import pytest
import torch

from softprompt.soft import Bank
from softprompt.tasks import Example
from tests import tiny
from tests.compare import assert_close
from tests.test_embedding import EXAMPLES, FAMILIES, by_hand, soft_prompt

OPTIONS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 2},
    {"bad_words_ids": [[5], [7, 8]]},
    {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3, "num_beams": 3},
    {"min_new_tokens": 4, "suppress_tokens": [9, 10]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o))
@pytest.mark.parametrize("family", FAMILIES)
def test_options_that_read_ids_work_and_a_mixed_batch_answers_as_alone(family: str, options: dict[str, Any]) -> None:
    backbone = tiny.backbone(family)
    bank = Bank({"a": soft_prompt(backbone, "dept", 5), "b": soft_prompt(backbone, "superpos", 2)})
    prompts = [0, 1, -1]
    with backbone.using(bank):
        together = backbone.answer(EXAMPLES, prompts, max_new_tokens=8, **options)
        alone = [
            backbone.answer([e], [p], max_new_tokens=8, **options)[0] for e, p in zip(EXAMPLES, prompts, strict=True)
        ]
    assert together == alone


@pytest.mark.parametrize("option", ["encoder_repetition_penalty", "encoder_no_repeat_ngram_size"])
def test_options_that_read_the_encoders_ids_work(option: str) -> None:
    backbone = tiny.backbone("t5")
    value: float = 2 if "ngram" in option else 1.5
    with backbone.using(Bank({"a": soft_prompt(backbone, "dept", 5)})):
        together = backbone.answer(EXAMPLES, [0, -1, 0], max_new_tokens=8, **{option: value})
        alone = [
            backbone.answer([e], [p], max_new_tokens=8, **{option: value})[0]
            for e, p in zip(EXAMPLES, [0, -1, 0], strict=True)
        ]
    assert together == alone


def test_no_repeat_ngrams_hold_for_the_users_text_and_the_answer() -> None:
    backbone = tiny.backbone("llama")
    example = Example("a b c d", "x")
    with backbone.using(Bank({"p": soft_prompt(backbone, "prompt_tuning", 3)})):
        free = backbone.answer([example], [0], max_new_tokens=12)[0].split()
        held = backbone.answer([example], [0], max_new_tokens=12, no_repeat_ngram_size=1)[0].split()
    assert len(set(free)) < len(free), "without the option this model repeats itself, or the test shows nothing"
    assert len(set(held)) == len(held)
    assert not set(held) & {"a", "b", "c", "d"}


def test_a_repetition_penalty_equals_the_inputs_embeds_route_where_that_can_see_no_ids() -> None:
    """With no source token repeated, a penalty acts on generated tokens only, in both routes."""
    backbone = tiny.backbone("t5")
    prompt = soft_prompt(backbone, "dept", 4)
    with torch.no_grad(), backbone.using(Bank({"p": prompt})):
        batch = backbone.pose([EXAMPLES[0]], [0])
        answer = backbone.answer([EXAMPLES[0]], [0], max_new_tokens=8, repetition_penalty=1.7)
        expected = backbone.model.generate(
            inputs_embeds=by_hand(backbone, prompt, EXAMPLES[0]), attention_mask=batch.mask.long(), max_new_tokens=8,
            repetition_penalty=1.7, do_sample=False,
        )  # fmt: skip
    assert answer == [backbone.tokenizer.decode(expected[0], skip_special_tokens=True).strip()]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_as_it_was_after_an_answer(family: str) -> None:
    backbone = tiny.backbone(family)
    with backbone.using(Bank({"p": soft_prompt(backbone, "dept")})):
        backbone.answer(EXAMPLES[:1], [0], repetition_penalty=1.2)
    assert "_get_logits_processor" not in vars(backbone.model)


# rank: exact, whatever the choices look like

CHOICES = {
    "one token each": ("good", "bad", "maybe"),
    "a shared beginning": ("yes sir", "yes thing", "yes no"),
    "different lengths": ("good", "very bad", "not very good"),
    "one begins another": ("yes", "yes sir", "no"),
}


@pytest.mark.parametrize("what", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_rank_equals_scoring_each_choice_by_itself(family: str, what: str) -> None:
    backbone = tiny.backbone(family)
    choices = CHOICES[what]
    examples = [Example(e.source, choices[0], e.cue, choices) for e in EXAMPLES]
    bank = Bank({"a": soft_prompt(backbone, "dept", 5), "b": soft_prompt(backbone, "superpos", 2)})
    prompts = [0, 1, -1]
    eos = [backbone.tokenizer.eos_token_id] if what == "one begins another" else []
    expected = []
    with torch.no_grad(), backbone.using(bank):
        found = backbone.rank(examples, prompts)
        for example, prompt in zip(examples, prompts, strict=True):
            row = []
            for choice in choices:
                batch = backbone._pose([example], [prompt], [[*backbone.continuation(choice), *eos]])
                row.append(-backbone.loss(batch).nll)
            expected.append(torch.cat(row))
    assert_close(found, torch.stack(expected), 1e-4)


def test_rank_notices_when_a_choice_is_scored_wrongly() -> None:
    backbone = tiny.backbone("llama")
    examples = [Example(e.source, "good", e.cue, ("good", "bad")) for e in EXAMPLES]
    with backbone.using(Bank()):
        found = backbone.rank(examples, [-1] * 3)
    with pytest.raises(AssertionError):
        assert_close(found, found.flip(1), 1e-4)
