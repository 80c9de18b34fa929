"""Firing: one task per schedule and nominal time, whoever fires, whoever dies between which writes."""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bson
import pymongo
import pytest
from stand_ins import FakeClock, engine_of

from slotsched import errors
from slotsched.due import nominals_between
from slotsched.model import (
    CatchUp,
    Facts,
    InstanceRef,
    Job,
    Outcome,
    Overlap,
    Overrides,
    Reason,
    Schedule,
    ScheduleStatus,
    Status,
    Task,
    TaskRequest,
)
from slotsched.scheduler.firing import Firer
from slotsched.store import Store, TaskFilter, connect

ME = InstanceRef(id="instance-1", name="big-1")
DONE = Outcome(reason=Reason.EXIT, exit_code=0)
FAILED = Outcome(reason=Reason.EXIT, exit_code=1)
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture
def documents(mongo_client: pymongo.MongoClient[Any], database: Any) -> Any:
    return mongo_client[database.name]["schedules"]


class Series:
    """A store with schedules whose last `late` seconds are still to be fired."""

    def __init__(self, store: Store, documents: Any) -> None:
        self.store = store
        self._documents = documents

    def add(self, name: str = "s", *, late: float = 0.5, every: float = 60.0, **more: Any) -> dt.datetime:
        """A schedule that was due `late` seconds ago for the first time; that nominal time."""
        self.store.schedules.create(Schedule(**{"name": name, "job": "j", "every": every, **more}))
        return self.set_back(name, late)

    def set_back(self, name: str = "s", late: float = 0.5) -> dt.datetime:
        now = self.store.now()
        nominal = now - dt.timedelta(seconds=late)
        nominal = nominal.replace(microsecond=nominal.microsecond // 1000 * 1000)
        self._documents.update_one(
            {"_id": name}, {"$set": {"next_at": nominal, "next_nominal_at": nominal, "anchor_at": nominal}}
        )
        return nominal

    def fire(self) -> int:
        """Until nothing is due any more."""
        made = 0
        for _ in range(100):
            due = self.store.firing.due()
            if not due:
                return made
            made += self.store.firing.fire(due)
        raise AssertionError("it never ends")

    def tasks(self, name: str = "s") -> list[Task]:
        """Oldest first."""
        return self.store.schedules.history(name, 10_000)[::-1]

    def statuses(self, name: str = "s") -> list[Status]:
        return [task.status for task in self.tasks(name)]

    def end(self, task: Task, outcome: Outcome = DONE) -> None:
        """Claimed, ended, and everybody told, as instances do it."""
        [claimed] = self.store.queue.claim([task.id], f"token-{task.id}", ME)
        self.store.queue.finish(claimed.id, f"token-{task.id}", outcome)
        self.resolve()

    def start(self, task: Task) -> None:
        self.store.queue.claim([task.id], f"token-{task.id}", ME)

    def resolve(self) -> None:
        while ended := self.store.resolve.ended():
            booked = self.store.schedules.settle_many(one.id for one in ended if one.series)
            self.store.resolve.tell(ended)
            self.store.resolve.done([one for one in ended if not one.series or one.id in booked])


@pytest.fixture
def series(store: Store, documents: Any) -> Series:
    return Series(store, documents)


# --- one fire ---------------------------------------------------------------------------------------
def test_a_fire_makes_the_task_and_moves_the_schedule_on(series: Series) -> None:
    nominal = series.add(args={"day": 1}, owner="ann", priority=3.0, overrides=Overrides(slots=4, retries=2))
    assert series.fire() == 1
    [task] = series.tasks()
    assert (task.nominal_at, task.due_at, task.status) == (nominal, nominal, Status.PENDING)
    assert (task.schedule, task.trigger, task.owner) == ("s", "schedule:s", "ann")
    assert (task.job, task.args, task.priority, task.needs.slots, task.retry.limit) == ("j", {"day": 1}, 3, 4, 2)
    after = series.store.schedules.get("s")
    assert (after.next_nominal_at, after.last_nominal_at, after.runs) == (nominal + MINUTE, nominal, 1)
    assert after.live == (task.id,)
    assert series.fire() == 0


def test_nothing_fires_before_its_time_by_the_servers_clock(series: Series) -> None:
    series.add(late=-30.0)
    assert series.store.firing.due() == []
    wait = series.store.firing.next_due()
    assert wait is not None
    assert 29 < wait <= 30


def test_without_schedules_there_is_nothing_to_wait_for(series: Series) -> None:
    series.store.schedules.create(Schedule(name="b", job="b", after=("a",)))
    assert series.store.firing.next_due() is None
    assert series.store.firing.due() == []


def test_a_task_asks_for_what_the_newest_job_file_says(series: Series) -> None:
    facts = Facts(slots=3, priority=7, tags=("nightly",), unique="running")
    series.store.catalogs.publish("one", [Job(name="j", hash="1", facts=facts)])
    series.add()
    series.fire()
    [task] = series.tasks()
    assert (task.needs.slots, task.priority, task.tags, task.unique) == (3, 7, ("nightly",), None)


def test_jitter_moves_the_fire_and_not_the_nominal_time(series: Series) -> None:
    nominal = series.add(jitter=20.0, late=100.0)
    series.fire()
    [task] = series.tasks()
    assert task.nominal_at == nominal + MINUTE  # the latest of two that were missed
    assert dt.timedelta(0) <= task.due_at - task.nominal_at <= dt.timedelta(seconds=20)
    after = series.store.schedules.get("s")
    assert after.next_at is not None
    assert after.next_nominal_at is not None
    assert dt.timedelta(0) <= after.next_at - after.next_nominal_at <= dt.timedelta(seconds=20)


def test_the_last_run_ends_the_schedule(series: Series) -> None:
    series.add("counted", max_runs=1)
    series.add("bounded")
    series.store.schedules.set("bounded", {"end_at": series.set_back("bounded")})
    series.set_back("bounded")
    series.fire()
    counted, bounded = series.store.schedules.get("counted"), series.store.schedules.get("bounded")
    assert (counted.status, counted.why) == (ScheduleStatus.DONE, "all its runs were made")
    assert (bounded.status, bounded.why) == (ScheduleStatus.DONE, "nothing is left to fire")
    assert series.store.firing.next_due() is None


def test_a_paused_schedule_does_not_fire_and_resumed_it_goes_on_without_what_it_missed(series: Series) -> None:
    series.add()
    series.store.schedules.pause(["s"])
    assert series.fire() == 0
    series.store.schedules.resume(["s"])
    assert series.fire() == 0


# --- catching up ------------------------------------------------------------------------------------
def test_after_a_day_of_downtime_a_minutely_schedule_runs_once(series: Series) -> None:
    nominal = series.add(late=86400.0 + 1)
    assert series.fire() == 1
    [task] = series.tasks()
    assert task.nominal_at == nominal + 1440 * MINUTE
    assert series.store.schedules.get("s").next_nominal_at == nominal + 1441 * MINUTE


def test_catching_up_on_all_runs_each_missed_time_one_after_the_other(series: Series) -> None:
    nominal = series.add(late=250.0, catch_up=CatchUp.ALL)
    assert series.fire() == 5
    assert [task.nominal_at for task in series.tasks()] == [nominal + n * MINUTE for n in range(5)]
    assert series.statuses() == [Status.PENDING, *[Status.WAITING] * 4]
    for task in series.tasks():
        series.end(task)
    assert series.statuses() == [Status.COMPLETED] * 5


def test_catching_up_on_many_is_spread_over_transactions(series: Series) -> None:
    nominal = series.add(late=500.2, every=1.0, catch_up=CatchUp.ALL, overlap=Overlap.ALLOW_ALL)
    assert series.fire() >= 501
    times = [task.nominal_at for task in series.tasks()]
    assert times == [nominal + dt.timedelta(seconds=n) for n in range(len(times))]


def test_catching_up_on_nothing_goes_on_with_the_next_time(series: Series) -> None:
    nominal = series.add(every=3600.0, late=1800.0, catch_up=CatchUp.NONE)
    assert series.fire() == 0
    assert series.store.schedules.get("s").next_nominal_at == nominal + 60 * MINUTE


# --- overlap ----------------------------------------------------------------------------------------
def test_skip_leaves_a_round_out_while_the_last_one_runs(series: Series) -> None:
    series.add()
    series.fire()
    series.set_back()
    assert series.fire() == 0
    assert series.store.schedules.get("s").counters.skipped == 1
    series.end(series.tasks()[0])
    series.set_back()
    assert series.fire() == 1


def test_a_round_that_ended_a_moment_ago_stands_in_nobodys_way(series: Series) -> None:
    series.add()
    series.fire()
    [task] = series.tasks()
    series.start(task)
    series.store.queue.finish(task.id, f"token-{task.id}", DONE)  # and nobody has booked it yet
    series.set_back()
    assert series.fire() == 1


def test_a_task_that_somebody_deleted_does_not_stop_its_series(
    series: Series, mongo_client: pymongo.MongoClient[Any], database: Any
) -> None:
    series.add()
    series.fire()
    mongo_client[database.name]["tasks"].delete_many({})
    series.set_back()
    assert series.fire() == 1
    assert len(series.store.schedules.get("s").live) == 1


def test_buffer_one_lets_one_wait(series: Series) -> None:
    series.add(overlap=Overlap.BUFFER_ONE)
    for _ in range(3):
        series.fire()
        series.set_back()
    assert series.statuses() == [Status.PENDING, Status.WAITING]
    series.end(series.tasks()[0], FAILED)  # however it ends
    assert series.statuses() == [Status.FAILED, Status.PENDING]


def test_buffer_all_lets_all_wait_in_order(series: Series) -> None:
    series.add(overlap=Overlap.BUFFER_ALL)
    for _ in range(4):
        series.fire()
        series.set_back()
    for n in range(4):
        assert series.statuses()[n:] == [Status.PENDING, *[Status.WAITING] * (3 - n)]
        series.end(series.tasks()[n])


def test_cancel_other_cancels_what_runs_and_waits_for_its_end(series: Series) -> None:
    series.add(overlap=Overlap.CANCEL_OTHER)
    series.fire()
    [first] = series.tasks()
    series.start(first)
    series.set_back()
    series.fire()
    first, second = series.tasks()
    assert first.cancel is not None
    assert (first.cancel.by, second.status) == ("schedule:s", Status.WAITING)
    series.store.queue.finish(first.id, f"token-{first.id}", Outcome(reason=Reason.CANCELED))
    series.resolve()
    assert series.statuses() == [Status.CANCELED, Status.PENDING]


def test_cancel_other_cancels_at_once_what_has_not_started(series: Series) -> None:
    series.add(overlap=Overlap.CANCEL_OTHER)
    series.fire()
    series.set_back()
    series.fire()
    series.resolve()
    assert series.statuses() == [Status.CANCELED, Status.PENDING]


def test_allow_all_starts_every_round(series: Series) -> None:
    series.add(overlap=Overlap.ALLOW_ALL)
    for _ in range(3):
        series.fire()
        series.set_back()
    assert series.statuses() == [Status.PENDING] * 3


# --- by hand ----------------------------------------------------------------------------------------
def test_run_now_is_a_round_of_the_series_without_a_nominal_time(series: Series) -> None:
    series.add(late=-3600)
    before = series.store.schedules.get("s")
    ran = series.store.firing.run_now("s", by="bob")
    task = series.store.tasks.get(ran.id)
    assert (task.trigger, task.owner, task.nominal_at, task.status) == ("run-now:s", "bob", None, Status.PENDING)
    after = series.store.schedules.get("s")
    assert (after.next_at, after.live) == (before.next_at, (ran.id,))
    with pytest.raises(errors.Refused, match="overlap policy is skip"):
        series.store.firing.run_now("s")
    assert series.store.firing.run_now("s", overlap=Overlap.BUFFER_ONE).status == Status.WAITING
    assert series.store.firing.run_now("s", overlap=Overlap.ALLOW_ALL).status == Status.PENDING


def test_run_now_runs_what_is_paused_and_refuses_what_is_not_there(series: Series) -> None:
    series.add()
    series.store.schedules.pause(["s"])
    assert series.store.firing.run_now("s").status == Status.PENDING
    with pytest.raises(errors.NotFound):
        series.store.firing.run_now("missing")


def test_a_backfill_makes_what_is_missing_a_few_at_a_time_and_the_schedule_does_not_repeat_it(
    series: Series,
) -> None:
    nominal = series.add(late=0.5, overlap=Overlap.ALLOW_ALL)
    schedule = series.store.schedules.get("s")
    times = list(nominals_between(schedule, nominal - MINUTE, nominal))
    past = [nominal - n * MINUTE for n in (3, 2, 1)]
    made = series.store.firing.backfill("s", [*past, *times], by="ann", at_once=2)
    assert [one.status for one in made] == [Status.PENDING] * 2 + [Status.WAITING] * 2
    assert [task.nominal_at for task in series.tasks()] == [*past, nominal]
    assert series.store.firing.backfill("s", past) == []
    assert series.fire() == 0  # its time has its task
    assert series.store.schedules.get("s").next_nominal_at == nominal + MINUTE


def test_a_backfill_in_parts_is_one_line(series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotsched.store.firing.BATCH_SCHEDULES", 2)
    nominal = series.add(late=0.5, overlap=Overlap.ALLOW_ALL)
    made = series.store.firing.backfill("s", [nominal - n * MINUTE for n in range(1, 6)], at_once=1)
    assert [one.status for one in made] == [Status.PENDING] + [Status.WAITING] * 4
    assert [task.parents for task in series.tasks()] == [(), *((one.id,) for one in made[:-1])]
    for task in series.tasks():
        series.end(task)
    assert series.statuses() == [Status.COMPLETED] * 5


# --- a series after a series ------------------------------------------------------------------------
def test_each_round_of_a_follower_belongs_to_one_round_of_the_other(series: Series) -> None:
    series.add("a", job="a")
    series.store.schedules.create(Schedule(name="b", job="b", after=("a",)))
    for _ in range(3):
        series.fire()
        series.end(series.tasks("a")[-1])
        series.end(series.tasks("b")[-1])
        series.set_back("a")
    rounds = [(task.id,) for task in series.tasks("a")]
    assert [task.parents for task in series.tasks("b")] == rounds
    assert series.statuses("b") == [Status.COMPLETED] * 3
    assert [task.trigger for task in series.tasks("b")] == [f"after:{parent}" for (parent,) in rounds]
    assert series.store.schedules.get("b").counters.completed == 3


def test_a_follower_is_canceled_when_its_round_fails_and_run_now_counts_as_a_round(series: Series) -> None:
    series.add("a", late=-60)
    series.store.schedules.create(Schedule(name="b", job="b", after=("a",)))
    series.store.schedules.create(Schedule(name="c", job="c", after=("b",), when="any"))
    series.store.tasks.enqueue(TaskRequest(job="a"))  # by hand, of no series
    series.store.firing.run_now("a")
    assert (len(series.tasks("b")), len(series.tasks("c"))) == (1, 1)
    series.end(series.tasks("a")[0], FAILED)
    [b] = series.tasks("b")
    assert (b.status, b.reason) == (Status.CANCELED, Reason.UPSTREAM)
    assert series.statuses("c") == [Status.PENDING]


def test_a_followers_rounds_come_one_after_the_other_whatever_became_of_the_one_before(series: Series) -> None:
    series.add("a", overlap=Overlap.ALLOW_ALL)
    series.store.schedules.create(Schedule(name="b", job="b", after=("a",)))
    for _ in range(2):
        series.fire()
        series.set_back("a")
    for task in series.tasks("a"):
        series.end(task)
    assert series.statuses("b") == [Status.PENDING, Status.WAITING]
    series.end(series.tasks("b")[0], FAILED)
    assert series.statuses("b") == [Status.FAILED, Status.PENDING]


def test_series_that_follow_one_another_in_a_circle_end(series: Series) -> None:
    series.store.schedules.create(Schedule(name="a", job="x", after=("b",)))
    series.store.schedules.create(Schedule(name="b", job="y", after=("a",)))
    series.store.firing.run_now("a")
    assert (len(series.tasks("a")), len(series.tasks("b"))) == (1, 1)


def test_one_follower_of_many_schedules_has_a_round_for_each(series: Series) -> None:
    for n in range(5):
        series.add(f"a{n}", job="a")
    series.store.schedules.create(Schedule(name="b", job="b", after=("a",), overlap=Overlap.ALLOW_ALL, max_runs=4))
    assert series.fire() == 9
    follower = series.store.schedules.get("b")
    assert (len(follower.live), follower.status) == (4, ScheduleStatus.DONE)


# --- documents at fault -----------------------------------------------------------------------------
def test_what_cannot_be_used_is_put_aside_with_a_reason_and_the_others_fire(series: Series, documents: Any) -> None:
    for name in ("good", "cron", "fields", "slots", "when", "args"):
        series.add(name)
    documents.update_one({"_id": "cron"}, {"$set": {"cron": ["61 * * * *"]}, "$unset": {"every": ""}})
    documents.update_one({"_id": "fields"}, {"$set": {"jitter": "much"}})
    documents.update_one({"_id": "slots"}, {"$set": {"overrides": {"slots": 2**40}}})
    documents.update_one({"_id": "when"}, {"$set": {"next_at": "soon"}})
    documents.update_one({"_id": "args"}, {"$set": {"args": [1]}})
    series.fire()
    series.store.firing.quarantine_strays()
    why = {one.name: one.why for one in series.store.schedules.find() if one.status == ScheduleStatus.BROKEN}
    assert set(why) == {"cron", "fields", "slots", "when", "args"}
    assert "minute 61 is not in 0-59" in (why["cron"] or "")
    assert [task.schedule for task in series.store.tasks.find(TaskFilter())] == ["good"]


@pytest.mark.parametrize(
    "fields",
    [
        {"start_at": dt.datetime(1, 1, 1, tzinfo=dt.UTC)},
        {"next_nominal_at": dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC), "jitter": 86400.0},
        {"anchor_at": dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC), "jitter": 86400.0},
    ],
    ids=["start", "next", "following"],
)
def test_times_beyond_the_calendar_are_put_aside_with_a_reason_and_the_others_fire(
    series: Series, documents: Any, fields: dict[str, Any]
) -> None:
    series.add("far", late=86401.0)
    series.add("good")
    documents.update_one({"_id": "far"}, {"$set": fields})
    assert [one.schedule.name for one in series.store.firing.due()] == ["far", "good"]
    assert series.fire() == 1
    assert series.statuses("good") == [Status.PENDING]
    far = series.store.schedules.get("far")
    assert (far.status, far.next_at) == (ScheduleStatus.BROKEN, None)
    assert "out of the years 1 to 9999" in (far.why or "")
    assert json.dumps([one.to_object() for one in series.store.schedules.find()])


