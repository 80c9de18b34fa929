"""How long a connection may say nothing, or take nothing: uvicorn limits how many there are, and not for how long."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_SECONDS = 10.0
TAKE_SECONDS = 2.0  # once the server is to end: a laptop that sleeps takes nothing, and is not waited for


class Impatient(H11Protocol):
    """Closes a connection on which no request has begun, or come to its end, between two looks.

    Otherwise whoever opens as many as there may be, and sends nothing on them, keeps everybody else out. Once the
    server is to end, connections on which nothing of an answer is taken are broken.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answered: Any = None  # the last request of the look before
        self._look = self.loop.call_later(IDLE_SECONDS, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(TAKE_SECONDS, self._break, self.transport.get_write_buffer_size())

    def _break(self, untaken: int) -> None:
        if 0 < untaken == self.transport.get_write_buffer_size():
            self.transport.abort()

    def _check(self) -> None:
        request: Any = self.cycle  # None before the first one
        if (request is None or request.response_complete) and request is self._answered:
            self.transport.close()
            return
        self._answered = request
        self._look = self.loop.call_later(IDLE_SECONDS, self._check)
