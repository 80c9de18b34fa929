"""F19: wall clocks that are wrong, or are set while the system runs: an instance's, a client's, and the primary's.

An instance asks its wall clock nothing that matters: durations and the lease go by the clock that counts from the
boot, and what is due is decided by the database. The database's own clock decides no lease.
"""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from clock_shim import Clock, build
from figures import Figures
from fleet import SLOTSCHED, Fleet, FleetMaker, boottime, until
from outage_lab import called_lost, identities
from replica_set import ReplicaSet

from slotsched.model import Task
from slotsched.store import TaskFilter

HOUR, MINUTE = 3600.0, 60.0
SECOND = dt.timedelta(seconds=1)
LEASE_SECONDS, GRACE_SECONDS, POLL_SECONDS = 3.0, 1.0, 1.0
LATEST_START_SECONDS = 1.5  # a poll, and a busy machine
SAID_SECONDS = 1e-3  # the store's dates have milliseconds

NewClock = Callable[[float], Clock]


@pytest.fixture(scope="module")
def new_clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewClock]:
    folder = tmp_path_factory.mktemp("clocks")
    library = build(folder)
    made: list[Clock] = []

    def make(offset: float) -> Clock:
        made.append(Clock(library, folder / f"clock-{len(made)}", offset))
        return made[-1]

    yield make
    for clock in made:
        clock.close()


