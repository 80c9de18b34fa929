"""Whoever waits is told how the tasks it waits for ended: once, in time, and whatever crashes on the way."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pymongo
import pytest
from bson import ObjectId
from test_store_plans import Plan, read_plan

from slotsched import errors
from slotsched.model import (
    InstanceRef,
    Outcome,
    Overlap,
    Reason,
    Schedule,
    SeriesMemory,
    Status,
    Task,
    TaskRequest,
)
from slotsched.scheduler import resolving
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.resolving import Resolver
from slotsched.store import Followers, Store, connect
from slotsched.views.explain import Fleet, ended, why

ME = InstanceRef(id="instance-1", name="big-1")
ENDINGS: dict[str, Callable[[Store, str], object]] = {
    "completed": lambda store, task_id: end(store, task_id, Outcome(reason=Reason.EXIT, exit_code=0)),
    "failed": lambda store, task_id: end(store, task_id, Outcome(reason=Reason.EXIT, exit_code=3)),
    "canceled by its job": lambda store, task_id: end(store, task_id, Outcome(reason=Reason.CANCELED_BY_JOB)),
    "canceled": lambda store, task_id: store.tasks.cancel(task_id, "ann"),
    "lost": lambda store, task_id: lose(store, task_id),
    "invalid": lambda store, task_id: store.queue.quarantine(task_id, "at fault"),
}


@pytest.fixture
def raw(database: Any, mongo_client: pymongo.MongoClient[Any]) -> Any:
    """The database behind the store's back."""
    return mongo_client[database.name]


def end(store: Store, task_id: str, outcome: Outcome) -> None:
    assert store.queue.claim([task_id], f"to end {task_id}", ME)
    assert store.queue.finish(task_id, f"to end {task_id}", outcome)


def lose(store: Store, task_id: str) -> None:
    assert store.queue.claim([task_id], f"to lose {task_id}", ME)
    assert store.rescue.take(ME.id) == 1


def parent(store: Store) -> str:
    return store.tasks.enqueue(TaskRequest(job="parent")).id


def child(store: Store, *parents: str, when: str = "success", **fields: Any) -> str:
    return store.tasks.enqueue(TaskRequest(job="child", parents=parents, when=when, **fields)).id


def resolver(store: Store) -> Resolver:
    """The duty on a store, with nothing else of an instance but its clock."""
    turns = iter(range(10**9))
    quiet = SimpleNamespace(warning=lambda *_, **__: None)
    engine = SimpleNamespace(store=store, now=lambda: next(turns) * 1e-9, tick=lambda: None, log=quiet)
    return Resolver(cast(Engine, engine))


def resolve(store: Store) -> int:
    return resolver(store).run_once()


def state(store: Store, task_id: str) -> tuple[Status, Reason | None]:
    task = store.tasks.get(task_id)
    return task.status, task.reason


# --- what follows from what ------------------------------------------------------------------------
@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("when", ["success", "failure", "any"])
def test_a_child_goes_on_or_is_canceled_by_how_its_parent_ended(store: Store, how: str, when: str) -> None:
    first = parent(store)
    second = child(store, first, when=when)
    assert resolve(store) == 0
    assert state(store, second) == (Status.WAITING, None)
    ENDINGS[how](store, first)
    assert resolve(store) == 1
    met = {"success": how == "completed", "failure": how in ("failed", "lost", "invalid"), "any": True}[when]
    assert state(store, second) == ((Status.PENDING, None) if met else (Status.CANCELED, Reason.UPSTREAM))
    assert store.tasks.get(second).after == ()
    assert store.tasks.get(second).parents == (first,)


@pytest.mark.parametrize("how", ENDINGS)
def test_a_parent_that_had_ended_before_is_told_of_in_the_same_way(store: Store, how: str) -> None:
    first = parent(store)
    ENDINGS[how](store, first)
    resolve(store)
    second = child(store, first, when="any")
    assert resolve(store) == 1
    assert state(store, second) == (Status.PENDING, None)


def test_a_child_waits_for_the_last_of_its_parents(store: Store) -> None:
    parents = [parent(store) for _ in range(3)]
    waiting = child(store, *parents)
    for left in (2, 1):
        ENDINGS["completed"](store, parents[left])
        resolve(store)
        assert store.tasks.get(waiting).after == tuple(parents[:left])
    ENDINGS["completed"](store, parents[0])
    resolve(store)
    assert state(store, waiting) == (Status.PENDING, None)