def test_a_document_without_room_for_a_reason_is_put_aside_all_the_same(series: Series, documents: Any) -> None:
    series.add("full", late=1.0)
    documents.update_one({"_id": "full"}, {"$set": {"priority": 1e7, "label": ""}})
    size = len(bson.encode(documents.find_one({"_id": "full"})))
    documents.update_one({"_id": "full"}, {"$set": {"label": "x" * (16 * 1024 * 1024 - size)}})
    series.add("good")
    assert series.fire() == 1
    assert documents.find_one({"_id": "full"}, {"status": 1, "next_at": 1}) == {"_id": "full", "status": "broken"}


def test_a_document_without_room_for_a_next_time_is_put_aside_and_the_others_fire(
    series: Series, documents: Any
) -> None:
    series.add("full", late=1.0)
    size = len(bson.encode(documents.find_one({"_id": "full"})))
    documents.update_one({"_id": "full"}, {"$set": {"label": "x" * (16 * 1024 * 1024 - size - 20)}})
    series.add("good")
    assert series.fire() == 1
    assert documents.find_one({"_id": "full"}, {"status": 1})["status"] == "broken"


@pytest.mark.parametrize("by_hand", [False, True], ids=["fired", "run now"])
def test_a_follower_that_cannot_be_used_is_put_aside_alone(series: Series, documents: Any, by_hand: bool) -> None:
    series.add("a", late=1.0)
    series.add("other")
    for name, leader in (("b", "a"), ("c", "a"), ("below", "b")):
        series.store.schedules.create(Schedule(name=name, job=name, after=(leader,)))
    documents.update_one({"_id": "b"}, {"$set": {"priority": 1e7}})
    if by_hand:
        series.store.firing.run_now("a")
    else:
        assert series.fire() == 3
    assert [len(series.tasks(name)) for name in ("a", "b", "c", "below")] == [1, 0, 1, 0]
    assert [series.store.schedules.get(name).status for name in ("a", "c", "below")] == [ScheduleStatus.ACTIVE] * 3
    b = series.store.schedules.get("b")
    assert (b.status, b.live, b.runs) == (ScheduleStatus.BROKEN, (), 0)
    assert "priority: 10000000.0 is not a number" in (b.why or "")


