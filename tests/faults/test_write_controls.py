"""Negative controls: each rule that a race between machines is kept by, taken out, and the harm is seen.

A checker that never fails proves nothing. Every control comes with the same race under the rule, where nothing is
wrong; of the two rules that keep a schedule from firing twice (B4), each alone is enough.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pymongo
import pytest
from bson import ObjectId
from figures import Figures

from slotsched.model import InstanceRef, Limit, Outcome, Overlap, Reason, RetryPolicy, Schedule, Status, TaskRequest
from slotsched.store import Store, Wanted, connect
from slotsched.store.after import Waiters, poke
from slotsched.store.firing import DueSchedule, Firing
from slotsched.store.permits import Permits
from slotsched.store.rounds import _Change

RACERS = 4
DONE = Outcome(reason=Reason.EXIT, exit_code=0)
LIMIT = Limit(scope="job:a", most=3)


@pytest.fixture
def raw(database: Any, mongo_client: pymongo.MongoClient[Any]) -> Any:
    """The database behind the store's back."""
    return mongo_client[database.name]


@pytest.fixture
def stores(database: Any, store: Store) -> Iterator[list[Store]]:
    """Those of four instances."""
    made = [connect(database.uri, database.name, timeout=20.0) for _ in range(RACERS)]
    for one in made:
        one._connection.indexed = True  # what a control took away stays away
    yield made
    for one in made:
        one.close()


def instance(number: int) -> InstanceRef:
    return InstanceRef(id=f"instance-{number}", name=f"big-{number}")


def together(work: Callable[[int, threading.Barrier], Any], racers: int = RACERS) -> list[Any]:
    gate = threading.Barrier(racers, timeout=30)
    with ThreadPoolExecutor(racers) as pool:
        return [one.result(60) for one in [pool.submit(work, number, gate) for number in range(racers)]]


class Unfiltered:
    """A collection whose updates do not ask for these fields."""

    def __init__(self, collection: Any, *fields: str) -> None:
        self._collection, self._fields = collection, fields

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._collection, name)
        if name not in ("update_many", "find_one_and_update"):
            return method

        def without(wanted: dict[str, Any], *args: Any, **more: Any) -> Any:
            return method({field: value for field, value in wanted.items() if field not in self._fields}, *args, **more)

        return without


# --- B4: one fire per schedule and nominal time -----------------------------------------------------
SCHEDULES = 40


def without_revisions(patch: pytest.MonkeyPatch) -> None:
    """Whoever saw a schedule due fires it, whatever became of it since."""
    update = _Change.update

    def blind(self: _Change, now: dt.datetime) -> Any:
        self.wanted = {"_id": self.schedule.name}
        return update(self, now)

    def all_of_them(_: Firing, batch: Sequence[DueSchedule]) -> list[DueSchedule]:
        return list(batch)

    patch.setattr(_Change, "update", blind)
    patch.setattr(Firing, "_unfired", all_of_them)


def without_fire_keys(raw: Any) -> None:
    raw.tasks.drop_index("rounds")
    raw.tasks.create_index([("schedule", 1), ("nominal_at", 1)], name="rounds")


def doubled_fires(raw: Any, stores: list[Store]) -> int:
    """Four instances see the same schedules due, and fire them."""
    nominal = dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(seconds=1)
    times = {"next_at": nominal, "next_nominal_at": nominal, "anchor_at": nominal}
    for number in range(SCHEDULES):
        stores[0].schedules.create(Schedule(name=f"s{number}", job="j", every=3600.0, overlap=Overlap.ALLOW_ALL))
    raw.schedules.update_many({}, {"$set": times})

    def fire(number: int, gate: threading.Barrier) -> None:
        due = stores[number].firing.due()
        gate.wait()
        stores[number].firing.fire(due)

    together(fire)
    fired = Counter((task["schedule"], task["nominal_at"]) for task in raw.tasks.find({}))
    assert len(fired) == SCHEDULES, "each of them fired"
    return sum(count - 1 for count in fired.values())


@pytest.mark.parametrize("keys", [True, False], ids=["fire keys", "no fire keys"])
@pytest.mark.parametrize("revisions", [True, False], ids=["revisions", "no revisions"])
def test_fires_are_doubled_only_without_revisions_and_without_fire_keys(
    raw: Any, stores: list[Store], monkeypatch: pytest.MonkeyPatch, figure: Figures, keys: bool, revisions: bool
) -> None:
    if not revisions:
        without_revisions(monkeypatch)
    if not keys:
        without_fire_keys(raw)
    doubled = doubled_fires(raw, stores)
    if keys or revisions:
        left = " and ".join(name for name, there in (("fire keys", keys), ("revisions", revisions)) if there)
        figure("B4", f"doubled of {SCHEDULES} fires by 4 racers, with {left}", doubled, "", exactly=0)
    else:
        figure("B4", f"control: doubled of {SCHEDULES} fires by 4 racers, with neither", doubled, "")
        assert doubled > 0


