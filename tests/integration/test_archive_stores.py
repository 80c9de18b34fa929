"""Every kind of log store keeps what it was given, under the same keys."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import os
import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from s3_servers import Bucket, use_credentials

from slotsched.archive import Archive, log_key, open_archive
from slotsched.errors import ArchiveError, ObjectMissing

DAY = dt.datetime(2026, 3, 4, 23, 59, tzinfo=dt.UTC)
TASK = "65f0c0ffee00000000000001"
KEY = log_key(TASK, 1, DAY)


@dataclass
class Place:
    """A log store, and a look at it that does not go through the code under test."""

    archive: Archive
    bucket: Bucket | None = None
    folder: Path | None = None
    in_process: bool = False

    def objects(self) -> dict[str, bytes]:
        if self.bucket is not None:
            prefix = self.bucket.prefix + "/"
            return {key.removeprefix(prefix): data for key, data in self.bucket.objects().items()}
        assert self.folder is not None
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(
    params=["directory", pytest.param("moto", marks=pytest.mark.s3), pytest.param("rclone", marks=pytest.mark.s3)]
)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "directory":
        folder = tmp_path / "logs"
        yield Place(open_archive(str(folder)), folder=folder)
        return
    bucket: Bucket = request.getfixturevalue(f"{request.param}_bucket")
    use_credentials(monkeypatch, bucket.env)
    archive = open_archive(bucket.url, endpoint=bucket.endpoint)
    yield Place(archive, bucket=bucket, in_process=request.param == "moto")
    archive.close()


def log_file(folder: Path, content: bytes) -> Path:
    path = folder / "log.ndjson"
    path.write_bytes(content)
    return path


def test_a_stored_log_reads_back_byte_for_byte(place: Place, tmp_path: Path) -> None:
    content = b'{"level":30,"msg":"x"}\n' * 50_000
    stored = place.archive.put(KEY, log_file(tmp_path, content))
    assert b"".join(place.archive.get(KEY)) == content
    [(key, data)] = place.objects().items()
    assert key == "2026/03/04/65f0c0ffee00000000000001/1.ndjson.gz"
    assert gzip.decompress(data) == content
    assert (stored.bytes, stored.stored_bytes) == (len(content), len(data))


def test_an_empty_log_is_an_object_too(place: Place, tmp_path: Path) -> None:
    assert place.archive.put(KEY, log_file(tmp_path, b"")).bytes == 0
    assert b"".join(place.archive.get(KEY)) == b""


def test_storing_twice_leaves_one_identical_object_and_nothing_beside_the_log(place: Place, tmp_path: Path) -> None:
    source = log_file(tmp_path, random.Random(1).randbytes(5_000_000))  # above what is packed in memory
    place.archive.put(KEY, source)
    first = place.objects()
    place.archive.put(KEY, source)
    assert place.objects() == first
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["log.ndjson"]


def test_a_missing_object_is_told_apart(place: Place) -> None:
    with pytest.raises(ObjectMissing):
        next(place.archive.get(KEY))


def test_a_missing_source_is_the_callers_mistake(place: Place, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        place.archive.put(KEY, tmp_path / "none")
    assert place.objects() == {}


def test_a_damaged_object_is_noticed_while_reading(place: Place, tmp_path: Path) -> None:
    place.archive.put(KEY, log_file(tmp_path, random.Random(1).randbytes(100_000)))
    [data] = place.objects().values()
    overwrite(place, data[:-1000])
    with pytest.raises(ArchiveError, match="ends early"):
        list(place.archive.get(KEY))


def overwrite(place: Place, data: bytes) -> None:
    if place.folder is not None:
        (place.folder / KEY).write_bytes(data)
        return
    assert place.bucket is not None
    client = place.bucket.client()
    client.put_object(Bucket=place.bucket.name, Key=f"{place.bucket.prefix}/{KEY}", Body=data)
    client.close()


def test_the_probe_leaves_nothing_behind(place: Place) -> None:
    place.archive.check()
    assert place.objects() == {}


def logs_of(place: Place, tmp_path: Path, *days: tuple[int, int, int]) -> list[str]:
    """The keys of three new logs of one task for each of the days."""
    source = log_file(tmp_path, b"x\n")
    starts = [dt.datetime(*day, tzinfo=dt.UTC) for day in days]
    keys = [log_key(TASK, attempt, start) for start in starts for attempt in (1, 2, 3)]
    for key in keys:
        place.archive.put(key, source)
    return keys


def found_before(archive: Archive, day: dt.date) -> dict[str, str]:
    return {key: task for page in archive.logs_before(day) for key, task in page.items()}


def test_the_logs_of_days_before_the_date_are_found_and_nothing_else(place: Place, tmp_path: Path) -> None:
    old = logs_of(place, tmp_path, (2025, 12, 31), (2026, 2, 28))
    logs_of(place, tmp_path, (2026, 3, 4), (2026, 3, 5))
    source = log_file(tmp_path, b"x\n")
    for odd in (
        "slotsched-note",
        "2025/12/31/stray.ndjson.gz",
        f"2025/12/31/{TASK}/notes.txt",
        f"2025/12/31/{TASK}/latest.ndjson.gz",
        f"2025/12/31/{TASK[:-1]}/1.ndjson.gz",
        f"2025/12/31/{TASK[:-1]}F/1.ndjson.gz",
        f"2025/13/31/{TASK}/1.ndjson.gz",
    ):
        place.archive.put(odd, source)
    assert found_before(place.archive, dt.date(2026, 3, 4)) == dict.fromkeys(old, TASK)


def test_logs_are_deleted_and_with_them_folders_that_are_empty_then(place: Place, tmp_path: Path) -> None:
    old = logs_of(place, tmp_path, (2025, 12, 31), (2026, 2, 28))
    note = f"2025/12/31/{TASK}/notes.txt"
    place.archive.put(note, log_file(tmp_path, b"x\n"))
    assert place.archive.delete(old[:2] + old[3:]) == 5
    assert set(place.objects()) == {old[2], note}
    assert place.archive.delete([old[2]]) == 1
    assert place.archive.delete([]) == 0
    assert set(place.objects()) == {note}
    if place.folder is not None:
        assert [path.relative_to(place.folder).as_posix() for path in place.folder.glob("*")] == ["2025"]


def test_old_logs_come_in_pages_that_may_go_before_the_next(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("s3", "directory"):
        monkeypatch.setattr(f"slotsched.archive.{module}.PAGE_KEYS", 2)
    old = logs_of(place, tmp_path, (2026, 3, 1), (2026, 3, 3))
    young = logs_of(place, tmp_path, (2026, 3, 4))
    deleted: list[str] = []
    for page in place.archive.logs_before(dt.date(2026, 3, 4)):
        assert len(page) <= 2
        deleted += page
        place.archive.delete(list(page))
    assert sorted(deleted) == old
    assert sorted(place.objects()) == young


def test_two_may_look_for_old_logs_and_delete_them_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slotsched.archive.directory.PAGE_KEYS", 1)
    place = Place(open_archive(str(tmp_path / "logs")), folder=tmp_path / "logs")
    old = logs_of(place, tmp_path, (2026, 3, 1), (2026, 3, 2), (2026, 3, 3))
    (tmp_path / "logs" / "2026" / "03" / "00").write_text("a file where a day would be")
    slow = place.archive.logs_before(dt.date(2026, 3, 4))
    next(slow)
    assert place.archive.delete(old) == len(old)
    assert sum(len(page) for page in slow) <= 2, "of what was listed already"
    assert place.archive.delete(old) == len(old)
    assert place.archive.check() is None


def test_looking_for_old_logs_lists_no_newer_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a hundred thousand logs was listed whole once an hour."""
    archive = open_archive(str(tmp_path / "logs"))
    days = [dt.datetime(*day, tzinfo=dt.UTC) for day in ((2026, 3, 3), (2026, 3, 4))]
    for day in days:
        archive.put(log_key(TASK, 1, day), log_file(tmp_path, b"x\n"))
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    assert len(found_before(archive, dt.date(2026, 3, 4))) == 1
    assert any(path.endswith(f"2026/03/03/{TASK}") for path in listed), "the check sees what is listed"
    assert not any("2026/03/04" in path for path in listed)


