"""Checks before the routes: keys, bodies, and how many requests one caller has in progress."""

import asyncio
from collections.abc import Callable, Collection, Mapping

from fastapi import HTTPException
from fastapi import Request as HTTPRequest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softprompt.serving.http.auth import ANYBODY, Caller, Keys
from softprompt.serving.http.errors import problem
from softprompt.serving.limits import Limits, Places

OPEN = frozenset({"/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"})
"""Paths that need no key; every other path does, but those of the assets of /docs."""
ASSETS = "/docs/assets/"


CHANGES = frozenset({"PUT", "DELETE"})
MAY_NOT_CHANGE = "This key may not change prompts; start the server with --admin-key and give that one."
WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class Guard:
    """Check keys and sizes, read the whole body in the time it has, and wait for a place; only then ask the routes.

    So what arrives slowly, or never, takes nobody's place. Routes that change prompts also check `may_change`.
    """

    def __init__(self, app: ASGIApp, keys: Keys, limits: Limits, retry_after: Callable[[int], int]) -> None:
        self.app, self.keys, self.limits, self.retry_after = app, keys, limits, retry_after
        self.places = Places(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope):
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        caller = self.keys.caller(_text(headers.get(b"authorization")))
        if caller.id == ANYBODY:
            caller = caller._replace(id=f"{ANYBODY} at {(scope.get('client') or ('', 0))[0]}")
        try:
            if not caller.may_ask:
                raise Refused(
                    401, "Give a key: the header 'Authorization: Bearer KEY'.", "invalid_api_key",
                    {"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
            if scope["method"] in CHANGES and not caller.may_change:
                raise Refused(403, MAY_NOT_CHANGE)  # before what it sends is read, or found too large
            body = await self._read(scope, receive, headers, caller)
            if self.places.full(caller.id):
                raise Refused(
                    429, f"{self.places.waiting} requests wait for their turn, as many as may. Ask again later.",
                    "too_many_requests", {"Retry-After": str(self.retry_after(self.places.waiting))},
                )  # fmt: skip
        except Refused as error:
            await problem(error.status, str(error), code=error.code, headers=error.headers)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        async with self.places.place(caller.id):
            await self.app(scope, receive if body is None else _replayed(body, receive), send)

    async def _read(
        self, scope: Scope, receive: Receive, headers: Mapping[bytes, bytes], caller: Caller
    ) -> bytes | None:
        """Read a request's body; None where it has none to be read. Raises Refused."""
        upload = scope["method"] == "PUT" and caller.may_change
        most, seconds = self.limits.body, self.limits.arrival
        if upload:
            most, seconds = self.limits.prompt_body, 10 * seconds
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            raise Refused(413, f"The body has {declared[:20].decode('latin-1')} bytes; at most {most} are read.")
        if scope["method"] in WITHOUT_BODY:
            return None
        parts, size = [], 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "The client went away before its request was whole.")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise Refused(413, f"The body has more than {most} bytes; no more are read.")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(
                408, f"The body did not arrive within {seconds:g} s; {size} bytes came.", "slow_body",
                {"Connection": "close"},
            ) from None  # fmt: skip


class Hosts:
    """Refuse requests for another host: a page elsewhere whose name leads here must not ask this server."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app, self.hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.hosts or self._given(scope) in self.hosts:
            await self.app(scope, receive, send)
            return
        await problem(
            400, f"The Host header names {self._given(scope)!r}; this server answers for "
            f"{', '.join(sorted(self.hosts))}. Start it with --trusted-host for another name.", code="untrusted_host",
        )(scope, receive, send)  # fmt: skip

    def _given(self, scope: Scope) -> str:
        """Return the host that a request names, without port and brackets."""
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"), "")
        bracketed = given.startswith("[") and "]" in given
        return (given[1 : given.index("]")] if bracketed else given.partition(":")[0]).lower()


class Heads:
    """Answer HEAD as GET without its body, which the server below leaves out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["type"] == "http" and scope["method"] == "HEAD"
        await self.app({**scope, "method": "GET"} if head else scope, receive, send)


class UnderPath:
    """Serve under a path of a proxy, as ASGI's root_path says: links begin with it, routes do not."""

    def __init__(self, app: ASGIApp, root: str = "") -> None:
        self.app, self.root = app, f"/{root.strip('/')}" if root.strip("/") else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.root and scope["type"] == "http":
            path = scope["path"]
            inside = path == self.root or path.startswith(f"{self.root}/")
            scope = {**scope, "root_path": self.root, "path": path if inside else self.root + path}
        await self.app(scope, receive, send)


class Refused(Exception):
    """A request that is answered before the routes see it."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status, self.code, self.headers = status, code, headers
        super().__init__(message)


def is_open(scope: Scope) -> bool:
    """Return whether a path needs no key."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return path in OPEN or path.startswith(ASSETS)


def caller_of(request: HTTPRequest) -> Caller:
    """Return who sent a request."""
    caller: Caller = request.scope["state"]["caller"]
    return caller


def may_change(request: HTTPRequest) -> None:
    """Refuse a request whose key may not change prompts; a dependency of the routes that do."""
    if not caller_of(request).may_change:
        raise HTTPException(403, MAY_NOT_CHANGE)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Make a `receive` that gives a body that was read, and then what the connection says."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
