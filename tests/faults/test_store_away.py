"""F07: the store is away for long. How often it is asked meanwhile, and ten minutes of it at the default lease.

What happens to tasks in shorter outages is in the acceptance tests of outages, and without a majority in those of the
replica set.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from fault_proxy import FaultProxy, Streams
from figures import Figures
from fleet import FleetMaker, until
from outage_lab import live_through
from replica_set import ReplicaSet

from slotsched.embedded import Mongod

UNDER_WAY_SECONDS = 5.5  # calls that others had begun before the loop noticed: each still waits for its timeout
AWAY_SECONDS = 12.0  # two renewals of the default lease; a try and a rest of an instance that starts
OUTAGE_SECONDS = 600.0


class CountingProxy(FaultProxy):
    """Remembers when somebody connected. In an outage every try of a driver is a connection: none comes further."""

    def __init__(self, port: int) -> None:
        super().__init__(f"tcp://127.0.0.1:{port}")
        self.connected: list[float] = []

    @property
    def uri(self) -> str:
        return self.endpoint.replace("http:", "mongodb:") + "/?directConnection=true"

    def hang_up(self) -> None:
        """Close every connection as soon as it is there; unlike a refused one, it can be counted."""

        async def handle(_client: Streams) -> None:
            await asyncio.sleep(0)

        self._change(handle)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected.append(time.monotonic())
        await super()._accept(reader, writer)

    @contextmanager
    def away(self, begin: Callable[[CountingProxy], None]) -> Iterator[None]:
        begin(self)
        try:
            yield
        finally:
            self.heal()

    def rate(self, since: float) -> float:
        """Connections a second from then on."""
        return sum(at > since for at in self.connected) / (time.monotonic() - since)


@contextmanager
def counting_proxy(mongod: Mongod) -> Iterator[CountingProxy]:
    made = CountingProxy(mongod.port)
    made.start()
    try:
        yield made
    finally:
        made.close()


def wait(seconds: float) -> None:
    begun = time.monotonic()
    until(lambda: time.monotonic() - begun > seconds, seconds=seconds + 5)


def test_instances_ask_a_store_that_is_away_at_most_once_a_second_and_find_it_again_unaided(
    make_fleet: FleetMaker, mongod: Mongod, figure: Figures
) -> None:
    """For two of them every connection is closed at once, one of these is started meanwhile; one is never answered."""
    ways = ("closes every connection", "never answers")
    with (
        counting_proxy(mongod) as first,
        counting_proxy(mongod) as second,
        counting_proxy(mongod) as third,
        make_fleet(lease="30s", grace="5s") as fleet,
    ):
        proxies = dict(zip(ways, (first, second), strict=True))
        instances = {way: fleet.start(way.split()[0], slots=1, mongodb_uri=proxies[way].uri) for way in ways}
        tasks = [fleet.client.enqueue("talker", {"lines": 10_000, "pause": 0.05}).id for _ in ways]
        for task in tasks:
            fleet.witness.wait_for("start", task)  # their logs are to be shipped, too

        def all_said(words: str) -> bool:
            return all(any(words in line["msg"] for line in one.log()) for one in instances.values())

        hang_up, stall = CountingProxy.hang_up, CountingProxy.stall
        with first.away(hang_up), second.away(stall), third.away(hang_up):
            late = fleet.start("late", wait=False, mongodb_uri=third.uri)
            until(lambda: all_said("does not answer"), what="the loops to notice")
            wait(UNDER_WAY_SECONDS)
            begun = time.monotonic()
            wait(AWAY_SECONDS)
            rates = {way: proxy.rate(begun) for way, proxy in proxies.items()}
            rates["closes every connection of an instance that starts"] = third.rate(begun)
        healed = time.monotonic()
        until(lambda: all_said("answers again"), seconds=30, what="the store to be found again")
        figure("F07", "a store that was away is found again after", time.monotonic() - healed, at_most=16.0)
        until(lambda: any(line["msg"] == "up" for line in late.log()), seconds=30, what="the late one to be up")
        for way, rate in rates.items():
            figure("F07", f"a store that {way}: tries by one instance", rate, "/s", at_most=1.0)
        assert {fleet.client.get(task).status for task in tasks} == {"running"}
        for task in tasks:
            fleet.client.cancel(task)


def frozen(store: ReplicaSet) -> AbstractContextManager[None]:
    return store.frozen()


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_ten_minutes_with_every_member_frozen_at_the_default_lease(
    make_fleet: FleetMaker, replica_set: ReplicaSet, figure: Figures
) -> None:
    with make_fleet(mongodb_uri=replica_set.uri, lease="30s", grace="5s") as fleet:
        fleet.start("left")
        fleet.start("right")
        recovery = 2 * replica_set.election_seconds
        live_through(fleet, lambda: frozen(replica_set), figure, lease=30.0, away=OUTAGE_SECONDS, recovery=recovery)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_ten_minutes_in_which_every_connection_is_closed_at_the_default_lease(
    make_fleet: FleetMaker, mongod: Mongod, figure: Figures
) -> None:
    with counting_proxy(mongod) as proxy, make_fleet(mongodb_uri=proxy.uri, lease="30s", grace="5s") as fleet:
        fleet.start("left")
        fleet.start("right")
        begun = time.monotonic()
        live_through(fleet, lambda: proxy.away(CountingProxy.hang_up), figure, lease=30.0, away=OUTAGE_SECONDS)
        tries = proxy.rate(begun) / len(fleet.instances)
        figure("F07", "ten minutes: tries by one instance", tries, "/s", at_most=1.0)