# --- a claim takes what is pending ------------------------------------------------------------------
def doubled_claims(stores: list[Store]) -> int:
    """Four instances claim, each in its turn, what all of them saw in the queue; how often a task was won again."""
    turn = threading.Lock()
    ids = [one.id for one in stores[0].tasks.enqueue_many(TaskRequest(job="a") for _ in range(50))]

    def claim(number: int, gate: threading.Barrier) -> list[str]:
        seen = [one.id for one in stores[number].queue.candidates(stores[number].queue.lanes(), 50)]
        assert sorted(seen) == sorted(ids)
        gate.wait()
        with turn:
            return [task.id for task in stores[number].queue.claim(seen, f"token-{number}", instance(number))]

    won = Counter(task for tasks in together(claim) for task in tasks)
    return sum(count - 1 for count in won.values())


def test_tasks_are_claimed_twice_only_without_asking_for_pending_ones(
    raw: Any, stores: list[Store], figure: Figures
) -> None:
    figure("F08", "50 tasks claimed by 4 racers: won twice", doubled_claims(stores), "", exactly=0)
    raw.tasks.delete_many({})
    for store in stores:
        store.queue._tasks = Unfiltered(store.queue._tasks, "status")  # type: ignore[assignment]
    doubled = doubled_claims(stores)
    figure("F08", "control: won twice where a claim does not ask for pending tasks", doubled, "")
    assert doubled > 0


# --- the fence --------------------------------------------------------------------------------------
def ends_that_were_not_theirs(owner: Store, other: Store, raw: Any) -> int:
    """A task is called lost and runs elsewhere; then its first owner, who knows nothing of it, records its end.

    How many tasks ended while the attempt that runs them had not.
    """
    retry = RetryPolicy(limit=3, delay=0, on=("lost",))
    ids = [one.id for one in owner.tasks.enqueue_many(TaskRequest(job="a", retry=retry) for _ in range(10))]
    assert len(owner.queue.claim(ids, "first", instance(0))) == 10
    assert other.rescue.take("instance-0") == 10
    assert other.queue.promote() == 10
    assert len(other.queue.claim(ids, "second", instance(1))) == 10
    for task_id in ids:
        owner.queue.finish(task_id, "first", DONE)
    running = raw.tasks.count_documents({"status": "running", "claim.token": "second"})
    return len(ids) - int(running)


def test_a_late_end_is_taken_for_anothers_only_without_the_fence(
    raw: Any, stores: list[Store], figure: Figures
) -> None:
    owner, other = stores[:2]
    figure("F03", "late ends taken for another's attempt", ends_that_were_not_theirs(owner, other, raw), "", exactly=0)
    raw.tasks.delete_many({})
    owner.queue._tasks = Unfiltered(owner.queue._tasks, "claim.token")  # type: ignore[assignment]
    wrong = ends_that_were_not_theirs(owner, other, raw)
    figure("F03", "control: late ends taken for another's attempt, without the fence", wrong, "")
    assert wrong > 0


def taken_from_the_living(owner: Store, rescuer: Store, raw: Any, *, fence: bool) -> int:
    """A rescuer decides by a nonce that the owner replaces before it acts; how many tasks run twice then."""
    raw.instances.insert_one({"_id": "instance-0", "live": True, "nonce": "old"})
    retry = RetryPolicy(limit=3, delay=0, on=("lost",))
    ids = [one.id for one in owner.tasks.enqueue_many(TaskRequest(job="a", retry=retry) for _ in range(10))]
    owner.queue.claim(ids, "first", instance(0))
    [(_, nonce)] = [sight for sight in rescuer.rescue.seen(["instance-0"]).values() if sight is not None]
    raw.instances.update_one({"_id": "instance-0"}, {"$set": {"nonce": "renewed"}})
    if rescuer.rescue.fence("instance-0", nonce) or not fence:
        rescuer.rescue.take("instance-0")
    rescuer.queue.promote()
    again = rescuer.queue.claim(ids, "second", instance(1))
    return len(again)  # while the first owner, who is alive, runs them


