"""Read the chat template of a backbone's tokenizer as plain strings (softprompt.tasks.chat)."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from softprompt.backbones.families import get_family
from softprompt.backbones.load import resolve
from softprompt.backbones.loading_errors import explain_tokenizer
from softprompt.errors import BadInput, first_line
from softprompt.runtime.logging import quiet_loading
from softprompt.tasks.chat import Chat

SYSTEM, FIRST, REPLY, SECOND = "system-text", "first-user-text", "assistant-text", "second-user-text"
"""Texts whose surroundings are read off."""


def find_chat(name: str) -> Chat:
    """Read the chat template of the backbone `name`; no weights are read.

    Raises BadInput where it is not decoder-only, or its tokenizer has no chat template that can be read.
    """
    kind, place = resolve(name)
    if not get_family(kind).decoder_only:
        raise BadInput(f"--chat: {name} is {get_family(kind).title}, which reads no chats. Leave it out.")
    with quiet_loading():
        try:
            tokenizer = AutoTokenizer.from_pretrained(place)
        except Exception as error:  # noqa: BLE001  # whatever a file of somebody else's raises
            raise explain_tokenizer(name, place, error) from None
    return read_chat(tokenizer, name)


def read_chat(tokenizer: PreTrainedTokenizerBase, name: str) -> Chat:
    """Read what the template writes around the turns of a chat. Raises BadInput where that cannot be told."""
    if not tokenizer.chat_template:
        raise BadInput(f"--chat: the tokenizer of {name} has no chat template. Leave it out, or give a chat model.")
    try:
        opening, reply, user, answer = _surroundings(tokenizer, [FIRST, REPLY, SECOND])
    except Exception as error:  # noqa: BLE001  # a template raises what it likes
        raise BadInput(
            f"--chat: the chat template of {name} does not write user, assistant, user as they are "
            f"({first_line(error)}). Leave it out, and give --template."
        ) from None
    system = None
    try:
        before, after, end = _surroundings(tokenizer, [SYSTEM, FIRST])
        system = (before, after) if end == answer else None
    except Exception:  # noqa: BLE001  # Gemma's raises for a system's turn
        pass
    return Chat(opening=opening, reply=reply, user=user, answer=answer, system=system)


def _surroundings(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[str]:
    """Return what stands before, between and after the texts. Raises ValueError where one is missing or repeated."""
    role = {SYSTEM: "system", FIRST: "user", REPLY: "assistant", SECOND: "user"}
    made = str(
        tokenizer.apply_chat_template(
            [{"role": role[text], "content": text} for text in texts],
            tokenize=False, add_generation_prompt=True, enable_thinking=False,  # Qwen3's, and others' after it
        )
    )  # fmt: skip
    opened = tokenizer.bos_token
    if opened and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]:
        made = made.removeprefix(opened)  # the tokenizer writes it itself
    parts = []
    for text in texts:
        if made.count(text) != 1:
            raise ValueError(f"a turn is written {made.count(text)} times")
        part, made = made.split(text)
        parts.append(part)
    return [*parts, made]
