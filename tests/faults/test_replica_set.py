"""F06, and F07 without a majority: a primary that is killed, steps down or freezes under a fleet at work.

Nothing that was acknowledged is lost and nothing runs twice, because every claim and every enqueue is acknowledged by
a majority. The last test takes that away and shows that the checker then finds what was lost and doubled.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from checker import Evidence, Verdict, all_tasks, judge
from figures import Figures
from fleet import Fleet, FleetMaker, Mark, Witness, boottime, until
from outage_lab import live_through
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from replica_set import Member, ReplicaSet

from slotsched.errors import StoreUnreachable
from slotsched.model import TERMINAL, InstanceRef, Status, TaskRequest
from slotsched.store import Store, TaskFilter, connect

LEASE_SECONDS = 4.0
MOST_AFTER_ELECTION = 5.0
FEED_PAUSE_SECONDS = 0.05
TASK_SECONDS = 0.1


class Feeder(threading.Thread):
    """Enqueues short tasks one after the other, whatever happens; remembers which were acknowledged, and when sent."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(name="feeder", daemon=True)
        self._client = fleet.client
        self._request = fleet.client.request("tick", {"seconds": TASK_SECONDS})
        self._over = threading.Event()
        self.sent: dict[str, float] = {}
        self.refused = 0

    def run(self) -> None:
        while not self._over.wait(FEED_PAUSE_SECONDS):
            sent = boottime()
            try:
                self.sent[self._client.submit(self._request).id] = sent
            except StoreUnreachable:
                self.refused += 1

    def __enter__(self) -> Feeder:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(30)


@pytest.fixture(scope="module")
def working(make_fleet: FleetMaker, replica_set: ReplicaSet) -> Iterator[Fleet]:
    """Two instances on the set."""
    with make_fleet(mongodb_uri=replica_set.uri, lease=f"{LEASE_SECONDS}s") as fleet:
        fleet.start("left")
        fleet.start("right")
        yield fleet


def starts_of(fleet: Fleet, feeder: Feeder, since: float = 0.0) -> list[Mark]:
    """Starts of tasks that were sent after `since`."""
    return [mark for mark in fleet.witness.marks("start") if feeder.sent.get(mark.task, 0.0) > since]


def wait_for_starts(fleet: Fleet, feeder: Feeder, count: int, since: float = 0.0) -> list[Mark]:
    return until(
        lambda: found if len(found := starts_of(fleet, feeder, since)) >= count else [],
        seconds=40,
        what=f"{count} starts",
    )


def verdict_of(fleet: Fleet, feeder: Feeder) -> Verdict:
    """Once everything in the store has ended; also what was sent without an answer must not have run twice."""

    def open_tasks() -> int:
        return len(fleet.client.store.tasks.find(TaskFilter(status=frozenset(set(Status) - TERMINAL)), 1000))

    until(lambda: not open_tasks(), seconds=60, what="all tasks to end")
    tasks = all_tasks(fleet)
    assert {(tasks[one].status, len(tasks[one].attempts)) for one in feeder.sent if one in tasks} == {("completed", 1)}
    return judge(Evidence(acknowledged=list(feeder.sent), tasks=tasks, marks=fleet.witness.marks()))


def hold_to_account(figure: Figures, name: str, verdict: Verdict) -> None:
    figure("F06", f"{name}: tasks lost", len(verdict.lost), "", exactly=0)
    figure("F06", f"{name}: tasks doubled", len(verdict.doubled), "", exactly=0)
    assert verdict.unended == []


def gone_and_back(
    fleet: Fleet, replica_set: ReplicaSet, name: str, fault: Callable[[Member], None], figure: Figures
) -> None:
    """Take the primary away under a stream of tasks, wait for claims under the next one, bring it back, and judge."""
    primary = replica_set.primary()
    try:
        with Feeder(fleet) as feeder:
            wait_for_starts(fleet, feeder, 10)
            begun = boottime()
            fault(primary)
            replica_set.wait_for_primary(other_than=primary).write()
            elected = boottime() - begun
            again = min(mark.at for mark in wait_for_starts(fleet, feeder, 1, since=begun)) - begun
            figure("F06", f"{name}: the set takes writes again after", elected)
            figure("F06", f"{name}: claims again after", again, at_most=elected + MOST_AFTER_ELECTION)
            replica_set.heal()  # what comes back while tasks are claimed must not bring back old claims
            wait_for_starts(fleet, feeder, 20, since=begun)
    finally:
        replica_set.heal()
    hold_to_account(figure, name, verdict_of(fleet, feeder))


FAULTS = {
    "kill -9 of the primary": Member.kill,
    "step-down": Member.step_down,
    "freeze of the primary": Member.freeze,
}


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_primary_is_gone_claims_go_on_with_the_next_one_and_no_task_is_lost_or_doubled(
    name: str, working: Fleet, replica_set: ReplicaSet, figure: Figures
) -> None:
    gone_and_back(working, replica_set, name, FAULTS[name], figure)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_the_same_with_the_elections_and_leases_that_are_default(
    make_fleet: FleetMaker, tmp_path: Path, figure: Figures
) -> None:
    with (
        ReplicaSet(tmp_path / "set") as replica_set,
        make_fleet(mongodb_uri=replica_set.uri, lease="30s", grace="5s") as fleet,
    ):
        fleet.start("left")
        fleet.start("right")
        for name, fault in FAULTS.items():
            gone_and_back(fleet, replica_set, f"{name}, default elections and leases", fault, figure)


