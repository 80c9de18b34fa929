"""MongoDB away for a while: instances carry on by themselves, nobody is called lost, and what ended is told later.

The figures of the default lease (30 s: away for 45 s, for 10 minutes) are scaled down to the tests' leases: one and
a half of it, and twenty.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_proxy import fault_proxy
from figures import Figures
from fleet import FleetMaker, boottime, processes_of, until
from outage_lab import Outage, called_lost, identities, live_through, seconds

from slotsched.embedded import Mongod

SHORT_LEASE_SECONDS = 3.0


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


def test_a_store_that_does_not_answer_for_one_and_a_half_leases(
    make_fleet: FleetMaker, own_mongod: Mongod, figure: Figures
) -> None:
    with make_fleet(mongodb_uri=own_mongod.uri, lease="3s") as fleet:
        fleet.start("left")
        fleet.start("right")
        live_through(fleet, lambda: frozen(own_mongod), figure, lease=3.0, away=4.5)


@pytest.mark.chaos
def test_a_store_that_refuses_connections_for_one_and_a_half_leases(
    make_fleet: FleetMaker, own_mongod: Mongod, figure: Figures
) -> None:
    with (
        behind_a_proxy(own_mongod) as (uri, refused),
        make_fleet(mongodb_uri=uri, lease="3s") as fleet,
    ):
        fleet.start("left")
        fleet.start("right")
        live_through(fleet, refused, figure, lease=3.0, away=4.5)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_store_that_does_not_answer_for_45_seconds_at_the_default_lease(
    make_fleet: FleetMaker, own_mongod: Mongod, figure: Figures
) -> None:
    with make_fleet(mongodb_uri=own_mongod.uri, lease="30s") as fleet:
        fleet.start("left")
        fleet.start("right")
        live_through(fleet, lambda: frozen(own_mongod), figure, lease=30.0, away=45.0)


def test_a_store_that_refuses_connections_for_ten_leases_costs_no_task_and_no_instance(
    make_fleet: FleetMaker, own_mongod: Mongod
) -> None:
    """And an instance that is started meanwhile waits for it."""
    with (
        behind_a_proxy(own_mongod) as (uri, refused),
        make_fleet(mongodb_uri=uri, lease=f"{SHORT_LEASE_SECONDS}s", grace="3s") as fleet,
    ):
        left, right = fleet.start("left"), fleet.start("right")
        before = fleet.client.store.instances.live()
        steady = fleet.client.enqueue("talker", {"lines": int(50 * 10.5 * SHORT_LEASE_SECONDS), "pause": 0.02}).id
        short = fleet.client.enqueue("work", {"seconds": 5, "code": 3}).id
        for task in (steady, short):
            fleet.witness.wait_for("start", task)
        with refused():
            gone = boottime()
            late = fleet.start("late", wait=False)
            fleet.witness.wait_for("end", short)
            until(lambda: boottime() - gone >= 10 * SHORT_LEASE_SECONDS, seconds=60)
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
