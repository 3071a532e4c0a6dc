"""Completions, chats and what harnesses ask for: as the backbone itself answers."""

import asyncio
import json
import re
import string
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from softprompt.backbones import Backbone, Causal
from softprompt.runs.prompt import load_prompt
from softprompt.serving.engine.engine import Engine
from softprompt.serving.engine.sequence import Question, lay
from softprompt.serving.http.app import make_app
from softprompt.serving.prompt_store import PromptStore
from tests import tiny
from tests.served import SMALL, TEAMS, client_of, tiny_app, write_all_kinds, write_prompt

TEXT = "the parcel is late"
USER = [{"role": "user", "content": TEXT}]


def with_client(app: Any, ask: Callable[[httpx2.AsyncClient], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with client_of(app) as client:
            await ask(client)

    asyncio.run(all_of_it())


async def made(client: httpx2.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    route = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    answer = await client.post(route, json={"model": "base", "max_tokens": 9} | body)
    assert answer.status_code == 200, answer.text
    choices: list[dict[str, Any]] = answer.json()["choices"]
    return choices


def readable(folder: Path, kind: str) -> Any:
    """A server whose tokenizer has every byte, or every letter, so that answers can be held to a format."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet()) if kind == "bytes" else ["\u2581", *string.printable.strip()]
    alphabet = {letter: i + 3 for i, letter in enumerate(letters)}
    words = Tokenizer(models.BPE({"<pad>": 0, "</s>": 1, "<unk>": 2, **alphabet}, [], unk_token="<unk>"))
    if kind == "bytes":
        words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    model = tiny.model("llama")
    model.resize_token_embeddings(len(tokenizer))  # type: ignore[operator]
    model.generation_config.eos_token_id = 1  # type: ignore[union-attr]
    backbone = Causal(model, tokenizer, "readable", max_source=64)
    write_prompt(folder / "teams", backbone, template="{text} :", choices=["red", "blue", "blueish"])
    return make_app(Engine(backbone, SMALL), PromptStore(folder, backbone))


# Chats


def test_the_openai_client_chats_whole_and_streamed(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        ai = openai.AsyncOpenAI(api_key="any", base_url="http://server/v1", http_client=client, max_retries=0)
        turns: Any = [
            {"role": "user", "content": TEXT},
            {"role": "assistant", "content": "good"},
            {"role": "user", "content": [{"type": "text", "text": "where is it"}]},
        ]
        whole = await ai.chat.completions.create(
            model="chatting", messages=turns, max_completion_tokens=7, logprobs=True, top_logprobs=2
        )
        text = whole.choices[0].message.content
        assert text
        plain = {"model": "chatting", "prompt": json.dumps([*turns[:2], {"role": "user", "content": "where is it"}])}
        assert text == (await made(client, **plain, max_tokens=7))[0]["text"]
        assert whole.choices[0].logprobs is not None
        reported = whole.choices[0].logprobs.content
        assert reported is not None
        assert len(reported) == 7
        assert all(one.logprob == one.top_logprobs[0].logprob for one in reported)
        stream = await ai.chat.completions.create(
            model="chatting", messages=turns, max_tokens=7, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].usage == whole.usage
        with pytest.raises(openai.BadRequestError, match="tools="):
            await ai.chat.completions.create(
                model="chatting", messages=turns, tools=[{"type": "function", "function": {"name": "f"}}]
            )

    with_client(tiny_app(tmp_path), ask)


def test_a_prompt_without_a_chat_template_reads_what_the_user_said_last(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        turns = [{"role": "system", "content": "yes"}, {"role": "user", "content": "no"}, *USER]
        chatted = (await made(client, model="teams", messages=turns))[0]["message"]["content"]
        assert chatted == (await made(client, model="teams", prompt=TEXT))[0]["text"]
        answer = await client.post("/v1/chat/completions", json={"model": "teams", "messages": turns[:1]})
        assert "none of a user" in answer.json()["error"]["message"]
        answer = await client.post("/v1/chat/completions", json={"model": "base", "messages": USER})
        assert "has no chat template, so 'base' reads no messages" in answer.json()["error"]["message"]

    with_client(tiny_app(tmp_path), ask)


def test_the_backbones_own_chat_template_writes_the_messages_of_base(tmp_path: Path) -> None:
    app = tiny_app(tmp_path)
    tokenizer = app.state.engine.backbone.tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}team :{% endif %}"
    )

    async def ask(client: httpx2.AsyncClient) -> None:
        chatted = (await made(client, messages=USER))[0]["message"]["content"]
        assert chatted == (await made(client, prompt=f"user : {TEXT} team :", raw=True))[0]["text"].strip()

    with_client(app, ask)


# How tokens are chosen


def test_several_answers_penalties_biases_and_ends(tmp_path: Path) -> None:
    app = tiny_app(tmp_path)
    backbone = app.state.engine.backbone
    first = backbone.ordinary_ids()[0]

    async def ask(client: httpx2.AsyncClient) -> None:
        sampled: dict[str, Any] = {"temperature": 1.5, "seed": 4}
        three = await made(client, prompt=[TEXT, "good"], n=3, **sampled)
        assert [one["index"] for one in three] == list(range(6))
        assert len({one["text"] for one in three[:3]}) == 3
        for k in range(3):
            alone = await made(client, prompt=TEXT, temperature=1.5, seed=4 + k)
            assert alone[0]["text"] == three[k]["text"]
        many = {"prompt": TEXT, "max_tokens": 30}
        (plain,) = await made(client, **many)
        (varied,) = await made(client, **many, frequency_penalty=2)
        most = [max(Counter(one["text"].split()).values()) for one in (plain, varied)]
        assert most[0] > most[1]
        (biased,) = await made(client, **many, logit_bias={str(first): 100})
        assert set(biased["text"].split()) == {backbone.tokenizer.decode([first])}
        said = backbone.tokenizer(plain["text"], add_special_tokens=False).input_ids
        (ended,) = await made(client, **many, stop_token_ids=[said[0]])
        assert (ended["text"].strip(), ended["finish_reason"]) == ("", "stop")
        (longer,) = await made(client, **many, stop_token_ids=[said[0]], min_tokens=3)
        assert len(longer["text"].split()) >= 3
        usage = (await client.post("/v1/completions", json={"model": "base", "prompt": TEXT, "n": 3})).json()["usage"]
        assert usage["prompt_tokens"] == 4

    with_client(app, ask)


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_an_answer_is_held_to_a_format(tmp_path: Path, kind: str) -> None:
    schema = {
        "type": "object", "properties": {"team": {"enum": ["red", "blue"]}, "sure": {"type": "boolean"}},
        "required": ["team", "sure"], "additionalProperties": False, "x-guidance": {"whitespace_flexible": False},
    }  # fmt: skip

    async def ask(client: httpx2.AsyncClient) -> None:
        asked: dict[str, Any] = {"model": "teams", "messages": USER, "max_tokens": 60}

        async def text(**format: Any) -> str:
            (choice,) = await made(client, **asked, **format)
            assert choice["finish_reason"] == "stop"
            return str(choice["message"]["content"])

        for sampling in ({}, {"temperature": 2.0, "seed": 3}):
            asked |= sampling
            found = json.loads(await text(response_format={"type": "json_schema", "json_schema": {"schema": schema}}))
            assert (found["team"] in ("red", "blue"), type(found["sure"])) == (True, bool)
            assert await text(response_format={"type": "choice"}) in ("red", "blue", "blueish")
            assert await text(structured_outputs={"choice": ["a+b", "c"]}) in ("a+b", "c")
            assert re.fullmatch("[0-9]{3}-x*y", await text(structured_outputs={"regex": "[0-9]{3}-x{0,4}y"}))
            assert await text(structured_outputs={"grammar": 'start: "yes" | "no"'}) in ("yes", "no")
            assert json.loads(await text(structured_outputs={"json": {"type": "integer", "maximum": 9}})) <= 9
        for wrong in ({"regex": "("}, {"grammar": "start: x"}, {"json": {"type": "nothing"}}):
            answer = await client.post("/v1/chat/completions", json=asked | {"structured_outputs": wrong})
            assert "The grammar of the answer cannot be followed" in answer.json()["error"]["message"], wrong
            assert answer.status_code == 400

    with_client(readable(tmp_path, kind), ask)


# What harnesses ask


@torch.no_grad()
def expected_scores(backbone: Backbone, question: Question) -> torch.Tensor:
    """Log-probabilities of each of a question's tokens but the first, computed without the server."""
    bank, batch = lay(backbone, [question])
    with backbone.using(bank), backbone.embedding.laid_out(batch.layout):
        logits = backbone.model(input_ids=batch.ids).logits[0].float()
    scores = torch.log_softmax(logits, -1)
    n = question.length
    places = [i if i < question.before else i + n for i in range(len(question.source))]
    return torch.tensor([scores[at - 1, token] for at, token in zip(places, question.source, strict=True) if at])


@pytest.mark.parametrize("name", ["base", "free", "placed", "shifted", "opened"])
def test_echo_reports_what_the_model_says_of_the_inputs_own_tokens(name: str, tmp_path: Path) -> None:
    write_all_kinds(tmp_path, tiny.backbone("llama"))
    app = tiny_app(tmp_path)
    ids = [5, 9, 12, 7, 20, 33]
    before = 0
    prompt = None if name == "base" else load_prompt(tmp_path / name).soft_prompt()

    async def ask(client: httpx2.AsyncClient) -> None:
        body: dict[str, Any] = {"model": name, "prompt": [ids, ids[:2]], "echo": True, "logprobs": 2}
        choices = await made(client, **body, max_tokens=1)
        wanted = expected_scores(tiny.backbone("llama"), Question(tuple(ids), prompt, "x", before))
        found = choices[0]["logprobs"]
        assert len(found["tokens"]) == 7
        got = found["token_logprobs"][:6]
        assert (got[0] is None) == (len(wanted) == 5)
        assert [value for value in got if value is not None] == pytest.approx(wanted.tolist(), abs=1e-4)
        assert found["token_logprobs"][6] == max(found["top_logprobs"][6].values())
        alone = (await made(client, model=name, prompt=[ids], max_tokens=1, logprobs=0))[0]
        assert choices[0]["text"].endswith(alone["text"].strip())
        nothing = (await made(client, **body, max_tokens=0))[0]
        assert (nothing["finish_reason"], len(nothing["logprobs"]["tokens"])) == ("length", 6)
        more = (await made(client, **body, max_tokens=4))[0]
        assert len(more["logprobs"]["tokens"]) >= 7
        assert more["text"].startswith(nothing["text"])

    with_client(app, ask)


def test_echo_of_an_encoder_decoder_has_no_log_probabilities(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        body = {"model": "base", "prompt": TEXT, "echo": True, "max_tokens": 2}
        assert (await made(client, **body))[0]["text"].startswith(TEXT)
        answer = await client.post("/v1/completions", json=body | {"logprobs": 1})
        assert (answer.status_code, "only a decoder-only" in answer.text) == (400, True)

    with_client(tiny_app(tmp_path, "t5"), ask)


def test_texts_become_ids_and_ids_texts_and_the_server_says_what_it_is(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        found = (await client.post("/tokenize", json={"prompt": TEXT})).json()
        assert (found["count"], found["max_model_len"]) == (4, 96)
        assert (await client.post("/detokenize", json={"tokens": found["tokens"]})).json() == {"prompt": TEXT}
        assert (await client.post("/detokenize", json={"tokens": [64]})).status_code == 400
        info = (await client.get("/info")).json()
        backbone = info["backbone"]
        assert (backbone["kind"], backbone["dtype"], backbone["context"]) == ("causal", "float32", 96)
        assert info["prompts"] == 9
        assert info["limits"]["texts"] == 128

    with_client(tiny_app(tmp_path), ask)


def test_a_server_at_a_path_of_this_machine_does_not_say_where(tmp_path: Path) -> None:
    from softprompt.serving.server import ServerSettings, build

    model = tiny.save_tiny("llama", tmp_path / "models" / "secret", " ".join(TEAMS))
    (tmp_path / "prompts").mkdir()
    app = build(ServerSettings(model, tmp_path / "prompts"))

    async def ask(client: httpx2.AsyncClient) -> None:
        assert (await client.get("/info")).json()["backbone"]["name"] == "secret"
        answer = await client.post("/v1/chat/completions", json={"model": "base", "messages": USER})
        assert str(tmp_path) not in answer.text

    with_client(app, ask)
