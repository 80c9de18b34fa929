"""The end of a scheduler and its return: drained, killed, or replaced in place; what runs is never harmed by it."""

from __future__ import annotations

import gzip
import itertools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from figures import Figures
from fleet import Fleet, FleetMaker, InstanceProcess, boottime, processes_of, until

from slotsched.process import DeadlineFile

LEASE_SECONDS = 6.0
LOCAL_SHARE = 0.8  # of the lease: a supervisor's local deadline, counted from the last acknowledged renewal
RENEWAL_SHARE = 1 / 6
POLL_SECONDS = 1.0
GRACE_SECONDS = 1.0
# Claims pause for no longer than this while the program is replaced. Most of it is the new program's start, so on a
# machine that is busy with other things, such as this suite, that is the measure.
PAUSE_SECONDS, PAUSE_IN_STARTS = 2.0, 4.0


@pytest.fixture
def patient(make_fleet: FleetMaker) -> Iterator[Fleet]:
    """Leases long enough for a scheduler to be started again within one."""
    with make_fleet(lease=f"{LEASE_SECONDS}s") as made:
        yield made


def uploaded_log(fleet: Fleet, task: str, seconds: float = 20.0) -> str:
    """A task's only log object, once it is in the log store."""
    pattern = f"**/{task}/1.ndjson.gz"
    path = until(
        lambda: next(Path(fleet.settings["log_store"]).glob(pattern), None), seconds=seconds, what=f"the log of {task}"
    )
    return gzip.decompress(path.read_bytes()).decode()


def numbers(log: str) -> list[int]:
    """The numbers of the stdout lines of jobs/talker.py."""
    return [int(n) for n in re.findall(r'"msg": ?"out (\d+) ', log)]


def local_deadline(instance: InstanceProcess) -> float:
    """Until when its supervisors may go on without it (CLOCK_BOOTTIME)."""
    (path,) = instance.state_dir.glob("deadline-*")
    with closing(DeadlineFile.open(path)) as file:
        return file.read()[0]


def kill_scheduler(instance: InstanceProcess, *, spawner: bool = False) -> float:
    """kill -9, and when; its supervisors live on."""
    doomed = [child for child in instance.tree() if child.name() == "slotsched-spawn"] if spawner else []
    instance.process.kill()
    killed = boottime()
    for child in doomed:
        child.kill()
    instance.process.wait(10)
    return killed


# --- SIGTERM ----------------------------------------------------------------------------------------


def test_sigterm_finishes_what_runs_claims_nothing_more_and_leaves_nothing_behind(
    fleet: Fleet, figure: Figures
) -> None:
    instance = fleet.start("leaver", slots=1)
    running = fleet.client.enqueue("work", {"seconds": 2}).id
    fleet.witness.wait_for("start", running)
    instance.signal(signal.SIGTERM)
    until(lambda: any(line["msg"] == "draining" for line in instance.log()))
    waiting = fleet.client.enqueue("work").id

    assert instance.process.wait(20) == 0
    assert [mark.event for mark in fleet.witness.marks()] == ["start", "end"]
    assert fleet.client.get(running).status == "completed"
    assert fleet.client.get(waiting).status == "pending"
    figure("F05", "starts after SIGTERM", len(fleet.witness.starts(waiting)), "", exactly=0)
    assert uploaded_log(fleet, running, seconds=0)
    assert list((instance.state_dir / "runs").iterdir()) == []
    assert fleet.client.store.instances.live() == []


def test_what_outlasts_the_drain_limit_is_ended_and_recorded(fleet: Fleet, figure: Figures) -> None:
    instance = fleet.start("limited", drain_timeout="1s")
    gentle = fleet.client.enqueue("work", {"seconds": 60}).id
    stubborn = fleet.client.enqueue("stubborn", {"stay": True}).id
    for task in (gentle, stubborn):
        fleet.witness.wait_for("start", task)
    instance.signal(signal.SIGTERM)
    begun = boottime()

    assert instance.process.wait(20) == 0
    figure(
        "F05", "SIGTERM: ended after the drain limit and grace", boottime() - begun - 1.0 - GRACE_SECONDS, at_most=2.0
    )
    for task in (gentle, stubborn):
        assert processes_of(task) == set()
        ended = fleet.client.get(task)
        assert (ended.status, ended.reason) == ("failed", "shutdown")


