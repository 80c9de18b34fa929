"""The jobs that users copy, run on real input."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
import pymongo
import pytest
from bson import json_util
from job_lab import run_job
from PIL import Image

from slotsched.catalog import Folder, check_scan

if TYPE_CHECKING:
    from conftest import Database

JOBS = Path(__file__).parents[2] / "jobs"
# Without uv: these tests run the jobs with this environment's packages, whatever the machine has.
ENVIRON = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}


def test_the_examples_have_no_problems_and_no_oddities() -> None:
    assert check_scan(Folder(JOBS).scan()) == []


def test_hello_prints_and_returns() -> None:
    ran = run_job(JOBS, "hello", {"name": "you", "times": 2})
    assert (ran.code, ran.stdout, ran.result) == (0, "hello you\nhello you\n", {"greeted": "you", "times": 2})


# --- resize -----------------------------------------------------------------------------------------


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


@pytest.fixture
def without_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotsched.execution._find_uv", lambda search: None)


@pytest.mark.usefixtures("without_uv")
def test_resize_shrinks_every_picture_and_leaves_the_originals(tmp_path: Path) -> None:
    for number, size in enumerate([(800, 600), (400, 1000), (64, 64)]):
        Image.new("RGB", size, (number * 80, 100, 50)).save(tmp_path / f"{number}.png")
    Image.new("RGB", (500, 100)).save(tmp_path / "photo.JPG", format="JPEG")
    (tmp_path / "notes.txt").write_text("no picture")
    ran = run_job(JOBS, "resize", {"folder": str(tmp_path), "width": 200}, environ=ENVIRON)
    assert ran.code == 0, ran.stderr
    small = {path.name: size_of(path) for path in (tmp_path / "small").iterdir()}
    assert small == {"0.png": (200, 150), "1.png": (200, 500), "2.png": (64, 64), "photo.JPG": (200, 40)}
    assert size_of(tmp_path / "0.png") == (800, 600)
    assert ran.result["pictures"] == 4
    assert ran.progress is not None
    assert ran.progress.fraction == 1.0
    assert [line["file"] for line in ran.log] == ["0.png", "1.png", "2.png", "photo.JPG"]


@pytest.mark.usefixtures("without_uv")
def test_resize_without_pictures_ends_canceled_and_with_a_broken_one_fails(tmp_path: Path) -> None:
    ran = run_job(JOBS, "resize", {"folder": str(tmp_path)}, environ=ENVIRON)
    assert (ran.code, ran.log[-1]["msg"]) == (100, f"canceled: no pictures in {tmp_path}")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    ran = run_job(JOBS, "resize", {"folder": str(tmp_path)}, environ=ENVIRON)
    assert ran.code == 1
    assert "broken.png" in ran.stderr


# --- access_log -------------------------------------------------------------------------------------


def request(path: str, status: int = 200, size: int | str = 10, second: int = 0) -> str:
    when = f"21/Nov/2026:06:30:{second:02d} +0000"
    return f'192.0.2.1 - - [{when}] "GET {path} HTTP/1.1" {status} {size} "-" "agent"\n'


class Series:
    """Runs of one series: each gets the state that the last completed one saved."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.state: Any = None
        self.warnings: list[str] = []

    def run(self) -> dict[str, Any]:
        ran = run_job(JOBS, "access_log", {"file": str(self.file), "top": 2}, state=self.state)
        assert ran.code == 0, ran.stderr
        self.state = ran.state
        self.warnings = [line["msg"] for line in ran.log]
        found: dict[str, Any] = ran.result
        return found


@pytest.fixture
def access(tmp_path: Path) -> Path:
    file = tmp_path / "access.log"
    lines = [request("/a?q=1", second=1), request("/b", 404, "-"), request("/a", 200, 5), request("/c", second=9)]
    file.write_text("".join([*lines, "nonsense\n"]))
    return file