def test_with_a_secondary_frozen_claims_go_on_as_before(
    working: Fleet, replica_set: ReplicaSet, figure: Figures
) -> None:
    name = "freeze of a secondary"
    with Feeder(working) as feeder:
        wait_for_starts(working, feeder, 5)
        with replica_set.frozen(replica_set.leaf()):
            begun = boottime()
            wait_for_starts(working, feeder, 20, since=begun)
            until(lambda: boottime() - begun > replica_set.election_seconds + 1, what="it to be missed")
        moments = sorted(mark.at for mark in starts_of(working, feeder))
    gap = max(later - earlier for earlier, later in pairwise(moments))
    figure("F06", f"{name}: longest time without a start", gap, at_most=MOST_AFTER_ELECTION)
    hold_to_account(figure, name, verdict_of(working, feeder))


def without_a_majority(replica_set: ReplicaSet) -> contextlib.AbstractContextManager[None]:
    return replica_set.frozen(*replica_set.secondaries())


def test_without_a_majority_for_one_and_a_half_leases_nothing_starts_and_nobody_is_called_lost(
    working: Fleet, replica_set: ReplicaSet, figure: Figures
) -> None:
    live_through(
        working,
        lambda: without_a_majority(replica_set),
        figure,
        lease=LEASE_SECONDS,
        away=1.5 * LEASE_SECONDS,
        recovery=2 * replica_set.election_seconds,
    )


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_without_a_majority_for_60_seconds_at_the_default_lease(
    make_fleet: FleetMaker, replica_set: ReplicaSet, figure: Figures
) -> None:
    with make_fleet(mongodb_uri=replica_set.uri, lease="30s", grace="5s") as fleet:
        fleet.start("left")
        fleet.start("right")
        live_through(
            fleet,
            lambda: without_a_majority(replica_set),
            figure,
            lease=30.0,
            away=60.0,
            recovery=2 * replica_set.election_seconds,
        )


# --- the negative control ---------------------------------------------------------------------------


@dataclass
class Side:
    """One way of writing: a store that writes with `concern`, whatever it says itself, on a database of its own.

    With 1 it also reads what a majority may not hold: else the claim's majority read would still keep it from harm.
    """

    concern: str | int
    store: Store
    database: str
    witness: Witness
    acknowledged: list[str] = field(default_factory=list)

    def enqueue(self, request: TaskRequest) -> None:
        with contextlib.suppress(StoreUnreachable):
            self.acknowledged.append(self.store.tasks.enqueue(request).id)

    def run_first(self, name: str) -> None:
        """Claim the first task as an instance would, and let its script begin if the claim was acknowledged."""
        with contextlib.suppress(StoreUnreachable):
            for task in self.store.queue.claim(
                [self.acknowledged[0]], secrets.token_hex(8), InstanceRef(id=name, name=name)
            ):
                self.witness.write(
                    Mark("start", task.id, task.attempt, task.fence, pid=1, slots=1, instance=name, at=boottime())
                )

    def verdict(self) -> Verdict:
        tasks = {task.id: task for task in self.store.tasks.find(TaskFilter(), 1000)}
        return judge(Evidence(acknowledged=self.acknowledged, tasks=tasks, marks=self.witness.marks()))


@pytest.fixture
def sides(
    working: Fleet, replica_set: ReplicaSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Side]]:
    made = []
    for concern in (1, "majority"):
        name = f"{working.settings['database']}_{concern}"
        with monkeypatch.context() as patch:
            write, read = WriteConcern(w=concern), ReadConcern("majority" if concern == "majority" else "local")
            patch.setattr("slotsched.store.connection.WriteConcern", lambda write=write, **_: write)
            patch.setattr("slotsched.store.connection.ReadConcern", lambda _level, read=read: read)
            store = connect(replica_set.uri, name, timeout=1.5)
        made.append(Side(concern, store, name, Witness(tmp_path / f"witness-{concern}.ndjson")))
        store.init()
    yield made
    for side in made:
        replica_set.primary().client.drop_database(side.database)
        side.store.close()


def tasks_in(sentences: list[str]) -> int:
    """How many tasks a verdict's sentences are about; each begins with the task's id."""
    return len({sentence[:24] for sentence in sentences})


def test_what_a_primary_without_its_majority_acknowledges_is_lost_and_doubled_with_write_concern_1_and_not_with_ours(
    sides: list[Side], working: Fleet, replica_set: ReplicaSet, figure: Figures
) -> None:
    """The negative control: the same steps, and only the concern decides whether the checker finds something."""
    request = working.client.request("tick")
    for side in sides:
        side.enqueue(request)
    old = replica_set.primary()
    others = replica_set.others(old)
    try:
        for other in others:
            other.kill()  # a frozen one would still find in its sockets what the primary sent
        for side in sides:
            side.enqueue(request)
            side.run_first("cut-off")
        old.freeze()
        for other in others:
            other.restart(wait=False)
        replica_set.wait_for_primary(other_than=old).write()
        for side in sides:
            side.run_first("elected")
    finally:
        replica_set.heal()  # the old primary follows the new one, and gives up what only it had
    found = {side.concern: side.verdict() for side in sides}
    for concern, wanted in ((1, 1), ("majority", 0)):
        control = f"cut-off primary, write concern {concern}"
        figure("F06", f"{control}: lost", tasks_in(found[concern].lost), "", exactly=wanted)
        figure("F06", f"{control}: doubled", tasks_in(found[concern].doubled), "", exactly=wanted)
    assert len(sides[1].witness.starts(sides[1].acknowledged[0])) == 1, "the elected side's claim"
