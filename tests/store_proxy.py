"""A TCP proxy before mongod that loses, holds or delays: faults that a real network has and a server will not make.

It reads message boundaries and the command's name from the wire (OP_MSG), so that a test says "lose the answer to
the next update" and means exactly that.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

_HEADER = struct.Struct("<iiii")
_OP_MSG = 2013
WRITES = ("insert", "update", "delete", "findAndModify", "commitTransaction", "createIndexes", "killSessions")
_HANDSHAKES = ("", "hello", "isMaster", "ismaster")


@dataclass
class _Rule:
    """What happens to messages of one command: to `left` of them, after `skip` others."""

    act: str
    command: str
    left: int
    skip: int = 0
    seconds: float = 0.0


@dataclass
class _Link:
    """One connection of a client, and what happens to its next answer."""

    client: socket.socket
    server: socket.socket
    is_doomed: bool = False
    is_left: bool = False  # by its client
    slow: float = 0.0
    waited_for: int = 0  # messages that the server has not answered


class Proxy:
    """Listens on `port`, forwards to a mongod on this machine. Use as a context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._links: list[_Link] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Condition()
        self._closing = threading.Event()
        self._rules: list[_Rule] = []
        self._chooser: Callable[[str], bool] | None = None
        self._release = threading.Event()
        self._open = threading.Event()
        self._open.set()
        self._delay = 0.0
        self.lost = 0
        self.writes: list[str] = []  # the commands among WRITES that clients have sent

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    def lose(self, command: str, times: int, *, after: int = 0) -> None:
        """The server gets the next `times` messages of this command (after `after` others of it), its answers go
        nowhere: the connection breaks. A driver that sends again by itself loses the second answer too.
        """
        self.lost = 0
        self._rules = [_Rule("lose", command, times, after)]

    def lose_if(self, chooser: Callable[[str], bool] | None) -> None:
        """Lose the answer to each message for which this says so: asked with the command, one at a time. None: end."""
        with self._lock:
            self._chooser = chooser

    def hold(self, command: str, times: int, *, after: int = 0) -> None:
        """Keeps the next messages of this command back until `let_go`, whatever the client thinks meanwhile."""
        self._release.clear()
        self._rules = [_Rule("hold", command, times, after)]

    def let_go(self) -> None:
        self._release.set()

    def slow(self, command: str, seconds: float, *, after: int = 0) -> None:
        """The answer to the next message of this command comes later by so much."""
        self._rules = [_Rule("slow", command, 1, after, seconds)]

    def blackhole(self) -> None:
        """From now on nothing passes, and nothing is refused."""
        self._open.clear()

    def heal(self) -> None:
        """What was sent meanwhile arrives now, as TCP would have it, also from clients that have given up."""
        self._open.set()

    def delay(self, seconds: float) -> None:
        """Every answer comes later by so much."""
        self._delay = seconds

    def calm(self) -> None:
        """No faults any more; nothing is held back."""
        self._rules, self._delay = [], 0.0
        self.lose_if(None)
        self.let_go()
        self.heal()

    def wait_answered(self, seconds: float = 10.0) -> None:
        """Until the server has answered whatever it got. Raises AssertionError."""
        with self._lock:
            done = self._lock.wait_for(lambda: not any(link.waited_for for link in self._links), seconds)
        assert done, f"messages without an answer after {seconds} s"

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._release.set()
        self._open.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            links, threads = list(self._links), list(self._threads)
        for link in links:
            _close(link.client)
            _close(link.server)
        for thread in threads:
            thread.join(5)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        with self._lock:
            self._threads = [one for one in self._threads if one.is_alive() or one.ident is None]
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            link = _Link(client, socket.create_connection(("127.0.0.1", self._target)))
            with self._lock:
                self._links.append(link)
            self._start(self._requests, link)
            self._start(self._answers, link)

    def _requests(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while (message := _read_message(link.client)) is not None:
                command = _command(message)
                self._open.wait()
                self._meet(link, command)
                link.server.sendall(message)
        with self._lock:
            link.is_left = True
            is_idle = not link.waited_for
        if is_idle:  # else what was sent late is to be carried out, though nobody waits for it
            _close(link.server)

    def _meet(self, link: _Link, command: str) -> None:
        """What is to happen to this message happens; a message that is held is back when it may go on."""
        with self._lock:
            if command in WRITES:
                self.writes.append(command)
            rule = self._rule(command)
            act = "" if rule is None else rule.act
            if act == "lose" or (not act and self._chooser is not None and self._chooser(command)):
                link.is_doomed = True
            if rule is not None and act == "slow":
                link.slow = rule.seconds
            if command not in _HANDSHAKES:
                link.waited_for += 1
        if act == "hold":
            self._release.wait(30)

    def _rule(self, command: str) -> _Rule | None:
        for rule in self._rules:
            if rule.command != command or rule.left < 1:
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            rule.left -= 1
            return rule
        return None

    def _answers(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while (message := _read_message(link.server)) is not None:
                self._answered(link)
                self._open.wait()
                if link.is_doomed:
                    self.lost += 1
                    break
                pause, link.slow = max(self._delay, link.slow), 0.0
                if pause:
                    self._closing.wait(pause)
                link.client.sendall(message)
                if link.is_left and not link.waited_for:
                    break
        _close(link.client)
        _close(link.server)
        with self._lock:
            link.waited_for = 0
            if link in self._links:
                self._links.remove(link)
            self._lock.notify_all()

    def _answered(self, link: _Link) -> None:
        with self._lock:
            link.waited_for = max(0, link.waited_for - 1)
            self._lock.notify_all()


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
