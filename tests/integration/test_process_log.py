"""The log of a whole attempt: exact, capped, and no danger to the script when the disk is full."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from process_lab import opened, readable, wait_until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def lab(tmp_path):
    with opened(tmp_path) as lab:
        yield lab


def test_a_prompt_without_a_newline_shows_soon(lab):
    attempt = lab.sh("printf 'password: '; sleep 10")
    began = time.monotonic()
    attempt.wait_text('"msg":"password: ","part":true')
    assert time.monotonic() - began < 1.5
    attempt.order("canceled", 0)
    attempt.wait()


def test_a_gigabyte_without_a_newline_is_capped_in_little_memory(lab):
    attempt = lab.sh("head -c 1000000000 /dev/zero | tr '\\0' x", max_time=50)
    most = 0
    while not readable(attempt.pidfd, 0.2):
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{attempt.pid}/status").read_text().splitlines()
            most = max(most, int(next(line for line in status if line.startswith("VmHWM")).split()[1]))
    ending = attempt.wait(50)
    assert ending.exit_code == 0
    assert ending.log_truncated
    assert 0 < most < 50 * 1024
    size, left_out, kept = 0, 0, 0
    with (attempt.run_dir / "log.ndjson").open("rb") as log:
        for line in log:
            size += len(line)
            value = json.loads(line)
            left_out += value.get("truncated", 0)
            kept += len(value["msg"]) if "stream" in value else 0
    assert size == ending.log_bytes < 120 << 20
    assert left_out + kept == 1_000_000_000
    assert 99 << 20 < kept <= 100 << 20
    print(f"1 GB in {ending.ended - ending.started:.1f} s, supervisor {most} KiB")


def test_random_bytes_come_back_identical(lab, tmp_path):
    data = os.urandom(10 << 20)
    source = tmp_path / "data"
    source.write_bytes(data)
    ending, attempt = lab.run("cat", str(source))
    assert not ending.log_truncated
    back = bytearray()
    for value in attempt.lines():
        back += base64.b64decode(value["bytes"]) if "bytes" in value else value["msg"].encode()
        back += b"" if value.get("part") or value.get("eol") is False else b"\n"
    assert back == data
    assert ending.log_bytes < 2 * len(data)


def test_the_log_pipe_is_a_stream_of_its_own(lab):
    line = '{"level":50,"time":5,"msg":"from the logger"}'
    script = f"printf 'half a '; echo '{line}' >&3; echo 'plain' >&3; echo line; echo '{line}' >&2"
    _, attempt = lab.run("sh", "-c", script)
    log = (attempt.run_dir / "log.ndjson").read_bytes().splitlines()
    assert f"{line} ".encode() in log
    assert f"{line}\t".encode() in log
    assert attempt.text("log") == "plain\n"
    assert attempt.text("stdout") == "half a line\n"


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("NOT TESTED HERE: mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_no_script_and_hides_no_end(tiny_disk):
    with opened(tiny_disk) as lab:
        ending, attempt = lab.run("sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' '\\n'; exit 3")
        assert (ending.cause, ending.exit_code, ending.log_truncated) == ("exit", 3, True)
        assert all("msg" in line for line in attempt.lines())
        assert ending.log_bytes == (attempt.run_dir / "log.ndjson").stat().st_size


def test_a_kill_works_on_a_full_disk(tiny_disk):
    with opened(tiny_disk) as lab:
        attempt = lab.sh("head -c 2000000 /dev/zero > fill; echo full; sleep 20")
        wait_until(lambda: os.statvfs(tiny_disk).f_bavail == 0)
        attempt.order("canceled", 0)
        assert attempt.wait(5).cause == "shutdown"  # the order could not be written
