r"""From what a script writes to the lines of its log: pino-shaped JSON, from which the exact bytes can be had back.

Every line of a stream becomes `{"level":30,"time":MS,"stream":"stdout","msg":"..."}` (level 40 for stderr). A piece of
a line that is longer than 64 KiB, or that showed no end for half a second, has `"part":true` (all but the last piece);
output that ends without a newline has `"eol":false`; bytes that are not UTF-8 stand in `"bytes"` as base64, beside a
`msg` to read that is empty when little of it could be read.

A line that already is a log line passes as it is: a UTF-8 JSON object of at most 64 KiB from `{` to `}` with an
integer `level`, a number `time`, a string `msg`, and neither `stream` nor `truncated`, which only this module and the
log file may write: no script can forge another stream's line. Which stream a passed line came from is told by one
byte of white space at its end: nothing for stdout, a tab for stderr, a blank for the log pipe.

Two pipes carry no common order: lines of different streams may swap places when they are written close together.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from json.encoder import encode_basestring as to_json

from slotsched import contract
from slotsched.process.logfile import LogFile

PIECE_BYTES = 64 * 1024
FLUSH_SECONDS = 0.5  # how long a line without an end is held back
_READ_BYTES = 64 * 1024  # one pipe's worth; larger reads were slower
_UNREADABLE_SHARE = 0.25  # of a piece's characters: above it `msg` is left empty
_UTF8_TAIL_BYTES = 3  # of a character that is not complete yet
_PIPE_MAX_BYTES = 1024 * 1024  # what a pipe can hold, unless root raised fs.pipe-max-size

LEVELS = {"stdout": contract.LEVEL_STDOUT, "stderr": contract.LEVEL_STDERR, "log": contract.LEVEL_INFO}
PASSED_END = {"stdout": b"\n", "stderr": b"\t\n", "log": b" \n"}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def is_log_line(line: bytes) -> bool:
    """Whether a line may stand in the log as it is (see the module's text)."""
    if not (line.startswith(b"{") and line.endswith(b"}") and len(line) <= PIECE_BYTES):
        return False
    try:
        value = _decode(line.decode())
    except (ValueError, RecursionError):
        return False
    return (
        type(value.get("level")) is int
        and type(value.get("time")) in (int, float)
        and type(value.get("msg")) is str
        and "stream" not in value
        and "truncated" not in value
    )


class Stream:
    """One pipe of the script: cuts bytes into lines and pieces, and these into log lines. Holds at most two pieces."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._pending = b""  # the beginning of a line whose end has not come
        self._continued = False  # part of that line is in the log already
        self.waiting_since: float | None = None  # when `_pending` began to wait, in the caller's clock

    def feed(self, chunk: bytes, now: float, time_ms: int) -> tuple[bytes, int]:
        """Take what was read. Returns (log lines, how many of the stream's bytes they stand for)."""
        held = len(self._pending)
        data = self._pending + chunk
        complete, newline, rest = data.rpartition(b"\n")
        out = self._lines(complete, time_ms) if newline else b""
        while len(rest) > PIECE_BYTES:
            cut = _character_end(rest, PIECE_BYTES)
            out += self._piece(rest[:cut], time_ms, ',"part":true')
            rest, self._continued = rest[cut:], True
        self._pending = rest
        if not rest:
            self.waiting_since = None
        elif newline or self.waiting_since is None or len(rest) < held:
            self.waiting_since = now
        return out, len(data) - len(rest)

    def flush(self, time_ms: int) -> tuple[bytes, int]:
        """Let go of a line that has waited long enough, but for an incomplete character at its end."""
        cut = _character_end(self._pending, len(self._pending))
        self.waiting_since = None
        if cut == 0:
            return b"", 0
        out = self._piece(self._pending[:cut], time_ms, ',"part":true')
        self._pending, self._continued = self._pending[cut:], True
        return out, cut

    def end(self, time_ms: int) -> tuple[bytes, int]:
        """The stream is over: what is left of it, as a line without a newline."""
        if not (self._pending or self._continued):
            return b"", 0
        out, count = self._piece(self._pending, time_ms, ',"eol":false'), len(self._pending)
        self._pending, self._continued, self.waiting_since = b"", False, None
        return out, count

    def _lines(self, data: bytes, time_ms: int) -> bytes:
        """Complete lines, joined by newlines, without the last one's."""
        if not data.startswith(b"{") and b"\n{" not in data and len(data) <= PIECE_BYTES:
            try:
                texts = data.decode().split("\n")
            except UnicodeDecodeError:
                pass
            else:
                self._continued = False
                head = self._head(time_ms)
                return (head + ("}\n" + head).join(map(to_json, texts)) + "}\n").encode()
        return b"".join([self._line(line, time_ms) for line in data.split(b"\n")])

    def _line(self, line: bytes, time_ms: int) -> bytes:
        """One complete line, without its newline."""
        if not self._continued and is_log_line(line):
            return line + PASSED_END[self.name]
        out = b""
        while len(line) > PIECE_BYTES:
            cut = _character_end(line, PIECE_BYTES)
            out += self._piece(line[:cut], time_ms, ',"part":true')
            line = line[cut:]
        self._continued = False
        return out + self._piece(line, time_ms, "")

    def _piece(self, data: bytes, time_ms: int, mark: str) -> bytes:
        try:
            return f"{self._head(time_ms)}{to_json(data.decode())}{mark}}}\n".encode()
        except UnicodeDecodeError:
            text = data.decode(errors="replace")
            if text.count("\ufffd") > len(text) * _UNREADABLE_SHARE:
                text = ""
            exact = base64.b64encode(data).decode()
            return f'{self._head(time_ms)}{to_json(text)}{mark},"bytes":"{exact}"}}\n'.encode()

    def _head(self, time_ms: int) -> str:
        return f'{{"level":{LEVELS[self.name]},"time":{time_ms},"stream":"{self.name}","msg":'


def _character_end(data: bytes, limit: int) -> int:
    """The largest cut up to `limit` that does not tear a UTF-8 character."""
    for back in range(1, min(_UTF8_TAIL_BYTES, limit) + 1):
        byte = data[limit - back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return limit - back if length > back else limit
    return limit


class Capture:
    """The script's three pipes and their log file."""

    def __init__(self, log: LogFile, limit: int, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._read_bytes = max(4096, min(_READ_BYTES, limit // 16))  # a small cap wants small steps
        self._streams: dict[int, Stream] = {}

    def open(self) -> dict[str, int]:
        """Make the pipes. Returns their write ends by stream name, for the script."""
        ends = {}
        for name in LEVELS:
            read, write = os.pipe()
            os.set_blocking(read, False)
            self._streams[read] = Stream(name)
            ends[name] = write
        return ends

    def descriptors(self) -> list[int]:
        """The read ends that are still open."""
        return list(self._streams)

    def read(self, fd: int) -> bool:
        """Take one read's worth from a pipe; False at its end, after which it is closed. Never blocks."""
        try:
            chunk = os.read(fd, self._read_bytes)
        except BlockingIOError:
            return True
        stream = self._streams[fd]
        if chunk:
            self._write(stream.feed(chunk, self._clock(), _now_ms()))
            return True
        self._close(fd)
        return False

    def flush_at(self) -> float | None:
        """When the line that waits longest for its end is to be let go."""
        waiting = [each.waiting_since for each in self._streams.values() if each.waiting_since is not None]
        return min(waiting) + FLUSH_SECONDS if waiting else None

    def flush(self) -> None:
        """Let go of the lines that have waited long enough."""
        latest = self._clock() - FLUSH_SECONDS
        for stream in self._streams.values():
            if stream.waiting_since is not None and stream.waiting_since <= latest:
                self._write(stream.flush(_now_ms()))

    def finish(self) -> None:
        """Take what the pipes still hold and close everything; called when no writer of the tree is left.

        A pipe whose end escaped the tree never ends and may be written to for ever, so this reads what a pipe can
        hold and no more.
        """
        for fd, stream in list(self._streams.items()):
            left = _PIPE_MAX_BYTES
            while left > 0:
                try:
                    chunk = os.read(fd, self._read_bytes)
                except BlockingIOError:
                    break
                if not chunk:
                    break
                left -= len(chunk)
                self._write(stream.feed(chunk, self._clock(), _now_ms()))
            self._close(fd)
        self._log.close()

    def _close(self, fd: int) -> None:
        self._write(self._streams.pop(fd).end(_now_ms()))
        os.close(fd)

    def _write(self, product: tuple[bytes, int]) -> None:
        lines, captured = product
        if lines:
            self._log.write(lines, captured)


def _now_ms() -> int:
    return int(time.time() * 1000)
