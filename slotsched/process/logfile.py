"""The log of one attempt on disk: it appends whole lines, keeps head and tail within a cap, and never blocks a script.

Above the cap the middle is given back to the disk as a hole, so the offsets that followers hold stay valid while the
attempt runs. One marker line of fixed length stands where the hole begins and is rewritten as it grows:

    {"level":40,"time":...,"truncated":BYTES,"hole":FILE_BYTES,"msg":"..."}

`truncated` is how many bytes the script wrote that are not in the log. At the end the tail is moved down to the marker,
so that the finished file has no hole: what was at offset X of the running file is then at X - `hole`. Where the file
system has no holes the tail is moved down now and then while running, and only the head's offsets stay valid.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from slotsched import contract
from slotsched.process import linux
from slotsched.process.files import PRIVATE, insist

_MARKER_BYTES = 256
_LOST_LINE_BYTES = 256  # no such line is longer
_STEP_BYTES = 256 * 1024  # the tail is cut in steps of about this size
_COPY_BYTES = 1024 * 1024
_BLOCK_BYTES = 64 * 1024  # no file system has larger ones
_FILE_BYTES_PER_COST = 4  # very short lines grow in the file: the file stays below 4 times the cap


class _Mark(NamedTuple):
    """A line boundary: where it is in the file, and what had been charged and captured before it."""

    offset: int
    cost: int
    captured: int


def _put(fd: int, data: bytes, offset: int) -> int:
    """Write all of it. Returns how many bytes that were."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
    return len(data)


