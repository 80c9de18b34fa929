"""Connections that take nothing of their answers do not keep a server from ending; a real server, in this process."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator

import pytest
import uvicorn
from fleet import until
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from slotsched.web.patience import TAKE_SECONDS, Impatient

SHUTDOWN_SECONDS = 60  # what a server may take that waits for its answers


async def _endless(scope: Scope, receive: Receive, send: Send) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536
            await asyncio.sleep(0)

    await StreamingResponse(pieces())(scope, receive, send)


def test_who_takes_nothing_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            _endless,
            log_config=None,
            lifespan="off",
            ws="none",
            http=Impatient,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    )
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    serving.start()
    with socket.create_connection(listener.getsockname(), timeout=10) as client, caplog.at_level(logging.ERROR):
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

        def stalled() -> bool:
            """All that fits between the two is full."""
            return any(one.flow.write_paused for one in server.server_state.connections if isinstance(one, Impatient))

        until(stalled, what="the answer to stall")
        server.should_exit = True
        serving.join(TAKE_SECONDS + 5)
        assert not serving.is_alive()
    assert caplog.records == []
