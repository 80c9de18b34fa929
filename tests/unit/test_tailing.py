"""Reading the log of a running attempt: whole lines, and never more than a little of it at a time."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from slotsched.scheduler.tailing import CHUNK_BYTES, LONGEST_LINE_BYTES, _line_start, _whole_lines

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