class LogFile:
    """Appends to `path`; `limit` is the cap in captured bytes (very short lines are charged for their size on disk)."""

    def __init__(self, path: Path, limit: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE)
        self._limit = limit
        self._step = max(1, min(_STEP_BYTES, limit // 16))
        self._cost = 0
        self._captured = 0
        self._head: _Mark | None = None  # where the head ended, once it has
        self._tail: deque[_Mark] = deque()  # places where the tail could begin; the first is where it does
        self._removed = 0  # file bytes that moving the tail down has taken out
        self._punched_to = 0  # end of the hole
        self._left_out = False  # the marker stands
        self._holes = True  # the file system can punch holes, as far as known
        self._lost = 0  # captured bytes that could not be written, not yet told in the log
        self._lost_why = ""
        self.size = 0  # offset of the next line
        self.truncated = False
        self._reserve()

    def write(self, lines: bytes, captured: int) -> None:
        """Append whole lines that stand for `captured` bytes of output.

        Never raises: what cannot be written is counted, and told in the log once it takes lines again.
        """
        self._mark_tail()
        # Both or neither: what is reserved for the last line that tells of a loss is not spent on one before it.
        if not self._append(self._lost_line() + lines if self._lost else lines):
            self._lost += captured
            return
        self._lost = 0
        self._captured += captured
        self._cost += max(captured, len(lines) // _FILE_BYTES_PER_COST)
        if self._cost > self._limit:
            self._cut()

    def close(self) -> None:
        """Finish: no hole is left where that can be helped, and the file is on the disk."""
        if self._lost:
            self._append(self._lost_line())
        if self._left_out:
            self._close_hole()
        with contextlib.suppress(OSError):
            os.fchmod(self._fd, PRIVATE)  # whatever the script made of it
            if self.size:
                os.fdatasync(self._fd)
        os.close(self._fd)

    def _close_hole(self) -> None:
        """Move the tail down for good; where the disk is too full even for that, the hole stays."""
        try:
            self._move_tail_down()
        except OSError:
            assert self._head is not None
            start = self._head.offset + _MARKER_BYTES
            with contextlib.suppress(OSError):
                linux.punch_hole(self._fd, start, self._tail[0].offset - start)

    def _append(self, data: bytes) -> bool:
        """All of `data` or nothing of it."""
        try:
            _put(self._fd, data, self.size)
        except OSError as error:
            self.truncated = True
            self._lost_why = error.strerror or str(error)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size)
            self._reserve()
            return False
        self.size += len(data)
        return True

    def _reserve(self) -> None:
        """Take the blocks for one line more now: a full disk has none when there is a loss to tell of."""
        with contextlib.suppress(OSError):
            linux.reserve(self._fd, self.size, _LOST_LINE_BYTES)

    def _lost_line(self) -> bytes:
        return _line(self._lost, 0, f"{self._lost} bytes of output are lost: {self._lost_why}")

    def _mark_tail(self) -> None:
        """Remember the coming write as a place where the tail may begin, at most once per step."""
        here = _Mark(self.size, self._cost, self._captured)
        if self._head is None:
            if self._cost < self._limit // 2:
                return
            self._head = here
        if not self._tail or self._cost - self._tail[-1].cost >= self._step:
            self._tail.append(here)

    def _cut(self) -> None:
        """Let the tail begin later, if it has become too long."""
        if self._head is None or len(self._tail) < 2:
            return
        allowed = self._limit - self._head.cost
        moved = False
        while len(self._tail) > 1 and self._cost - self._tail[0].cost > allowed:
            self._tail.popleft()
            moved = True
        if moved and self._tail[0].offset - self._head.offset >= _MARKER_BYTES:
            self._leave_out()

    def _leave_out(self) -> None:
        """Give back what lies between head and tail and say so in the log."""
        assert self._head is not None
        first = self._tail[0]
        with contextlib.suppress(OSError):  # if the disk is too full even to rewrite a block, close() tries again
            _put(self._fd, self._marker(first), self._head.offset)
        self.truncated = self._left_out = True
        # From before the end of the last hole: its last block is given back only as a whole.
        start = max(self._head.offset + _MARKER_BYTES, self._punched_to - _BLOCK_BYTES)
        if self._holes:
            try:
                linux.punch_hole(self._fd, start, first.offset - start)
                self._punched_to = first.offset
            except OSError:
                self._holes = False
        if not self._holes and first.offset - self._head.offset > self.size - first.offset + _MARKER_BYTES:
            with contextlib.suppress(OSError):  # for lack of space the file stays longer than meant
                self._move_tail_down()

    def _marker(self, first: _Mark) -> bytes:
        assert self._head is not None
        left_out = first.captured - self._head.captured
        hole = self._removed + first.offset - self._head.offset - _MARKER_BYTES
        return _line(
            left_out, hole, f"{left_out} bytes left out here: the log keeps {self._limit} bytes", width=_MARKER_BYTES
        )

    def _move_tail_down(self) -> None:
        """Copy the tail to right behind the marker and cut the file there. Raises OSError."""
        assert self._head is not None
        first = self._tail[0]
        target = self._head.offset + _MARKER_BYTES
        _put(self._fd, self._marker(first), self._head.offset)
        shift = first.offset - target
        for offset in range(first.offset, self.size, _COPY_BYTES):
            chunk = os.pread(self._fd, min(_COPY_BYTES, self.size - offset), offset)
            _put(self._fd, chunk, offset - shift)
        self.size -= shift
        os.ftruncate(self._fd, self.size)
        self._tail = deque(mark._replace(offset=mark.offset - shift) for mark in self._tail)
        self._removed += shift
        self._punched_to = 0


def _line(truncated: int, hole: int, message: str, *, width: int = 0) -> bytes:
    fields = {"level": contract.LEVEL_WARN, "time": int(time.time() * 1000), "truncated": truncated}
    if hole:
        fields["hole"] = hole
    text = json.dumps({**fields, "msg": message}, separators=(",", ":"))
    return (text[:-1] + " " * (width - len(text) - 1) + "}\n").encode()


class Repaired(NamedTuple):
    """The log of a supervisor that was killed: its size in bytes, and whether its middle had been left out."""

    size: int
    truncated: bool


def repair(path: Path) -> Repaired:
    """Finish the log that a killed supervisor left: no hole in it and no torn last line. Nothing without a log.

    Where the disk is too full to move the tail down the hole stays: readers skip NUL bytes, which no line contains.
    """
    try:
        fd = insist(lambda: os.open(path, os.O_RDWR | os.O_CLOEXEC), path.parent, path.name)
    except OSError:  # a script of our own user may have put anything in its place
        return Repaired(0, truncated=False)
    try:
        hole = _first_hole(fd)
        if hole is not None:
            _fill_hole(fd, hole)
        size = os.fstat(fd).st_size
        end = _end_of_lines(fd, size)
        if end != size:
            os.ftruncate(fd, end)
        return Repaired(end, truncated=hole is not None)
    finally:
        os.close(fd)


def _first_hole(fd: int) -> int | None:
    """Where the first hole begins; None without one. Every file has one at its end, if nowhere before it."""
    size = os.fstat(fd).st_size
    try:
        hole = os.lseek(fd, 0, os.SEEK_HOLE)
    except OSError:  # an empty file, or a file system that does not tell
        return None
    return hole if hole < size else None


def _fill_hole(fd: int, hole: int) -> None:
    """Move what lies behind the hole down to the last whole line before it, and cut the file there."""
    start = end = _end_of_lines(fd, hole)
    behind = None
    try:
        for first, stop in _data_behind(fd, hole):
            behind = first if behind is None else behind
            for offset in range(first, stop, _COPY_BYTES):
                # A hole has whole blocks: the rest of the blocks at its edges are NUL bytes.
                end += _put(fd, os.pread(fd, min(_COPY_BYTES, stop - offset), offset).replace(b"\0", b""), end)
    except OSError:
        if behind is not None and end <= behind:  # the disk is full, and nothing of the tail is written over
            with contextlib.suppress(OSError):
                linux.punch_hole(fd, start, behind - start)
    else:
        os.ftruncate(fd, end)


def _data_behind(fd: int, offset: int) -> Iterator[tuple[int, int]]:
    """The stretches of data from `offset` on: where each begins, and where it ends."""
    size = os.fstat(fd).st_size
    while offset < size:
        try:
            first = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return
        offset = os.lseek(fd, first, os.SEEK_HOLE)
        yield first, offset


def _end_of_lines(fd: int, end: int) -> int:
    """The end of the last whole line before `end`."""
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
