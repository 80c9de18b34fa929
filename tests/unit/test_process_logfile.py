"""The log on disk: its cap, its holes, and disks that are full."""

from __future__ import annotations

import errno
import json
import os

import pytest

from slotsched.process import linux, logfile
from slotsched.process.logfile import LogFile, repair


def line(number: int) -> bytes:
    return b'{"n":%8d}\n' % number


SIZE = len(line(0))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.ndjson"


def fill(log: LogFile, count: int) -> None:
    for number in range(count):
        log.write(line(number), SIZE)


def numbers(path) -> list[int | None]:
    """The numbers in the log, None for the marker."""
    return [json.loads(each).get("n") for each in path.read_bytes().replace(b"\0", b"").splitlines()]


def no_holes(monkeypatch):
    def refuse(fd, offset, length):
        raise OSError(errno.EOPNOTSUPP, "no holes")

    monkeypatch.setattr(linux, "punch_hole", refuse)


def test_what_fits_is_kept_whole(path):
    log = LogFile(path, 1000 * SIZE)
    fill(log, 1000)
    log.close()
    assert numbers(path) == list(range(1000))
    assert (log.size, log.truncated) == (1000 * SIZE, False)


@pytest.mark.parametrize("holes", [True, False])
def test_head_and_tail_are_kept_with_a_marker_that_says_what_is_missing(path, monkeypatch, holes):
    if not holes:
        no_holes(monkeypatch)
    log = LogFile(path, 1000 * SIZE)
    fill(log, 20_000)
    log.close()
    kept = numbers(path)
    middle = kept.index(None)
    assert kept[:middle] == list(range(500))
    tail = kept[middle + 1 :]
    assert tail == list(range(20_000 - len(tail), 20_000))
    assert 400 <= len(tail) <= 500
    marker = json.loads(path.read_bytes().splitlines()[middle])
    assert marker["truncated"] == (20_000 - 500 - len(tail)) * SIZE
    assert marker["level"] == 40
    assert str(marker["truncated"]) in marker["msg"]
    assert b"\0" not in path.read_bytes()
    assert path.stat().st_size == log.size
    assert log.truncated


def test_offsets_stay_valid_while_running_and_the_marker_maps_them_at_the_end(path):
    log = LogFile(path, 1000 * SIZE)
    fill(log, 5000)
    running = path.read_bytes()
    last_at = running.index(line(4999))
    assert last_at == 4999 * SIZE
    assert len(running) == 5000 * SIZE
    assert json.loads(running[500 * SIZE :].splitlines()[0])["truncated"] > 0
    log.close()
    done = path.read_bytes()
    marker = json.loads(done[500 * SIZE :].splitlines()[0])
    assert done.index(line(4999)) == last_at - marker["hole"]


@pytest.mark.parametrize("holes", [True, False])
def test_the_disk_holds_no_more_than_a_few_times_the_cap(path, monkeypatch, holes):
    if not holes:
        no_holes(monkeypatch)
    log = LogFile(path, 1 << 20)
    most = 0
    for number in range(2000):
        log.write((b"%07d\n" % number) * 2000, 16_000)
        most = max(most, path.stat().st_blocks * 512)
    log.close()
    assert most < 3 << 20
    assert path.stat().st_size <= (1 << 20) + 2 * 16_000


def test_a_small_cap_gives_blocks_back_too(path):
    log = LogFile(path, 1000 * SIZE)
    fill(log, 100_000)
    assert path.stat().st_size == 100_000 * SIZE
    assert path.stat().st_blocks * 512 < 100_000
    log.close()


def test_very_short_lines_are_charged_for_what_they_take_on_the_disk(path):
    log = LogFile(path, 1 << 20)
    wrapped = b'{"level":30,"time":1795228924445,"stream":"stdout","msg":""}\n'
    for _ in range(5000):
        log.write(wrapped * 100, 100)
    log.close()
    assert log.truncated
    assert path.stat().st_size < 5 << 20


