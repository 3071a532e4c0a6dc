"""HTTP error responses in OpenAI's format: a status, and a message with what was given, expected and to be done."""

import difflib
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypedDict

from fastapi import FastAPI
from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from softprompt.errors import (
    BadArtefact,
    BadInput,
    CannotWrite,
    NotFinite,
    OutOfMemory,
    PromptMismatch,
    SoftPromptError,
    UnknownName,
)
from softprompt.serving.engine.refusals import Closing, QueueFull
from softprompt.serving.http.schema import ChatBody, ClassifyBody, CompletionBody, ProblemBody, Unsupported
from softprompt.serving.store_folder import FolderUnreadable, UnknownPrompt

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "overloaded_error"}
DOCUMENTED: dict[int | str, dict[str, Any]] = {  # the type that FastAPI wants
    400: {"model": ProblemBody, "description": "Malformed: the message says what was expected."},
    401: {"model": ProblemBody, "description": "No key, or a wrong one."},
    403: {"model": ProblemBody, "description": "This key may not change prompts."},
    404: {"model": ProblemBody, "description": "No such prompt."},
    408: {"model": ProblemBody, "description": "The body did not arrive in time."},
    409: {"model": ProblemBody, "description": "The prompt is damaged, or tuned for another backbone."},
    413: {"model": ProblemBody, "description": "The body is too large."},
    429: {"model": ProblemBody, "description": "Too much at once; Retry-After says when to ask again."},
    503: {"model": ProblemBody, "description": "The server is ending, or its folder of prompts cannot be read."},
}


class ErrorDetail(TypedDict):
    """What OpenAI's clients read of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """Body of an error response."""

    error: ErrorDetail


def problem(
    status: int, message: str, *, param: str | None = None, code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:  # fmt: skip
    """Make an error response.

    Args:
        status: HTTP status.
        message: What was given, what was expected, what to do.
        param: The parameter at fault.
        code: A word that programs can compare.
        headers: More headers.
    """
    return _respond(status, problem_body(status, message, param=param, code=code), headers)


def problem_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> ErrorBody:
    """Make the body of an error response."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def of_error(error: Exception) -> tuple[int, ErrorBody, dict[str, str]]:
    """Choose status, body and headers for an exception."""
    status, code = _status_of(error)
    message = str(error)
    if not isinstance(error, SoftPromptError):
        message = "Something went wrong in the server; its log says what."
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull):
        headers = {"Retry-After": str(error.retry_after)}
    elif isinstance(error, Closing | FolderUnreadable):
        headers = {"Retry-After": "5"}
    param = error.param if isinstance(error, Unsupported) else None
    return status, problem_body(status, message, param=param, code=code), headers


def _status_of(error: Exception) -> tuple[int, str | None]:
    """Choose status and code for an exception."""
    match error:
        case UnknownPrompt() | UnknownName():
            return 404, "model_not_found"
        case PromptMismatch():
            return 409, "other_backbone"
        case BadArtefact():
            return 409, "damaged_prompt"
        case BadInput():
            return 400, None
        case QueueFull():
            return 429, "queue_full"
        case Closing():
            return 503, "closing"
        case CannotWrite():
            return 503, "cannot_write"
        case FolderUnreadable():
            return 503, "prompts_unreadable"
        case NotFinite():
            return 409, "not_finite"
        case OutOfMemory():
            return 503, "out_of_memory"
    return 500, None


def handle_errors(app: FastAPI) -> None:
    """Answer every error of `app`'s routes in OpenAI's format."""
    app.add_exception_handler(RequestValidationError, _answer_malformed)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(SoftPromptError, _answer_error)
    app.add_exception_handler(Exception, _answer_error)


async def _answer_error(request: HTTPRequest, error: Exception) -> Response:
    return _respond(*of_error(error))


async def _answer_malformed(request: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    message, param = _describe_first(error.errors())
    return problem(400, message, param=param)


async def _answer_http(request: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if message == HTTPStatus.NOT_FOUND.phrase:  # no route
        message = f"There is nothing at {request.url.path[:200]!r}. The page is at /, all routes are at /docs."
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:  # starlette names those of the first route of the path alone
        headers["Allow"] = ", ".join(_allowed(request))
    return problem(error.status_code, message, headers=headers)


def _allowed(request: HTTPRequest) -> list[str]:
    """List the methods that the path of a request has."""
    found: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


def _respond(status: int, body: ErrorBody, headers: Mapping[str, str] | None = None) -> Response:
    # What a client sent may hold what UTF-8 cannot, and starlette's JSONResponse would fail; JSON's own escapes can.
    return Response(json.dumps(body), status, dict(headers or {}), "application/json")


def _describe_first(errors: Sequence[ErrorDetails]) -> tuple[str, str | None]:
    """Describe why a body or query does not fit, and name the parameter at fault."""
    first = min(errors, key=lambda one: one["type"] != "extra_forbidden")  # a misspelled name before what it left out
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = place[0] if place and first["type"] != "json_invalid" else None
    if first["type"] == "extra_forbidden" and param:
        known = {*CompletionBody.model_fields, *ChatBody.model_fields, *ClassifyBody.model_fields}
        close = difflib.get_close_matches(param, known - {param}, n=1)
        return f"Unknown parameter {param!r}." + (f" Did you mean {close[0]!r}?" if close else " Leave it out."), param
    if first["type"] == "json_invalid":
        return f"The body is not valid JSON: {first.get('ctx', {}).get('error', 'it cannot be read')}.", None
    if not place:
        return f"The body is not a JSON object sent as application/json: {first['msg']}.", None
    return f"{'.'.join(place)}: {first['msg']}.", param
