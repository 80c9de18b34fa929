"""Every query of the schedules, judged by the server's own profiler, with many that are not due."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pymongo
import pytest
from test_store_plans import Plan, profiled, read_plan

from slotsched.model import Overlap, Schedule, ScheduleStatus, TaskRequest
from slotsched.store import ScheduleFilter, Store

IDLE = 2000


class Filled:
    """A store with many schedules that are not due, and other tasks beside those of one series."""

    def __init__(self, store: Store, database: Any) -> None:
        self.store = store
        self._database = database
        store.schedules.create(Schedule(name="template", job="j", every=3600.0, owner="ann", label="x"))
        documents = database["schedules"]
        template = documents.find_one({"_id": "template"})
        documents.insert_many([template | {"_id": f"s{n:04}", "job": f"j{n % 50}"} for n in range(IDLE)])
        store.tasks.enqueue_many(TaskRequest(job="j") for _ in range(500))

    def make_due(self, count: int) -> None:
        now = self.store.now() - dt.timedelta(seconds=1)
        names = [f"s{n:04}" for n in range(count)]
        times = {"next_at": now, "next_nominal_at": now, "anchor_at": now}
        self._database["schedules"].update_many({"_id": {"$in": names}}, {"$set": times})

    def plans(self, call: Callable[[], object], collection: str = "schedules") -> list[Plan]:
        with profiled(self._database):
            call()
        entries = self._database["system.profile"].find({"ns": f"{self._database.name}.{collection}"})
        return [read_plan(entry) for entry in entries if entry["op"] != "insert"]


@pytest.fixture
def filled(store: Store, database: Any, mongo_client: pymongo.MongoClient[Any]) -> Filled:
    return Filled(store, mongo_client[database.name])


def test_a_tick_with_nothing_due_reads_no_keys(filled: Filled) -> None:
    [plan] = filled.plans(filled.store.firing.due)
    assert (plan.keys, plan.documents) == (0, 0)
    assert "next_at" in plan.summary


def test_the_next_due_is_one_key(filled: Filled) -> None:
    [plan] = filled.plans(filled.store.firing.next_due)
    assert (plan.keys, plan.documents <= 1) == (1, True)


def test_what_is_due_is_read_in_order_and_nothing_else(filled: Filled) -> None:
    filled.make_due(20)
    [plan] = filled.plans(lambda: filled.store.firing.due(10))
    assert plan.keys <= 11
    assert plan.documents <= 11
    assert "SORT" not in plan.stages


def test_a_batch_is_a_handful_of_commands_that_read_what_they_change(filled: Filled) -> None:
    filled.make_due(50)
    due = filled.store.firing.due()
    plans = filled.plans(lambda: filled.store.firing.fire(due))
    reads = [plan for plan in plans if plan.command in ("query", "find")]
    assert len(reads) == 1  # whose rounds follow these
    assert (reads[0].documents, "after" in reads[0].summary) == (0, True)
    assert all(plan.keys <= 1 for plan in plans if plan.command == "update")
    assert all("COLLSCAN" not in plan.stages for plan in plans)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (ScheduleFilter(status=frozenset({ScheduleStatus.ACTIVE})), "status"),
        (ScheduleFilter(job="j7"), "job"),
        (ScheduleFilter(owner="ann"), "owner"),
        (ScheduleFilter(label="x"), "label"),
        (ScheduleFilter(source="hand"), "source.kind"),
        (ScheduleFilter(), "_id"),
    ],
)
def test_a_page_of_a_listing_reads_a_page(filled: Filled, wanted: ScheduleFilter, index: str) -> None:
    [plan] = filled.plans(lambda: filled.store.schedules.find(wanted, 20))
    assert plan.keys <= 21
    assert plan.documents <= 21
    assert index in plan.summary
    assert "SORT" not in plan.stages


def test_history_reads_its_page_and_clearing_only_its_series(filled: Filled) -> None:
    filled.make_due(1)
    filled.store.firing.fire(filled.store.firing.due())
    [plan] = filled.plans(lambda: filled.store.schedules.history("s0000", 20), "tasks")
    assert (plan.keys <= 2, plan.documents) == (True, 1)
    plans = filled.plans(lambda: filled.store.schedules.clear_history(["s0000"]), "tasks")
    assert all(plan.keys <= 2 for plan in plans)


def test_the_newest_task_of_each_series_is_one_key(filled: Filled) -> None:
    for name in ("s0000", "s0001"):
        tasks = [filled.store.firing.run_now(name, overlap=Overlap.ALLOW_ALL) for _ in range(5)]
    found: dict[str, Any] = {}
    [plan] = filled.plans(lambda: found.update(filled.store.schedules.latest(["s0000", "s0001", "s0002"])))
    assert sorted(found) == ["s0000", "s0001"]
    assert found["s0001"].id == tasks[-1].id
    assert plan.keys <= 3 + 2 * 2  # schedules by name, and one task each; some plans look at the key after it
