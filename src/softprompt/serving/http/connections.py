"""uvicorn's server, with an end that tells clients of it, and with headers that must arrive in time."""

import asyncio
import contextlib
import math
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

LAST_WORDS = 5
"""Seconds after the grace in which what was not finished is told so."""
KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients and proxies keep theirs (5 to 60), so that none is
closed here just as a request comes."""

base: Any = AutoHTTPProtocol  # httptools' or h11's, as uvicorn chooses; neither has types that agree with the other


def patient_protocol(seconds: float) -> type[asyncio.Protocol]:
    """Make uvicorn's HTTP protocol (read in 0.54), with `seconds` for the headers of each request."""

    class PatientProtocol(base):  # type: ignore[misc]
        """Begins to count with a connection, and with the first bytes of each later request."""

        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._wait_for_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._wait_for_headers()
            else:
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait_for_headers(self) -> None:
            if self._deadline is None:
                self._deadline = self.loop.call_later(seconds, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return PatientProtocol


class PatientServer(uvicorn.Server):
    """uvicorn's server (read in 0.54) for an application of `make_app`.

    Args:
        app: The application, whose engine ends with it.
        host: Address to listen at.
        port: 0: any free one.
        grace: Seconds to finish what runs.
        arrival: Seconds within which the headers of a request must arrive; uvicorn itself waits for ever.
        ready: Called with the address when requests are taken.
        certificate: PEM file of a certificate chain, for https.
        key: PEM file of its private key.
    """

    def __init__(
        self, app: FastAPI, host: str, port: int, *, grace: float, arrival: float, ready: Callable[[str], None],
        certificate: Path | None = None, key: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(grace) + LAST_WORDS,
                timeout_keep_alive=KEEP_ALIVE,
                lifespan="on",
                http=patient_protocol(arrival),
                ssl_certfile=certificate,
                ssl_keyfile=key,
            )
        )
        self.engine, self.grace, self.ready = app.state.engine, grace, ready

    def end(self) -> None:
        """Finish what runs within the grace; the second time, end at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        # The engine ends first, so that what it does not finish gets an answer that says so.
        threading.Thread(target=self.engine.close, args=(self.grace,), daemon=True).start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn would send them to the process again after all is done, and not exit with 0."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        for server in self.servers if self.started else ():
            host, port = server.sockets[0].getsockname()[:2]
            scheme = "https" if self.config.is_ssl else "http"
            self.ready(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
