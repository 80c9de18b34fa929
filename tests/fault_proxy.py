"""A TCP proxy on loopback that fails in chosen ways, for tests of what happens when a server does."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from urllib.parse import urlsplit

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def http_answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A whole HTTP answer after which the connection is closed; underscores in header names are written as `-`."""
    fields = {"Content-Length": str(len(body)), "Connection": "close"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body


def s3_error(status: int, code: str) -> bytes:
    return http_answer(status, f"<Error><Code>{code}</Code><Message>told so.</Message></Error>".encode())


class FaultProxy:
    """Passes everything through until told otherwise. Changing the fault closes the connections there are."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")
        self._handle: Callable[[Streams], Coroutine[Any, Any, None]] = self._pass
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self.accepted = 0  # connections so far
        self.requests: list[str] = []  # `PUT /bucket/key` of what was passed through or answered so far

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def heal(self) -> None:
        self._change(self._pass)

    def answer(self, **by_method: bytes) -> None:
        """Take each request in whole and answer with these bytes, whatever it asks for."""

        async def handle(client: Streams) -> None:
            head = await _request(client)
            self._note(head)
            client[1].write(by_method.get(head.split(b" ")[0].decode(), http_answer(501)))
            await client[1].drain()

        self._change(handle)

    def stall(self) -> None:
        """Accept and take in everything, and never answer."""

        async def handle(client: Streams) -> None:
            while await client[0].read(65536):
                pass
            await asyncio.sleep(3600)

        self._change(handle)

    def cut_requests(self, after: int) -> None:
        """Close the connection once that many bytes of it went to the server."""
        self._change(lambda client: self._pass(client, up=after))

    def cut_answers(self, after: int) -> None:
        """Close the connection once that many bytes came from the server."""
        self._change(lambda client: self._pass(client, down=after))

    def refuse(self) -> None:
        """Stop listening; `heal` listens again on the same port."""
        self._run(self._set_listening(False))

    def start(self) -> None:
        self._thread.start()
        self._run(self._set_listening(True))

    def close(self) -> None:
        self._run(self._set_listening(False))
        self._run(asyncio.sleep(0.01))  # the closed connections are let go of in the loop's next turns
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _change(self, handle: Callable[[Streams], Coroutine[Any, Any, None]]) -> None:
        self._handle = handle
        self._run(self._set_listening(False))
        self._run(self._set_listening(True))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _set_listening(self, wanted: bool) -> None:
        if wanted:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]
            return
        if self._server is not None:
            self._server.close()
        self._server = None
        await asyncio.sleep(0)  # what was accepted last has its task then
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
                await self._handle((reader, writer))
        finally:
            self._tasks.discard(task)
            writer.close()

    def _note(self, data: bytes) -> None:
        """A client sends no request before the last one was answered, so each begins a piece of its own."""
        if found := re.match(rb"((?:GET|HEAD|PUT|POST|DELETE) \S+) HTTP/1", data):
            self.requests.append(found[1].decode())

    async def _pass(self, client: Streams, up: int | None = None, down: int | None = None) -> None:
        server = await asyncio.open_connection(*self._target)
        pumps = [
            asyncio.ensure_future(_pump(client[0], server[1], up, self._note)),
            asyncio.ensure_future(_pump(server[0], client[1], down)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            server[1].close()


async def _pump(
    source: asyncio.StreamReader,
    target: asyncio.StreamWriter,
    limit: int | None,
    note: Callable[[bytes], None] = lambda _data: None,
) -> None:
    left = limit
    while data := await source.read(65536 if left is None else min(65536, left)):
        note(data)
        target.write(data)
        await target.drain()
        if left is not None:
            left -= len(data)


async def _request(client: Streams) -> bytes:
    """Read a request with its body, saying `100 Continue` where that is waited for. Returns its head."""
    reader, writer = client
    head = await reader.readuntil(b"\r\n\r\n")
    if b"100-continue" in head.lower():
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if length := re.search(rb"content-length: (\d+)", head.lower()):
        await reader.readexactly(int(length[1]))
    return head


@contextlib.contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(target)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
