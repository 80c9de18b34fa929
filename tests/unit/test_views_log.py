"""Reading and following a log: from the running attempt's shipped tail, then from the log store, seamlessly."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.errors import ArchiveError, NotFound, ObjectMissing
from slotsched.model import Attempt, InstanceRef, LogRef, Reason, Status, Task
from slotsched.process.logfile import LogFile
from slotsched.views.log import NO_LOG, NOT_UPLOADED, Reading, read_log

START = dt.datetime(2026, 3, 4, tzinfo=dt.UTC)
ID = "65f0c0ffee00000000000001"


@dataclass(frozen=True)
class Piece:
    offset: int
    data: bytes


@dataclass
class World:
    """A store, a log store and a clock in memory; each sleep takes the next step of the story."""

    attempts: list[Attempt] = field(default_factory=list)
    status: Status = Status.RUNNING
    pieces: list[Piece] = field(default_factory=list)
    archived: bytes | ArchiveError = b""
    steps: list[Callable[[], None]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    time: float = 0.0
    closed: int = 0

    @property
    def tasks(self) -> World:
        return self

    @property
    def tails(self) -> World:
        return self

    def read(self, task_id: str, attempt: int, offset: int) -> list[Piece]:
        assert task_id == ID
        return [piece for piece in self.pieces if piece.offset >= offset][:2]

    def read_archive(self, key: str) -> Iterator[bytes]:
        if isinstance(self.archived, ArchiveError):
            raise self.archived
        for start in range(0, len(self.archived), 7):
            yield self.archived[start : start + 7]

    def get(self, key: str, /) -> Any:
        if key != ID:
            return self.read_archive(key)
        return Task(
            id=ID, job="j", args={}, status=self.status, due_at=START, created_at=START, attempts=tuple(self.attempts)
        )

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        assert self.time < 3600, "waited for ever"
        if self.steps:
            self.steps.pop(0)()

    def ship(self, data: bytes) -> None:
        end = self.pieces[-1].offset + len(self.pieces[-1].data) if self.pieces else 0
        self.pieces.append(Piece(end, data))

    def begin(self) -> None:
        number = len(self.attempts) + 1
        self.attempts.append(
            Attempt(number=number, fence=number, instance=InstanceRef(id="i", name="big-1"), started_at=START)
        )

    def end(self, **log: Any) -> None:
        ref = LogRef(store="s", key="k", **log)
        self.attempts[-1] = replace(self.attempts[-1], ended_at=START, log=ref)
        self.status = Status.COMPLETED

    def upload(self, content: bytes, **log: Any) -> None:
        self.archived = content
        self.end(bytes=len(content), uploaded=True, **log)

    def close(self) -> None:
        self.closed += 1

    def reading(self, **options: Any) -> list[bytes]:
        how = Reading(
            notify=self.said.append, sleep=self.sleep, clock=lambda: self.time, utcnow=lambda: START, **options
        )
        return list(read_log(self, lambda _ref: self, ID, how))  # type: ignore[arg-type, return-value]


def lines(*numbers: int) -> list[bytes]:
    return [f'{{"n":{number}}}\n'.encode() for number in numbers]


def text(*numbers: int) -> bytes:
    return b"".join(lines(*numbers))


@pytest.fixture
def world() -> World:
    made = World()
    made.begin()
    return made


def test_an_uploaded_log_is_read_from_the_log_store(world: World) -> None:
    world.upload(text(*range(100)))
    assert world.reading() == lines(*range(100))
    assert (world.said, world.closed) == ([], 1)


def test_the_last_lines_are_chosen(world: World) -> None:
    world.upload(text(*range(100)))
    assert world.reading(last=3) == lines(97, 98, 99)
    assert world.reading(last=0) == []


def test_a_running_log_is_what_was_shipped_and_ends_there_without_follow(world: World) -> None:
    for number in range(5):
        world.ship(text(number))
    assert world.reading() == lines(0, 1, 2, 3, 4)


def test_following_goes_on_in_the_log_store_where_the_tail_ended(world: World) -> None:
    whole = text(*range(10))
    world.ship(whole[:13])  # in the middle of a line
    world.steps = [lambda: world.ship(whole[13:20]), lambda: None, lambda: world.upload(whole)]
    assert world.reading(follow=True) == lines(*range(10))


def test_following_waits_for_the_start(world: World) -> None:
    world.attempts.clear()
    world.status = Status.PENDING
    world.steps = [lambda: None, lambda: None, world.begin, lambda: world.upload(text(1))]
    assert world.reading(follow=True) == lines(1)
    assert world.said == [f"task {ID} has not started yet (pending)"]


def test_following_from_the_last_lines_shows_all_that_comes_after(world: World) -> None:
    world.ship(text(0, 1, 2))
    world.steps = [lambda: world.ship(text(3)), lambda: world.upload(text(0, 1, 2, 3, 4))]
    assert world.reading(follow=True, last=1) == lines(2, 3, 4)


def test_the_last_lines_of_an_ended_attempt_are_those_of_the_whole_log(world: World) -> None:
    world.ship(text(0, 1))
    world.end(bytes=999)
    world.steps = [lambda: None, lambda: world.upload(text(0, 1, 2, 3))]
    assert world.reading(last=2) == lines(2, 3)


def test_a_task_that_has_not_started_has_an_empty_log_and_it_is_said(world: World) -> None:
    world.attempts.clear()
    world.status = Status.SCHEDULED
    assert world.reading() == []
    assert world.said == [f"task {ID} has not started yet (scheduled)"]


def test_a_task_that_never_started_has_no_log(world: World) -> None:
    world.attempts.clear()
    world.status = Status.CANCELED
    with pytest.raises(NotFound, match="without having started"):
        world.reading(follow=True)


def test_an_attempt_is_chosen_by_number(world: World) -> None:
    world.upload(text(1))
    world.begin()
    assert world.reading(attempt=1) == lines(1)
    with pytest.raises(NotFound, match=r"no attempt 3 \(1, 2\)"):
        world.reading(attempt=3)


def test_an_ended_attempt_that_shipped_everything_needs_no_upload(world: World) -> None:
    world.ship(text(0, 1))
    world.end(bytes=len(text(0, 1)))
    assert world.reading(follow=True) == lines(0, 1)
    assert world.time == 0


def test_the_wait_for_an_upload_is_bounded_and_the_tail_has_to_do(world: World) -> None:
    world.ship(text(0))
    world.pieces.append(Piece(500, text(7, 8)))
    world.end(bytes=999)
    assert world.reading(upload_wait=10.0) == lines(0, 7, 8)
    assert 10 <= world.time < 11
    assert world.said == [
        "the attempt is over; waiting for the rest of its log",
        NOT_UPLOADED,
        f"{500 - len(text(0))} bytes of the log are not at hand until it is uploaded",
    ]


def test_the_log_of_a_lost_attempt_is_not_waited_for(world: World) -> None:
    world.ship(text(0) + b'{"torn')
    world.end()
    world.attempts[-1] = replace(world.attempts[-1], reason=Reason.LOST, log=None)
    assert world.reading(follow=True) == lines(0)
    assert (world.time, world.said) == (0, [NOT_UPLOADED])


def test_an_empty_log_is_not_waited_for(world: World) -> None:
    world.end(bytes=0)
    assert (world.reading(follow=True), world.time, world.said) == ([], 0, [])


def test_an_attempt_that_never_started_has_no_log_and_it_is_said(world: World) -> None:
    world.end()
    world.attempts[-1] = replace(world.attempts[-1], reason=Reason.NOT_STARTED, log=None)
    assert (world.reading(), world.time, world.said) == ([], 0, [NO_LOG])


def test_an_old_log_is_not_waited_for(world: World) -> None:
    world.ship(text(0))
    world.end(bytes=999)
    world.attempts[-1] = replace(world.attempts[-1], ended_at=START - dt.timedelta(hours=1))
    assert (world.reading(), world.time, world.said) == (lines(0), 0, [NOT_UPLOADED])


def test_a_trimmed_beginning_is_said_and_the_torn_first_line_left_out(world: World) -> None:
    world.pieces = [Piece(100, b'st of a line"}'), Piece(114, b"\n" + text(5, 6))]
    assert world.reading() == lines(5, 6)
    assert world.said == ["100 bytes of the log are not at hand until it is uploaded"]


def test_a_missing_object_falls_back_to_what_was_shipped(world: World) -> None:
    world.ship(text(0, 1))
    world.upload(b"")
    world.archived = ObjectMissing("s3://b: no such object")
    assert world.reading() == lines(0, 1)
    assert world.said == [NOT_UPLOADED]


def test_an_unreachable_log_store_falls_back_and_says_why(world: World) -> None:
    world.ship(text(0))
    world.upload(b"")
    world.archived = ArchiveError("s3://b: 403 on GetObject")
    assert world.reading() == lines(0)
    assert world.said == ["s3://b: 403 on GetObject; showing what was shipped"]
    world.pieces.clear()
    with pytest.raises(ArchiveError, match="403"):
        world.reading()


@given(st.data())
def test_no_line_is_lost_or_repeated_wherever_the_change_over_falls(data: st.DataObject) -> None:
    whole = b"".join(b"%d%s\n" % (number, b"x" * data.draw(st.integers(0, 9))) for number in range(20))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    world = World()
    world.begin()
    pieces = [whole[start:end] for start, end in zip([0, *cuts], cuts, strict=False) if end > start]
    world.steps = [lambda piece=piece: world.ship(piece) for piece in pieces]
    world.steps.append(lambda: world.end(bytes=len(whole)))
    world.steps += [lambda: None] * data.draw(st.integers(0, 3))
    world.steps.append(lambda: world.upload(whole))
    assert b"".join(world.reading(follow=True)) == whole


HEAD, MIDDLE, TAIL = text(*range(10)), text(*range(100, 200)), text(*range(300, 320))
MARKER = b'{"level":40,"time":1,"truncated":9,"hole":%d,"msg":"left out"}\n'


@given(st.integers(0, len(HEAD + MIDDLE + TAIL)))
def test_wherever_a_follower_of_a_capped_log_stands_it_goes_on_with_whole_lines(seen: int) -> None:
    marker = next(MARKER % size for size in range(len(MIDDLE)) if len(MARKER % size) + size == len(MIDDLE))
    running = HEAD + MIDDLE + TAIL
    world = World()
    world.begin()
    world.ship(running[:seen])
    world.steps = [lambda: world.upload(HEAD + marker + TAIL, truncated=True)]
    shown = world.reading(follow=True)
    if seen <= len(HEAD):
        assert b"".join(shown) == HEAD + marker + TAIL
    elif seen < len(HEAD + MIDDLE):
        whole = running[: running.rfind(b"\n", 0, seen) + 1]
        assert b"".join(shown) == whole + marker + TAIL
    else:
        assert b"".join(shown) == running


@given(st.integers(0, 101), st.integers(0, 5))
def test_a_follower_of_a_capped_log_sees_head_marker_and_tail_in_order_once(follower_at: int, lag: int) -> None:
    """The real log file loses its middle while it is followed; the follower has read any part of it by the end."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        log = LogFile(path, limit=4000)
        seen = [
            json.dumps({"level": 30, "time": 1, "stream": "stdout", "msg": f"{n:090}"}).encode() + b"\n"
            for n in range(100)
        ]
        world = World()
        world.begin()
        for number, line in enumerate(seen):
            log.write(line, 91)
            if number < follower_at and number % (lag + 1) == 0:  # shipped at once, while it was still there
                end = world.pieces[-1].offset + len(world.pieces[-1].data) if world.pieces else 0
                world.pieces.append(Piece(end, path.read_bytes()[end:]))
        log.close()
        world.steps = [lambda: world.upload(path.read_bytes(), truncated=True)]
        shown = world.reading(follow=True)
    numbers = [int(json.loads(line)["msg"]) for line in shown if b'"truncated"' not in line]
    assert numbers == sorted(set(numbers)), "a line twice, or out of order"
    assert numbers[-1] == 99
    missing = set(range(100)) - set(numbers)
    if missing:
        assert sum(b'"truncated"' in line for line in shown) >= 1