def test_a_child_is_canceled_as_soon_as_one_parent_cannot_satisfy_it(store: Store) -> None:
    parents = [parent(store) for _ in range(3)]
    waiting = child(store, *parents)
    ENDINGS["failed"](store, parents[1])
    resolve(store)
    task = store.tasks.get(waiting)
    assert (task.status, task.reason) == (Status.CANCELED, Reason.UPSTREAM)
    assert task.message == f"{parents[1][-8:]} failed"
    assert task.ended_at is not None
    assert ended(task) == f"canceled: a task it waited for cannot satisfy it any more ({parents[1][-8:]} failed)"


def test_a_retry_that_is_left_keeps_the_children_waiting(store: Store) -> None:
    first = parent(store)
    waiting = child(store, first)
    store.queue.claim([first], "a", ME)
    store.queue.finish(first, "a", Outcome(reason=Reason.EXIT, exit_code=1), retry_in=0.0)
    resolve(store)
    assert state(store, waiting) == (Status.WAITING, None)
    store.queue.promote()
    store.queue.claim([first], "b", ME)
    store.queue.finish(first, "b", Outcome(reason=Reason.EXIT, exit_code=0))
    resolve(store)
    assert state(store, waiting) == (Status.PENDING, None)


def test_a_released_child_is_due_from_then_on_and_its_own_later_time_is_kept(store: Store) -> None:
    first = parent(store)
    due, later = child(store, first, priority=5), child(store, first, due_in=3600)
    before = store.tasks.get(due)
    ENDINGS["completed"](store, first)
    moment = store.now()
    resolve(store)
    task = store.tasks.get(due)
    assert task.due_at >= moment > before.due_at
    assert store.queue.candidates(store.queue.lanes(), 5)[0].rank == task.due_at - dt.timedelta(minutes=50)
    assert state(store, later) == (Status.SCHEDULED, None)


def test_a_canceled_child_takes_its_own_children_with_it(store: Store) -> None:
    chain = [parent(store)]
    for _ in range(30):
        chain.append(child(store, chain[-1]))
    at_the_end = child(store, chain[-1], when="any")
    store.tasks.cancel(chain[0], "ann")
    resolve(store)
    assert {state(store, one) for one in chain[1:]} == {(Status.CANCELED, Reason.UPSTREAM)}
    assert state(store, at_the_end) == (Status.PENDING, None)


def test_a_waiting_task_can_be_canceled(store: Store) -> None:
    first = parent(store)
    second = child(store, first)
    third = child(store, second)
    task = store.tasks.cancel(second, "ann")
    assert (task.status, task.reason) == (Status.CANCELED, Reason.CANCELED)
    resolve(store)
    assert state(store, third) == (Status.CANCELED, Reason.UPSTREAM)
    ENDINGS["completed"](store, first)
    resolve(store)
    assert state(store, second) == (Status.CANCELED, Reason.CANCELED)


def test_what_it_waits_for_is_said(store: Store) -> None:
    first, second = parent(store), parent(store)
    task = store.tasks.get(child(store, first, second))
    parents = store.tasks.get_many([first, second])
    names = f"{first[-8:]} parent (pending), {second[-8:]} parent (pending)"
    assert why(task, Fleet(), store.now(), parents) == f"waits for 2 of 2 tasks: {names} to complete"
    alone = store.tasks.get(child(store, first, when="failure"))
    assert why(alone, Fleet(), store.now(), parents) == f"waits for {first[-8:]} parent (pending) to fail"


def test_the_next_round_is_told_what_the_one_before_left_while_somebody_holds_the_schedule_locked(
    store: Store, raw: Any, mongo_client: pymongo.MongoClient[Any]
) -> None:
    """An instance was killed, or frozen, between booking the end of the first round and its commit."""
    store.schedules.create(Schedule(name="s", job="j", every=3600.0, overlap=Overlap.BUFFER_ALL))
    first, second = store.firing.run_now("s").id, store.firing.run_now("s").id
    end(store, first, Outcome(reason=Reason.EXIT, exit_code=0, state={"cursor": 1}))
    with mongo_client.start_session() as session, session.start_transaction():
        raw.schedules.update_one({"_id": "s"}, {"$set": {"live": []}}, session=session)
        assert resolve(store) == 1
        [claimed] = store.queue.claim([second], "next", ME)
        told = store.schedules.memories(["s"])["s"]
        session.abort_transaction()
    ended = store.tasks.get(first)
    assert told == SeriesMemory(last_completed_at=ended.ended_at, last_started_at=ended.started_at, state={"cursor": 1})
    assert claimed.id == second
    resolve(store)
    assert store.schedules.get("s").memory == told
    assert store.schedules.get("s").live == (second,)


