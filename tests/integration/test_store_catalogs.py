"""Published catalogs, live tails, wake-ups, pruning."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from slotsched.errors import StoreUnreachable
from slotsched.model import (
    Broken,
    Facts,
    InstanceRef,
    Job,
    LogRef,
    Outcome,
    Parameter,
    Reason,
    Status,
    TaskRequest,
)
from slotsched.store import Chunk, Event, Store, TaskFilter, Touched, Watch, Work
from slotsched.store.upkeep import Pruned

ME = InstanceRef(id="instance-1", name="big-1")
DONE = Outcome(reason=Reason.EXIT, exit_code=0)
JOB = Job(
    name="reports/daily",
    hash="a" * 64,
    facts=Facts(slots=4, resources={"gpu.0": 1}, env={"$PATH.x": "$HOME"}, command=("rsync", "-a")),
    path=Path("/srv/jobs/reports/daily.py"),
    function=True,
    parameters=(Parameter(name="day", type="date"), Parameter(name="mode", type="choice", choices=("a", 2), default=2)),
)


@pytest.fixture
def raw(mongo_client: Any, database: Any) -> Any:
    """The database, behind the store's back."""
    return mongo_client[database.name]


# --- catalogs --------------------------------------------------------------------------------------
def test_a_published_job_comes_back_as_it_was(store: Store) -> None:
    store.catalogs.publish("one", [JOB])
    assert store.catalogs.newest(JOB.name) == JOB
    assert store.catalogs.newest("other") is None
    assert store.catalogs.names() == [JOB.name]
    assert store.catalogs.holders() == {JOB.name: {"one"}}


def test_the_newest_copy_is_the_content_that_was_first_published_last(store: Store, raw: Any) -> None:
    newer = replace(JOB, hash="b" * 64, facts=Facts(slots=5))
    store.catalogs.publish("one", [JOB])
    time.sleep(0.005)  # the server's clock has milliseconds
    store.catalogs.publish("two", [newer])
    store.catalogs.publish("one", [JOB])  # again: its content is not new
    assert store.catalogs.newest(JOB.name) == newer
    assert store.catalogs.copies() == {JOB.name: {JOB.hash: {"one"}, newer.hash: {"two"}}}
    store.catalogs.publish("two", [JOB])  # taken back: nobody holds the newer one
    assert store.catalogs.newest(JOB.name) == JOB
    store.catalogs.publish("one", [])
    store.catalogs.publish("two", [])
    assert store.catalogs.newest(JOB.name) == newer
    assert store.catalogs.holders() == {JOB.name: set()}


def test_a_copy_that_only_a_dead_instance_held_is_not_the_newest(store: Store, raw: Any) -> None:
    newer = replace(JOB, hash="b" * 64, facts=Facts(slots=5))
    store.catalogs.publish("living", [JOB])
    time.sleep(0.005)
    store.catalogs.publish("dead", [newer])
    raw["instances"].insert_many([{"_id": "living", "live": True}, {"_id": "dead", "live": False}])
    assert store.catalogs.newest(JOB.name) == JOB
    raw["instances"].update_one({"_id": "living"}, {"$set": {"live": False}})
    assert store.catalogs.newest(JOB.name) == newer  # nobody holds any: the last that was known


def test_publishing_says_all_an_instance_holds(store: Store) -> None:
    other = replace(JOB, name="other")
    store.catalogs.publish("one", [JOB, other])
    store.catalogs.publish("two", [JOB])
    store.catalogs.publish("one", [other], [Broken(name=JOB.name, path="daily.py", line=6, message="unknown key")])
    assert store.catalogs.holders() == {JOB.name: {"two"}, "other": {"one"}}
    assert store.catalogs.broken() == {JOB.name: {"one": "daily.py:6: unknown key"}}
    store.catalogs.publish("one", [JOB, other])
    assert store.catalogs.broken() == {}


def test_a_job_stays_switched_off_when_it_is_published_again(store: Store) -> None:
    store.catalogs.publish("one", [JOB])
    store.catalogs.set_enabled(JOB.name, False)
    store.catalogs.set_enabled(JOB.name, False)
    store.catalogs.publish("one", [replace(JOB, hash="c" * 64)])
    assert store.catalogs.disabled() == {JOB.name}
    store.catalogs.set_enabled(JOB.name, True)
    assert store.catalogs.disabled() == set()


def test_copies_that_nobody_can_read_do_not_hide_the_others(store: Store, raw: Any) -> None:
    store.catalogs.publish("one", [JOB])
    now = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    faults: list[dict[str, Any]] = [
        {"definition": 5},
        {"definition": {"facts": {}}},
        {},
        {"definition": {}, "holders": "one"},
        {"job": 7, "holders": [7]},
    ]
    for number, fault in enumerate(faults):
        raw.jobs.insert_one({"_id": number, "kind": "copy", "job": JOB.name, "first_at": now} | fault)
    assert store.catalogs.newest(JOB.name) == JOB
    assert JOB.name in store.catalogs.names()
    assert store.catalogs.holders()[JOB.name] == {"one"}
    raw.jobs.insert_one({"_id": "s", "kind": "switch", "job": 7, "enabled": False})
    assert store.catalogs.disabled() == set()