def test_a_schedule_that_somebody_holds_locked_delays_no_other(
    series: Series, mongo_client: pymongo.MongoClient[Any], documents: Any
) -> None:
    for n in range(20):
        series.add(f"s{n}")
    with mongo_client.start_session() as session, session.start_transaction():
        documents.update_one({"_id": "s7"}, {"$set": {"label": "x"}}, session=session)
        began = time.monotonic()
        series.store.firing.fire(series.store.firing.due())
        assert time.monotonic() - began < 5
        assert len(series.store.tasks.find(TaskFilter())) == 19
        assert series.store.firing.due() == []  # left alone for a while
        assert series.store.firing.next_due() != 0.0
        session.abort_transaction()


# --- the duty ---------------------------------------------------------------------------------------
def test_the_duty_fires_what_is_due_and_tells_when_to_come_again(series: Series) -> None:
    for n in range(3):
        series.add(f"s{n}", late=1.0)
    clock = FakeClock()
    settings: Any = type("Settings", (), {"lease": 30.0})
    engine = engine_of(clock, store=series.store, settings=settings, draining=False, fenced=False)
    firer = Firer(engine)
    assert firer.run_once() == 3
    assert not firer.more
    wait = firer.wait()
    assert wait is not None
    assert 55 < wait <= 60
    engine.draining = True
    series.set_back("s0")
    assert (firer.run_once(), firer.wait()) == (0, None)