# --- marks -----------------------------------------------------------------------------------------
def test_a_task_that_nobody_waits_for_is_not_written_a_second_time(store: Store, raw: Any) -> None:
    ENDINGS["completed"](store, parent(store))
    store.tasks.cancel(parent(store), "ann")
    assert raw.tasks.count_documents({"resolve": True}) == 0


def test_marks_are_taken_back_once_told(store: Store, raw: Any) -> None:
    first = parent(store)
    child(store, first)
    ENDINGS["completed"](store, first)
    resolve(store)
    assert raw.tasks.count_documents({"resolve": True}) == 0


def test_a_mark_that_came_meanwhile_stays(store: Store) -> None:
    first = parent(store)
    ENDINGS["completed"](store, first)
    child(store, first)
    seen = store.resolve.ended()
    store.resolve.tell(seen)
    late = child(store, first)
    store.resolve.done(seen)
    assert state(store, late) == (Status.WAITING, None)
    assert resolve(store) == 1
    assert state(store, late) == (Status.PENDING, None)


def test_a_parent_stays_until_its_children_were_told(store: Store) -> None:
    first = parent(store)
    waiting = child(store, first)
    ENDINGS["completed"](store, first)
    assert store.tasks.remove([first]) == 0
    assert store.upkeep.prune(0).tasks == 0
    resolve(store)
    assert store.tasks.remove([first]) == 1
    assert state(store, waiting) == (Status.PENDING, None)


@pytest.mark.parametrize("pokes", ["many", [1], {"a": 1}, float("nan"), -5, None, 1e300])
def test_a_mark_of_any_type_stops_nobody(store: Store, raw: Any, pokes: Any) -> None:
    odd, first = parent(store), parent(store)
    ENDINGS["completed"](store, odd)
    raw.tasks.update_one({"_id": ObjectId(odd)}, {"$set": {"resolve": True, "pokes": pokes}})
    raw.tasks.insert_one({"_id": "no id", "status": "failed", "resolve": True})
    waiting = child(store, first)
    ENDINGS["completed"](store, first)
    resolve(store)
    assert state(store, waiting) == (Status.PENDING, None)


@pytest.mark.parametrize(("field", "value"), [("due_at", "soon"), ("priority", "high"), ("when", 7), ("after", "?")])
def test_a_child_of_any_type_stops_no_other(store: Store, raw: Any, field: str, value: Any) -> None:
    first = parent(store)
    odd, sound = child(store, first), child(store, first)
    raw.tasks.update_one({"_id": ObjectId(odd)}, {"$set": {field: value}})
    ENDINGS["completed"](store, first)
    resolve(store)
    assert state(store, sound) == (Status.PENDING, None)


def test_a_copy_of_a_series_task_under_any_id_stops_nobody(store: Store, raw: Any) -> None:
    store.schedules.create(Schedule(name="s", job="j", every=3600.0))
    copied, first = store.firing.run_now("s").id, parent(store)
    copy = raw.tasks.find_one({"_id": ObjectId(copied)})
    raw.tasks.insert_one({**copy, "_id": "again", "rid": "niaga", "status": "failed", "resolve": True})
    waiting = child(store, first)
    ENDINGS["completed"](store, first)
    resolve(store)
    assert state(store, waiting) == (Status.PENDING, None)
    assert raw.tasks.count_documents({"resolve": True, "status": "failed"}) == 0
    assert store.schedules.get("s").live == (copied,)


# --- those whom nobody would tell ------------------------------------------------------------------
def test_children_of_a_deleted_parent_are_canceled(store: Store, raw: Any) -> None:
    gone, there = parent(store), parent(store)
    lost = [child(store, gone, there) for _ in range(5)]
    kept = child(store, there)
    nameless, odd = child(store, there), child(store, there)
    raw.tasks.update_one({"_id": ObjectId(nameless)}, {"$set": {"after": []}})
    raw.tasks.update_one({"_id": ObjectId(odd)}, {"$set": {"after": ["?", 3]}})
    raw.tasks.delete_one({"_id": ObjectId(gone)})
    duty = resolver(store)
    assert duty.end_strays() == 7
    assert {state(store, one) for one in lost} == {(Status.CANCELED, Reason.UPSTREAM)}
    assert store.tasks.get(lost[0]).message == f"{gone[-8:]} is gone"
    assert {state(store, one) for one in (nameless, odd)} == {(Status.FAILED, Reason.INVALID)}
    assert state(store, kept) == (Status.WAITING, None)
    assert duty.end_strays() == 0


