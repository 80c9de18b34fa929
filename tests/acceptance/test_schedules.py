"""Schedules over time: on their grid, after an outage, one after another, and while the last round still runs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pymongo
import pytest
from fleet import FleetMaker, until
from office import Office, an_office

from slotsched.errors import Refused

SECOND = dt.timedelta(seconds=1)


@pytest.fixture(scope="module")
def office(make_fleet: FleetMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """With one instance of 16 slots, shared by the module."""
    for made in an_office(make_fleet, tmp_path_factory.mktemp("jobs")):
        made.fleet.start("clock", slots=16)
        yield made


@pytest.fixture
def closed(make_fleet: FleetMaker, tmp_path: Path) -> Iterator[Office]:
    """Of one test's own, with no instance up."""
    (tmp_path / "jobs").mkdir()
    yield from an_office(make_fleet, tmp_path / "jobs")


# --- the grid ---


def test_an_interval_fires_on_its_grid_and_remembers_its_last_success(office: Office) -> None:
    office.add("grid", every="2s")
    begun = office.get("grid").anchor_at
    assert begun is not None
    first, second = office.ended("grid", 2)
    assert [task.nominal_at for task in (first, second)] == [begun + 2 * SECOND, begun + 4 * SECOND]
    assert all(task.nominal_at is not None and task.created_at >= task.nominal_at for task in (first, second))
    remembered = office.until("grid", lambda one: one.counters.completed >= 2)
    assert remembered.last_completed_at in [task.ended_at for task in office.rounds("grid")]
    office.set("grid", code=3)
    failed = office.until("grid", lambda one: one.failures >= 2)
    completed = [task for task in office.rounds("grid") if task.status == "completed"]
    assert failed.last_completed_at == completed[-1].ended_at
    assert failed.status == "active"
    office.fleet.client.schedules.pause("grid")
    times = [task.nominal_at for task in office.rounds("grid") if task.nominal_at is not None]
    assert [later - earlier for earlier, later in pairwise(times)] == [2 * SECOND] * (len(times) - 1)


def test_after_a_failure_of_every_run_there_is_no_last_success(office: Office) -> None:
    office.add("never", {"code": 1})
    office.fleet.ended(office.run("never"))
    found = office.until("never", lambda one: one.failures == 1)
    assert (found.last_completed_at, found.last_started_at) == (None, None)


def test_down_for_several_intervals_there_is_one_overdue_run_and_then_the_next_grid_point(closed: Office) -> None:
    instance = closed.fleet.start("first")
    closed.add("grid", every="0.7s", overlap="allow_all")  # runs may take longer than that on a busy machine
    closed.ended("grid", 2)
    instance.stop()
    before = len(closed.rounds("grid"))
    down = closed.until("grid", lambda one: one.next_at is not None and closed.fleet.client.store.now() > one.next_at)
    missed = down.next_nominal_at
    assert missed is not None
    until(lambda: closed.fleet.client.store.now() > missed + 4 * SECOND, what="several intervals to pass")
    closed.fleet.start("second")
    closed.ended("grid", before + 3)
    times = [task.nominal_at for task in closed.rounds("grid") if task.nominal_at is not None][: before + 3]
    steps = [round((later - earlier) / SECOND / 0.7, 6) for earlier, later in pairwise(times)]
    assert [step for step in steps if step != 1.0] == [steps[before - 1]], "one gap, everything else on the grid"
    assert steps[before - 1] >= 5
    assert steps[before - 1].is_integer()


def test_a_day_of_downtime_is_caught_up_on_as_the_policy_says(
    closed: Office, mongo_client: pymongo.MongoClient[dict[str, object]]
) -> None:
    for policy in ("once", "all", "none"):
        closed.add(policy, catch_up=policy, overlap="allow_all")
    database = mongo_client[closed.fleet.settings["database"]]
    day = dt.timedelta(hours=24, minutes=10)
    earlier = {
        name: {"$subtract": [f"${name}", int(day.total_seconds() * 1000)]}
        for name in ("anchor_at", "next_nominal_at", "next_at")
    }
    database["schedules"].update_many({}, [{"$set": earlier}])
    due = {policy: closed.get(policy).next_nominal_at for policy in ("once", "all", "none")}
    closed.fleet.start("late", slots=16)
    now = closed.fleet.client.store.now()
    closed.ended("all", 24)
    for policy in ("once", "none"):
        closed.until(policy, lambda one: one.next_at is not None and one.next_at > now)
    hours = {policy: [task.nominal_at for task in closed.rounds(policy)] for policy in due}
    first = due["all"]
    assert first is not None
    assert hours["all"] == [first + n * dt.timedelta(hours=1) for n in range(24)]
    assert hours["once"] == [(due["once"] or first) + 23 * dt.timedelta(hours=1)]
    assert hours["none"] == []


