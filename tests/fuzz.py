"""Requests that a server's own OpenAPI schema allows, and ones that it does not.

Drawn by schemathesis (Hatfield-Dodds and Dygalo, ICSE 2022, https://arxiv.org/abs/2112.10328), the same in every run.
"""

from collections import Counter
from contextlib import suppress
from itertools import count
from typing import Any

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
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
            with suppress(Unsatisfiable):  # what takes no parameters cannot be given wrong ones
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
