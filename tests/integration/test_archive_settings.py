"""The settings of an S3 log store do what they say, on a server that shows it."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_servers import Bucket, use_credentials

from slotsched.archive import Archive, log_key, open_archive
from slotsched.errors import ArchiveError, InvalidSettings

KEY = log_key("a1", 1, dt.datetime(2026, 3, 4, tzinfo=dt.UTC))


@pytest.fixture
def opened(moto_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Archive]]:
    use_credentials(monkeypatch, moto_bucket.env)
    made: list[Archive] = []

    def make(**options: Any) -> Archive:
        made.append(open_archive(moto_bucket.url, **({"endpoint": moto_bucket.endpoint} | options)))
        return made[-1]

    yield make
    for archive in made:
        archive.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "log.ndjson"
    path.write_bytes(b"line\n")
    return path


def head(bucket: Bucket) -> Any:
    client = bucket.client()
    try:
        return client.head_object(Bucket=bucket.name, Key=f"{bucket.prefix}/{KEY}", ChecksumMode="ENABLED")
    finally:
        client.close()


@pytest.mark.s3
@pytest.mark.parametrize(
    ("setting", "algorithm", "kms_key"),
    [("AES256", "AES256", None), ("aws:kms", "aws:kms", "any"), ("aws:kms:alias/logs", "aws:kms", "alias/logs")],
)
def test_objects_are_encrypted_as_asked(
    setting: str, algorithm: str, kms_key: str | None, opened: Callable[..., Archive], moto_bucket: Bucket, source: Path
) -> None:
    opened(encryption=setting).put(KEY, source)
    found = head(moto_bucket)
    assert found["ServerSideEncryption"] == algorithm
    if kms_key not in (None, "any"):
        assert found["SSEKMSKeyId"].endswith(kms_key)


@pytest.mark.s3
def test_a_custom_endpoint_gets_the_checksum_header_only_when_told_to(
    opened: Callable[..., Archive], moto_bucket: Bucket, source: Path
) -> None:
    opened().put(KEY, source)
    assert "ChecksumSHA256" not in head(moto_bucket)
    opened(checksums="when_supported").put(KEY, source)
    assert head(moto_bucket)["ChecksumSHA256"]


@pytest.mark.s3
@pytest.mark.parametrize("endpoint", ["", None])
def test_without_the_setting_the_endpoint_comes_from_the_environment(
    endpoint: str | None,
    opened: Callable[..., Archive],
    moto_bucket: Bucket,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_bucket.endpoint)
    opened(endpoint=endpoint).put(KEY, source)
    assert head(moto_bucket)["ContentLength"] > 0


@pytest.mark.s3
def test_localhost_is_addressed_by_path(opened: Callable[..., Archive], moto_bucket: Bucket, source: Path) -> None:
    opened(endpoint=moto_bucket.endpoint.replace("127.0.0.1", "localhost")).put(KEY, source)
    assert head(moto_bucket)["ContentLength"] > 0


@pytest.mark.s3
def test_virtual_host_style_can_be_forced(opened: Callable[..., Archive], moto_bucket: Bucket, source: Path) -> None:
    archive = opened(endpoint="http://s3.example.invalid", path_style=False, timeout=1.0)
    with pytest.raises(ArchiveError, match=r"cannot connect to http://s3\.example\.invalid"):
        archive.put(KEY, source)


def test_a_missing_profile_is_said(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    use_credentials(monkeypatch, {"AWS_PROFILE": "nobody", "AWS_CONFIG_FILE": os.devnull})
    with pytest.raises(ArchiveError, match=r"s3://b: connecting: .*nobody.* -> check AWS_PROFILE"):
        open_archive("s3://b", endpoint="http://127.0.0.1:1").put(KEY, source)


def test_an_endpoint_that_is_no_url_is_said(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    use_credentials(monkeypatch, {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    with pytest.raises(ArchiveError, match="Invalid endpoint: minio:9000 -> check log_store and the s3_ settings"):
        open_archive("s3://b", endpoint="minio:9000").put(KEY, source)


@pytest.mark.parametrize("url", ["", "s3://", "s3:///x", "s3://b/p?x=1", "http://host/b", "gs://b"])
def test_a_log_store_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidSettings, match="log_store"):
        open_archive(url)


@pytest.mark.parametrize("encryption", ["aes", "aws:kms:", "kms"])
def test_an_unknown_encryption_is_refused_at_once(encryption: str) -> None:
    with pytest.raises(InvalidSettings, match="AES256, aws:kms or aws:kms:KEY"):
        open_archive("s3://b", encryption=encryption)


def test_the_url_is_told_in_one_form(tmp_path: Path) -> None:
    assert open_archive("s3://task-logs/").url == "s3://task-logs"
    assert open_archive("s3://task-logs/a/b/").url == "s3://task-logs/a/b"
    assert open_archive(str(tmp_path)).url == open_archive(f"file://{tmp_path}").url == str(tmp_path)


def test_opening_loads_no_boto3() -> None:
    code = (
        "import sys; from slotsched.archive import open_archive; open_archive('s3://b'); print('boto3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_keys_are_made_of_ids_and_the_utc_day() -> None:
    zone = dt.timezone(dt.timedelta(hours=14))
    assert log_key("a1", 2, dt.datetime(2026, 3, 5, 1, tzinfo=zone)) == "2026/03/04/a1/2.ndjson.gz"
    with pytest.raises(ValueError, match="zone"):
        log_key("a1", 2, dt.datetime(2026, 3, 5))  # noqa: DTZ001 - the point of the test


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", "", "a\0b"])
def test_a_folder_never_leaves_itself(key: str, tmp_path: Path, source: Path) -> None:
    with pytest.raises(InvalidSettings):
        open_archive(str(tmp_path / "logs")).put(key, source)


def test_a_folder_that_cannot_be_written_says_what_to_check(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_text("x")
    archive = open_archive(str(tmp_path / "file" / "logs"))
    with pytest.raises(ArchiveError, match="-> check its owner, mode and free space"):
        archive.put(KEY, source)
    with pytest.raises(ArchiveError, match="cannot use the folder"):
        archive.check()
