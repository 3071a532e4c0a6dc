"""Generation options that read the ids work although soft ids lie past the vocabulary."""

from typing import Any

import pytest
import torch

from softprompt.evaluation.evaluate import evaluate_examples, score_task
from softprompt.methods.bank import Bank
from softprompt.tasks import Example, Task
from tests import tiny
from tests.compare import assert_close
from tests.prompts import EXAMPLES, FAMILIES, by_hand, soft_prompt

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
                batch = backbone.pose_ids([example], [prompt], [[*backbone.tokens.continuation(choice), *eos]])
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


# generated answers: which choice a text names


def answered(
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    texts: list[str],
    choices: tuple[str, ...] = CHOICES["one begins another"],
) -> list[tuple[str, bool]]:
    """What is read of `texts`, had the backbone generated them."""
    backbone = tiny.backbone(family)
    monkeypatch.setattr(backbone, "answer", lambda examples, *_, **__: [texts[int(e.id)] for e in examples])
    examples = [Example("a b c", choices[0], choices=choices, id=str(i)) for i in range(len(texts))]
    with backbone.using(Bank()):
        return [(record.prediction, record.parsed) for record in evaluate_examples(backbone, examples, generate=True)]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("yes", "yes"),
        (" yes sir thing", "yes sir"),  # the longest choice that begins the line
        ("yes, sir", "yes"),
        ("yes\nno", "yes"),
        ("yes siree", "yes"),  # where a word ends, not inside it
        ("yesterday", None),
        ("no1", None),
        ("maybe yes", None),
        ("\nyes", None),
        ("", None),
        ("Yes", None),
    ],
)
def test_a_decoder_says_the_longest_choice_that_begins_its_line(
    text: str, answer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answered(monkeypatch, "llama", [text]) == [(answer or "", answer is not None)]


def test_an_encoder_decoder_ends_its_answer_and_says_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["yes", " yes ", "yes\nmore", "yes sir", "yes sir thing", "yes,", ""]
    assert answered(monkeypatch, "t5", texts) == [
        ("yes", True), ("yes", True), ("yes", True), ("yes sir", True), ("", False), ("", False), ("", False)
    ]  # fmt: skip


def asked(strict: bool, n: int = 4) -> Task:
    examples = [Example("a b c", "yes", choices=("yes", "no"), id=str(i)) for i in range(n)]
    splits: Any = {"train": examples, "dev": examples, "test": examples}
    return Task("t", splits, ("yes", "no"), ("accuracy", "macro_f1"), "{t}", scoring="generated", strict=strict)


@pytest.mark.parametrize("strict", [False, True])
def test_one_answer_outside_the_labels_zeroes_a_strict_score(strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.backbone("t5")
    texts = ["yes", "yes", "yes", "red"]
    monkeypatch.setattr(backbone, "answer", lambda examples, *_, **__: [texts[int(e.id)] for e in examples])
    with backbone.using(Bank()):
        scores, records = score_task(backbone, asked(strict), "dev")
        ranked, _ = score_task(backbone, asked(strict), "dev", scoring="ranked")
    assert scores.unparsable == 1
    assert [record.correct for record in records] == [True, True, True, False]
    assert scores.metrics["accuracy"] == (0.0 if strict else 0.75)
    assert (scores.metrics["macro_f1"] == 0.0) is strict
    assert (ranked.unparsable, set(ranked.metrics)) == (0, {"accuracy", "macro_f1"})
    texts[3] = "no"
    with backbone.using(Bank()):
        assert score_task(backbone, asked(strict), "dev")[0].metrics["accuracy"] == 0.75, "a wrong label is a label"


@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_free_answers_are_as_long_as_the_task_lets_them_be(tokens: int) -> None:
    backbone = tiny.backbone("llama")
    examples = [Example("a b c", "red blue green", id="0")]
    splits: Any = {"train": examples, "dev": examples, "test": examples}
    task = Task("t", splits, (), ("exact_match",), "{t}", answer_tokens=tokens)
    with backbone.using(Bank({"p": soft_prompt(backbone, "prompt_tuning", 3)})):
        _, [record] = score_task(backbone, task, "test", 0)
        whole = backbone.answer(examples, [0], max_new_tokens=20)[0]
    assert record.text is not None
    said = record.text.split()
    assert 0 < len(said) <= tokens
    assert whole.split()[: len(said)] == said
    assert len(whole.split()) > 3, "with more room this model says more, or the test shows nothing"


def test_an_answer_with_choices_is_no_longer_than_the_longest_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, rooms = tiny.backbone("llama"), []
    answer = backbone.answer

    def watched(*args: Any, **options: Any) -> list[str]:
        rooms.append(options["max_new_tokens"])
        return answer(*args, **options)

    monkeypatch.setattr(backbone, "answer", watched)
    with backbone.using(Bank()):
        score_task(backbone, asked(False), "dev")
        choices = CHOICES["different lengths"]
        evaluate_examples(backbone, [Example("a b c", choices[0], choices=choices)], generate=True)
    assert rooms == [2, 4]  # one token more, to end it
