"""The routes: OpenAI's shapes, keys, limits, and an answer to every malformed request."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from safetensors.torch import load_file, save
from typer.testing import CliRunner

from softprompt.errors import BadInput
from softprompt.evaluation.nearest_words import nearest_words
from softprompt.runs.prompt import load_prompt
from softprompt.serving.engine.batching import Batching
from softprompt.serving.http.app import Front
from softprompt.serving.http.auth import Keys
from softprompt.serving.http.connections import PatientServer
from softprompt.serving.limits import Limits
from tests import tiny
from tests.served import TEAMS, client_of, predicting, tiny_app, write_all_kinds, write_prompt

TEXT = "the parcel is late"
FILES = {"card": "prompt.json", "tensors": "prompt.safetensors"}
Ask = Callable[[httpx2.AsyncClient], Awaitable[None]]


def with_client(folder: Path, ask: Ask, key: str | None = None, **settings: Any) -> None:
    async def all_of_it() -> None:
        async with client_of(tiny_app(folder, **settings), key) as client:
            await ask(client)

    asyncio.run(all_of_it())


def error(answer: httpx2.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return str(body["message"])


def test_the_openai_client_completes_streams_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        ai = openai.AsyncOpenAI(api_key="any", base_url="http://server/v1", http_client=client, max_retries=0)
        listed = [model.id async for model in ai.models.list()]
        assert listed == [
            "base",
            "bare",
            "behind",
            "chatting",
            "free",
            "looking",
            "opened",
            "placed",
            "shifted",
            "teams",
        ]
        assert (await ai.models.retrieve("free")).owned_by == "softprompt"
        made = await ai.completions.create(model="free", prompt=[TEXT, "good bad"])
        assert [choice.index for choice in made.choices] == [0, 1]
        with predicting(cache(lambda **given: tiny.backbone("llama", **given)), monkeypatch) as predict:
            assert made.choices[0].text == predict(tmp_path / "free", TEXT)["prediction"]
            assert made.choices[1].text == predict(tmp_path / "free", "good bad")["prediction"]
        assert made.usage is not None
        assert made.usage.prompt_tokens == 6
        stream = await ai.completions.create(
            model="free", prompt=[TEXT, "good bad"], stream=True, stream_options={"include_usage": True}
        )
        pieces, ended, usage = ["", ""], [None, None], None
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                pieces[choice.index] += choice.text
                ended[choice.index] = choice.finish_reason or ended[choice.index]
        assert pieces == [choice.text for choice in made.choices]
        assert ended == [choice.finish_reason for choice in made.choices]
        assert usage == made.usage
        with pytest.raises(openai.NotFoundError, match="There is no prompt 'nobody' here"):
            await ai.completions.create(model="nobody", prompt=TEXT)
        with pytest.raises(openai.BadRequestError, match="suffix='x' is not supported"):
            await ai.completions.create(model="free", prompt=TEXT, suffix="x")

    with_client(tmp_path, ask)


def test_sampling_stops_and_log_probabilities(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        async def made(**body: Any) -> dict[str, Any]:
            answer = await client.post(
                "/v1/completions", json={"model": "base", "prompt": TEXT, "max_tokens": 9} | body
            )
            assert answer.status_code == 200, answer.text
            choice: dict[str, Any] = answer.json()["choices"][0]
            return choice

        greedy = await made()
        assert greedy["finish_reason"] == "length"
        words = greedy["text"].split()
        stopped = await made(stop=words[3])
        assert (stopped["text"].split(), stopped["finish_reason"]) == (words[: words.index(words[3])], "stop")
        one, again, other = [await made(temperature=1.5, seed=seed) for seed in (1, 1, 2)]
        assert one["text"] == again["text"] != other["text"]
        logprobs = (await made(logprobs=2))["logprobs"]
        assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(logprobs["text_offset"]) == 9
        assert {len(top) for top in logprobs["top_logprobs"]} <= {1, 2}  # some of this vocabulary are spelled alike
        for token, value, top in zip(
            logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
        ):
            assert max(top.values()) == value == top[token]

    with_client(tmp_path, ask)


def test_classify_gives_the_probabilities_of_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        body = (await client.post("/v1/classify", json={"model": "teams", "input": [TEXT, "good bad"]})).json()
        with predicting(cache(lambda **given: tiny.backbone("llama", **given)), monkeypatch) as predict:
            for found, text in zip(body["data"], [TEXT, "good bad"], strict=True):
                alone = predict(tmp_path / "teams", text)
                assert found["prediction"] == alone["prediction"]
                assert found["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
        own = (await client.post("/v1/classify", json={"model": "base", "input": TEXT, "choices": ["a", "b c"]})).json()
        assert set(own["data"][0]["probabilities"]) == {"a", "b c"}
        assert "give the choices in the request" in error(
            await client.post("/v1/classify", json={"model": "free", "input": TEXT}), 400
        )
        same = await client.post("/v1/classify", json={"model": "base", "input": TEXT, "choices": ["a", "a "]})
        assert "are the same tokens" in error(same, 400)

    with_client(tmp_path, ask)


def test_templates_of_several_columns_and_raw_texts(tmp_path: Path) -> None:
    backbone = tiny.backbone("llama")
    write_prompt(tmp_path / "pair", backbone, template="{a} text {b} team")

    async def ask(client: httpx2.AsyncClient) -> None:
        async def text(**body: Any) -> httpx2.Response:
            return await client.post("/v1/completions", json={"model": "pair", "max_tokens": 6} | body)

        row = {"a": "good", "b": "bad"}
        answers = [await text(prompt=form) for form in (row, json.dumps(row), [row])]
        assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
        raw = await text(prompt="good text bad team", raw=True)
        assert raw.json()["choices"][0]["text"].strip() == answers[0].json()["choices"][0]["text"]
        assert "give each text as JSON" in error(await text(prompt="good"), 400)
        assert "needs the column 'b'" in error(await text(prompt={"a": "good"}), 400)
        assert "an input is a text" in error(await text(prompt=row, raw=True), 400)
        cut = await text(prompt={"a": " ".join(["good"] * 300), "b": "bad"})
        assert cut.json()["choices"][0]["truncated"] is True

    with_client(tmp_path, ask, batching=Batching(rows=4, tokens=400, pass_tokens=400))


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": []}, "at least 1 item"),
    ({"prompt": [1, 200]}, "The token 200 is past the vocabulary of tiny-llama, which has 64"),
    ({"prompt": [1] * 200}, "The input has 200 tokens; beside the answer there is room for 76"),
    ({"prompt": [1, True]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "no tokens"),
    ({"prompt": "\ud800"}, "prompt"),
    ({"promt": TEXT}, "Unknown parameter 'promt'. Did you mean 'prompt'?"),
    ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0."),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 5000}, "at most 1024"),
    ({"max_tokens": 93}, "has room for 3. Shorten it or lower max_tokens"),
    ({"max_tokens": 96}, "leave none for the source"),
    ({"prompt": "good " * 5000}, "at most 4096"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["a"] * 9}, "9 stop strings; this server takes at most 8"),
    ({"prompt": "good" * 20_000}, "80000 characters; this server reads at most 65536"),
    ({"n": 0}, "n: Input should be greater than or equal to 1."),
    ({"n": 100, "prompt": [TEXT, TEXT]}, "200 answers in one request; at most 128"),
    ({"best_of": 3}, "best_of=3 is not supported"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"good": 1}}, "'good' is not a token id"),
    ({"logit_bias": {"64": 1}}, "The token 64 is past the vocabulary, which has 64"),
    ({"stop_token_ids": [-1]}, "The token -1 is past the vocabulary"),
    ({"response_format": {"type": "json_schema"}}, "needs json_schema"),
    ({"response_format": {"type": "choice"}}, "has no choices"),
    ({"response_format": {"type": "yaml"}}, "response_format"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "takes one of json, regex, choice and grammar"),
    (
        {"structured_outputs": {"choice": ["a"]}},
        "cannot be held to a format: what it needs of a tokenizer is missing",
    ),
    ({"seed": 2**70}, "seed"),
    ({"model": ""}, "model"),
    ({"prompt": ["good"] * 200}, "at most 128"),
    ({"stream_options": {"include_usage": True}}, "only for stream=true"),
]


def test_a_malformed_request_gets_an_error_that_says_why(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        for change, message in MALFORMED:
            body = json.dumps({"model": "base", "prompt": TEXT} | change)
            answer = await client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
            assert message in error(answer, 400), change

    with_client(tmp_path, ask)


def test_bodies_that_are_nothing(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        for body in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 50_000, b'{"model": NaN}'):
            for headers in ({"Content-Type": "application/json"}, {"Content-Type": "text/plain"}, {}):
                for route in ("/v1/completions", "/v1/classify"):
                    error(await client.post(route, content=body, headers=headers), 400)
        assert "nothing at '/v1/nothing'. The page is at /" in error(await client.get("/v1/nothing"), 404)
        error(await client.get("/v1/completions"), 405)
        error(await client.get("/v1/prompts?limit=0"), 400)
        error(await client.get("/v1/prompts/..%2f..%2fetc"), 404)

    with_client(tmp_path, ask)


def test_keys_for_use_and_keys_for_change(tmp_path: Path) -> None:
    backbone = tiny.backbone("llama")
    write_all_kinds(tmp_path / "served", backbone)
    new = write_prompt(tmp_path / "new", backbone, seed=9, choices=TEAMS)
    files = {"card": (new / "prompt.json").read_bytes(), "tensors": (new / "prompt.safetensors").read_bytes()}

    async def ask(client: httpx2.AsyncClient) -> None:
        def key(name: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {name}"}

        body = {"model": "teams", "input": TEXT}
        for wrong in (
            {},
            key("user "),
            key("User"),
            key(""),
            {"Authorization": "user"},
            {"Authorization": "Basic user"},
        ):
            answer = await client.post("/v1/classify", json=body, headers=wrong)
            if wrong.get("Authorization") == "Bearer user ":  # blanks around a header's value are none of its
                continue
            assert "Bearer" in error(answer, 401)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        error(await client.get("/v1/prompts"), 401)
        error(await client.get("//v1/prompts"), 401)
        assert (await client.post("/v1/classify", json=body, headers=key("user"))).status_code == 200
        assert (await client.post("/v1/classify", json=body, headers=key("admin"))).status_code == 200
        assert "may not change" in error(await client.put("/v1/prompts/new", files=files, headers=key("user")), 403)
        assert "may not change" in error(await client.delete("/v1/prompts/teams", headers=key("user")), 403)
        put = await client.put("/v1/prompts/new", files=files, headers=key("admin"))
        assert (put.status_code, put.json()["version"], put.json()["card"]["choices"]) == (200, 1, TEAMS)
        for open_to_all in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert (await client.get(open_to_all)).status_code == 200
        schema = (await client.get("/openapi.json")).text
        assert "422" not in schema
        assert "HTTPBearer" in schema

    with_client(tmp_path / "served", ask, keys=Keys.of(["user,other"], ["admin"]))


def test_a_key_is_compared_whole_and_never_shown() -> None:
    keys = Keys.of(["one"], ["two"])
    assert "one" not in repr(keys)
    assert [keys.caller(f"Bearer {key}").may_ask for key in ("one", "two", "on", "one1", "é")] == [1, 1, 0, 0, 0]
    assert keys.caller("bearer two").may_change
    assert not Keys.of([], ["two"]).caller(None).may_change
    assert Keys.of([], ["two"]).caller(None).may_ask
    with pytest.raises(BadInput, match="holds blanks"):
        Keys.of(["a b"], [])


def test_prompts_are_put_listed_and_deleted(tmp_path: Path) -> None:
    backbone = tiny.backbone("llama")
    write_all_kinds(tmp_path / "served", backbone)
    new = write_prompt(tmp_path / "new", backbone, seed=9, choices=TEAMS)
    whole = save(load_file(new / "prompt.safetensors"), {"card": (new / "prompt.json").read_text()})
    foreign = write_prompt(tmp_path / "foreign", tiny.backbone("gpt2"))

    async def ask(client: httpx2.AsyncClient) -> None:
        body = {"model": "teams", "input": TEXT}
        before = (await client.post("/v1/classify", json=body)).json()["data"]
        put = await client.put("/v1/prompts/teams", content=whole)
        assert (put.status_code, put.json()["version"]) == (200, 2)
        assert (await client.post("/v1/classify", json=body)).json()["data"] != before
        page = (await client.get("/v1/prompts?limit=2&after=chatting&cards=true")).json()
        assert [(one["name"], one["card"]["kind"]) for one in page["data"]] == [
            ("free", "prompt"),
            ("looking", "input"),
        ]
        assert (page["total"], page["has_more"]) == (9, True)
        assert [one["name"] for one in (await client.get("/v1/prompts?search=EA")).json()["data"]] == ["teams"]
        assert (await client.get("/v1/prompts/placed")).json()["card"]["positions"] == 6
        near = (await client.get("/v1/prompts/placed?words=3")).json()["nearest"]
        rows = load_prompt(tmp_path / "served" / "placed").folded.prompt
        assert near == [[word for word, _ in row] for row in nearest_words(backbone, rows, 3)]
        assert (await client.get("/v1/prompts/looking?words=3")).json()["nearest"] is None
        error(await client.get("/v1/prompts/placed?words=11"), 400)
        assert (await client.delete("/v1/prompts/teams")).json() == {"name": "teams", "deleted": True}
        error(await client.delete("/v1/prompts/teams"), 404)
        error(await client.post("/v1/classify", json=body), 404)
        assert "not a safetensors file with" in error(await client.put("/v1/prompts/x", content=b"\x80\x04pickle"), 400)
        assert "Send two parts" in error(await client.put("/v1/prompts/x", files={"card": b"{}"}), 400)
        assert "cannot be a prompt's name" in error(await client.put("/v1/prompts/.x", content=whole), 400)
        files = {
            "card": (foreign / "prompt.json").read_bytes(),
            "tensors": (foreign / "prompt.safetensors").read_bytes(),
        }
        assert "tuned for tiny-gpt2" in error(await client.put("/v1/prompts/x", files=files), 409)
        torn = await client.put(
            "/v1/prompts/x", content=b"--b\r\nbroken", headers={"Content-Type": "multipart/form-data; boundary=b"}
        )
        error(torn, 400)

    with_client(tmp_path / "served", ask, key="admin", keys=Keys.of([], ["admin"]))


def test_a_prompt_that_cannot_be_used_is_a_conflict(tmp_path: Path) -> None:
    write_prompt(tmp_path / "foreign", tiny.backbone("gpt2"))
    write_prompt(tmp_path / "damaged", tiny.backbone("llama"))
    (tmp_path / "damaged" / "prompt.json").write_text("{}")

    async def ask(client: httpx2.AsyncClient) -> None:
        assert "tuned for" in error(
            await client.post("/v1/completions", json={"model": "foreign", "prompt": TEXT}), 409
        )
        error(await client.post("/v1/completions", json={"model": "damaged", "prompt": TEXT}), 409)
        error(await client.get("/v1/prompts/damaged"), 409)
        listed = (await client.get("/v1/prompts?cards=true")).json()["data"]
        assert ["not a valid prompt.json" in listed[0]["error"], "tuned for" in listed[1]["error"]] == [True, True]

    with_client(tmp_path, ask)


def test_a_folder_with_broken_links_is_served_and_one_that_goes_is_a_503(tmp_path: Path) -> None:
    path = tmp_path / "served"
    write_prompt(path / "good", tiny.backbone("llama"), choices=TEAMS)
    (path / "old").symlink_to(tmp_path / "nowhere")

    async def ask(client: httpx2.AsyncClient) -> None:
        body = {"model": "good", "input": TEXT}
        assert (await client.post("/v1/classify", json=body)).status_code == 200
        listed = (await client.get("/v1/prompts")).json()["data"]
        assert [(one["name"], one["error"]) for one in listed] == [
            ("good", None), ("old", "it is a link that leads nowhere")
        ]  # fmt: skip
        assert [one["id"] for one in (await client.get("/v1/models")).json()["data"]] == ["base", "good"]
        assert "leads nowhere" in error(await client.post("/v1/classify", json=body | {"model": "old"}), 404)
        assert (await client.get("/readyz")).status_code == 200
        path.rename(tmp_path / "away")
        for answer in [
            await client.post("/v1/classify", json=body),
            await client.get("/v1/prompts"),
            await client.get("/v1/models"),
            await client.get("/readyz"),
        ]:
            assert "The folder of prompts cannot be read: No such file or directory" in error(answer, 503)
            assert answer.headers["Retry-After"] == "5"
        based = await client.post("/v1/classify", json=body | {"model": "base", "choices": ["a", "b"]})
        assert (based.status_code, (await client.get("/metrics")).status_code) == (200, 200)
        (tmp_path / "away").rename(path)
        assert (await client.post("/v1/classify", json=body)).status_code == 200

    with_client(path, ask)


def test_a_folder_that_does_not_answer_is_a_503_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompt(tmp_path / "good", tiny.backbone("llama"), choices=TEAMS)
    monkeypatch.setattr("softprompt.serving.http.context.DISK_PATIENCE", 0.05)
    monkeypatch.setattr("softprompt.serving.http.app.READY_PATIENCE", 0.05)
    answers = threading.Event()

    async def ask(client: httpx2.AsyncClient) -> None:
        monkeypatch.setattr("softprompt.serving.store_folder.StoreFolder._refresh", lambda *_, **__: answers.wait(30))
        stuck = await client.post("/v1/classify", json={"model": "good", "input": TEXT})
        assert "The folder of prompts has not answered for 0.05 s" in error(stuck, 503)
        error(await client.get("/readyz"), 503)
        based = {"model": "base", "input": TEXT, "choices": ["a", "b"]}
        assert (await client.post("/v1/classify", json=based)).status_code == 200
        answers.set()

    with_client(tmp_path, ask)


def test_what_would_fail_at_its_first_use_is_refused_when_it_is_put(tmp_path: Path) -> None:
    backbone = tiny.backbone("llama")
    new = write_prompt(tmp_path / "new", backbone, choices=TEAMS)
    write_prompt(tmp_path / "served" / "teams", backbone, choices=TEAMS)
    card = json.loads((new / "prompt.json").read_text())
    tensors = (new / "prompt.safetensors").read_bytes()
    print_of = card["fingerprint"]

    async def ask(client: httpx2.AsyncClient) -> None:
        for change, status, message in [
            ({"choices": ["red", "red "]}, 400, "are the same tokens"),
            ({"choices": ["red", ""]}, 400, "has no tokens"),
            ({"choices": ["red", "blue " * 200]}, 400, "leave none for the source"),
            ({"max_source": 0}, 400, "reads 0 source tokens; 1 to 65536"),
            ({"fingerprint": {**print_of, "dtype": "float16", "sample": []}}, 409, "was tuned for"),
            ({"fingerprint": {**print_of, "dtype": "float16", "sample": print_of["sample"][:9]}}, 409, "was tuned for"),
            ({"template": "no column"}, 400, "template"),
            ({"length": 5}, 400, "prompt.json says"),
        ]:
            answer = await client.put(
                "/v1/prompts/x", files={"card": json.dumps(card | change).encode(), "tensors": tensors}
            )
            assert message in error(answer, status), change
            assert str(tmp_path) not in answer.text
        assert (await client.get("/v1/prompts")).json()["total"] == 1

    with_client(tmp_path / "served", ask, key="admin", keys=Keys.of([], ["admin"]))


def test_a_long_text_is_cut_as_predict_cuts_it_whatever_the_limit_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompt(tmp_path / "short", tiny.backbone("llama"), max_source=8, choices=TEAMS)
    text = "the parcel is late " * 20

    async def ask(client: httpx2.AsyncClient) -> None:
        found = (await client.post("/v1/classify", json={"model": "short", "input": text})).json()["data"][0]
        with predicting(cache(lambda **given: tiny.backbone("llama", **given)), monkeypatch) as predict:
            alone = predict(tmp_path / "short", text)
        assert found["truncated"] is True
        assert found["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
        assert "at most 16" in error(await client.post("/v1/completions", json={"model": "base", "prompt": text}), 400)

    with_client(tmp_path, ask, limits=Limits(input_tokens=16, token_characters=100))


def test_a_run_folder_is_served_as_that_run(tmp_path: Path) -> None:
    write_prompt(tmp_path / "teams", tiny.backbone("llama"), choices=TEAMS)

    async def ask(client: httpx2.AsyncClient) -> None:
        assert (await client.get("/v1/prompts/teams")).json()["card"]["choices"] == TEAMS
        assert (await client.post("/v1/classify", json={"model": "teams", "input": TEXT})).status_code == 200
        assert "serves one run" in error(await client.delete("/v1/prompts/teams"), 400)
        files = {name: (tmp_path / "teams" / file).read_bytes() for name, file in FILES.items()}
        assert "serves one run" in error(await client.put("/v1/prompts/x", files=files), 400)

    with_client(tmp_path / "teams", ask, key="admin", keys=Keys.of([], ["admin"]))
    assert {path.name for path in (tmp_path / "teams").iterdir()} == {"prompt.json", "prompt.safetensors"}


def test_no_error_says_where_on_the_machine_a_file_is(tmp_path: Path) -> None:
    path = write_prompt(tmp_path / "torn", tiny.backbone("llama"))
    (path / "prompt.safetensors").write_bytes(b"torn")
    (write_prompt(tmp_path / "odd", tiny.backbone("llama")) / "prompt.json").write_text("{}")

    async def ask(client: httpx2.AsyncClient) -> None:
        for name in ("torn", "odd"):
            answer = await client.post("/v1/completions", json={"model": name, "prompt": TEXT})
            assert name in error(answer, 409)
            assert str(tmp_path) not in answer.text
        assert str(tmp_path) not in (await client.get("/v1/prompts?cards=true")).text

    with_client(tmp_path, ask)


def test_docs_need_nothing_from_elsewhere(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        page = await client.get("/docs")
        assert "http://" not in page.text.replace("http://server", "")
        assert "https://" not in page.text
        assert "'unsafe-inline'" not in page.headers["Content-Security-Policy"].split("style-src")[0]
        for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert (await client.get(asset)).status_code == 200, asset
        error(await client.get("/docs/assets/%2e%2e/__init__.py"), 404)
        schema = (await client.get("/openapi.json")).json()["paths"]
        assert [path for path, one in schema.items() if "security" not in next(iter(one.values()))] == [
            "/healthz", "/readyz", "/metrics"
        ]  # fmt: skip

    with_client(tmp_path, ask, keys=Keys.of(["user"], []))


def test_methods_and_hosts(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        for path in ("/", "/healthz", "/v1/models", "/docs"):
            head, get = await client.head(path), await client.get(path)
            assert (head.status_code, head.headers["content-type"]) == (200, get.headers["content-type"])
        assert (await client.post("/v1/prompts/teams")).headers["Allow"] == "DELETE, GET, HEAD, PUT"
        assert (await client.get("/v1/classify")).headers["Allow"] == "POST"
        for host in ("server", "SERVER:8000", "[::1]:8000"):
            assert (await client.get("/healthz", headers={"Host": host})).status_code == 200
        for host in ("evil.example", "server.evil.example", "", "[::2]"):
            assert "this server answers for ::1, server" in error(
                await client.get("/healthz", headers={"Host": host}), 400
            )

    with_client(tmp_path, ask, front=Front(hosts=("server", "::1")))


def test_limits_on_bodies_and_on_requests_at_once(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        long = {"model": "base", "prompt": "good " * 1000}
        assert "at most 2000 are read" in error(await client.post("/v1/completions", json=long), 413)

        async def streamed() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b" " * 100

        undeclared = await client.post(
            "/v1/completions", content=streamed(), headers={"Content-Type": "application/json"}
        )
        assert "more than 2000" in error(undeclared, 413)
        body = {"model": "base", "prompt": TEXT, "max_tokens": 60}
        many = [client.post("/v1/completions", json=body) for _ in range(100)]  # of one stock client: all are answered
        assert {answer.status_code for answer in await asyncio.gather(*many)} == {200}

    with_client(tmp_path, ask, limits=Limits(body=2000, concurrent=2))


def test_more_than_may_wait_is_429_and_says_when_to_come_back(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        body = {"model": "base", "prompt": TEXT, "max_tokens": 60}
        answers = await asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(8)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 2
        assert all("5 requests wait" in error(one, 429) and int(one.headers["Retry-After"]) >= 1 for one in refused)
        metrics = (await client.get("/metrics")).text
        assert 'softprompt_requests_total{method="POST",route="/v1/completions",status="429"} 2.0' in metrics
        assert (await client.post("/v1/completions", json=body)).status_code == 200

    with_client(tmp_path, ask, limits=Limits(concurrent=1, waiting=5))


def test_a_full_queue_is_429_and_an_ending_server_503(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        body = {"model": "base", "prompt": [TEXT] * 4, "max_tokens": 30}
        answer = await client.post("/v1/completions", json=body)
        assert "requests are waiting already" in error(answer, 429)
        assert int(answer.headers["Retry-After"]) >= 1
        metrics = (await client.get("/metrics")).text
        assert 'softprompt_requests_total{method="POST",route="/v1/completions",status="429"} 1.0' in metrics
        assert "softprompt_queue_length 0.0" in metrics

    with_client(tmp_path, ask, batching=Batching(rows=1, tokens=100, pass_tokens=64, queue=3))

    async def ended() -> None:
        app = tiny_app(tmp_path)
        async with client_of(app) as client:
            assert (await client.get("/readyz")).json() == {"status": "ready"}
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://server") as client:
            error(await client.get("/readyz"), 503)
            error(await client.post("/v1/completions", json={"model": "base", "prompt": TEXT}), 503)

    asyncio.run(ended())


def test_too_little_memory_is_503_and_the_next_request_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = tiny_app(tmp_path)
    score, failed = app.state.engine.batch.score, []

    def too_large(questions: Any, rankings: Any) -> Any:
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")
        return score(questions, rankings)

    monkeypatch.setattr(app.state.engine.batch, "score", too_large)

    async def ask() -> None:
        async with client_of(app) as client:
            body = {"model": "teams", "input": TEXT}
            answer = await client.post("/v1/classify", json=body)
            assert "not enough memory" in error(answer, 503)
            assert answer.json()["error"]["code"] == "out_of_memory"
            assert (await client.post("/v1/classify", json=body)).status_code == 200

    asyncio.run(ask())


@asynccontextmanager
async def live(
    app: Any, monkeypatch: pytest.MonkeyPatch, *, grace: float = 20.0, arrival: float = 20.0,
    servers: list[PatientServer] | None = None,
) -> AsyncIterator[str]:  # fmt: skip
    """A real server at an address of this machine, the only one that may be reached."""
    monkeypatch.undo()
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    address = asyncio.get_running_loop().create_future()
    server = PatientServer(app, "127.0.0.1", 0, grace=grace, arrival=arrival, ready=address.set_result)
    serving = asyncio.ensure_future(server.serve())
    if servers is not None:
        servers.append(server)
    try:
        yield await address
    finally:
        server.end()
        await serving


def test_what_never_arrives_takes_no_place_and_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = tiny_app(tmp_path, limits=Limits(concurrent=2, arrival=0.4))
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"

    async def ask() -> None:
        async with live(app, monkeypatch, arrival=0.4) as address, httpx2.AsyncClient(base_url=address) as client:
            host, port = address.removeprefix("http://").split(":")

            async def held(beginning: bytes) -> bytes:
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(beginning)
                answer = await asyncio.wait_for(reader.read(), 10)  # until the server closes
                writer.close()
                return answer

            slow = [asyncio.ensure_future(held(sent)) for sent in [head + b"\r\n{"] * 5 + [head, b"", b"GE"]]
            await asyncio.sleep(0.1)
            body = {"model": "teams", "input": TEXT}
            assert (await client.post("/v1/classify", json=body)).status_code == 200
            answers = await asyncio.gather(*slow)
            assert all(b" 408 " in one and b"did not arrive within 0.4 s; 1 bytes came" in one for one in answers[:5])
            assert answers[5:] == [b"", b"", b""]
            await asyncio.sleep(0.5)  # an idle connection is none that is slow
            assert (await client.post("/v1/classify", json=body)).status_code == 200

    asyncio.run(ask())


def test_what_is_not_finished_at_the_end_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = tiny_app(tmp_path)
    step = app.state.engine.batch.step

    def slowly(tokens: Any) -> Any:
        time.sleep(0.1)
        return step(tokens)

    async def ask() -> None:
        servers: list[PatientServer] = []
        async with live(app, monkeypatch, grace=0.5, servers=servers) as address:
            app.state.engine.batch.step = slowly
            body = {"model": "base", "prompt": TEXT, "max_tokens": 80, "temperature": 2.0, "seed": 1}

            async def streamed() -> list[str]:
                async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as stream:
                    return [line async for line in stream.aiter_lines() if line]

            async with httpx2.AsyncClient(base_url=address, timeout=30) as client:
                whole = asyncio.ensure_future(client.post("/v1/completions", json=body))
                stream = asyncio.ensure_future(streamed())
                await asyncio.sleep(0.3)
                servers[0].end()
                assert "ended before this was answered" in error(await whole, 503)
                *_, last, done = await stream
                assert json.loads(last.removeprefix("data: "))["error"]["code"] == "closing"
                assert done == "data: [DONE]"

    asyncio.run(ask())
    assert not caplog.records


def test_clients_that_go_away_free_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = tiny_app(tmp_path, batching=Batching(rows=2, tokens=100, pass_tokens=64))
    body = {"model": "base", "prompt": TEXT, "max_tokens": 80, "temperature": 2.0, "seed": 1}

    async def ask() -> None:
        async with live(app, monkeypatch) as address, httpx2.AsyncClient(base_url=address) as client:
            async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as stream:
                events = stream.aiter_lines()
                assert (await anext(events)).startswith("data: {")
            with pytest.raises(httpx2.ReadTimeout):
                await client.post("/v1/completions", json=body | {"prompt": [TEXT] * 100}, timeout=0.3)
            while "softprompt_running 0.0" not in (metrics := (await client.get("/metrics")).text):
                await asyncio.sleep(0.01)
            assert "softprompt_queue_length 0.0" in metrics
            assert (await client.post("/v1/completions", json=body | {"max_tokens": 2})).status_code == 200

    asyncio.run(ask())


def test_the_command_refuses_before_it_loads(tmp_path: Path) -> None:
    from softprompt.cli import app

    nowhere = CliRunner().invoke(app, ["serve", "--backbone", "smollm2-135m", "--prompts", str(tmp_path / "none")])
    assert isinstance(nowhere.exception, BadInput)
    assert "is not a folder" in str(nowhere.exception)
    key = ["serve", "--backbone", "smollm2-135m", "--prompts", str(tmp_path), "--api-key", "a b"]
    assert "holds blanks" in str(CliRunner().invoke(app, key).exception)
