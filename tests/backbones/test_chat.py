"""What is read off a chat template gives the tokens that transformers gives for the whole chat."""

from pathlib import Path
from typing import Any

import pytest

from softprompt.backbones.causal import CausalTokenization
from softprompt.backbones.chat import find_chat, read_chat
from softprompt.backbones.families import get_family
from softprompt.errors import BadInput
from softprompt.tasks import Example, Template
from tests import tiny
from tests.chats import CHATML, TEMPLATES, chat_tokenizer

TURNS = [("user", "Hello?"), ("assistant", "Yes."), ("user", "Where {is} it?")]


def read(tokenizer: Any) -> CausalTokenization:
    return CausalTokenization(tokenizer, get_family("causal"), "tiny", 512)


@pytest.mark.parametrize(
    ("name", "bos"), [("chatml", False), *((name, bos) for name in ("llama", "gemma") for bos in (True, False))]
)
def test_tokens_are_those_of_the_chat_template(name: str, bos: bool) -> None:
    tokenizer = chat_tokenizer(TEMPLATES[name], bos=bos)
    chat = read_chat(tokenizer, "tiny")
    chats = [TURNS, TURNS[:1], [("system", "Be brief."), *TURNS]]
    for turns in chats[: 2 if name == "gemma" else 3]:
        whole = [{"role": role, "content": text} for role, text in [*turns, ("assistant", "Here.")]]
        expected = tokenizer.apply_chat_template(whole, return_dict=False)
        form = Template(chat.close("{conversation}"))
        example = Example(form.source({"conversation": chat.write(turns)}), "Here.", form.cue)
        tokens = read(tokenizer)
        ids = tokens.source_ids(example, 512)[0] + tokens.target_ids(example)
        assert ids == expected[: len(ids)]
        assert tokenizer.decode(expected[len(ids) :]).strip() == ""


def test_a_model_without_a_system_role_reads_it_in_the_users_text() -> None:
    chat = read_chat(chat_tokenizer(TEMPLATES["gemma"]), "tiny")
    assert chat.system is None
    assert chat.write([("system", "Be brief."), *TURNS[:1]]) == "<|im_start|>user\nBe brief.\n\nHello?"


def test_choices_stand_without_a_space_at_the_beginning_of_a_turn() -> None:
    tokenizer = chat_tokenizer(CHATML)
    tokens, cue = read(tokenizer), Template(read_chat(tokenizer, "tiny").frame("{text}")).cue
    assert [tokenizer.decode(ids) for ids in tokens.choice_ids(("yes", "no"), cue)] == ["yes", "no"]
    assert [tokenizer.decode(ids) for ids in tokens.choice_ids(("yes", "no"))] == [" yes", " no"]
    assert [tokenizer.decode(ids) for ids in tokens.choice_ids(("yes", "no"), "\nAnswer:\n")] == [" yes", " no"]


def test_a_long_text_is_cut_inside_the_users_turn() -> None:
    tokenizer = chat_tokenizer(CHATML)
    form = Template(read_chat(tokenizer, "tiny").frame("Text: {text}\nLabel:"))
    ids, cut = read(tokenizer).source_ids(Example(form.source({"text": "a" * 200}), cue=form.cue), 150)
    assert cut
    assert len(ids) == 150
    assert tokenizer.decode(ids).endswith("aaa\nLabel:<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("template", "match"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('only one turn') }}", "only one turn"),
        ("{{ messages[-1]['content'] }}", "a turn is written 0 times"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused(template: str | None, match: str) -> None:
    tokenizer = chat_tokenizer(CHATML)
    tokenizer.chat_template = template
    with pytest.raises(BadInput, match=match):
        read_chat(tokenizer, "tiny")


def test_only_a_decoder_reads_chats(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="reads no chats"):
        find_chat(tiny.save_tiny("t5", tmp_path / "t5"))
