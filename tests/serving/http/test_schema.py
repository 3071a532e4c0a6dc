"""Requests that the server's own OpenAPI schema allows, and ones that it does not: none is an error of the server."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from softprompt.serving.http.auth import Keys
from tests.served import tiny_app

Fuzz = Callable[..., Counter[tuple[str, int]]]


@pytest.fixture(scope="module")
def fuzz() -> Fuzz:
    """Imported where it is used: schemathesis takes longer to import than most files of tests to run."""
    from tests.fuzz import fuzz

    return fuzz


def test_nothing_that_is_sent_is_an_error_of_the_server(fuzz: Fuzz, tmp_path: Path) -> None:
    statuses = fuzz(tiny_app(tmp_path, keys=Keys.of([], ["admin"])))
    for operation in (
        "POST /v1/completions",
        "POST /v1/classify",
        "GET /v1/prompts/{name}",
        "DELETE /v1/prompts/{name}",
    ):
        assert statuses[operation, 200], statuses  # it was not all refused
    for operation in ("POST /v1/completions", "POST /v1/classify", "PUT /v1/prompts/{name}", "GET /v1/prompts"):
        assert statuses[operation, 400], statuses


def test_an_error_of_the_server_is_noticed(fuzz: Fuzz, tmp_path: Path) -> None:
    app = tiny_app(tmp_path, keys=Keys.of([], ["admin"]))

    @app.get("/v1/broken")
    async def broken(number: int = 0) -> dict[str, int]:
        return {"share": 1 // number}

    with pytest.raises(ZeroDivisionError):
        fuzz(app, "broken")
