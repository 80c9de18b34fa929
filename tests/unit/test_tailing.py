"""Reading the log of a running attempt: whole lines, and never more than a little of it at a time."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slotsched import loglines
from slotsched.process.logfile import LogFile
from slotsched.scheduler.run import Phase
from slotsched.scheduler.tailing import CHUNK_BYTES, LONGEST_LINE_BYTES, Tailer, _line_start, _whole_lines, behind_hole

GIGABYTE = 1 << 30


@pytest.fixture
def torn(tmp_path: Path) -> Path:
    """A log over its cap: a head, a hole of a gigabyte, a tail."""
    path = tmp_path / "log.ndjson"
    with path.open("wb") as stream:
        stream.write(b'{"msg":"head"}\n')
        stream.seek(GIGABYTE)
        stream.write(b'{"msg":"tail"}\n')
    return path


def test_a_reader_that_was_outrun_into_the_hole_does_not_read_all_of_it(torn: Path) -> None:
    tracemalloc.start()
    try:
        assert _whole_lines(torn, 15) == b""
        assert _line_start(torn, 4096) <= 4096 + LONGEST_LINE_BYTES
        assert tracemalloc.get_traced_memory()[1] < 4 * LONGEST_LINE_BYTES
    finally:
        tracemalloc.stop()


def test_lines_before_and_behind_the_hole_are_read(torn: Path) -> None:
    assert _whole_lines(torn, 0) == b'{"msg":"head"}\n'
    assert _whole_lines(torn, GIGABYTE) == b'{"msg":"tail"}\n'


def test_a_line_longer_than_a_chunk_comes_whole_and_half_a_line_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "log.ndjson"
    path.write_bytes(b"x" * (CHUNK_BYTES + 5) + b"\nhalf")
    assert len(_whole_lines(path, 0)) == CHUNK_BYTES + 6
    assert _whole_lines(path, CHUNK_BYTES + 6) == b""


def test_the_log_goes_on_behind_its_hole(torn: Path) -> None:
    assert behind_hole(torn, 15) == GIGABYTE
    assert behind_hole(torn, GIGABYTE - 1) == GIGABYTE
    assert behind_hole(torn, 0) is None
    assert behind_hole(torn, GIGABYTE + 15) is None, "there is nothing yet"
    with torn.open("r+b") as stream:
        stream.truncate(GIGABYTE)
    assert behind_hole(torn, 15) is None, "a hole up to the end"


def test_lines_in_front_of_a_hole_come_without_it(tmp_path: Path) -> None:
    path = tmp_path / "log.ndjson"
    path.write_bytes(b"one\n" + b"\0" * 100 + b"two\n")
    assert _whole_lines(path, 0) == b"one\n"
    assert _whole_lines(path, 4) == b""


# --- a log over its limit, followed while it grows ----------------------------------------------------

LIMIT = 64 * 1024


class Shipped:
    """The store's live tails in memory."""

    def __init__(self) -> None:
        self.chunks: list[tuple[int, bytes]] = []

    def ship(self, task_id: str, attempt: int, offset: int, data: bytes) -> None:
        self.chunks.append((offset, data))

    @property
    def lines(self) -> list[loglines.Line]:
        return [loglines.parse(line) for _, data in self.chunks for line in data.splitlines(keepends=True)]


def followed(folder: Path) -> tuple[Tailer, Shipped]:
    tails = Shipped()
    record = SimpleNamespace(task_id="t", attempt=1)
    run: Any = SimpleNamespace(id="t-1", directory=folder, record=record, adopted=False, phase=Phase.RUNNING)
    tailer = Tailer(SimpleNamespace(store=SimpleNamespace(tails=tails)))  # type: ignore[arg-type]
    tailer.track(run)
    return tailer, tails


def printed(number: int) -> bytes:
    return b'{"level":30,"time":1,"stream":"stdout","msg":"%09d"}\n' % number


def test_a_follower_who_is_caught_in_the_hole_goes_on_behind_it_and_is_told(tmp_path: Path) -> None:
    """The reader has seen everything so far when the writer takes away what it would have read next."""
    log = LogFile(tmp_path / "log.ndjson", LIMIT)
    tailer, tails = followed(tmp_path)
    size = len(printed(0))
    for number in range(LIMIT // size * 3 // 4):
        log.write(printed(number), size)
    tailer.run_once()
    seen = len(tails.lines)
    assert seen == LIMIT // size * 3 // 4
    for number in range(seen, seen * 5):
        log.write(printed(number), size)
    tailer.run_once()

    marker, *rest = tails.lines[seen:]
    assert (marker.stream, marker.level) == (None, 40)
    assert "left out here" in marker.msg
    numbers = [int(line.msg) for line in rest]
    assert numbers == list(range(numbers[0], seen * 5)), "everything from behind the hole on"
    assert len(numbers) * size < LIMIT
    ends = [offset + len(data) for offset, data in tails.chunks]
    assert ends == sorted(ends)
    log.close()


def test_a_log_that_is_closed_up_at_its_end_is_not_shipped_at_the_wrong_offsets(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log.ndjson", LIMIT)
    tailer, tails = followed(tmp_path)
    size = len(printed(0))
    count = LIMIT // size * 5 // 4
    for number in range(count):
        log.write(printed(number), size)
    tailer.run_once()
    seen = tails.lines
    log.close()
    tailer.run_once()
    assert tails.lines == seen
    assert int(seen[-1].msg) == count - 1
    assert [line.msg for line in seen if line.stream is None], "the marker, read from the file itself, once"
    assert sum(line.stream is None for line in seen) == 1


def test_a_run_that_has_ended_is_followed_to_the_end_of_its_log_and_then_no_more(tmp_path: Path) -> None:
    """Its log may stay here for as long as the log store is away."""
    log = LogFile(tmp_path / "log.ndjson", 1 << 30)
    tailer, tails = followed(tmp_path)
    [tail] = tailer._tails.values()
    size, count = len(printed(0)), 3 * CHUNK_BYTES * 4 // len(printed(0))
    for number in range(count):
        log.write(printed(number), size)
    assert tailer.run_once()
    assert tailer._tails, "it runs"
    log.write(printed(count), size)
    log.close()
    tail.run.phase = Phase.ENDED
    while tailer.run_once():
        assert tailer._tails, "there is more"
    assert not tailer._tails
    assert int(tails.lines[-1].msg) == count