def test_strays_are_looked_for_a_page_at_a_time(store: Store) -> None:
    there = parent(store)
    store.tasks.enqueue_many(TaskRequest(job="child", parents=(there,)) for _ in range(25))
    _, after = store.resolve.strays(limit=10)
    _, after = store.resolve.strays(limit=10, after=after)
    assert after is not None
    assert store.resolve.strays(limit=10, after=after) == (0, None)


# --- crashes ---------------------------------------------------------------------------------------
class Crash(BaseException):
    """The process is gone."""


@pytest.fixture
def dying(database: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Store]]:
    """A store whose process ends before or after its n-th write: nothing it would do later happens."""
    opened: list[Store] = []

    def make(writes: int) -> Store:
        store = connect(database.uri, database.name, timeout=10.0)
        opened.append(store)
        collection, left = store.resolve._tasks, [writes]

        def counted(name: str) -> Callable[..., Any]:
            write = getattr(collection, name)

            def send(*args: Any, **kwargs: Any) -> Any:
                if left[0] == 0:
                    raise Crash
                left[0] -= 1
                return write(*args, **kwargs)

            return send

        names = ("update_many", "update_one", "bulk_write")
        stand_in = SimpleNamespace(find=collection.find, **{name: counted(name) for name in names})
        monkeypatch.setattr(store.resolve, "_tasks", stand_in)
        return store

    yield make
    for store in opened:
        store.close()


def grow(store: Store) -> tuple[list[str], dict[str, tuple[Status, Reason | None]]]:
    """Parents to end, and what every child must come to."""
    good, bad, both = parent(store), parent(store), parent(store)
    first, upstream = child(store, good), child(store, bad)
    below = child(store, upstream)
    last = child(store, below, when="any")
    fan_in = child(store, good, both, last, when="any")
    ENDINGS["completed"](store, good)
    ENDINGS["failed"](store, bad)
    ENDINGS["completed"](store, both)
    pending, canceled = (Status.PENDING, None), (Status.CANCELED, Reason.UPSTREAM)
    expected = {first: pending, upstream: canceled, below: canceled, last: pending, fan_in: (Status.WAITING, None)}
    return [good, bad, both], expected


def test_a_crash_between_any_two_writes_loses_nobody(store: Store, raw: Any, dying: Callable[[int], Store]) -> None:
    for writes in range(100):
        parents, expected = grow(store)
        try:
            resolve(dying(writes))
            crashed = False
        except Crash:
            crashed = True
        resolve(store)
        assert {one: state(store, one) for one in expected} == expected, f"after {writes} writes"
        fan_in, last = list(expected)[-1], list(expected)[-2]
        assert store.tasks.get(fan_in).after == (last,)
        assert raw.tasks.count_documents({"resolve": True, "status": {"$in": ["completed", "failed", "canceled"]}}) == 0
        store.tasks.remove(parents)
        if not crashed:
            print(f"{writes} crash points")
            assert writes >= 5
            return
    raise AssertionError("it never came to an end")


