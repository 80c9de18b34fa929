"""Logs from the script to the bucket: complete, followed live, and there in the end whatever the log store does."""

from __future__ import annotations

import gzip
import json
import re
import signal
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, fault_proxy, http_answer, s3_error
from fleet import Fleet, FleetMaker, InstanceProcess, boottime, until
from s3_servers import Bucket, S3Server

from slotsched.model import Task

LIVE_SECONDS = 3.0  # from the script's print to the follower's line, on a busy machine
PROMPT_SECONDS = 2.0
STALL_SECONDS = 20.0
SLOW_SECONDS = 5.0  # on the busiest machine, and still far from a stalled upload's time

Record = Callable[[str, object], None]


@dataclass
class Stage:
    """A fleet on one bucket; `proxy` stands between the two."""

    fleet: Fleet
    bucket: Bucket
    proxy: FaultProxy

    def log_of(self, task: str) -> bytes | None:
        """A task's only log object, unpacked; None while there is none."""
        found = [body for key, body in self.bucket.objects().items() if f"/{task}/" in key]
        assert len(found) <= 1
        return gzip.decompress(found[0]) if found else None

    def wait_for_log(self, task: str, seconds: float = 20.0) -> bytes:
        found = until(lambda: self.log_of(task), seconds=seconds, what=f"the log of {task} in the bucket")
        assert found is not None
        return found


