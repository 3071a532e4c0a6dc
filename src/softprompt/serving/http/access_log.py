"""Write a line of JSON about each request: who, what, how long, how many tokens."""

import json
import re
import sys
import time
import uuid
from typing import TextIO

from starlette.requests import Request as HTTPRequest
from starlette.types import Scope

from softprompt.errors import CannotWrite

HEADER = "x-request-id"
GIVEN = re.compile(r"[A-Za-z0-9._-]{1,100}")


class AccessLog:
    """Lines about requests in a file, or on stderr for "-". No keys and no texts are in it.

    Raises:
        CannotWrite: The file cannot be written.
    """

    def __init__(self, path: str) -> None:
        try:
            self._file: TextIO = sys.stderr if path == "-" else open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        except OSError as error:
            raise CannotWrite(f"--access-log {path} cannot be written: {error.strerror}.") from None

    def write(self, scope: Scope, route: str, status: int, seconds: float) -> None:
        """Write the line of a request that is answered."""
        state = scope.get("state", {})
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "id": state.get("request_id"),
            "client": (scope.get("client") or ("",))[0],
            "caller": caller.id if (caller := state.get("caller")) else None,
            "method": scope["method"][:20], "path": scope["path"][:200], "route": route, "status": status,
            "seconds": round(seconds, 4), **state.get("noted", {}),
        }  # fmt: skip
        self._file.write(json.dumps(line) + "\n")


def request_id(scope: Scope) -> str:
    """Return the id that the client or a proxy gave a request, or a new one."""
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == HEADER.encode()), "")
    return given if GIVEN.fullmatch(given) else uuid.uuid4().hex


def note(request: HTTPRequest, **values: object) -> None:
    """Say more about a request in its line."""
    request.scope.setdefault("state", {}).setdefault("noted", {}).update(values)
