"""Checks before the routes: keys, body sizes, and how many requests one key has in progress."""

from fastapi import HTTPException
from fastapi import Request as HTTPRequest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softprompt.serving.http.auth import Caller, Keys
from softprompt.serving.http.errors import problem
from softprompt.serving.limits import Concurrency, Limits

OPEN = frozenset({"/", "/healthz", "/readyz", "/metrics", "/docs", "/redoc", "/openapi.json"})
"""Paths that need no key; every other path does."""


class Guard:
    """Refuse requests before their body is read; routes that change prompts also check `may_change`."""

    def __init__(self, app: ASGIApp, keys: Keys, limits: Limits) -> None:
        self.app, self.keys, self.limits = app, keys, limits
        self.concurrency = Concurrency(limits.concurrent)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        caller = self.keys.caller(_text(headers.get(b"authorization")))
        most = self.limits.prompt_body if scope["method"] == "PUT" and caller.may_change else self.limits.body
        declared = headers.get(b"content-length", b"0")
        if not caller.may_ask:
            await problem(
                401, "Give a key: the header 'Authorization: Bearer KEY'.", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )(scope, receive, send)  # fmt: skip
        elif not declared.isdigit() or int(declared) > most:
            await problem(413, f"The body has {declared[:20].decode('latin-1')} bytes; at most {most} are read.")(
                scope, receive, send
            )
        elif not self.concurrency.enter(caller.id):
            await problem(
                429, f"This key has {self.limits.concurrent} requests in progress, as many as it may. Wait for one.",
                code="too_many_requests", headers={"Retry-After": "1"},
            )(scope, receive, send)  # fmt: skip
        else:
            scope.setdefault("state", {})["caller"] = caller
            try:
                await self.app(scope, _limited(receive, most), send)
            finally:
                self.concurrency.leave(caller.id)


def may_change(request: HTTPRequest) -> None:
    """Refuse a request whose key may not change prompts; a dependency of the routes that do."""
    caller: Caller = request.scope["state"]["caller"]
    if not caller.may_change:
        raise HTTPException(
            403, "This key may not change prompts; start the server with --admin-key and give that one."
        )


def _limited(receive: Receive, most: int) -> Receive:
    """Make a `receive` that refuses a body longer than `most` bytes, whatever it declared."""
    read = 0

    async def receive_and_count() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise HTTPException(413, f"The body has more than {most} bytes; no more are read.")
        return message

    return receive_and_count


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
