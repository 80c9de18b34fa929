"""One attempt's log, read or followed from any machine.

While the attempt runs its log comes from what its instance ships to the store (`store.tails`); once it is uploaded,
from the log store. Both hold the same bytes at the same offsets, so the change-over loses and repeats nothing.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from slotsched import loglines
from slotsched.archive import Archive
from slotsched.clock import SystemClock
from slotsched.errors import ArchiveError, NotFound, ObjectMissing
from slotsched.model import TERMINAL, Attempt, LogRef, Reason, Task

POLL_SECONDS = 0.25
NOT_UPLOADED = "the log is not in the bucket yet; showing what was shipped"
NO_LOG = "this attempt left no log"
QUIET_SECONDS = 2.0  # of waiting for an upload before a word is said about it
UPLOAD_WAIT_SECONDS = 15.0  # between an attempt's end and its upload; then what was shipped has to do


class Chunk(Protocol):
    """A shipped piece of a log: `data` is what stands at `offset`."""

    @property
    def offset(self) -> int: ...
    @property
    def data(self) -> bytes: ...


class Tails(Protocol):
    def read(self, task_id: str, attempt: int, offset: int) -> Sequence[Chunk]:
        """The next few pieces from the offset on, in order and without overlap; none when there are no more.

        A piece may begin beyond the offset: what lies between was trimmed or has expired.
        """
        ...


class Tasks(Protocol):
    def get(self, task_id: str, /) -> Task: ...


class NeverStarted(NotFound):
    """Raised when a task has ended without an attempt: it has no log, and none will come."""


class LogSource(Protocol):
    """What is needed of the store."""

    @property
    def tasks(self) -> Tasks: ...
    @property
    def tails(self) -> Tails: ...


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How to read. attempt: its number, None = the last one. follow: go on until the attempt is over.

    last: begin that many lines before the end of what is there. upload_wait: seconds. notify: gets sentences for
    the person who reads (never part of the log). sleep, clock, utcnow: injected by tests.
    """

    attempt: int | None = None
    follow: bool = False
    last: int | None = None
    upload_wait: float = UPLOAD_WAIT_SECONDS
    notify: Callable[[str], None] = lambda _sentence: None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    utcnow: Callable[[], dt.datetime] = SystemClock().utcnow


def read_log(
    store: LogSource, open_archive: Callable[[LogRef], Archive], task_id: str, reading: Reading | None = None
) -> Iterator[bytes]:
    """The log's lines, each whole and with its newline, as they become available.

    open_archive: gives the log store that a log is in; it is closed after reading. A follower of a task that has not
    started waits for its start. NotFound where there is no such attempt, NeverStarted where there was none at all;
    ArchiveError where the log store holds the log and cannot be read, and nothing was shipped either.
    """
    how = reading or Reading()
    session = _Session(store, open_archive, task_id, how)
    return _last_lines(_lines(session.pieces()), how.last)


class _Mark(Enum):
    """Stands between the pieces of a stream."""

    CAUGHT_UP = "this is all there is so far"
    GAP = "what follows does not adjoin what came before"


def _lines(pieces: Iterator[bytes | _Mark]) -> Iterator[bytes | _Mark]:
    """Whole lines. What a dead machine left of its last line is dropped, since half an object says nothing."""
    rest = b""
    after_gap = False
    for piece in pieces:
        if piece is _Mark.CAUGHT_UP:
            yield piece
        elif isinstance(piece, _Mark):
            rest, after_gap = b"", True
        else:
            # NUL bytes are a hole in the file that a killed supervisor could not close; JSON never holds them.
            *whole, rest = (rest + piece.replace(b"\0", b"")).split(b"\n")
            if after_gap and not piece.startswith(b"{"):  # inside a line whose beginning is not here
                if not whole:
                    rest = b""
                    continue
                del whole[0]
            after_gap = False
            yield from (line + b"\n" for line in whole)


def _last_lines(lines: Iterator[bytes | _Mark], last: int | None) -> Iterator[bytes]:
    if last is not None:
        kept: deque[bytes] = deque(maxlen=last)
        for line in lines:
            if isinstance(line, _Mark):
                break
            kept.append(line)
        yield from kept
    yield from (line for line in lines if not isinstance(line, _Mark))