def test_instances_that_tell_at_the_same_time_tell_once(database: Any, store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    chain = [parent(store)]
    for _ in range(60):
        chain.append(child(store, chain[-1]))
    store.tasks.cancel(chain[0], "ann")
    stores = [connect(database.uri, database.name, timeout=10.0) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(resolve, stores))
    for one in stores:
        one.close()
    assert sum(told) == 60
    assert {state(store, one) for one in chain[1:]} == {(Status.CANCELED, Reason.UPSTREAM)}


# --- size ------------------------------------------------------------------------------------------
def plans(raw: Any, call: Callable[[], object]) -> list[Plan]:
    """What the server did on the tasks, however many commands it were."""
    raw.drop_collection("system.profile")
    raw.create_collection("system.profile", capped=True, size=256 << 20)
    raw.command("profile", 2)
    try:
        call()
    finally:
        raw.command("profile", 0)
    return [read_plan(entry) for entry in raw["system.profile"].find({"ns": f"{raw.name}.tasks"})]


def test_nothing_to_tell_costs_one_key(store: Store, raw: Any) -> None:
    store.tasks.enqueue_many(TaskRequest(job="other") for _ in range(500))
    waited_for = parent(store)
    store.tasks.enqueue_many(TaskRequest(job="child", parents=(waited_for,)) for _ in range(500))
    [plan] = plans(raw, lambda: resolve(store))
    assert plan.keys <= 3
    assert plan.documents == 0


def test_telling_reads_the_children_and_no_others(store: Store, raw: Any) -> None:
    other = parent(store)
    store.tasks.enqueue_many(TaskRequest(job="child", parents=(other,)) for _ in range(2000))
    first = parent(store)
    mine = [one.id for one in store.tasks.enqueue_many(TaskRequest(job="child", parents=(first,)) for _ in range(20))]
    ENDINGS["completed"](store, first)
    for plan in plans(raw, lambda: resolve(store)):
        assert "COLLSCAN" not in plan.summary, plan
        assert plan.keys <= len(mine) + 2, plan
        assert plan.documents <= len(mine) + 1, plan


def test_a_chain_of_a_thousand_resolves_without_scanning(store: Store, raw: Any) -> None:
    length = 1000
    chain = [parent(store)]
    for _ in range(length):
        chain.append(child(store, chain[-1]))
    store.tasks.cancel(chain[0], "ann")
    found = plans(raw, lambda: resolve(store))
    assert store.tasks.counts()[Status.CANCELED] == length + 1
    keys, documents = sum(plan.keys for plan in found), sum(plan.documents for plan in found)
    print(f"chain of {length}: {keys} keys, {documents} documents examined")
    assert all("COLLSCAN" not in plan.summary for plan in found)
    assert max(plan.keys for plan in found) <= 8
    assert keys <= 12 * length


def test_a_fan_in_of_a_thousand_resolves_without_scanning(store: Store, raw: Any) -> None:
    parents = [one.id for one in store.tasks.enqueue_many(TaskRequest(job="parent") for _ in range(1000))]
    waiting = child(store, *parents)
    store.tasks.enqueue_many(TaskRequest(job="child", parents=(waiting,)) for _ in range(500))
    for start in range(0, 1000, 100):
        store.queue.claim(parents[start : start + 100], f"token {start}", ME)
        for one in parents[start : start + 100]:
            store.queue.finish(one, f"token {start}", Outcome(reason=Reason.EXIT, exit_code=0))
    found = plans(raw, lambda: resolve(store))
    assert state(store, waiting) == (Status.PENDING, None)
    print(f"fan-in of 1000: {sum(plan.keys for plan in found)} keys examined in {len(found)} commands")
    assert all("COLLSCAN" not in plan.summary for plan in found)
    assert sum(plan.keys for plan in found) <= 6 * 1000


def test_a_parent_of_thousands_is_told_in_bounded_updates(store: Store, raw: Any) -> None:
    first = parent(store)
    store.tasks.enqueue_many(TaskRequest(job="child", parents=(first,)) for _ in range(2500))
    ENDINGS["completed"](store, first)
    assert resolve(store) == 2500
    assert raw.tasks.count_documents({"status": "pending"}) == 2500


def test_a_pass_leaves_the_rest_to_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [parent(store)]
    for _ in range(10):
        chain.append(child(store, chain[-1]))
    store.tasks.cancel(chain[0], "ann")
    monkeypatch.setattr(resolving, "PASS_SECONDS", 1.5e-9)
    duty = resolver(store)
    passes = 0
    while duty.run_once() or duty.more:
        passes += 1
    assert passes > 3
    assert state(store, chain[-1]) == (Status.CANCELED, Reason.UPSTREAM)


# --- wake-ups --------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", [how for how in ENDINGS if how != "invalid"])
def test_the_end_of_a_followed_task_is_pushed(store: Store, how: str) -> None:
    first = parent(store)
    child(store, first)
    with store.watch() as stream:
        ENDINGS[how](store, first)
        events = events_until(stream, Followers(task_id=first))
    assert events, "the end was not pushed"


def test_a_child_of_an_ended_task_is_pushed(store: Store) -> None:
    first = parent(store)
    ENDINGS["completed"](store, first)
    with store.watch() as stream:
        child(store, first)
        assert events_until(stream, Followers(task_id=first))


def events_until(stream: Any, wanted: object) -> list[object]:
    seen: list[object] = []
    for _ in range(20):
        event = stream.try_next(0.2)
        if event is not None:
            seen.append(event)
        if event == wanted:
            return seen
    return []


def test_a_task_shows_its_parents_in_every_form(store: Store) -> None:
    first = parent(store)
    shown: Task = store.tasks.get(child(store, first))
    assert shown.to_object()["parents"] == [first]
    with pytest.raises(errors.Refused, match="only a task that has ended"):
        store.tasks.retry(shown.id)