def test_copies_nobody_holds_are_pruned_when_they_are_old(store: Store) -> None:
    store.catalogs.publish("one", [JOB, replace(JOB, name="kept")])
    store.catalogs.publish("one", [replace(JOB, name="kept")])
    assert store.catalogs.prune(3600) == 0
    time.sleep(0.005)
    assert store.catalogs.prune(0) == 1
    assert store.catalogs.names() == ["kept"]


# --- live tails ------------------------------------------------------------------------------------
def test_a_tail_is_read_from_any_offset_without_overlap(store: Store) -> None:
    for offset, data in ((0, b"hello "), (6, b"world"), (11, b"!")):
        store.tails.ship("t", 1, offset, data)
        store.tails.ship("t", 1, offset, data)  # again is harmless
    store.tails.ship("t", 2, 0, b"another attempt")
    store.tails.ship("t2", 1, 0, b"another task")
    assert b"".join(chunk.data for chunk in store.tails.read("t", 1, 0)) == b"hello world!"
    assert store.tails.read("t", 1, 8) == [Chunk(offset=8, data=b"rld"), Chunk(offset=11, data=b"!")]
    assert store.tails.read("t", 1, 12) == []
    store.tails.ship("t", 1, 3, b"lo wonderful")  # cut elsewhere after a resume
    assert b"".join(chunk.data for chunk in store.tails.read("t", 1, 0)) == b"hello wonderful"


def test_a_trimmed_tail_shows_its_gap(store: Store) -> None:
    for number in range(10):
        store.tails.ship("t", 1, number * 10, b"0123456789")
    store.tails.trim("t", 1, 55)
    chunks = store.tails.read("t", 1, 0)
    assert chunks[0].offset == 50
    assert [chunk.offset for chunk in store.tails.read("t", 1, 0, limit=2)] == [50, 60]


def test_a_tail_is_whole_for_a_long_log_and_many_attempts(store: Store) -> None:
    for attempt, offset in ((9, 10**14), (10, 0), (100, 5)):
        store.tails.ship("t", attempt, offset, b"x")
        assert store.tails.read("t", attempt, 0) == [Chunk(offset=offset, data=b"x")]


def test_chunks_at_fault_are_skipped(store: Store, raw: Any) -> None:
    store.tails.ship("t", 1, 0, b"fine")
    raw.log_tail.insert_many(
        [{"_id": f"t/000001/{n:015d}", **f} for n, f in enumerate(({}, {"offset": "x"}, {"offset": 2, "data": 5}), 1)]
    )
    assert store.tails.read("t", 1, 0) == [Chunk(offset=0, data=b"fine")]


def test_a_tail_goes_by_itself_a_day_after_its_last_write(store: Store, raw: Any) -> None:
    store.tails.ship("t", 1, 0, b"old")
    store.tails.ship("t", 1, 3, b"new")
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(hours=25)
    raw.log_tail.update_one({"offset": 0}, {"$set": {"at": yesterday}})
    deadline = time.monotonic() + 20
    while len(chunks := store.tails.read("t", 1, 0)) > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert chunks == [Chunk(offset=3, data=b"new")]


# --- wake-ups --------------------------------------------------------------------------------------
def events(watch: Watch, count: int) -> list[Event]:
    found: list[Event] = []
    deadline = time.monotonic() + 10
    while len(found) < count and time.monotonic() < deadline:
        event = watch.try_next()
        if event is not None:
            found.append(event)
    return found


def test_new_work_wakes_with_its_lane(store: Store) -> None:
    with store.watch() as watch:
        store.tasks.enqueue(TaskRequest(job="a"))
        store.tasks.enqueue(TaskRequest(job="b", due_in=60))
        assert events(watch, 2) == [Work(lane="a|1|||", due_now=True), Work(lane="b|1|||", due_now=False)]


def test_work_that_comes_back_wakes_and_an_owners_own_writes_do_not(store: Store) -> None:
    ids = [store.tasks.enqueue(TaskRequest(job="a")).id for _ in range(3)]
    with store.watch() as watch:
        store.queue.claim(ids, "token", ME)
        store.queue.release(ids[0], "token")
        store.queue.finish(ids[1], "token", DONE)
        store.queue.finish(ids[2], "token", Outcome(reason=Reason.EXIT, exit_code=1), retry_in=60)
        assert events(watch, 2) == [Work(lane=None, due_now=True), Work(lane=None, due_now=False)]
        assert watch.try_next(0) is None


def test_a_cancel_a_kill_a_change_and_a_removal_touch_the_task(store: Store, raw: Any) -> None:
    ids = [store.tasks.enqueue(TaskRequest(job="a")).id for _ in range(3)]
    store.queue.claim(ids, "token", ME)
    with store.watch() as watch:
        store.tasks.cancel(ids[0], "ann")
        store.tasks.cancel(ids[0], "ann", kill=True)
        raw.tasks.update_one({"_id": ObjectId(ids[1])}, {"$set": {"status": "completed"}})
        raw.tasks.delete_one({"_id": ObjectId(ids[2])})
        assert events(watch, 4) == [Touched(task_id=ids[n]) for n in (0, 0, 1, 2)]