def test_tasks_are_taken_from_the_living_only_without_fencing_first(
    raw: Any, stores: list[Store], monkeypatch: pytest.MonkeyPatch, figure: Figures
) -> None:
    owner, rescuer = stores[:2]
    doubled = taken_from_the_living(owner, rescuer, raw, fence=True)
    figure("F03", "tasks of a living instance that run twice", doubled, "", exactly=0)
    for name in ("tasks", "instances"):
        raw[name].delete_many({})
    monkeypatch.setattr(rescuer.rescue, "seen", lambda ids: dict.fromkeys(ids, (False, "old")))  # its look aside
    doubled = taken_from_the_living(owner, rescuer, raw, fence=False)
    figure("F03", "control: tasks of a living instance that run twice, without the fence", doubled, "")
    assert doubled > 0


# --- permits ----------------------------------------------------------------------------------------
def most_at_once(raw: Any, stores: list[Store], monkeypatch: pytest.MonkeyPatch) -> int:
    """Four instances see the same permits free, and claim with them; how many tasks run then."""
    ids = [one.id for one in stores[0].tasks.enqueue_many(TaskRequest(job="a") for _ in range(4 * RACERS))]
    look = Permits._held
    gate = threading.Barrier(RACERS, timeout=30)
    first = threading.local()

    def held(self: Permits, permits: Sequence[str]) -> list[str]:
        found = look(self, permits)
        if not getattr(first, "looked", False):
            first.looked = True
            gate.wait()
        return found

    monkeypatch.setattr(Permits, "_held", held)

    def claim(number: int, _: threading.Barrier) -> None:
        mine = [Wanted(id=task, limit=LIMIT) for task in ids[number::RACERS]]
        stores[number].permits.claim(mine, f"token-{number}", instance(number))

    together(claim)
    monkeypatch.setattr(Permits, "_held", look)
    return int(raw.tasks.count_documents({"status": "running"}))


def test_a_limit_is_exceeded_only_where_permits_are_not_unique(
    raw: Any, stores: list[Store], monkeypatch: pytest.MonkeyPatch, figure: Figures
) -> None:
    most = most_at_once(raw, stores, monkeypatch)
    figure("B6", "a limit of 3 and 4 racers: running at once", most, "", at_most=LIMIT.most)
    raw.tasks.delete_many({})
    raw.tasks.drop_index("permits")
    raw.tasks.create_index("permits", name="permits", partialFilterExpression={"permits": {"$exists": True}})
    most = most_at_once(raw, stores, monkeypatch)
    figure("B6", "control: a limit of 3 running at once where permits are not unique", most, "")
    assert most > LIMIT.most


# --- those who wait ---------------------------------------------------------------------------------
PAIRS = 150


def waiting_for_ever(raw: Any, stores: list[Store]) -> int:
    """Parents end and their followers are told, while children are put in behind them; how many nobody will tell."""
    parents = [one.id for one in stores[0].tasks.enqueue_many(TaskRequest(job="p") for _ in range(PAIRS))]
    stores[0].queue.claim(parents, "token", instance(0))
    turns = [threading.Barrier(2, timeout=30) for _ in parents]

    def end(_: int) -> None:
        for parent, turn in zip(parents, turns, strict=True):
            turn.wait()
            stores[0].queue.finish(parent, "token", DONE)
            tell(stores[1])

    def follow(_: int) -> None:
        for parent, turn in zip(parents, turns, strict=True):
            turn.wait()
            stores[2].tasks.enqueue(TaskRequest(job="c", parents=(parent,)))

    together(lambda number, _: (end, follow)[number](number), racers=2)
    tell(stores[1])
    for _ in range(3):
        stores[1].resolve.strays()
    waiting = [ObjectId(task["after"][0]) for task in raw.tasks.find({"status": "waiting"})]
    assert raw.tasks.count_documents({"_id": {"$in": waiting}, "status": Status.COMPLETED.value}) == len(waiting)
    return len(waiting)


def tell(store: Store) -> None:
    while ended := store.resolve.ended():
        store.resolve.tell(ended)
        store.resolve.done(ended)


def test_children_wait_for_ever_only_without_a_transaction(
    raw: Any, stores: list[Store], monkeypatch: pytest.MonkeyPatch, figure: Figures
) -> None:
    figure("B3", f"of {PAIRS} children, waiting for ever", waiting_for_ever(raw, stores), "", exactly=0)

    def one_by_one(self: Waiters, documents: Sequence[dict[str, Any]]) -> bool:
        """The mark, then the child: two writes that anything may come between."""
        poke(self._tasks, [parent for document in documents for parent in document["after"]], None)  # type: ignore[arg-type]
        self._tasks.insert_many(documents)
        return True

    monkeypatch.setattr(Waiters, "_send", one_by_one)
    stuck = 0
    for _ in range(5):
        raw.tasks.delete_many({})
        stuck = waiting_for_ever(raw, stores)
        if stuck:
            break
    figure("B3", f"control: of {PAIRS} children, waiting for ever without a transaction", stuck, "")
    assert stuck > 0
