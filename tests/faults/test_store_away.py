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

AWAY_SECONDS = 12.0  # two and more renewals of the default lease
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


@pytest.fixture
def proxy(mongod: Mongod) -> Iterator[CountingProxy]:
    made = CountingProxy(mongod.port)
    made.start()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("how", "begin"),
    [
        pytest.param("closes every connection", CountingProxy.hang_up, id="hangs up"),
        pytest.param("never answers", CountingProxy.stall, id="is silent"),
    ],
)
def test_an_instance_asks_a_store_that_is_away_at_most_once_a_second_and_finds_it_again_unaided(
    how: str, begin: Callable[[CountingProxy], None], make_fleet: FleetMaker, proxy: CountingProxy, figure: Figures
) -> None:
    with make_fleet(mongodb_uri=proxy.uri, lease="30s", grace="5s") as fleet:
        instance = fleet.start("alone")
        task = fleet.client.enqueue("talker", {"lines": 10_000, "pause": 0.05}).id  # its log is to be shipped, too
        fleet.witness.wait_for("start", task)
        fleet.client.close()  # so that only the instance is left to be counted
        del fleet.__dict__["client"]

        def said(words: str) -> bool:
            return any(words in line["msg"] for line in instance.log())

        with proxy.away(begin):
            until(lambda: said("does not answer"), what="the loop to notice")
            begun = time.monotonic()
            until(lambda: time.monotonic() - begun > AWAY_SECONDS, seconds=AWAY_SECONDS + 5)
            figure("F07", f"a store that {how}: tries by one instance", proxy.rate(begun), "/s", at_most=1.0)
        healed = time.monotonic()
        until(lambda: said("answers again"), seconds=30, what="the store to be found again")
        figure("F07", f"a store that {how}: found again after", time.monotonic() - healed, at_most=16.0)
        assert fleet.client.get(task).status == "running"
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
    make_fleet: FleetMaker, proxy: CountingProxy, figure: Figures
) -> None:
    with make_fleet(mongodb_uri=proxy.uri, lease="30s", grace="5s") as fleet:
        fleet.start("left")
        fleet.start("right")
        begun = time.monotonic()
        live_through(fleet, lambda: proxy.away(CountingProxy.hang_up), figure, lease=30.0, away=OUTAGE_SECONDS)
        tries = proxy.rate(begun) / len(fleet.instances)
        figure("F07", "ten minutes: tries by one instance", tries, "/s", at_most=1.0)