def test_a_wake_up_is_quick(store: Store) -> None:
    with store.watch() as watch:
        watch.try_next(0)
        waits = []
        for _ in range(10):
            began = time.monotonic()
            store.tasks.enqueue(TaskRequest(job="a"))
            assert events(watch, 1)
            waits.append(time.monotonic() - began)
    assert sorted(waits)[5] < 0.5


# --- prune -----------------------------------------------------------------------------------------
def test_prune_forgets_what_nobody_needs(store: Store, raw: Any) -> None:
    log = LogRef(store="s3://logs", key="k", bytes=1)
    requests = {
        "plain": TaskRequest(job="a"),
        "uploaded": TaskRequest(job="a"),
        "spooled": TaskRequest(job="a"),
        "keyed": TaskRequest(job="a", key="k"),
        "kept": TaskRequest(job="a", keep=3600),
        "short": TaskRequest(job="a", keep=0.001),
        "waited for": TaskRequest(job="a"),
        "told": TaskRequest(job="a"),
    }
    ids = {name: store.tasks.enqueue(request).id for name, request in requests.items()}
    logs = {"uploaded": replace(log, uploaded=True), "spooled": log}
    for name, task_id in ids.items():
        store.queue.claim([task_id], f"token-{name}", ME)
        store.queue.finish(task_id, f"token-{name}", DONE, log=logs.get(name))
    raw.tasks.update_one({"_id": ObjectId(ids["waited for"])}, {"$set": {"pokes": 1, "resolve": True}})
    raw.tasks.update_one({"_id": ObjectId(ids["told"])}, {"$set": {"pokes": 1, "resolve": False}})
    store.tasks.enqueue(TaskRequest(job="open"))
    time.sleep(0.01)
    assert store.upkeep.prune(3600).tasks == 1
    assert store.upkeep.prune(0).tasks == 3
    left = {task.id for task in store.tasks.find(TaskFilter(status=frozenset({Status.COMPLETED})))}
    assert left == {ids[name] for name in ("spooled", "keyed", "kept", "waited for")}
    assert store.tasks.counts()[Status.PENDING] == 1


def test_prune_goes_on_in_batches(store: Store, raw: Any) -> None:
    store.tasks.enqueue_many(TaskRequest(job="a") for _ in range(2100))
    raw.tasks.update_many({}, {"$set": {"status": "failed", "ended_at": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}})
    assert store.upkeep.prune(60, batches=1) == Pruned(tasks=1000, more=True)
    assert store.upkeep.prune(60) == Pruned(tasks=1100, more=False)


def test_prune_says_that_more_tasks_of_jobs_with_a_keep_are_old(store: Store, raw: Any) -> None:
    store.tasks.enqueue_many(TaskRequest(job="a", keep=1) for _ in range(1001))
    long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    raw.tasks.update_many({}, {"$set": {"status": "failed", "ended_at": long_ago, "expire_at": long_ago}})
    assert store.upkeep.prune(60, batches=1) == Pruned(tasks=1000, more=True)
    assert store.upkeep.prune(60, batches=1) == Pruned(tasks=1, more=False)


def test_creating_the_indexes_again_changes_nothing(store: Store, raw: Any) -> None:
    before = {name: set(raw[name].index_information()) for name in ("tasks", "instances", "jobs", "log_tail")}
    store.init()
    assert {name: set(raw[name].index_information()) for name in before} == before


def test_stats_tell_what_is_stored(store: Store) -> None:
    store.tasks.enqueue(TaskRequest(job="a"))
    stats = store.upkeep.stats()
    assert stats["tasks"]["documents"] == 1
    assert all(figures["index_bytes"] > 0 for figures in stats.values())


def drain(watch: Watch) -> None:
    while watch.try_next() is not None:
        pass


@pytest.mark.timeout(60)
def test_a_watch_whose_collection_is_dropped_says_so_and_the_next_one_sees_what_comes(store: Store, raw: Any) -> None:
    store.tasks.enqueue(TaskRequest(job="a"))
    with store.watch() as watch:
        raw.tasks.drop()
        with pytest.raises(StoreUnreachable, match="has ended"):
            drain(watch)
    store.init()
    with store.watch() as watch:
        store.tasks.enqueue(TaskRequest(job="a"))
        assert isinstance(watch.try_next(10), Work)


# --- files whose names or texts are no text --------------------------------------------------------
def test_a_file_with_a_name_that_is_not_utf_8_keeps_no_other_from_being_published(store: Store) -> None:
    odd = Broken(name="caf\udce9", path="caf\udce9.py", line=None, message="a name must be ...")
    emoji = replace(JOB, parameters=(Parameter(name="day", type="date", description="half \ud83d a pair"),))
    store.catalogs.publish("one", [emoji], [odd])
    store.catalogs.publish("one", [emoji], [odd])
    assert store.catalogs.names() == [JOB.name]
    assert list(store.catalogs.broken()) == ["caf?"]
    store.catalogs.publish("one", [emoji])
    assert store.catalogs.broken() == {}, "what was stored under the readable name is found again"
