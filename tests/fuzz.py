"""Requests that a server's own OpenAPI schema allows, and ones that it does not.

Drawn by schemathesis (Hatfield-Dodds and Dygalo, ICSE 2022, https://arxiv.org/abs/2112.10328), the same in every run
with one seed.
"""

from collections import Counter
from contextlib import suppress
from itertools import count
from typing import Any

import hypothesis
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation import GenerationMode

load_all_checks()
LEFT_OUT = {
    "positive_data_acceptance": "what a schema allows may be refused: more tokens than fit, choices spelled alike",
    "ignored_auth": "each request that is drawn gets the key; test_app.py asks with wrong ones",
    "object_level_authorization": "all keys for use may use all prompts",
}
ALL = [CHECKS.get_one(name) for name in CHECKS.get_all_names() if name not in LEFT_OUT]
BOUNDED: dict[str, Any] = {
    "database": None, "max_examples": 8, "deadline": None, "suppress_health_check": list(HealthCheck),
    "phases": [Phase.generate],
}  # fmt: skip
NEEDED = {"model", "prompt", "input", "messages"}
KEY = {"Authorization": "Bearer admin"}


def fuzz(app: FastAPI, path: str = "/", seed: int = 0) -> Counter[tuple[str, int]]:
    """Ask every route what fits its schema and what does not; returns how often each answered with which status."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app).include(path_regex=path)
    statuses: Counter[tuple[str, int]] = Counter()
    for found in schema.get_all_operations():
        for mode in GenerationMode:
            with suppress(Unsatisfiable):  # what takes no parameters cannot be given wrong ones
                _fuzz(found.ok(), mode, statuses, seed)
    return statuses


def _fuzz(operation: Any, mode: GenerationMode, statuses: Counter[tuple[str, int]], seed: int) -> None:
    number = count()

    @hypothesis.seed(seed)
    @settings(**BOUNDED)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and next(number) % 2:  # of a prompt that is there: names drawn never are
            if isinstance(case.body, dict) and "model" in case.body:  # without options, as some exclude others
                case.body = {name: case.body[name] for name in NEEDED & case.body.keys()} | {"model": "teams"}
                if "prompt" in case.body:
                    case.body["prompt"] = "the parcel is late"
            if "name" in case.path_parameters:
                case.path_parameters["name"] = "placed"
        case.headers = {**(case.headers or {}), **KEY}
        answer = case.call()
        statuses[operation.label, answer.status_code] += 1
        case.validate_response(answer, checks=ALL)

    ask()


def fuzz_in_sequences(app: FastAPI, seed: int = 0, steps: int = 6) -> Counter[int]:
    """Ask routes one after another, with what the ones before have answered; returns how often each status came."""
    statuses: Counter[int] = Counter()
    machine: Any = schemathesis.openapi.from_asgi("/openapi.json", app).as_state_machine()

    # What it draws with is added to, and so no longer what it says that it is.
    checks = [check for check in ALL if check.__name__ != "negative_data_rejection"]

    class Asked(machine):  # type: ignore[misc]
        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": KEY}

        def validate_response(self, response: Any, case: Any, **kwargs: Any) -> None:
            statuses[response.status_code] += 1
            case.validate_response(response, checks=checks)

    Asked.__name__ = Asked.__qualname__ = f"Asked{seed}"  # of which the sequence depends
    Asked.TestCase.settings = settings(**BOUNDED, derandomize=True, stateful_step_count=steps)
    Asked.TestCase("runTest").runTest()
    return statuses
