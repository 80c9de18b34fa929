"""F09: the log store is refused, broken, forbidden, stalled or cut off, and nobody but the spool notices.

With it: many logs after a long outage, across a kill -9 (the outage of ten minutes is `-m chaos`), and what is left to
read of a machine that is gone for good (G4).
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, fault_proxy, http_answer, s3_error
from figures import Figures
from fleet import Fleet, FleetMaker, InstanceProcess, boottime, until
from s3_servers import Bucket, S3Server

PROMPT_SECONDS = 2.0  # on a busy machine; what it must never be is an upload's time


@dataclass
class Stage:
    """A fleet of one instance with two slots, and a proxy before its bucket."""

    fleet: Fleet
    bucket: Bucket
    proxy: FaultProxy
    instance: InstanceProcess

    @property
    def spool(self) -> dict[str, Path]:
        """The local logs by task."""
        return {path.parent.name[:24]: path for path in (self.instance.state_dir / "runs").glob("*/log.ndjson")}

    def logs(self) -> dict[str, bytes]:
        """The unpacked logs in the bucket by task."""
        return unpacked(self.bucket)

    def refusals(self) -> int:
        return sum(line["msg"] == "log not uploaded yet" for line in self.instance.log())


def unpacked(bucket: Bucket) -> dict[str, bytes]:
    client = bucket.client()
    try:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {
            key.split("/")[-2]: gzip.decompress(client.get_object(Bucket=bucket.name, Key=key)["Body"].read())
            for key in keys
        }
    finally:
        client.close()


@pytest.fixture(scope="module")
def stage(moto_s3: S3Server, make_fleet: FleetMaker) -> Iterator[Stage]:
    bucket = moto_s3.new_bucket()
    with ExitStack() as stack:
        proxy = stack.enter_context(fault_proxy(bucket.endpoint))
        fleet = stack.enter_context(make_fleet(replace(bucket, endpoint=proxy.endpoint), log_level="debug"))
        yield Stage(fleet, bucket, proxy, fleet.start("spooler", slots=2))


SHORT = http_answer(200, Content_Length="17", ETag='"0"').split(b"\r\n\r\n")[0] + b"\r\n\r\n"
FAULTS: Mapping[str, Callable[[FaultProxy], None]] = {
    "refused": lambda proxy: proxy.refuse(),
    "500": lambda proxy: proxy.answer(PUT=s3_error(500, "InternalError")),
    "403": lambda proxy: proxy.answer(PUT=s3_error(403, "AccessDenied")),
    "stalled": lambda proxy: proxy.stall(),
    "upload cut": lambda proxy: proxy.cut_requests(700),
    "answer cut": lambda proxy: proxy.cut_answers(5),
    "stored short": lambda proxy: proxy.answer(PUT=http_answer(200), HEAD=SHORT),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_log_store_in_trouble_is_the_spools_business_alone(stage: Stage, fault: str, figure: Figures) -> None:
    """Three tasks on two slots, and one that is killed: statuses, slots, starts and kills are as prompt as ever."""
    fleet, client = stage.fleet, stage.fleet.client
    until(lambda: not stage.spool, what="an empty spool before the fault")
    before = stage.refusals()
    FAULTS[fault](stage.proxy)
    tasks = [client.enqueue("talker", {"lines": 20}).id for _ in range(3)]
    assert [task.status for task in client.wait(tasks, 20)] == ["completed"] * 3
    recorded = boottime() - max(mark.at for mark in fleet.witness.marks("end"))
    first_end = min(mark.at for mark in fleet.witness.marks("end") if mark.task in tasks)
    last_start = max(mark.at for mark in fleet.witness.marks("start") if mark.task in tasks)
    if fault != "stalled":
        until(lambda: stage.refusals() > before, what="a refused upload")

    asked = boottime()
    victim = client.enqueue("work", {"seconds": 60}).id
    started = fleet.witness.wait_for("start", victim).at - asked
    asked = boottime()
    client.store.tasks.cancel(victim, by="the test", kill=True)
    client.wait([victim], 10)
    killed = boottime() - asked

    local = {task: path.read_bytes() for task, path in stage.spool.items()}
    assert set(tasks) < set(local), "every log is still here"
    assert not set(local) & set(stage.logs())
    stage.proxy.heal()
    healed = boottime()
    until(lambda: not stage.spool, what="the spool to be emptied")
    emptied = boottime() - healed
    stored = stage.logs()
    assert {task: stored[task] for task in local} == local
    assert all(task.attempts[-1].log.uploaded for task in map(client.get, local))

    reused = max(0.0, last_start - first_end)
    slowest = max(recorded, reused, started, killed)
    figure("F09", f"{fault}: slowest of status, slot, start, kill", slowest, at_most=PROMPT_SECONDS)
    figure("F09", f"{fault}: spool empty after the fault", emptied, at_most=15)


# --- many logs, a long outage, a restart ------------------------------------------------------------


def outage(
    stage: Stage, figure: Figures, *, tasks: int, seconds: float, at_most: float, per_minute: float, row: str
) -> None:
    """`tasks` end while the log store answers 503 for `seconds`; half-way the scheduler is killed and started again."""
    fleet, client = stage.fleet, stage.fleet.client
    stage.proxy.answer(PUT=s3_error(503, "SlowDown"), HEAD=http_answer(503), GET=s3_error(503, "SlowDown"))
    begun, asked = boottime(), len(stage.proxy.requests)
    ids = [handle.id for handle in client.enqueue_many([{"job": "noted", "args": {"n": n}} for n in range(tasks)])]
    ended = client.wait(ids, max(60.0, seconds))
    assert {task.status for task in ended} == {"completed"}
    assert len(stage.spool) == tasks, "all ended while the log store was away"
    local = {task: path.read_bytes() for task, path in stage.spool.items()}

    until(lambda: boottime() - begun > seconds / 2, seconds=seconds)
    stage.instance.process.kill()
    stage.instance.process.wait(10)
    restarting = boottime()
    stage.instance = fleet.start(stage.instance.name, slots=8)
    after = client.enqueue("work").id
    fleet.witness.wait_for("start", after, seconds=60)
    figure(row, f"{tasks} spooled logs: a task starts after kill -9 and restart", boottime() - restarting, at_most=15)

    until(lambda: boottime() - begun > seconds, seconds=seconds)
    rate = (len(stage.proxy.requests) - asked) / (boottime() - begun) * 60
    figure(row, f"{tasks} spooled logs: requests to the dead log store", rate, "per minute", at_most=per_minute)
    stage.proxy.heal()
    healed = boottime()
    until(lambda: not stage.spool, seconds=at_most + 60, what="the spool to be emptied")
    figure(
        row, f"{tasks} logs uploaded after {seconds:.0f} s without a log store", boottime() - healed, at_most=at_most
    )

    stored = stage.logs()
    missing = [task for task in ids if stored.get(task) != local[task]]
    figure(row, f"logs of {tasks} that are missing or differ", len(missing), "logs", exactly=0)
    assert all(re.search(rb'"msg":"task \d+ here"', stored[task]) for task in ids)


@pytest.fixture
def crowd(moto_s3: S3Server, make_fleet: FleetMaker, tmp_path: Path) -> Iterator[Stage]:
    """Eight slots, and a job that costs little."""
    jobs = tmp_path / "jobs"
    shutil.copytree(Path(__file__).parents[1] / "acceptance" / "jobs", jobs)
    (jobs / "noted.sh").write_text(
        "#!/bin/sh\n# /// script\n# [tool.slotsched]\n# args = { n = 'int' }\n# ///\necho \"task $ARG_N here\"\n"
    )
    (jobs / "noted.sh").chmod(0o755)
    bucket = moto_s3.new_bucket()
    with ExitStack() as stack:
        proxy = stack.enter_context(fault_proxy(bucket.endpoint))
        fleet = stack.enter_context(make_fleet(replace(bucket, endpoint=proxy.endpoint), jobs=jobs))
        yield Stage(fleet, bucket, proxy, fleet.start("crowd", slots=8))


def test_all_logs_arrive_soon_after_an_outage_that_many_tasks_and_a_restart_fell_into(
    crowd: Stage, figure: Figures
) -> None:
    outage(crowd, figure, tasks=60, seconds=10, at_most=15, per_minute=300, row="F09")


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_a_thousand_logs_arrive_within_two_minutes_after_ten_minutes_without_a_log_store(
    crowd: Stage, figure: Figures
) -> None:
    outage(crowd, figure, tasks=1000, seconds=600, at_most=120, per_minute=30, row="chaos")


# --- a log over its limit, followed ------------------------------------------------------------------

CAPPED = """#!/bin/sh
# /// script
# [tool.slotsched]
# max_time = "60s"
# args = { folder = "str" }
# ///
burst() { awk -v n="$1" -v w="$2" 'BEGIN { for (i = 0; i < n; i++) printf "%s %088d\\n", w, i }'; }
burst 2000 early
until [ -e "$ARG_FOLDER/read" ]; do sleep 0.1; done
burst 12000 lost
n=0
until [ -e "$ARG_FOLDER/seen" ]; do n=$((n + 1)); echo "late $n"; sleep 0.2; done
"""


def test_who_follows_a_log_over_its_limit_is_told_and_sees_what_comes_now(
    make_fleet: FleetMaker, tmp_path: Path, figure: Figures
) -> None:
    """The follower has read all there was when the middle of the log is given up under it.

    The task ends only once it was followed beyond that; if it is not, max time ends it.
    """
    (tmp_path / "capped.sh").write_text(CAPPED)
    (tmp_path / "capped.sh").chmod(0o755)
    with make_fleet(jobs=tmp_path, log_limit="256KiB") as fleet:
        fleet.start("small", slots=1)
        task = fleet.client.enqueue("capped", {"folder": str(tmp_path)}).id
        follower = fleet.command("logs", "-f", "--json", task)
        assert follower.stdout is not None
        seen, left_behind, late_at = b"", 0.0, 0.0
        for line in follower.stdout:
            seen += line
            if b'"early' in line and line.endswith(b'1999"}\n'):
                left_behind = boottime()
                (tmp_path / "read").touch()
            if b'"late 5"' in line:
                late_at = boottime()
                (tmp_path / "seen").touch()
        assert follower.wait(10) == 0
        assert fleet.client.get(task).status == "completed", "never followed beyond the hole"
        assert b"left out here" in seen
        late = [int(n) for n in re.findall(rb'"late (\d+)"', seen)]
        assert late == list(range(1, len(late) + 1))
        figure("F13", "a follower goes on behind what a full log left out", late_at - left_behind, at_most=10)


# --- a machine that is gone -------------------------------------------------------------------------

SHIPPED_WITHIN_SECONDS = 2.0  # every half second, on a busy machine


def test_what_a_dead_machine_had_shipped_stays_readable(make_fleet: FleetMaker, figure: Figures) -> None:
    """The machine and its disk are gone; another one shows the log up to the last shipment."""
    with make_fleet(lease="3s") as fleet:
        doomed = fleet.start("doomed")
        task = fleet.client.enqueue("talker", {"lines": 2000, "pause": 0.02}).id
        fleet.witness.wait_for("start", task)
        fleet.start("heir", slots=1)
        until(lambda: len(printed(fleet, task)) > 50, what="shipped lines")
        died = boottime()
        doomed.kill_all()
        shutil.rmtree(doomed.state_dir)
        ended = fleet.client.wait([task], 30)[0]
        assert (ended.status, ended.reason) == ("failed", "lost")

        left = printed(fleet, task)
        assert [number for number, _ in left] == list(range(1, len(left) + 1)), "whole from its beginning"
        figure("G4", "of a dead machine's log lost at most", died - left[-1][1], at_most=SHIPPED_WITHIN_SECONDS)


def printed(fleet: Fleet, task: str) -> list[tuple[int, float]]:
    """The numbers of the lines that can be read now, and when the script wrote them."""
    shown = fleet.cli("logs", task, "--json", check=False).stdout
    return [(int(number), float(at)) for number, at in re.findall(r'"out (\d+) ([\d.]+)"', shown)]