# --- one series after another ---


def test_each_round_of_a_brings_one_of_b_that_belongs_to_it(office: Office) -> None:
    office.add("a")
    office.add("b", after="a")
    rounds = []
    for _ in range(3):
        rounds.append(office.run("a"))
        office.ended("b", len(rounds))
    followers = office.rounds("b")
    assert [task.status for task in followers] == ["completed"] * 3
    assert [task.trigger for task in followers] == [f"after:{one}" for one in rounds]
    assert all(one in task.parents for one, task in zip(rounds, followers, strict=True))
    starts = {mark.task: mark.at for mark in office.fleet.witness.marks("start")}
    ends = {mark.task: mark.at for mark in office.fleet.witness.marks("end")}
    assert all(starts[task.id] >= ends[one] for one, task in zip(rounds, followers, strict=True))


def test_a_round_that_fails_or_is_canceled_cancels_its_follower_and_the_next_one_goes_on(office: Office) -> None:
    office.add("up", {"code": 1})
    office.add("down", after="up")
    office.run("up")
    (first,) = office.ended("down", 1)
    assert (first.status, first.reason) == ("canceled", "upstream")
    office.set("up", code=0, seconds=30)
    slow = office.run("up")
    office.fleet.witness.wait_for("start", slow)
    office.fleet.client.cancel(slow)
    assert office.ended("down", 2)[1].reason == "upstream"
    office.set("up", seconds=0)
    office.run("up")
    assert [task.status for task in office.ended("down", 3)] == ["canceled", "canceled", "completed"]


# --- while the last round runs ---


def test_skip_never_runs_two_at_once_and_counts_what_it_leaves_out(office: Office) -> None:
    office.add("skip", {"seconds": 1.2}, every="0.5s")
    found = office.until("skip", lambda one: one.counters.skipped >= 3 and one.counters.completed >= 2)
    office.fleet.client.schedules.pause("skip")
    assert found.overlap == "skip"
    assert office.most_at_once("skip") == 1


def test_the_overlap_policies_decide_about_run_now_too(office: Office) -> None:
    for policy in ("skip", "buffer_one", "buffer_all", "allow_all", "cancel_other"):
        office.add(policy.replace("_", "-") + "-now", {"seconds": 60}, overlap=policy)
    skip, one, every, free, other = (
        f"{name}-now" for name in ("skip", "buffer-one", "buffer-all", "allow-all", "cancel-other")
    )
    first = {name: office.run(name) for name in (skip, one, every, free, other)}
    for task in first.values():
        office.fleet.witness.wait_for("start", task)
    with pytest.raises(Refused, match="has not ended yet"):
        office.run(skip)
    waiting = office.run(one)
    assert office.fleet.client.get(waiting).status == "waiting"
    with pytest.raises(Refused):
        office.run(one)
    chain = [office.run(every) for _ in range(2)]
    assert [office.fleet.client.get(task).after for task in chain] == [(first[every],), (first[every], chain[0])]
    beside = office.run(free)
    office.fleet.witness.wait_for("start", beside)
    instead = office.run(other)
    assert office.fleet.ended(first[other])[0].reason == "canceled"
    office.fleet.witness.wait_for("start", instead)
    assert office.run(skip, overlap="allow_all") != first[skip]
    for task in office.rounds(skip) + office.rounds(one) + office.rounds(every) + office.rounds(free):
        if task.ended_at is None:
            office.fleet.client.kill(task.id)
    office.fleet.client.kill(instead)
    office.fleet.ended(waiting, *chain)


def test_a_schedule_pauses_itself_after_failures_in_a_row(office: Office) -> None:
    office.add("fragile", {"code": 1}, every="0.5s", pause_on_failure=2)
    found = office.until("fragile", lambda one: one.status == "paused")
    assert found.why == "paused after 2 failures in a row"
    assert found.next_at is None


def test_nothing_fires_outside_of_its_bounds_nor_before_its_time(office: Office) -> None:
    start = office.fleet.client.store.now() + 1.5 * SECOND
    office.add("bounded", every="0.5s", start_at=start, end_at=start + 1.2 * SECOND, jitter="0.2s")
    office.until("bounded", lambda one: one.status == "done")
    times = [task.nominal_at for task in office.rounds("bounded") if task.nominal_at is not None]
    assert len(times) == 3
    assert times[0] >= start - dt.timedelta(milliseconds=1)
    assert all(
        dt.timedelta(0) <= task.due_at - (task.nominal_at or task.due_at) <= 0.2 * SECOND
        for task in office.rounds("bounded")
    )
    assert all(task.created_at >= task.due_at for task in office.rounds("bounded"))
