"""A TCP proxy before mongod that loses, holds or delays: faults that a real network has and a server will not make.

It reads message boundaries and the command's name from the wire (OP_MSG), so that a test says "lose the answer to
the next update" and means exactly that.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType

_HEADER = struct.Struct("<iiii")
_OP_MSG = 2013


class Proxy:
    """Listens on `port`, forwards to a mongod on this machine. Use as a context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._command = ""
        self._to_lose = 0
        self._to_hold = 0
        self._release = threading.Event()
        self._silent = threading.Event()
        self._delay = 0.0
        self.lost = 0

    def lose(self, command: str, times: int) -> None:
        """The server gets the next `times` messages of this command, its answers go nowhere: the connection breaks."""
        self._command, self._to_lose, self.lost = command, times, 0

    def hold(self, command: str, times: int) -> None:
        """Keeps the next messages of this command back until `let_go`, whatever the client thinks meanwhile."""
        self._command, self._to_hold = command, times

    def let_go(self) -> None:
        self._release.set()

    def blackhole(self) -> None:
        """From now on nothing passes, and nothing is refused."""
        self._silent.set()

    def delay(self, seconds: float) -> None:
        """Every answer comes later by so much."""
        self._delay = seconds

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._release.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets, threads = list(self._sockets), list(self._threads)
        for one in sockets:
            _close(one)
        for thread in threads:
            thread.join(5)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            with self._lock:
                self._sockets += [client, server]
            doomed = threading.Event()
            self._start(self._requests, client, server, doomed)
            self._start(self._answers, client, server, doomed)

    def _requests(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (message := _read_message(client)) is not None:
                if self._silent.is_set():
                    continue
                if self._takes("hold", message):
                    self._release.wait(30)
                elif self._takes("lose", message):
                    doomed.set()
                server.sendall(message)
        if not self._to_hold:
            _close(server)

    def _answers(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (message := _read_message(server)) is not None:
                if self._silent.is_set():
                    continue
                if doomed.is_set():
                    self.lost += 1
                    break
                if self._delay:
                    self._closing.wait(self._delay)
                client.sendall(message)
        _close(client)
        _close(server)

    def _takes(self, what: str, message: bytes) -> bool:
        with self._lock:
            left = self._to_lose if what == "lose" else self._to_hold
            if left < 1 or _command(message) != self._command:
                return False
            if what == "lose":
                self._to_lose -= 1
            else:
                self._to_hold -= 1
            return True


def _read_message(source: socket.socket) -> bytes | None:
    header = _read(source, _HEADER.size)
    if header is None:
        return None
    body = _read(source, _HEADER.unpack(header)[0] - _HEADER.size)
    return None if body is None else header + body


def _read(source: socket.socket, length: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < length:
        part = source.recv(length - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _command(message: bytes) -> str:
    """The first field's name of the first section of an OP_MSG: the command."""
    if _HEADER.unpack_from(message)[3] != _OP_MSG:
        return ""
    position = _HEADER.size + 4
    while message[position] == 1:  # a sequence of documents stands before the body
        position += 1 + struct.unpack_from("<i", message, position + 1)[0]
    name = position + 1 + 4 + 1
    return message[name : message.index(b"\0", name)].decode()


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