# --- races and crashes ------------------------------------------------------------------------------
def test_of_four_racing_firers_each_nominal_time_has_one_task(series: Series, database: Any, documents: Any) -> None:
    count = 4000
    made = series.store.schedules.create(Schedule(name="first", job="j", every=3600.0))
    template = documents.find_one_and_delete({"_id": made.name})
    nominal = series.store.now() - dt.timedelta(seconds=1)
    times = {"next_at": nominal, "next_nominal_at": nominal, "anchor_at": nominal}
    documents.insert_many([template | times | {"_id": f"s{n}"} for n in range(count)])
    stores = [connect(database.uri, database.name, timeout=20.0) for _ in range(4)]

    def fire(store: Store) -> int:
        total = 0
        until = time.monotonic() + 60
        while time.monotonic() < until:
            due = store.firing.due()
            if not due and not documents.count_documents({"next_at": {"$lte": nominal}}):
                return total
            total += store.firing.fire(due)
        raise AssertionError("some were never fired")

    with ThreadPoolExecutor(4) as pool:
        totals = list(pool.map(fire, stores))
    for store in stores:
        store.close()
    fired = Counter(task.schedule for task in all_tasks(series.store))
    assert (sum(totals), len(fired), set(fired.values())) == (count, count, {1})


def all_tasks(store: Store) -> Iterator[Task]:
    after = None
    while page := store.tasks.find(TaskFilter(), 1000, after=after):
        yield from page
        after = page[-1].id


