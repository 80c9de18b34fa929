"""A log store that fails: each fault is told in one sentence, soon, and the log is stored once the fault is over."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, fault_proxy, http_answer, s3_error
from s3_servers import Bucket, use_credentials

from slotsched.archive import Archive, log_key, open_archive
from slotsched.archive.packing import pack
from slotsched.errors import ArchiveError, ObjectMissing

pytestmark = pytest.mark.s3

KEY = log_key("65f0c0ffee00000000000001", 1, dt.datetime(2026, 3, 4, tzinfo=dt.UTC))
CONTENT = random.Random(3).randbytes(300_000)
TIMEOUT_SECONDS = 1.0


@dataclass
class Faulty:
    archive: Archive
    proxy: FaultProxy
    bucket: Bucket


@pytest.fixture
def faulty(rclone_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    use_credentials(monkeypatch, rclone_bucket.env)
    with fault_proxy(rclone_bucket.endpoint) as proxy:
        archive = open_archive(rclone_bucket.url, endpoint=proxy.endpoint, timeout=TIMEOUT_SECONDS)
        yield Faulty(archive, proxy, rclone_bucket)
        archive.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "log.ndjson"
    path.write_bytes(CONTENT)
    return path


def head_of(length: int, *, sha256: str = "") -> bytes:
    answer = f'HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: "0123"\r\nConnection: close\r\n'
    return (answer + (f"x-amz-meta-sha256: {sha256}\r\n" if sha256 else "") + "\r\n").encode()


def packed(content: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "log").write_bytes(content)
        target = io.BytesIO()
        pack(Path(folder) / "log", target)
        return target.getvalue()


PACKED = packed(CONTENT)
FAULTS: dict[str, tuple[Callable[[FaultProxy], None], str]] = {
    "refused": (lambda proxy: proxy.refuse(), r"PutObject: cannot connect to http://127.*check s3_endpoint"),
    "500": (lambda proxy: proxy.answer(PUT=s3_error(500, "InternalError")), r"500 on PutObject \(InternalError\)"),
    "503": (lambda proxy: proxy.answer(PUT=s3_error(503, "SlowDown")), r"503 on PutObject \(SlowDown\)"),
    "403": (
        lambda proxy: proxy.answer(PUT=s3_error(403, "AccessDenied")),
        r"403 on PutObject -> check AWS_ACCESS_KEY_ID",
    ),
    "no bucket": (lambda proxy: proxy.answer(PUT=s3_error(404, "NoSuchBucket")), "no such bucket -> create it"),
    "region": (lambda proxy: proxy.answer(PUT=s3_error(301, "PermanentRedirect")), "check s3_region"),
    "clock": (lambda proxy: proxy.answer(PUT=s3_error(403, "RequestTimeTooSkewed")), "clock is off"),
    "stalled": (lambda proxy: proxy.stall(), r"no answer from http://127.* in time"),
    "request cut": (lambda proxy: proxy.cut_requests(100_000), "the connection to http://127.* broke"),
    "answer cut": (lambda proxy: proxy.cut_answers(5), "the connection to http://127.* broke"),
    "not S3": (lambda proxy: proxy.answer(PUT=http_answer(400, b"<html>what?")), "400 on PutObject|as S3 does"),
    "not HTTP": (lambda proxy: proxy.answer(PUT=b"220 smtp ready\r\n"), "broke"),
    "short object": (
        lambda proxy: proxy.answer(PUT=http_answer(200), HEAD=head_of(17)),
        rf"sent {len(PACKED)} bytes, the server has 17",
    ),
    "other object": (
        lambda proxy: proxy.answer(PUT=http_answer(200), HEAD=head_of(len(PACKED), sha256="00")),
        "the server has another object",
    ),
    "damaged object": (
        lambda proxy: proxy.answer(
            PUT=http_answer(200), HEAD=head_of(len(PACKED)), GET=http_answer(200, PACKED[:-1] + b"\1")
        ),
        "reads back damaged",
    ),
    "head refused": (
        lambda proxy: proxy.answer(PUT=http_answer(200), HEAD=http_answer(403)),
        r"403 on HeadObject -> check AWS",
    ),
    "object gone": (lambda proxy: proxy.answer(PUT=http_answer(200), HEAD=http_answer(404)), "no such object"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_soon_and_the_log_stored_once_it_is_over(fault: str, faulty: Faulty, source: Path) -> None:
    inject, sentence = FAULTS[fault]
    inject(faulty.proxy)
    begun = time.monotonic()
    with pytest.raises(ArchiveError, match=sentence) as caught:
        faulty.archive.put(KEY, source)
    assert time.monotonic() - begun < TIMEOUT_SECONDS + 3
    assert str(caught.value).startswith(faulty.bucket.url)
    faulty.proxy.heal()
    faulty.archive.put(KEY, source)
    assert b"".join(faulty.archive.get(KEY)) == CONTENT


def test_a_server_whose_etag_is_no_digest_is_believed_only_after_reading_back(faulty: Faulty, source: Path) -> None:
    faulty.proxy.answer(
        PUT=http_answer(200),
        HEAD=head_of(len(PACKED), sha256=hashlib.sha256(PACKED).hexdigest()),
        GET=http_answer(200, PACKED),
    )
    assert faulty.archive.put(KEY, source).bytes == len(CONTENT)


@pytest.mark.parametrize("after", [3, 5_000, 200_000])
def test_a_download_that_is_cut_ends_in_an_error_never_in_a_short_log(after: int, faulty: Faulty, source: Path) -> None:
    faulty.archive.put(KEY, source)
    faulty.proxy.cut_answers(after)
    with pytest.raises(ArchiveError):
        list(faulty.archive.get(KEY))


def test_a_refused_download_is_not_taken_for_a_missing_log(faulty: Faulty) -> None:
    faulty.proxy.answer(GET=s3_error(403, "AccessDenied"))
    with pytest.raises(ArchiveError, match="403 on GetObject") as caught:
        list(faulty.archive.get(KEY))
    assert not isinstance(caught.value, ObjectMissing)


def test_wrong_credentials_name_what_to_check(
    rclone_bucket: Bucket, source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profile = tmp_path / "credentials"
    profile.write_text("[default]\naws_access_key_id = slotsched-tests\naws_secret_access_key = wrong\n")
    use_credentials(monkeypatch, {"AWS_SHARED_CREDENTIALS_FILE": str(profile)})
    archive = open_archive(rclone_bucket.url, endpoint=rclone_bucket.endpoint)
    with pytest.raises(ArchiveError) as caught:
        archive.check()
    archive.close()
    assert str(caught.value) == (
        f'{rclone_bucket.url}: 403 on PutObject (SignatureDoesNotMatch) -> check AWS_PROFILE (now "default")'
    )


def test_no_credentials_at_all_is_said(rclone_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_CONFIG_FILE": "/dev/null",
    }
    use_credentials(monkeypatch, env)
    archive = open_archive(rclone_bucket.url, endpoint=rclone_bucket.endpoint)
    with pytest.raises(ArchiveError, match="Unable to locate credentials -> check AWS_PROFILE"):
        archive.check()
    archive.close()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 8 MB."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "slotsched-test", str(folder)]
    if subprocess.run(mount, capture_output=True, timeout=10, check=False).returncode != 0:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", str(folder)], timeout=10, check=True)


def test_a_spool_on_a_full_disk_can_still_be_emptied(faulty: Faulty, full_disk: Path) -> None:
    source = full_disk / "log.ndjson"
    source.write_bytes(random.Random(4).randbytes(7_000_000))  # does not shrink, and no second one fits beside it
    assert faulty.archive.put(KEY, source).bytes == 7_000_000
    assert [path.name for path in full_disk.iterdir()] == ["log.ndjson"]