def test_access_log_counts_status_path_and_bytes(access: Path) -> None:
    series = Series(access)
    assert series.run() == {
        "requests": 4,
        "unknown_lines": 1,
        "bytes": 25,
        "statuses": {"200": 3, "404": 1},
        "paths": [{"path": "/a", "requests": 2}, {"path": "/b", "requests": 1}],
        "first": "21/Nov/2026:06:30:01 +0000",
        "last": "21/Nov/2026:06:30:09 +0000",
    }
    assert series.warnings == ["lines that are not in the common log format"]


def append(file: Path, *lines: str) -> None:
    with file.open("a") as stream:
        stream.writelines(lines)


def test_access_log_goes_on_where_it_stopped_and_leaves_half_a_line_for_later(access: Path) -> None:
    series = Series(access)
    assert series.run()["requests"] == 4
    assert series.run()["requests"] == 0
    append(access, request("/d"), request("/e")[:20])
    assert series.run()["paths"] == [{"path": "/d", "requests": 1}]
    append(access, request("/e")[20:])
    assert series.run()["paths"] == [{"path": "/e", "requests": 1}]


@pytest.mark.parametrize("how", ["renamed", "compressed", "copied and truncated"])
def test_access_log_misses_nothing_when_the_log_is_rotated(access: Path, how: str) -> None:
    series = Series(access)
    series.run()
    append(access, request("/before"))
    rotated = access.with_name("access.log.1")
    if how == "renamed":
        access.rename(rotated)
    elif how == "compressed":
        access.with_name("access.log.2.gz").write_bytes(gzip.compress(access.read_bytes()))
        access.unlink()
        rotated.write_text(request("/between", second=2))
    else:
        shutil.copy2(access, rotated)
    access.write_text(request("/after", second=3))
    then = access.stat().st_mtime
    for age, name in enumerate(["access.log.1", "access.log.2.gz"], 1):
        if (path := access.with_name(name)).exists():
            os.utime(path, (then - age, then - age))
    assert series.run()["requests"] == (3 if how == "compressed" else 2)
    assert series.warnings == []
    assert series.run()["requests"] == 0


def test_access_log_remembers_its_place_through_a_moment_with_an_empty_log(access: Path) -> None:
    series = Series(access)
    series.run()
    access.rename(access.with_name("access.log.1"))
    access.write_text("")
    assert series.run()["requests"] == 0
    append(access.with_name("access.log.1"), request("/late"))
    append(access, request("/new", second=5))
    assert series.run()["requests"] == 2


def test_access_log_says_when_its_place_is_gone(access: Path) -> None:
    series = Series(access)
    series.run()
    access.write_text(request("/new"))
    assert series.run()["requests"] == 1
    assert series.warnings[0].startswith("the log of the last run is gone")


# --- backup -----------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "my data"
    (folder / "sub").mkdir(parents=True)
    (folder / "a b.txt").write_text("alpha")
    (folder / "sub" / "random").write_bytes(os.urandom(100_000))
    return folder


