"""How long a connection may say nothing: uvicorn limits how many there are, and not how long one takes to begin."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_SECONDS = 10.0


class Impatient(H11Protocol):
    """Closes a connection on which no request has begun, or come to its end, between two looks.

    Otherwise whoever opens as many as there may be, and sends nothing on them, keeps everybody else out.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answered: Any = None  # the last request of the look before
        self._look = self.loop.call_later(IDLE_SECONDS, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _check(self) -> None:
        request: Any = self.cycle  # None before the first one
        if (request is None or request.response_complete) and request is self._answered:
            self.transport.close()
            return
        self._answered = request
        self._look = self.loop.call_later(IDLE_SECONDS, self._check)