class _Session:
    """One reading: where it stands in the log."""

    def __init__(self, store: LogSource, open_archive: Callable[[LogRef], Archive], task_id: str, how: Reading) -> None:
        self._store = store
        self._open_archive = open_archive
        self._task_id = task_id
        self._how = how
        self._offset = 0  # in the running attempt's log
        self._marked = False  # what came last says itself that something is left out behind it
        self._give_up_at: float | None = None
        self._said = ""

    def pieces(self) -> Iterator[bytes | _Mark]:
        how = self._how
        number = how.attempt
        while True:
            # The record is read before the tail, so a tail read after the end of the attempt is seen as such.
            attempt = self._attempt(number)
            if attempt is not None:
                number = attempt.number
                if attempt.log is not None and attempt.log.uploaded:
                    yield from self._whole(number, attempt.log)
                    return
                if attempt.ended_at is not None:
                    yield from self._shipped(number, over_gaps=False)
                    if self._complete(attempt):
                        return
                    if not self._wait(attempt):
                        yield from self._shipped(number, over_gaps=True)
                        return
                    continue
                yield from self._shipped(number, over_gaps=True)
            if not how.follow:
                return
            yield _Mark.CAUGHT_UP
            how.sleep(POLL_SECONDS)

    def _complete(self, attempt: Attempt) -> bool:
        """Whether all of an ended attempt's log was shipped, so that nobody need wait for its upload."""
        log = attempt.log
        return log is not None and not log.truncated and log.bytes <= self._offset

    def _wait(self, attempt: Attempt) -> bool:
        """Give the upload of an ended attempt's log a moment; False once there is no point in waiting on."""
        assert attempt.ended_at is not None
        how = self._how
        if self._give_up_at is None:
            # Without a reference no upload is on its way: the instance is lost and may come back, or nothing was
            # started. Else the waiting counts from the end, so an old log is not waited for in an outage.
            since = (how.utcnow() - attempt.ended_at).total_seconds()
            left = 0.0 if attempt.log is None else min(how.upload_wait, how.upload_wait - since)
            self._give_up_at = how.clock() + left
        left = self._give_up_at - how.clock()
        if left <= 0:
            never = attempt.log is None and attempt.reason is not Reason.LOST
            self._say(NO_LOG if never else NOT_UPLOADED)
            return False
        if left < how.upload_wait - QUIET_SECONDS:
            self._say("the attempt is over; waiting for the rest of its log")
        how.sleep(POLL_SECONDS)
        return True

    def _say(self, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            self._how.notify(sentence)

    def _attempt(self, number: int | None) -> Attempt | None:
        """The attempt to read; None while it may still come."""
        task = self._store.tasks.get(self._task_id)
        if number is None and task.attempts:
            return task.attempts[-1]
        for attempt in task.attempts:
            if attempt.number == number:
                return attempt
        if number is None:
            if task.status in TERMINAL:
                raise NeverStarted(f"task {task.id} has no log: it ended ({task.status}) without having started")
            self._say(f"task {task.id} has not started yet ({task.status})")
            return None
        known = ", ".join(str(attempt.number) for attempt in task.attempts) or "none yet"
        raise NotFound(f"task {task.id} has no attempt {number} ({known})")

    def _shipped(self, number: int, *, over_gaps: bool) -> Iterator[bytes | _Mark]:
        """What was shipped beyond the current offset; up to the first gap, or over all of them."""
        before = -1
        while before != self._offset:
            before = self._offset
            for chunk in self._store.tails.read(self._task_id, number, self._offset):
                if chunk.offset > self._offset:
                    if not over_gaps:
                        return
                    if not self._marked:
                        missing = chunk.offset - self._offset
                        self._say(f"{missing} bytes of the log are not at hand until it is uploaded")
                    self._offset = chunk.offset
                    yield _Mark.GAP
                self._offset = chunk.offset + len(chunk.data)
                self._marked = loglines.stands_for_lost(chunk.data)
                yield chunk.data

    def _whole(self, number: int, log: LogRef) -> Iterator[bytes | _Mark]:
        """The uploaded log beyond the current offset, or what was shipped where it cannot be read."""
        begun = self._offset
        archive = self._open_archive(log)
        try:
            pieces = archive.get(log.key)
            yield from self._beyond_hole(pieces) if begun and log.truncated else self._beyond(pieces)
        except ArchiveError as error:
            shipped = list(self._shipped(number, over_gaps=True))
            if not shipped and not begun:
                raise
            self._say(NOT_UPLOADED if isinstance(error, ObjectMissing) else f"{error}; showing what was shipped")
            yield from shipped
        finally:
            archive.close()

    def _beyond(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        skip = self._offset
        for piece in pieces:
            data = piece[skip:]
            skip = max(0, skip - len(piece))
            if data:
                self._offset += len(data)
                yield data

    def _beyond_hole(self, pieces: Iterator[bytes]) -> Iterator[bytes | _Mark]:
        """The same where the log lost its middle: behind the marker, what was at offset X is at X - `hole`."""
        position, wanted = 0, self._offset
        for line in _lines(pieces):
            assert isinstance(line, bytes)
            hole = loglines.hole(line)
            if hole and position < wanted:
                wanted -= hole
                if wanted < position + len(line):  # the hole swallowed what would have come next
                    wanted = position
                    yield _Mark.GAP
            if data := line[max(0, wanted - position) :]:
                yield data
            position += len(line)
