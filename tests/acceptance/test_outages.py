"""MongoDB away for a while: instances carry on by themselves, nobody is called lost, and what ended is told later.

The figures of the default lease (30 s: away for 45 s, for 10 minutes) are scaled down to the tests' leases: one and
a half of it, and twenty.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from fault_proxy import fault_proxy
from fleet import Fleet, FleetMaker, InstanceProcess, boottime, processes_of, until

from slotsched.embedded import Mongod
from slotsched.model import Instance, Task

LOCAL_SHARE = 0.8
GRACE_SECONDS = 1.0
SHORT_LEASE_SECONDS = 1.5
# Until the lease thread's next renewal is answered, and the loop has looked.
BACK_SHARE_OF_LEASE, BACK_SECONDS = 0.5, 1.5

Record = Callable[[str, object], None]
Outage = Callable[[], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def own_mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """One that no other test uses, so it may be stopped."""
    server = Mongod(tmp_path_factory.mktemp("own-mongod"), tied=True)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def frozen(server: Mongod) -> Iterator[None]:
    """Connections stay open and nobody answers."""
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def behind_a_proxy(server: Mongod) -> Iterator[tuple[str, Outage]]:
    """A URI that leads through a proxy, and an outage in which connections are closed and refused."""
    with fault_proxy(f"tcp://127.0.0.1:{server.port}") as proxy:

        @contextlib.contextmanager
        def refused() -> Iterator[None]:
            proxy.refuse()
            try:
                yield
            finally:
                proxy.heal()

        yield proxy.endpoint.replace("http:", "mongodb:") + "/?directConnection=true", refused


def seconds(task: Task) -> float:
    """How long its last attempt took, as the store shows it."""
    assert task.started_at is not None
    assert task.ended_at is not None
    return (task.ended_at - task.started_at) / dt.timedelta(seconds=1)


def identities(instances: list[Instance]) -> set[tuple[str, int]]:
    return {(one.id, one.incarnation) for one in instances}


def called_lost(instance: InstanceProcess) -> list[str]:
    """What an instance says when it takes another one, or is taken, for dead."""
    return [line["msg"] for line in instance.log() if "dead" in line["msg"] or "up again" in line["msg"]]


def live_through(fleet: Fleet, outage: Outage, record: Record, *, lease: float, away: float) -> None:
    """Start one task of every kind, take the store away, and see each of them through."""
    enqueue = fleet.client.enqueue
    before = fleet.client.store.instances.live()
    steady = enqueue("talker", {"lines": int((away + lease) / 0.02), "pause": 0.02}).id
    fine = enqueue("work", {"seconds": 1.2}).id
    bad = enqueue("work", {"seconds": 1.2, "code": 3}).id
    endless = enqueue("work", {"seconds": 3600}, max_time=2).id
    again = enqueue("again", {"seconds": lease + 1.0}).id
    pids = {task: fleet.witness.wait_for("start", task).pid for task in (steady, fine, bad, endless, again)}

    with outage():
        gone = boottime()
        for task in (fine, bad):
            assert fleet.witness.wait_for("end", task).at > gone, "it was to end while the store is away"
        until(lambda: not processes_of(endless), what="max time to be kept without a store")
        assert boottime() - fleet.witness.starts(endless)[0].at < 2.0 + GRACE_SECONDS + 1.0
        # Another attempt may follow this one, so it must not outlive the local deadline.
        until(lambda: not processes_of(again), seconds=lease + 5, what="the task with a retry to die")
        record("task with a retry dead after", boottime() - gone)
        assert boottime() - gone < LOCAL_SHARE * lease + 1.0
        until(lambda: boottime() - gone >= away, seconds=away + 5)
        assert processes_of(steady), "a task without a retry lives on"
    back = boottime()

    probe = enqueue("work").id
    started = fleet.witness.wait_for("start", probe).at - back
    record("next start after", started)
    assert started < BACK_SHARE_OF_LEASE * lease + BACK_SECONDS
    ended = {task.id: task for task in fleet.client.wait([steady, fine, bad, endless, again], lease + 60)}
    verdicts = {task: (t.status, t.reason, t.exit_code) for task, t in ended.items()}
    assert verdicts[steady] == ("completed", "exit", 0)
    assert verdicts[fine] == ("completed", "exit", 0)
    assert verdicts[bad] == ("failed", "exit", 3)
    assert verdicts[endless][:2] == ("failed", "timeout")
    assert verdicts[again] == ("completed", "exit", 0)
    assert 1.1 < seconds(ended[fine]) < 2.2, "as long as it ran, not as long as nobody could be told"
    assert 1.1 < seconds(ended[bad]) < 2.2
    assert [attempt.reason for attempt in ended[again].attempts] == ["lost", "exit"]
    assert {task: len(fleet.witness.starts(task)) for task in pids} == {**dict.fromkeys(pids, 1), again: 2}
    assert fleet.witness.starts(again)[1].at > back
    assert identities(fleet.client.store.instances.live()) == identities(before)
    assert [called_lost(instance) for instance in fleet.instances] == [[], []]


def test_a_store_that_does_not_answer_for_one_and_a_half_leases(
    make_fleet: FleetMaker, own_mongod: Mongod, record_property: Record
) -> None:
    with make_fleet(mongodb_uri=own_mongod.uri, lease="3s") as fleet:
        fleet.start("left")
        fleet.start("right")
        live_through(fleet, lambda: frozen(own_mongod), record_property, lease=3.0, away=4.5)


@pytest.mark.chaos
def test_a_store_that_refuses_connections_for_one_and_a_half_leases(
    make_fleet: FleetMaker, own_mongod: Mongod, record_property: Record
) -> None:
    with (
        behind_a_proxy(own_mongod) as (uri, refused),
        make_fleet(mongodb_uri=uri, lease="3s") as fleet,
    ):
        fleet.start("left")
        fleet.start("right")
        live_through(fleet, refused, record_property, lease=3.0, away=4.5)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_store_that_does_not_answer_for_45_seconds_at_the_default_lease(
    make_fleet: FleetMaker, own_mongod: Mongod, record_property: Record
) -> None:
    with make_fleet(mongodb_uri=own_mongod.uri, lease="30s") as fleet:
        fleet.start("left")
        fleet.start("right")
        live_through(fleet, lambda: frozen(own_mongod), record_property, lease=30.0, away=45.0)


def test_a_store_that_refuses_connections_for_twenty_leases_costs_no_task_and_no_instance(
    make_fleet: FleetMaker, own_mongod: Mongod
) -> None:
    """And an instance that is started meanwhile waits for it."""
    with (
        behind_a_proxy(own_mongod) as (uri, refused),
        make_fleet(mongodb_uri=uri, lease=f"{SHORT_LEASE_SECONDS}s", grace="3s") as fleet,
    ):
        left, right = fleet.start("left"), fleet.start("right")
        before = fleet.client.store.instances.live()
        steady = fleet.client.enqueue("talker", {"lines": int(50 * 20.5 * SHORT_LEASE_SECONDS), "pause": 0.02}).id
        short = fleet.client.enqueue("work", {"seconds": 5, "code": 3}).id
        for task in (steady, short):
            fleet.witness.wait_for("start", task)
        with refused():
            gone = boottime()
            late = fleet.start("late", wait=False)
            fleet.witness.wait_for("end", short)
            until(lambda: boottime() - gone >= 20 * SHORT_LEASE_SECONDS, seconds=60)
            assert processes_of(steady)
            assert all(instance.process.poll() is None for instance in (left, right, late))

        ended = {task.id: task for task in fleet.client.wait([steady, short], 30)}
        assert (ended[steady].status, len(ended[steady].attempts)) == ("completed", 1)
        assert (ended[short].status, ended[short].exit_code) == ("failed", 3)
        assert 4.5 < seconds(ended[short]) < 6.5
        until(lambda: len(fleet.client.store.instances.live()) == 3, what="the late instance to be up")
        assert identities(before) <= identities(fleet.client.store.instances.live())
        assert called_lost(left) == called_lost(right) == []
        complaints = [line for line in left.log() if "does not answer" in line["msg"]]
        assert len(complaints) == 1, "an outage is told once, not at every try"


def test_an_instance_told_to_end_while_the_store_is_away_leaves_the_last_word_to_its_next_start(
    make_fleet: FleetMaker, own_mongod: Mongod, tmp_path: Path
) -> None:
    with make_fleet(mongodb_uri=own_mongod.uri, lease="20s") as fleet:
        instance = fleet.start("leaver")
        task = fleet.client.enqueue("work", {"seconds": 1.2, "code": 3}).id
        fleet.witness.wait_for("start", task)
        with frozen(own_mongod):
            instance.signal(signal.SIGTERM)
            fleet.witness.wait_for("end", task)
            assert instance.process.wait(30) == 0
        assert fleet.client.get(task).status == "running"
        fleet.start("leaver")
        ended = fleet.client.wait([task], 10)[0]
        assert (ended.status, ended.reason, ended.exit_code) == ("failed", "exit", 3)
        assert len(fleet.witness.starts(task)) == 1


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGHUP, id="replaced"),
        pytest.param(signal.SIGKILL, id="killed and restarted", marks=pytest.mark.chaos),
    ],
)
def test_a_scheduler_that_comes_back_while_the_store_is_away_keeps_its_tasks_alive(
    make_fleet: FleetMaker, own_mongod: Mongod, how: signal.Signals
) -> None:
    lease = 6.0
    with make_fleet(mongodb_uri=own_mongod.uri, lease=f"{lease}s") as fleet:
        instance = fleet.start("upgraded")
        before = fleet.client.store.instances.live()[0].id
        task = fleet.client.enqueue("talker", {"lines": 400, "pause": 0.02}).id
        fleet.witness.wait_for("start", task)
        with frozen(own_mongod):
            gone = boottime()
            instance.signal(how)
            if how is signal.SIGKILL:
                instance.process.wait(10)
                fleet.start("upgraded", wait=False)
            until(lambda: boottime() - gone > lease)
            assert processes_of(task), "the local deadline is over, and it goes on"

        ended = fleet.client.wait([task], 30)[0]
        assert (ended.status, len(ended.attempts)) == ("completed", 1)
        assert len(fleet.witness.starts(task)) == 1
        assert [one.id for one in fleet.client.store.instances.live()] == [before]