def test_backup_archives_with_checksums_and_keeps_the_newest(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "backups"
    target.mkdir()
    for day in ("20260101", "20260102", "20260103"):
        (target / f"my_data-{day}T000000Z.tar.gz").write_text("old")
        (target / f"my_data-{day}T000000Z.tar.gz.sha256").write_text("old")
    (target / "another.tar.gz").write_text("not ours")
    ran = run_job(JOBS, "backup", {"source": str(source), "target": str(target), "keep": 2})
    assert ran.code == 0, ran.stderr
    assert ran.result["files"] == 2
    assert ran.result["pruned"] == 2
    kept = sorted(path.name for path in target.iterdir())
    archive = ran.result["archive"]
    assert kept == sorted(
        [
            "another.tar.gz",
            archive,
            f"{archive}.sha256",
            "my_data-20260103T000000Z.tar.gz",
            "my_data-20260103T000000Z.tar.gz.sha256",
        ]
    )
    assert ran.result["bytes"] == (target / archive).stat().st_size
    sums = dict(reversed(line.split("  ")) for line in (target / f"{archive}.sha256").read_text().splitlines())
    with tarfile.open(target / archive) as packed:
        for name, digest in sums.items():
            file = packed.extractfile(name)
            assert file is not None
            assert hashlib.sha256(file.read()).hexdigest() == digest
    assert set(sums) == {"./a b.txt", "./sub/random"}
    assert ran.progress is not None
    assert ran.progress.fraction == 1.0


def test_backup_of_an_empty_folder_is_an_archive_too(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = run_job(JOBS, "backup", {"source": str(tmp_path / "empty"), "target": str(tmp_path / "to")})
    assert (ran.code, ran.result["files"]) == (0, 0), ran.stderr


def test_backup_that_cannot_be_verified_keeps_the_old_ones_and_fails(source: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    lying = tools / "tar"
    lying.write_text('#!/bin/sh\ncase "$1" in -czf) exec /bin/tar --exclude=sub "$@";; *) exec /bin/tar "$@";; esac\n')
    lying.chmod(0o755)
    target = tmp_path / "to"
    target.mkdir()
    old = target / "my_data-20260101T000000Z.tar.gz"
    old.write_text("old")
    environ = {"PATH": f"{tools}:/usr/bin:/bin"}
    ran = run_job(JOBS, "backup", {"source": str(source), "target": str(target), "keep": 1}, environ=environ)
    assert ran.code == 1
    assert "sub/random" in ran.stderr
    assert [path.name for path in target.iterdir()] == [old.name]


@pytest.mark.parametrize(("change", "said"), [({"source": "/nowhere"}, "no folder"), ({"keep": 0}, "keep nothing")])
def test_backup_refuses_what_makes_no_sense(source: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    args = {"source": str(source), "target": str(tmp_path / "to"), **change}
    ran = run_job(JOBS, "backup", args)
    assert ran.code == 1
    assert said in ran.stderr


# --- export_collection ------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_uv")
@pytest.mark.parametrize("name", ["out.ndjson", "out.ndjson.gz"])
def test_export_pages_through_a_collection_with_ids_of_every_type(
    database: Database, mongo_client: pymongo.MongoClient[dict[str, Any]], tmp_path: Path, name: str
) -> None:
    documents: list[dict[str, Any]] = [{"_id": n, "n": n} for n in range(23)]
    documents += [{"_id": f"text {n}"} for n in range(7)]
    documents += [{"_id": bson.ObjectId(), "when": bson.datetime_ms.DatetimeMS(0)} for _ in range(5)]
    mongo_client[database.name]["shop"].insert_many(documents)
    (tmp_path / "uri").write_text(f"{database.uri}\n")
    target = tmp_path / "sub" / name
    args = {"database": database.name, "collection": "shop", "target": str(target), "uri_file": str(tmp_path / "uri")}
    ran = run_job(JOBS, "export_collection", {**args, "page": 4}, environ=ENVIRON)
    assert ran.code == 0, ran.stderr
    data = gzip.decompress(target.read_bytes()) if name.endswith(".gz") else target.read_bytes()
    found = [json_util.loads(line) for line in data.splitlines()]
    assert {json.dumps(doc["_id"], default=str) for doc in found} == {
        json.dumps(doc["_id"], default=str) for doc in documents
    }
    assert len(found) == len(documents)
    assert ran.result == {"documents": 35, "file": str(target), "bytes": target.stat().st_size}
    assert [path.name for path in target.parent.iterdir()] == [name]


@pytest.mark.usefixtures("without_uv")
def test_export_of_nothing_is_canceled_and_without_a_uri_fails(database: Database, tmp_path: Path) -> None:
    args = {"database": database.name, "collection": "none", "target": str(tmp_path / "out")}
    environ = {**ENVIRON, "SLOTSCHED_MONGODB_URI": database.uri}
    ran = run_job(JOBS, "export_collection", args, environ=environ)
    assert (ran.code, ran.stderr) == (1, "give uri_file=PATH, or set EXPORT_MONGODB_URI in the script's header\n")
    (tmp_path / "uri").write_text(database.uri)
    ran = run_job(JOBS, "export_collection", {**args, "uri_file": str(tmp_path / "uri")}, environ=environ)
    assert ran.code == 100