@pytest.fixture(params=["moto_s3", "rclone_s3"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def stage(server: S3Server, make_fleet: FleetMaker) -> Iterator[Stage]:
    """Nothing is up yet; the proxy lets everything through."""
    bucket = server.new_bucket()
    with ExitStack() as stack:
        proxy = stack.enter_context(fault_proxy(bucket.endpoint))
        fleet = stack.enter_context(make_fleet(replace(bucket, endpoint=proxy.endpoint)))
        yield Stage(fleet, bucket, proxy)


def spool(instance: InstanceProcess) -> list[Path]:
    return list((instance.state_dir / "runs").glob("*/log.ndjson"))


def spooled(instance: InstanceProcess, task: str) -> bytes:
    """The local copy of a task's only log."""
    (path,) = (instance.state_dir / "runs").glob(f"{task}-*/log.ndjson")
    return path.read_bytes()


def uploaded(task: Task) -> bool:
    last = task.last_attempt
    return last is not None and last.log is not None and last.log.uploaded


def said(log: bytes, word: str) -> list[int]:
    """The numbers of the lines of one kind that jobs/talker.py wrote, in the log's order."""
    return [int(n) for n in re.findall(rf'"msg": ?"{word} (\d+) ', log.decode())]


# --- what a log holds -------------------------------------------------------------------------------


def test_a_log_holds_all_output_and_logger_lines_and_ends_in_the_bucket(stage: Stage) -> None:
    fleet = stage.fleet
    instance = fleet.start("writer")
    task = fleet.enqueue("talker", "lines=50")
    fleet.client.wait([task], 20)

    log = stage.wait_for_log(task)
    assert said(log, "out") == list(range(1, 51))
    assert said(log, "err") == [10, 20, 30, 40, 50]
    assert said(log, "log") == [10, 20, 30, 40, 50]
    until(lambda: not spool(instance), what="the local copy to go")
    assert uploaded(fleet.client.get(task))

    read = fleet.command("logs", task, "--json").communicate(timeout=30)[0]
    assert read == log
    assert "out 1 " not in instance.output.read_text()
    assert "log 10 " not in instance.output.read_text()


def test_the_local_copy_goes_only_after_a_verified_upload(stage: Stage) -> None:
    """A store that says yes to everything and has nothing afterwards."""
    fleet = stage.fleet
    instance = fleet.start("careful")
    missing = s3_error(404, "NoSuchKey")
    stage.proxy.answer(PUT=http_answer(200, ETag='"0"'), HEAD=missing, GET=missing)
    task = fleet.enqueue("talker", "lines=20")
    fleet.client.wait([task], 20)
    refusal = until(lambda: [line for line in instance.log() if line["msg"] == "log not uploaded yet"])
    local = spooled(instance, task)

    assert refusal[0]["task"] == task
    assert not uploaded(fleet.client.get(task))
    stage.proxy.heal()
    assert stage.wait_for_log(task) == local
    until(lambda: not spool(instance), what="the local copy to go")


# --- following --------------------------------------------------------------------------------------


class Follower:
    """`slotsched logs -f --json` in a process of its own, and when each of its lines came."""

    def __init__(self, fleet: Fleet, task: str, *words: str) -> None:
        self.process = fleet.command("logs", "-f", "--json", *words, task)
        self.lines: list[tuple[float, bytes]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((boottime(), line))

    def finish(self, seconds: float) -> bytes:
        """Everything it printed, once it has ended by itself."""
        self._reader.join(seconds)
        assert not self._reader.is_alive(), "still following"
        assert self.process.wait(5) == 0, self.process.stderr and self.process.stderr.read()
        return b"".join(line for _, line in self.lines)

    def delays(self, since: float) -> list[float]:
        """Per line printed after `since`: seconds from the script's print to the follower's."""
        stamps = [(came, re.search(rb'"(?:out|err|log) \d+ ([\d.]+)"', line)) for came, line in self.lines]
        return [came - float(found[1]) for came, found in stamps if found and float(found[1]) > since]


def test_a_follower_sees_lines_live_and_goes_on_in_the_bucket_without_a_seam(
    stage: Stage, record_property: Record
) -> None:
    """One from the start, and one that comes in the middle; the upload is held up so that both must change over."""
    fleet = stage.fleet
    fleet.start("speaker")
    task = fleet.enqueue("talker", "lines=500", "pause=0.02")
    early = Follower(fleet, task)
    until(lambda: len(early.lines) > 50, what="lines while the task runs")
    late = Follower(fleet, task)
    stage.proxy.refuse()
    until(lambda: late.lines, what="the second follower's first line")
    both_read = boottime()
    end = fleet.witness.wait_for("end", task).at
    assert both_read < end, "nothing was followed live"
    stage.proxy.heal()

    followed, followed_late = early.finish(30), late.finish(30)
    log = stage.wait_for_log(task)
    assert len(said(log, "out")) == 500
    assert followed == log
    assert followed_late == log
    delays = early.delays(both_read)
    record_property("slowest line", max(delays))
    assert max(delays) < LIVE_SECONDS


# --- when the log store is away ---------------------------------------------------------------------


def test_an_outage_of_the_log_store_holds_up_no_status_and_the_log_follows_later(
    stage: Stage, record_property: Record
) -> None:
    fleet = stage.fleet
    instance = fleet.start("patient")
    stage.proxy.refuse()
    task = fleet.enqueue("talker", "lines=30")
    ended = fleet.client.wait([task], 20)[0]
    wrote_last = fleet.witness.wait_for("end", task).at
    recorded = boottime()

    assert ended.status == "completed"
    record_property("recorded after", recorded - wrote_last)
    assert recorded - wrote_last < PROMPT_SECONDS
    assert until(lambda: said(spooled(instance, task), "out")) == list(range(1, 31))
    local = spooled(instance, task)
    until(lambda: [line for line in instance.log() if line["msg"] == "log not uploaded yet"], what="a refused upload")
    shown = fleet.cli("logs", task, "--json", seconds=40)
    assert shown.stdout.encode() == local, "what was shipped while it ran is all of it"

    stage.proxy.heal()
    assert stage.wait_for_log(task) == local
    until(lambda: uploaded(fleet.client.get(task)) and not spool(instance), what="the store to know, the copy to go")


def test_a_log_that_was_never_uploaded_is_uploaded_after_a_restart(stage: Stage) -> None:
    """Once after a clean end and once after kill -9, on the same state directory."""
    fleet = stage.fleet
    instance = fleet.start("restarted")
    stage.proxy.refuse()
    first = fleet.enqueue("talker", "lines=10")
    fleet.client.wait([first], 20)
    begun = boottime()
    instance.signal(signal.SIGTERM)
    until(lambda: any(line["msg"] == "waiting for uploads" for line in instance.log()))
    instance.signal(signal.SIGTERM)
    assert instance.process.wait(20) == 0
    assert boottime() - begun < 5.0, "the second SIGTERM ends it at once"

    again = fleet.start("restarted")
    second = fleet.enqueue("talker", "lines=20")
    fleet.client.wait([second], 20)
    local = {task: spooled(again, task) for task in (first, second)}
    again.process.kill()
    again.process.wait(10)
    assert stage.bucket.objects() == {}

    stage.proxy.heal()
    last = fleet.start("restarted")
    assert {task: stage.wait_for_log(task) for task in local} == local
    until(lambda: not spool(last), what="an empty spool")
    assert all(uploaded(fleet.client.get(task)) for task in local)


@pytest.mark.parametrize("server", ["moto_s3"], indirect=True)
def test_uploads_that_stall_delay_no_start_and_no_kill(stage: Stage, record_property: Record) -> None:
    """More logs than upload threads hang on a server that takes everything and never answers.

    Compared with the same instance before: how busy the machine is must not decide.
    """
    fleet = stage.fleet
    instance = fleet.start("stalled", slots=8)

    def start_and_kill() -> tuple[float, float]:
        task = fleet.client.enqueue("work", {"seconds": 60}).id
        asked = boottime()
        started = fleet.witness.wait_for("start", task, seconds=10).at - asked
        asked = boottime()
        fleet.client.store.tasks.cancel(task, by="the test", kill=True)
        fleet.client.wait([task], 10)
        return started, boottime() - asked

    before = [start_and_kill() for _ in range(20)]
    until(lambda: not spool(instance), what="an empty spool")
    stage.proxy.stall()
    had = stage.bucket.objects().keys()
    stalled = [fleet.client.enqueue("talker", {"lines": 5}).id for _ in range(6)]
    fleet.client.wait(stalled, 20)
    stall_began = boottime()
    until(lambda: len(spool(instance)) == 6, what="six logs in the spool")
    during = []
    while boottime() - stall_began < STALL_SECONDS:
        during.append(start_and_kill())
    assert stage.bucket.objects().keys() == had, "nothing was uploaded meanwhile"
    assert len(spool(instance)) >= 6

    for what, usual, seen in zip(("start", "kill"), zip(*before, strict=True), zip(*during, strict=True), strict=True):
        record_property(what, [statistics.median(usual), statistics.median(seen), max(seen)])
        assert statistics.median(seen) < 2 * statistics.median(usual) + 0.1
        assert max(seen) < SLOW_SECONDS


def test_a_directory_as_log_store_holds_the_same(fleet: Fleet) -> None:
    instance = fleet.start("plain")
    task = fleet.enqueue("talker", "lines=20")
    fleet.client.wait([task], 20)
    until(lambda: not spool(instance), what="the local copy to go")
    (stored,) = Path(fleet.settings["log_store"]).rglob(f"*/{task}/1.ndjson.gz")

    log = gzip.decompress(stored.read_bytes())
    assert said(log, "out") == list(range(1, 21))
    assert all(isinstance(json.loads(line), dict) for line in log.splitlines())
    read: subprocess.Popen[bytes] = fleet.command("logs", task, "--json")
    assert read.communicate(timeout=30)[0] == log
