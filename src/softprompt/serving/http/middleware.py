"""What stands before the routes: keys, the size of bodies, and how much one key has under way."""

from typing import Any

from fastapi import HTTPException, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softprompt.serving.http.auth import Caller, Keys
from softprompt.serving.http.errors import problem
from softprompt.serving.limits import Concurrency, Limits

OPEN = frozenset({"/", "/healthz", "/readyz", "/metrics", "/docs", "/redoc", "/openapi.json"})
"""Paths that need no key; every other path does."""


class Guard:
    """Refuses before a body is read; routes that change prompts also ask `may_change`."""

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
                429, f"This key has {self.limits.concurrent} requests under way, as many as it may. Wait for one.",
                code="too_many_requests", headers={"Retry-After": "1"},
            )(scope, receive, send)  # fmt: skip
        else:
            scope.setdefault("state", {})["caller"] = caller
            try:
                await self.app(scope, _counted(receive, most), send)
            finally:
                self.concurrency.leave(caller.id)


def may_change(request: Request) -> None:
    """Dependency of routes that change prompts."""
    caller: Caller = request.scope["state"]["caller"]
    if not caller.may_change:
        raise HTTPException(
            403, "This key may not change prompts; start the server with --admin-key and give that one."
        )


def _counted(receive: Receive, most: int) -> Receive:
    """`receive`, refusing a body that is longer than it may be, whatever it declared."""
    read = 0

    async def counted() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise HTTPException(413, f"The body has more than {most} bytes; no more are read.")
        return message

    return counted


def _text(value: Any) -> str | None:
    return None if value is None else value.decode("latin-1")