def test_a_large_log_is_stored_and_read_in_bounded_memory(place: Place, tmp_path: Path) -> None:
    source = tmp_path / "log.ndjson"
    piece = random.Random(2).randbytes(1 << 20)
    with source.open("wb") as file:
        for _ in range(24):
            file.write(piece)
    expected = hashlib.sha256(piece * 24).digest()
    place.archive.check()  # loads what is loaded once
    tracemalloc.start()
    try:
        place.archive.put(KEY, source)
        seen = hashlib.sha256()
        for data in place.archive.get(KEY):
            seen.update(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen.digest() == expected
    if not place.in_process:  # moto keeps its objects in the memory of this process
        assert peak < 12e6


def head(bucket: Bucket) -> Any:
    client = bucket.client()
    try:
        return client.head_object(Bucket=bucket.name, Key=f"{bucket.prefix}/{KEY}")
    finally:
        client.close()


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["moto", "rclone"])
def test_an_object_is_plain_gzip_for_every_client(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket: Bucket = request.getfixturevalue(f"{kind}_bucket")
    use_credentials(monkeypatch, bucket.env)
    archive = open_archive(bucket.url, endpoint=bucket.endpoint)
    archive.put(KEY, log_file(tmp_path, b"line\n"))
    archive.close()
    found = head(bucket)
    assert found["ContentType"] == "application/x-ndjson"
    assert not found.get("ContentEncoding")