def test_a_second_sigterm_ends_at_once_and_cleanly(fleet: Fleet, figure: Figures) -> None:
    instance = fleet.start("hasty")
    tasks = [fleet.client.enqueue("work", {"seconds": 60}).id, fleet.client.enqueue("stubborn", {"stay": True}).id]
    for task in tasks:
        fleet.witness.wait_for("start", task)
    instance.signal(signal.SIGTERM)
    until(lambda: any(line["msg"] == "draining" for line in instance.log()))
    instance.signal(signal.SIGTERM)
    begun = boottime()

    assert instance.process.wait(20) == 0
    figure("F05", "second SIGTERM: ended", boottime() - begun, at_most=3.0)
    for task in tasks:
        assert processes_of(task) == set()
        ended = fleet.client.get(task)
        assert (ended.status, ended.reason) == ("failed", "shutdown")


# --- kill -9 and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("spawner", [False, True], ids=["scheduler", "scheduler and spawner"])
def test_a_scheduler_that_comes_back_within_its_lease_goes_on_with_its_tasks(
    patient: Fleet, figure: Figures, spawner: bool
) -> None:
    """One task runs on through it, one ends while nobody looks, one waits for its turn."""
    fleet = patient
    instance = fleet.start("phoenix", slots=2)
    before = fleet.client.store.instances.live()[0]
    long = fleet.client.enqueue("talker", {"lines": 200, "pause": 0.02, "code": 7}).id
    short = fleet.client.enqueue("work", {"seconds": 0.8, "code": 3}).id
    later = fleet.client.enqueue("work").id
    for task in (long, short):
        fleet.witness.wait_for("start", task)
    kill_scheduler(instance, spawner=spawner)
    ended_alone = fleet.witness.wait_for("end", short)
    again = fleet.start("phoenix", slots=2)
    returned = boottime()

    ended = {task.id: task for task in fleet.client.wait([long, short, later], 30)}
    assert [mark.at < returned for mark in fleet.witness.marks("end") if mark.task == long] == [False]
    assert {task: (t.status, t.reason, t.exit_code, len(t.attempts)) for task, t in ended.items()} == {
        long: ("failed", "exit", 7, 1),
        short: ("failed", "exit", 3, 1),
        later: ("completed", "exit", 0, 1),
    }
    assert sorted(mark.task for mark in fleet.witness.marks("start")) == sorted([long, short, later])
    started_at, ended_at = ended[short].started_at, ended[short].ended_at
    assert started_at is not None
    assert ended_at is not None
    ran = ended_alone.at - fleet.witness.starts(short)[0].at
    assert abs((ended_at - started_at).total_seconds() - ran) < 0.5, "ended when it ended, not when it was told"

    after = fleet.client.store.instances.live()
    assert [one.id for one in after] == [before.id]
    assert after[0].incarnation == before.incarnation + 1
    assert numbers(uploaded_log(fleet, long)) == list(range(1, 201))
    assert again.stop() == 0
    killed = f"kill -9 of scheduler{' and spawner' if spawner else ''}, and back"
    noticed = sum(len(fleet.witness.starts(task)) != 1 or t.reason == "lost" for task, t in ended.items())
    figure("F01", f"{killed}: tasks that noticed", noticed, "", exactly=0)


def test_without_its_scheduler_a_tree_dies_at_the_local_deadline_and_is_called_lost(
    make_fleet: FleetMaker, figure: Figures
) -> None:
    with make_fleet(lease="4s") as fleet:
        lease = 4.0
        victim = fleet.start("victim")
        fleet.start("other")
        fleet.client.store.instances.set_draining("other", True)
        task = fleet.client.enqueue("talker", {"lines": 2000, "pause": 0.02}).id
        begun = fleet.witness.wait_for("start", task)
        assert begun.instance == "victim" or fleet.client.get(task).instance
        owner = victim if begun.instance == "victim" else fleet.instances[1]
        until(lambda: boottime() - begun.at > 1.5)
        killed = kill_scheduler(owner)

        deadline = local_deadline(owner)
        until(lambda: not processes_of(task), what="the tree to die by itself")
        died = boottime() - killed
        figure(
            "F01", "kill -9 of a scheduler: the tree dies after the local deadline", killed + died - deadline, at_most=1
        )
        until(lambda: fleet.client.get(task).status != "running", what="the task to be called lost")
        lost = boottime() - killed
        ended = fleet.client.get(task)
        latest = lease + GRACE_SECONDS + 2 * POLL_SECONDS
        figure("F01", "kill -9 of a scheduler: its task is called lost", lost, at_most=latest + 0.5)
        assert lease * (LOCAL_SHARE - RENEWAL_SHARE) - 0.5 < died < lease * LOCAL_SHARE + 1.0
        assert (ended.status, ended.reason) == ("failed", "lost")
        assert died < lost

        shipped = numbers(fleet.cli("logs", task, "--json").stdout)
        assert shipped == list(range(1, len(shipped) + 1))
        assert len(shipped) > 30, "what was shipped before the kill stays readable"

        again = fleet.start(owner.name)
        whole = numbers(uploaded_log(fleet, task))
        assert whole == list(range(1, len(whole) + 1))
        assert len(whole) > len(shipped)
        until(lambda: not list((again.state_dir / "runs").iterdir()), what="an empty spool")
        final = fleet.client.get(task)
        assert (final.status, final.reason, len(final.attempts)) == ("failed", "lost", 1)


