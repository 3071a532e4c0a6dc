"""Requests that the server's own OpenAPI schema allows, and ones that it does not: none is an error of the server.

Drawn by schemathesis (Hatfield-Dodds and Dygalo, ICSE 2022, https://arxiv.org/abs/2112.10328), the same in every run.
"""

from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from softprompt.serving.http.auth import Keys
from tests.served import tiny_app

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance, negative_data_rejection, unsupported_method,
]  # fmt: skip
BOUNDED = settings(
    derandomize=True, database=None, max_examples=12, deadline=None, suppress_health_check=list(HealthCheck)
)


def fuzz(app: FastAPI, path: str = "/") -> Counter[tuple[str, int]]:
    """Ask every route what fits its schema and what does not; returns how often each answered with which status."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app).include(path_regex=path)
    statuses: Counter[tuple[str, int]] = Counter()
    for found in schema.get_all_operations():
        for mode in GenerationMode:
            _fuzz(found.ok(), mode, statuses)
    return statuses


def _fuzz(operation: Any, mode: GenerationMode, statuses: Counter[tuple[str, int]]) -> None:
    number = count()

    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and next(number) % 2:  # of a prompt that is there: names drawn never are
            if isinstance(case.body, dict):
                case.body["model"] = "teams"
            if "name" in case.path_parameters:
                case.path_parameters["name"] = "placed"
        case.headers = {**(case.headers or {}), "Authorization": "Bearer admin"}
        answer = case.call()
        statuses[operation.label, answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    ask()


def test_nothing_that_is_sent_is_an_error_of_the_server(tmp_path: Path) -> None:
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


def test_an_error_of_the_server_is_noticed(tmp_path: Path) -> None:
    app = tiny_app(tmp_path, keys=Keys.of([], ["admin"]))

    @app.get("/v1/broken")
    async def broken(number: int = 0) -> dict[str, int]:
        return {"share": 1 // number}

    with pytest.raises(ZeroDivisionError):
        fuzz(app, "broken")