def test_the_clock_of_a_process_is_set_and_its_other_clocks_are_not(new_clock: NewClock) -> None:
    clock = new_clock(HOUR)
    code = (
        "import sys, time, threading\n"
        "for _ in sys.stdin:\n"
        "    began = time.monotonic(); threading.Event().wait(0.05)\n"
        "    print(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic() - began, flush=True)\n"
    )
    with subprocess.Popen(
        [SLOTSCHED[0], "-c", code], env=clock.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for offset in (HOUR, -HOUR, 0.0):
            clock.set(offset)
            process.stdin.write("\n")
            process.stdin.flush()
            wall, boot, waited = map(float, process.stdout.readline().split())
            assert abs(wall - offset - dt.datetime.now(dt.UTC).timestamp()) < 2
            assert abs(boot - boottime()) < 2
            assert 0.04 < waited < 2
        process.stdin.close()


# --- an instance's clock ----------------------------------------------------------------------------


def lateness(task: Task) -> float:
    """Seconds from when a task was due to its start, by the store's clock."""
    assert task.started_at is not None
    return (task.started_at - task.due_at) / SECOND


def early(tasks: list[Task]) -> list[Task]:
    return [task for task in tasks if lateness(task) < -SAID_SECONDS]


def check_round(fleet: Fleet, name: str, figure: Figures) -> None:
    """Scheduled tasks, a series on its grid, and a max time, all of them on the instance with the wrong clock."""
    client = fleet.client
    series = f"grid-{name.replace(' ', '-')}"
    client.schedules.add("tick", {}, name=series, cron="* * * * * */2")
    later = [client.enqueue("tick", in_=1.0 + 0.2 * number).id for number in range(3)]
    endless = client.enqueue("work", {"seconds": 60}, max_time=1.5).id
    started = fleet.witness.wait_for("start", endless).at
    fleet.ended(*later, endless)
    until(lambda: len(client.schedules.history(series, 0)) >= 2, what="two rounds of the series")
    client.schedules.pause(series)
    rounds = client.schedules.history(series, 0)
    fleet.ended(*(task.id for task in rounds))

    tasks = [client.get(task) for task in (*later, *(task.id for task in rounds))]
    assert {mark.instance for task in tasks for mark in fleet.witness.starts(task.id)} == {"wrong"}
    figure("F19", f"{name}: early starts", len(early(tasks)), "", exactly=0)
    figure("F19", f"{name}: latest start", max(map(lateness, tasks)), at_most=LATEST_START_SECONDS)
    nominal = sorted(task.nominal_at for task in rounds if task.nominal_at is not None)
    assert [at.second % 2 + at.microsecond for at in nominal] == [0] * len(rounds)
    assert {later - earlier for earlier, later in pairwise(nominal)} == {2 * SECOND}
    ended = client.get(endless)
    assert ended.reason == "timeout"
    assert fleet.witness.wait_for("end", endless).at - started == pytest.approx(1.5, abs=0.7)


@pytest.fixture(scope="module")
def wrong(make_fleet: FleetMaker, new_clock: NewClock) -> Iterator[tuple[Fleet, Clock]]:
    """An instance an hour ahead from its start on, which runs everything, and one that only watches it."""
    clock = new_clock(HOUR)
    with make_fleet(lease=f"{LEASE_SECONDS}s", grace=f"{GRACE_SECONDS}s") as fleet:
        watching = fleet.start("watching", slots=1)
        fleet.client.store.instances.set_draining("watching", True)
        fleet.start("wrong", environ=clock.environ)
        assert watching.process.poll() is None
        yield fleet, clock


def test_an_instance_whose_clock_is_an_hour_off_starts_nothing_early_or_late_and_loses_no_lease(
    wrong: tuple[Fleet, Clock], figure: Figures
) -> None:
    fleet, clock = wrong
    before = fleet.client.store.instances.live()
    logged = fleet.instances[1].log()[0]["time"] / 1000
    assert logged - dt.datetime.now(dt.UTC).timestamp() == pytest.approx(HOUR, abs=60), "the shim is in force"
    steady = fleet.client.enqueue("again", {"seconds": 14.0}).id
    fleet.witness.wait_for("start", steady)
    check_round(fleet, "an hour ahead from the start", figure)
    clock.set(-HOUR)
    set_at = boottime()
    check_round(fleet, "two hours back while it runs", figure)
    patience = LEASE_SECONDS + GRACE_SECONDS + 2 * POLL_SECONDS
    until(lambda: boottime() - set_at > patience, what="time in which a lease could end")
    assert identities(fleet.client.store.instances.live()) == identities(before)
    lost = sum(len(called_lost(instance)) for instance in fleet.instances)
    figure("F19", "an instance's clock set: leases that ended", lost, "", exactly=0)
    (task,) = fleet.ended(steady)
    assert (task.status, task.attempt) == ("completed", 1)


def test_a_client_whose_clock_is_an_hour_off_makes_no_task_early_or_late(
    wrong: tuple[Fleet, Clock], new_clock: NewClock, figure: Figures
) -> None:
    fleet, _ = wrong
    at = fleet.client.store.now() + 8 * SECOND  # four commands have to start on a busy machine

    def enqueue(offset: float, *words: str) -> str:
        command = [*SLOTSCHED, "enqueue", "tick", *words]
        state = str(fleet.folder / f"state-cli{offset}")
        environment = fleet.environment(**new_clock(offset).environ, SLOTSCHED_STATE_DIR=state)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    offsets = (HOUR, -HOUR)
    with ThreadPoolExecutor(4) as side_by_side:
        moments = list(side_by_side.map(lambda offset: enqueue(offset, "--at", at.isoformat()), offsets))
        spans = list(side_by_side.map(lambda offset: enqueue(offset, "--in", "2s"), offsets))
    tasks = fleet.ended(*moments, *spans)
    assert [abs(task.due_at - at) < SECOND / 100 for task in tasks[:2]] == [True, True], "the moment that was asked for"
    assert [1 <= (task.due_at - task.created_at) / SECOND <= 2.1 for task in tasks[2:]] == [True, True]
    figure("F19", "clients an hour off, both ways: early starts", len(early(tasks)), "", exactly=0)
    latest = max(map(lateness, tasks))
    figure("F19", "clients an hour off, both ways: latest start", latest, at_most=LATEST_START_SECONDS)


def test_a_person_whose_clock_is_a_year_ahead_prunes_by_the_stores(fleet: Fleet, new_clock: NewClock) -> None:
    yesterday = fleet.client.store.now() - dt.timedelta(days=1)
    log = Path(fleet.settings["log_store"]) / f"{yesterday:%Y/%m/%d}" / ("0" * 24) / "1.ndjson.gz"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"")

    def prune(*words: str) -> str:
        environment = fleet.environment(**new_clock(366 * 24 * HOUR).environ)
        command = [*SLOTSCHED, "db", "prune", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert prune().startswith("0 tasks and 0 logs deleted")
    assert log.exists()
    assert prune("--older-than", "1s").startswith("0 tasks and 1 logs deleted")
    assert not log.exists()


# --- the primary's clock ----------------------------------------------------------------------------


def step_the_primary(
    make_fleet: FleetMaker, new_clock: NewClock, folder: Path, figure: Figures, *, members: int, lease: float
) -> None:
    """Two minutes forward, four back, two forward: each for longer than a lease needs to end."""
    clocks = [new_clock(0.0) for _ in range(members)]
    environ = {number: clock.environ for number, clock in enumerate(clocks)}
    patience = lease + GRACE_SECONDS + 2 * POLL_SECONDS
    with (
        ReplicaSet(folder, members, election_seconds=2.0, environ=environ) as replica_set,
        make_fleet(mongodb_uri=replica_set.uri, lease=f"{lease}s", grace=f"{GRACE_SECONDS}s") as fleet,
    ):
        fleet.start("left")
        fleet.start("right")
        before = fleet.client.store.instances.live()
        steady = fleet.client.enqueue("again", {"seconds": 2 * patience + 2}).id
        fleet.witness.wait_for("start", steady)
        due = []
        for offset, during in ((2 * MINUTE, patience), (-2 * MINUTE, patience), (0.0, 0.0)):
            primary = replica_set.primary()
            clocks[primary.number].set(offset)
            begun = boottime()
            shown = primary.hello()
            assert shown is not None
            ahead = shown["localTime"].timestamp() - dt.datetime.now(dt.UTC).timestamp()
            assert ahead == pytest.approx(offset, abs=5), "the shim is in force"
            due.append(fleet.client.enqueue("tick", in_=1.0).id)  # may be early or late, and must come
            (at_once,) = fleet.ended(fleet.client.enqueue("tick").id)
            assert at_once.status == "completed"
            until(lambda begun=begun, during=during: boottime() - begun > during, seconds=during + 5)
        ended = fleet.ended(steady, *due, seconds=150)
        assert [(task.status, task.attempt) for task in ended] == [("completed", 1)] * 4
        assert identities(fleet.client.store.instances.live()) == identities(before)
        assert not fleet.client.store.tasks.find(TaskFilter(reason="lost"), 10)
        lost = sum(len(called_lost(instance)) for instance in fleet.instances)
        figure("F19", f"the clock of a primary of {members} set by minutes: leases that ended", lost, "", exactly=0)


def test_a_primary_whose_clock_is_set_by_minutes_ends_no_lease(
    make_fleet: FleetMaker, new_clock: NewClock, tmp_path: Path, figure: Figures
) -> None:
    step_the_primary(make_fleet, new_clock, tmp_path / "set", figure, members=1, lease=2.0)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_primary_of_three_whose_clock_is_set_by_minutes_ends_no_lease(
    make_fleet: FleetMaker, new_clock: NewClock, tmp_path: Path, figure: Figures
) -> None:
    step_the_primary(make_fleet, new_clock, tmp_path / "set", figure, members=3, lease=10.0)
