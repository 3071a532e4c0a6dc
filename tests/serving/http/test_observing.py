"""What is written about requests: ids, lines, counts, traces; and how a server stands to the outside."""

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from softprompt.errors import CannotWrite
from softprompt.serving.http.access_log import AccessLog
from softprompt.serving.http.app import Front
from softprompt.serving.http.auth import Keys
from softprompt.serving.http.connections import PatientServer
from softprompt.serving.http.metrics import OTHER, Metrics
from softprompt.serving.http.traces import trace
from tests import tiny
from tests.served import client_of, tiny_app, write_all_kinds

TEXT = "the parcel is late"


def with_client(app: Any, ask: Callable[[httpx2.AsyncClient], Awaitable[None]], key: str | None = None) -> None:
    async def all_of_it() -> None:
        async with client_of(app, key) as client:
            await ask(client)

    asyncio.run(all_of_it())


def test_each_request_has_a_line_and_an_id_and_neither_key_nor_text_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    write_all_kinds(tmp_path / "served", tiny.backbone("llama"))
    app = tiny_app(tmp_path / "served", keys=Keys.of(["secret"], []), log=AccessLog(str(path)))

    async def ask(client: httpx2.AsyncClient) -> None:
        body = {"model": "free", "prompt": TEXT, "max_tokens": 4}
        answer = await client.post("/v1/completions", json=body, headers={"X-Request-Id": "trace-7"})
        assert answer.headers["x-request-id"] == "trace-7"
        async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as stream:
            assert [line async for line in stream.aiter_lines()]
        refused = await client.get("/v1/models", headers={"Authorization": "Bearer wrong", "X-Request-Id": "a b"})
        assert len(refused.headers["x-request-id"]) == 32

    with_client(app, ask, "secret")
    whole, streamed, refused = map(json.loads, path.read_text().splitlines())
    assert (whole["id"], whole["route"], whole["status"], whole["model"]) == ("trace-7", "/v1/completions", 200, "free")
    assert (whole["prompt_tokens"], whole["completion_tokens"]) == (4, 4)
    assert (streamed["status"], streamed["completion_tokens"]) == (200, 4)
    assert (refused["status"], refused["route"], refused["caller"]) == (401, "/v1/models", None)
    assert "secret" not in path.read_text()
    assert TEXT not in path.read_text()
    with pytest.raises(CannotWrite, match="--access-log"):
        AccessLog(str(tmp_path / "no" / "where"))


def test_tokens_and_times_are_counted_and_prompts_by_name_up_to_a_number(tmp_path: Path) -> None:
    app = tiny_app(tmp_path, metrics=(metrics := Metrics(per_prompt=2)))
    app.state.engine.watch = metrics

    async def ask(client: httpx2.AsyncClient) -> None:
        for name in ("free", "base", "bare", "free"):
            made = await client.post("/v1/completions", json={"model": name, "prompt": TEXT, "max_tokens": 5})
            assert made.status_code == 200
        while 'softprompt_completion_tokens_total{prompt="free"} 10.0' not in (
            text := (await client.get("/metrics")).text
        ):
            await asyncio.sleep(0.01)  # an answer is counted after it is given
        for name, tokens in (("free", 10.0), ("base", 5.0), (OTHER, 5.0)):
            assert f'softprompt_completion_tokens_total{{prompt="{name}"}} {tokens}' in text
            assert f'softprompt_first_token_seconds_count{{prompt="{name}"}} {tokens / 5}' in text
            assert f'softprompt_token_seconds_count{{prompt="{name}"}} {tokens / 5}' in text
        assert 'softprompt_prompt_tokens_total{prompt="free"} 8.0' in text

    with_client(app, ask)
    assert Metrics()._label(None) == ""  # type: ignore[arg-type]  # no names unless they are asked for


def test_requests_are_traced(tmp_path: Path) -> None:
    app, exporter = tiny_app(tmp_path), InMemorySpanExporter()
    provider = trace(app, exporter)

    async def ask(client: httpx2.AsyncClient) -> None:
        await client.post("/v1/classify", json={"model": "teams", "input": TEXT})
        await client.get("/healthz")

    with_client(app, ask)
    provider.force_flush()
    names = {span.name for span in exporter.get_finished_spans()}
    assert "POST /v1/classify" in names
    assert not any("healthz" in name for name in names)


def test_pages_of_named_origins_may_ask(tmp_path: Path) -> None:
    app = tiny_app(tmp_path, keys=Keys.of(["user"], []), front=Front(origins=("https://good.example",)))

    async def ask(client: httpx2.AsyncClient) -> None:
        asked = {"Origin": "https://good.example", "Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "authorization"}  # fmt: skip
        preflight = await client.options("/v1/classify", headers=asked)
        assert preflight.headers["access-control-allow-origin"] == "https://good.example"
        other = await client.options("/v1/classify", headers=asked | {"Origin": "https://bad.example"})
        assert "access-control-allow-origin" not in other.headers

    with_client(app, ask)


def test_under_a_path_of_a_proxy_the_docs_find_their_parts(tmp_path: Path) -> None:
    async def ask(client: httpx2.AsyncClient) -> None:
        page = (await client.get("/docs")).text
        assert '"/nlp/docs/assets/swagger-ui.css"' in page
        assert "/nlp/openapi.json" in page
        for prefix in ("", "/nlp"):
            answer = await client.post(f"{prefix}/v1/classify", json={"model": "teams", "input": TEXT})
            assert answer.status_code == 200
            assert (await client.get(f"{prefix}/docs/assets/swagger-ui.css")).status_code == 200

    with_client(tiny_app(tmp_path, front=Front(root_path="/nlp")), ask)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here, which makes the certificate")
def test_https_is_served_with_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert),
            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]  # fmt: skip
    subprocess.run(made, check=True, capture_output=True)
    write_all_kinds(tmp_path / "served", tiny.backbone("llama"))

    async def ask() -> None:
        address = asyncio.get_running_loop().create_future()
        server = PatientServer(
            tiny_app(tmp_path / "served"), "127.0.0.1", 0, grace=5, arrival=5, ready=address.set_result,
            certificate=cert, key=key,
        )  # fmt: skip
        serving = asyncio.ensure_future(server.serve())
        url = await address
        assert url.startswith("https://127.0.0.1:")
        async with httpx2.AsyncClient(verify=ssl.create_default_context(cafile=cert)) as client:
            assert (await client.get(f"{url}/readyz")).json() == {"status": "ready"}
        server.end()
        await serving

    asyncio.run(ask())
