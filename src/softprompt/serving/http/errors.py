"""Errors as clients see them: a status, and a body like OpenAI's that says what was given, expected and to be done."""

import difflib
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from softprompt.errors import BadArtefact, BadInput, CannotWrite, PromptMismatch, SoftPromptError, UnknownName
from softprompt.serving.engine.engine import Closing, QueueFull
from softprompt.serving.http.schema import ClassifyBody, CompletionBody, ProblemBody, Unsupported
from softprompt.serving.prompt_store import UnknownPrompt

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "overloaded_error"}
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    400: {"model": ProblemBody, "description": "Malformed: the message says what was expected."},
    401: {"model": ProblemBody, "description": "No key, or a wrong one."},
    403: {"model": ProblemBody, "description": "This key may not change prompts."},
    404: {"model": ProblemBody, "description": "No such prompt."},
    409: {"model": ProblemBody, "description": "The prompt is damaged, or tuned for another backbone."},
    413: {"model": ProblemBody, "description": "The body is too large."},
    429: {"model": ProblemBody, "description": "Too much at once; Retry-After says when to ask again."},
    503: {"model": ProblemBody, "description": "The server is ending."},
}


def problem(
    status: int, message: str, *, param: str | None = None, code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:  # fmt: skip
    body = problem_body(status, message, param=param, code=code)
    # What a client sent may hold what UTF-8 does not: JSON's own escapes hold it.
    return Response(json.dumps(body), status, dict(headers or {}), "application/json")


def problem_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def of_error(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers for an exception."""
    told: tuple[int, str | None] = (500, None)
    headers: dict[str, str] = {}
    message = str(error)
    match error:
        case UnknownPrompt() | UnknownName():
            told = 404, "model_not_found"
        case PromptMismatch():
            told = 409, "other_backbone"
        case BadArtefact():
            told = 409, "damaged_prompt"
        case BadInput():
            told = 400, None
        case QueueFull():
            told, headers = (429, "queue_full"), {"Retry-After": str(error.retry_after)}
        case Closing():
            told, headers = (503, "closing"), {"Retry-After": "5"}
        case CannotWrite():
            told = 503, "cannot_write"
        case torch.OutOfMemoryError():
            told, message = (503, "out_of_memory"), "There is not memory enough for this request. Ask for less."
        case _ if not isinstance(error, SoftPromptError):
            message = "Something went wrong in the server; its log says what."
    param = error.param if isinstance(error, Unsupported) else None
    return told[0], problem_body(told[0], message, param=param, code=told[1]), headers


def handle_errors(app: FastAPI) -> None:
    """Answer every error of `app`'s routes in our form."""

    async def ours(request: Request, error: Exception) -> Response:
        status, body, headers = of_error(error)
        return Response(json.dumps(body), status, headers, "application/json")

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        message, param = _first_of(error.errors())
        return problem(400, message, param=param)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = str(error.detail)
        if message == HTTPStatus.NOT_FOUND.phrase:  # no route
            message = f"There is nothing at {request.url.path[:200]!r}. The page is at /, all routes are at /docs."
        return problem(error.status_code, message, headers=error.headers)

    for kind, handler in ((RequestValidationError, malformed), (HTTPException, refused)):
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(SoftPromptError, ours)
    app.add_exception_handler(torch.OutOfMemoryError, ours)
    app.add_exception_handler(Exception, ours)


def _first_of(errors: Sequence[Any]) -> tuple[str, str | None]:
    """What to say of a body or query that does not fit, and which parameter it is about."""
    first = min(
        errors, key=lambda error: error["type"] != "extra_forbidden"
    )  # a misspelt name, before what it left out
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = place[0] if place and first["type"] != "json_invalid" else None
    if first["type"] == "extra_forbidden" and param:
        known = {*CompletionBody.model_fields, *ClassifyBody.model_fields}
        close = difflib.get_close_matches(param, known - {param}, n=1)
        return f"Unknown parameter {param!r}." + (f" Did you mean {close[0]!r}?" if close else " Leave it out."), param
    if first["type"] == "json_invalid":
        return f"The body is no JSON: {first.get('ctx', {}).get('error', 'it cannot be read')}.", None
    if not place:
        return f"The body is no JSON object sent as application/json: {first['msg']}.", None
    return f"{'.'.join(place)}: {first['msg']}.", param
