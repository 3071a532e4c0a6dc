"""Requests that the server's own OpenAPI schema allows, and ones that it does not: none is an error of the server."""

import asyncio
import string
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softprompt.serving.http.auth import Keys
from softprompt.serving.limits import Limits
from tests import tiny
from tests.served import client_of, tiny_app, write_all_kinds

Fuzz = Callable[..., Counter[Any]]


@pytest.fixture(scope="module")
def fuzz() -> Fuzz:
    """Imported where it is used: schemathesis takes longer to import than most files of tests to run."""
    from tests.fuzz import fuzz

    return fuzz


@pytest.fixture(scope="module")
def fuzz_in_sequences() -> Fuzz:
    from tests.fuzz import fuzz_in_sequences

    return fuzz_in_sequences


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_is_sent_is_an_error_of_the_server(fuzz: Fuzz, tmp_path: Path, seed: int) -> None:
    app = tiny_app(tmp_path, keys=Keys.of(["user"], ["admin"]))
    statuses = fuzz(app, seed=seed)
    for operation in (
        "POST /v1/completions",
        "POST /v1/chat/completions",
        "POST /v1/classify",
        "POST /tokenize",
        "GET /v1/prompts/{name}",
    ):
        assert statuses[operation, 200], statuses  # it was not all refused
    for operation in ("POST /v1/completions", "POST /v1/classify", "PUT /v1/prompts/{name}", "GET /v1/prompts"):
        assert statuses[operation, 400], statuses
    assert (app.state.engine.waiting, app.state.engine.running) == (0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_requests_is_an_error_of_the_server(fuzz_in_sequences: Fuzz, tmp_path: Path, seed: int) -> None:
    assert fuzz_in_sequences(tiny_app(tmp_path, keys=Keys.of(["user"], ["admin"])), seed=seed)[200]


def test_an_error_of_the_server_is_noticed(fuzz: Fuzz, tmp_path: Path) -> None:
    app = tiny_app(tmp_path, keys=Keys.of([], ["admin"]))

    @app.get("/v1/broken")
    async def broken(number: int = 0) -> dict[str, int]:
        return {"share": 1 // number}

    with pytest.raises(ZeroDivisionError):
        fuzz(app, "broken")


NAMES = st.one_of(
    st.text(max_size=130),
    st.sampled_from(["..", ".", "%2e%2e", "a/b", "base", "teams@1", "teams@2", "teams@x", "teams/../free", "a" * 101]),
)
HEADERS = st.dictionaries(
    st.sampled_from(["Authorization", "Content-Length", "Content-Type", "Host", "X-Request-Id", "Accept", "Origin"]),
    st.one_of(
        st.text(string.printable.strip(), max_size=60),
        st.sampled_from(["", "-1", "9" * 30, "multipart/form-data", "multipart/form-data; boundary=", "Bearer ", "é"]),
    ),
    max_size=4,
)


METHODS = st.sampled_from(["GET", "PUT", "DELETE", "POST", "HEAD", "PATCH", "BREW"])
ROUTES = st.sampled_from(
    ["/v1/prompts/{}", "/v1/models/{}", "/v1/completions", "/v1/classify", "/{}", "/docs/assets/{}"]
)


def test_bodies_headers_and_names_are_answered_whatever_they_are(tmp_path: Path) -> None:
    write_all_kinds(tmp_path, tiny.backbone("llama"))
    app = tiny_app(tmp_path, keys=Keys.of([], ["admin"]), limits=Limits(body=5000, arrival=2))

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(20)

    @settings(max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(body=st.binary(max_size=300), headers=HEADERS, name=NAMES, method=METHODS, route=ROUTES)
    def ask(body: bytes, headers: dict[str, str], name: str, method: str, route: str) -> None:
        run(send(method, route.format(name), headers, body))

    async def send(method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        try:
            request = client.build_request(method, path, headers=headers, content=body)
        except (httpx2.InvalidURL, UnicodeError, ValueError):
            return  # no client can send it
        answer = await client.send(request)
        assert answer.status_code < 500, (method, path, headers, body, answer.text)

    opened = client_of(app)
    client = run(opened.__aenter__())
    try:
        ask()
    finally:
        run(opened.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