@pytest.mark.parametrize("limit", [0, 1, 100, 1000])
def test_a_tiny_cap_still_keeps_the_end(path, limit):
    log = LogFile(path, limit)
    fill(log, 1000)
    log.close()
    kept = numbers(path)
    assert kept[-1] == 999
    assert len(kept) < 200


class Full:
    """os.pwrite on a disk that can be filled and cleared, and that writes half of a line before it says so."""

    def __init__(self) -> None:
        self.full = False
        self._pwrite = os.pwrite

    def __call__(self, fd, data, offset):
        if not self.full:
            return self._pwrite(fd, data, offset)
        if len(data) > 4:
            return self._pwrite(fd, bytes(data)[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_lines_but_never_tears_one_and_says_so_later(path, monkeypatch):
    disk = Full()
    monkeypatch.setattr(logfile.os, "pwrite", disk)
    log = LogFile(path, 1 << 20)
    log.write(line(1), SIZE)
    disk.full = True
    log.write(line(2), SIZE)
    log.write(line(3), SIZE)
    assert path.read_bytes() == line(1)
    disk.full = False
    log.write(line(4), SIZE)
    log.close()
    assert numbers(path) == [1, None, 4]
    told = json.loads(path.read_bytes().splitlines()[1])
    assert told["truncated"] == 2 * SIZE
    assert "No space left on device" in told["msg"]
    assert log.truncated


def test_a_disk_that_stays_full_ends_with_whole_lines(path, monkeypatch):
    disk = Full()
    monkeypatch.setattr(logfile.os, "pwrite", disk)
    log = LogFile(path, 1000 * SIZE)
    fill(log, 3000)
    disk.full = True
    log.write(line(9), SIZE)
    log.close()
    assert log.truncated
    kept = [each for each in numbers(path) if each is not None]
    assert kept[:500] == list(range(500))
    assert kept[-1] == 2999


def test_repair_cuts_a_torn_line(path):
    path.write_bytes(line(1) + line(2)[:5])
    assert repair(path) == (SIZE, False)
    assert path.read_bytes() == line(1)
    path.write_bytes(b"x" * 200_000)
    assert repair(path) == (0, False)
    path.unlink()
    assert repair(path) == (0, False)
    path.mkdir()
    assert repair(path) == (0, False)


def test_repair_leaves_no_hole_where_a_killed_supervisor_had_left_the_middle_out(path):
    """A reader would get a terabyte of zeros for what a script wrote for a day."""
    log = LogFile(path, 1000 * SIZE)
    fill(log, 20_000)
    with path.open("ab") as file:
        file.write(line(20_000)[:5])
    assert path.stat().st_size > 20_000 * SIZE
    found = repair(path)
    assert found == (path.stat().st_size, True)
    assert b"\0" not in path.read_bytes()
    kept = numbers(path)
    middle = kept.index(None)
    assert kept[:middle] == list(range(500))
    assert kept[-1] == 19_999
    assert kept[middle + 1 :] == list(range(20_000 - len(kept) + middle + 1, 20_000))
    marker = json.loads(path.read_bytes().splitlines()[middle])
    running = (20_000 - len(kept) + middle + 1) * SIZE
    assert path.read_bytes().index(line(20_000 - len(kept) + middle + 1)) == running - marker["hole"]
    assert repair(path) == (found.size, False), "what is whole is left alone"
    log.close()


def test_repair_takes_no_longer_for_a_larger_hole(path):
    path.write_bytes(line(1))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
        file.seek(1 << 40)
        file.write(line(2))
    assert repair(path) == (2 * SIZE, True)
    assert path.read_bytes() == line(1) + line(2)
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    assert repair(path) == (2 * SIZE, True), "nothing but a hole"


def test_repair_on_a_full_disk_leaves_head_hole_and_tail(path, monkeypatch):
    log = LogFile(path, 1000 * SIZE)
    fill(log, 20_000)
    before = numbers(path)
    size = path.stat().st_size
    disk = Full()
    disk.full = True
    monkeypatch.setattr(logfile.os, "pwrite", disk)
    assert repair(path) == (size, True)
    assert numbers(path) == before
    log.close()