# --- SIGHUP -----------------------------------------------------------------------------------------


def test_a_replacement_in_place_under_load_is_noticed_by_no_task(patient: Fleet, figure: Figures) -> None:
    fleet = patient
    instance = fleet.start("evergreen", slots=3)
    before = fleet.client.store.instances.live()[0]
    born = psutil.Process(instance.pid).create_time()
    long = fleet.client.enqueue("talker", {"lines": 250, "pause": 0.02}).id
    fleet.witness.wait_for("start", long)
    tasks = [handle.id for handle in fleet.client.enqueue_many([{"job": "work", "args": {"seconds": 0.1}}] * 60)]
    hangups = []
    starting = 0.0
    for share in (10, 35):
        until(lambda share=share: len(fleet.witness.marks("start")) > share, what=f"{share} starts")
        instance.signal(signal.SIGHUP)
        hangups.append(boottime())
        begun = boottime()
        subprocess.run([sys.executable, "-c", "import slotsched.scheduler, slotsched.cli.app"], check=True, timeout=30)
        starting = max(starting, boottime() - begun)
        until(lambda: sum(line["msg"] == "up" for line in instance.log()) == 1 + len(hangups), what="up again")

    ended = fleet.client.wait([long, *tasks], 40)
    noticed = sum((task.status, len(task.attempts)) != ("completed", 1) for task in ended)
    figure("F01b", "SIGHUP under load: tasks that noticed", noticed, "", exactly=0)
    starts = fleet.witness.marks("start")
    assert sorted(mark.task for mark in starts) == sorted([long, *tasks])
    moments = sorted(mark.at for mark in starts)
    pauses = [b - a for a, b in itertools.pairwise(moments)]
    allowed = max(PAUSE_SECONDS, PAUSE_IN_STARTS * starting)
    figure("F01b", f"SIGHUP: claims pause (a program's start: {starting:.2f} s)", max(pauses), at_most=allowed)
    assert instance.process.poll() is None
    assert psutil.Process(instance.pid).create_time() == born
    after = fleet.client.store.instances.live()
    assert [(one.id, one.pid) for one in after] == [(before.id, instance.pid)]
    missing = set(range(1, 251)) - set(numbers(uploaded_log(fleet, long)))
    figure("F01b", "SIGHUP: lines missing in the log of a task that ran through it", len(missing), "", exactly=0)
    assert numbers(uploaded_log(fleet, long)) == list(range(1, 251))
    assert instance.stop() == 0


def test_signals_that_come_in_the_middle_of_a_replacement_are_neither_lost_nor_deadly(patient: Fleet) -> None:
    """SIGHUP again and again while the new program loads, then a SIGTERM in the same moment."""
    fleet = patient
    instance = fleet.start("hurried")
    task = fleet.client.enqueue("work", {"seconds": 4}).id
    fleet.witness.wait_for("start", task)
    instance.signal(signal.SIGHUP)
    until(lambda: any("replacing" in line["msg"] for line in instance.log()))
    for _ in range(20):
        instance.signal(signal.SIGHUP)
        assert instance.process.poll() is None
        time.sleep(0.02)  # to meet the program at every stage of its start
    until(lambda: sum(line["msg"] == "up" for line in instance.log()) >= 2, what="up again")
    instance.signal(signal.SIGHUP)
    instance.signal(signal.SIGTERM)

    assert instance.process.wait(20) == 0
    assert fleet.client.get(task).status == "completed"