CRASHING_FIRER = textwrap.dedent(
    """
    import os, signal, sys
    from pymongo import monitoring

    class Killer(monitoring.CommandListener):
        left = int(sys.argv[3])
        def started(self, event): pass
        def failed(self, event): pass
        def succeeded(self, event):
            if event.command_name in ("insert", "update", "commitTransaction", "delete", "findAndModify"):
                Killer.left -= 1
                if Killer.left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    monitoring.register(Killer())
    from slotsched.store import connect
    store = connect(sys.argv[1], sys.argv[2], timeout=20.0)
    while due := store.firing.due():
        store.firing.fire(due)
    """
)


@pytest.fixture
def short_transactions(mongo_client: pymongo.MongoClient[Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a killed process leaves locked, the server frees within a second or two, and it is soon tried again."""
    limit = "transactionLifetimeLimitSeconds"
    before = mongo_client.admin.command("getParameter", 1, **{limit: 1})[limit]
    mongo_client.admin.command("setParameter", 1, **{limit: 1})
    monkeypatch.setattr("slotsched.store.firing.PATIENCE_SECONDS", 0.1)
    yield
    mongo_client.admin.command("setParameter", 1, **{limit: before})


@pytest.mark.usefixtures("short_transactions")
def test_killed_between_any_two_writes_each_nominal_time_has_one_task(series: Series, database: Any) -> None:
    series.add("running", overlap=Overlap.CANCEL_OTHER)
    series.add("late", overlap=Overlap.ALLOW_ALL)
    series.add("alone", overlap=Overlap.ALLOW_ALL)
    series.fire()
    series.store.schedules.create(Schedule(name="follower", job="f", after=("late",)))
    kills = 0
    while True:
        for name in ("running", "late", "alone"):
            series.set_back(name)
        ran = subprocess.run(
            [sys.executable, "-c", CRASHING_FIRER, database.uri, database.name, str(kills + 1)], timeout=60, check=False
        )
        fire_after_a_crash(series.store)
        for name in ("running", "late", "alone"):
            times = [task.nominal_at for task in series.tasks(name)]
            assert len(times) == len(set(times)) == kills + 2
        if ran.returncode == 0:
            break
        assert ran.returncode == -signal.SIGKILL
        kills += 1
        assert kills < 15
    assert kills == 5  # after: schedules, marks on parents, cancels, tasks, commit
    rounds = series.tasks("late")[1:]
    assert [task.parents[0] for task in series.tasks("follower")] == [task.id for task in rounds]


def fire_after_a_crash(store: Store) -> None:
    """As another instance does: again and again, until what the dead one had locked is free."""
    until = time.monotonic() + 30
    while any(one.next_at is not None and one.next_at <= store.now() for one in store.schedules.find()):
        store.firing.fire(store.firing.due())
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_a_killed_process_had_locked_is_freed_by_those_it_is_in_the_way_of(
    series: Series, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slotsched.store.connection.ABANDONED_SECONDS", 0.3)
    monkeypatch.setattr("slotsched.store.firing.PATIENCE_SECONDS", 0.4)
    series.add()
    ran = subprocess.run(
        [sys.executable, "-c", CRASHING_FIRER, database.uri, database.name, "1"], timeout=60, check=False
    )
    assert ran.returncode == -signal.SIGKILL
    began = time.monotonic()
    made = freed = 0
    while not made:
        freed += series.store.firing.free_locks()
        made = series.store.firing.fire(series.store.firing.due())
        assert time.monotonic() - began < 8, "the server's own limit is 10 s"
        time.sleep(0.05)
    assert (made, freed) == (1, 1)
