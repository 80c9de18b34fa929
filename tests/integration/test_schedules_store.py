"""Schedules in the store: made, changed, paused, followed from files, and the books of their series."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import pymongo
import pytest
from bson import ObjectId

from slotsched import errors
from slotsched.model import (
    Facts,
    InstanceRef,
    Job,
    Outcome,
    Overlap,
    Reason,
    Schedule,
    ScheduleStatus,
    SeriesMemory,
    Status,
)
from slotsched.model.schedule import Counters, Overrides, Source
from slotsched.store import ScheduleFilter, Store

ME = InstanceRef(id="instance-1", name="big-1")
DONE = Outcome(reason=Reason.EXIT, exit_code=0)
FAILED = Outcome(reason=Reason.EXIT, exit_code=1)
CANCELED = Outcome(reason=Reason.CANCELED_BY_JOB, exit_code=100)
SOON = dt.timedelta(seconds=5)


@pytest.fixture
def schedules_collection(mongo_client: pymongo.MongoClient[Any], database: Any) -> Any:
    return mongo_client[database.name]["schedules"]


def hourly(name: str = "s", **more: Any) -> Schedule:
    return Schedule(**{"name": name, "job": "j", "every": 3600.0, **more})


def run(store: Store, task_id: str, outcome: Outcome, token: str = "t") -> Status:
    """A task's whole life on an instance, and what every ended task of a series is for: the books."""
    [task] = store.queue.claim([task_id], f"{token}-{task_id}", ME)
    status = store.queue.finish(task.id, f"{token}-{task_id}", outcome)
    assert status is not None
    store.schedules.settle_series(store.tasks.get(task_id))
    return status


# --- making and looking ----------------------------------------------------------------------------
def test_what_is_stored_comes_back_and_the_first_time_is_counted_from_now(store: Store) -> None:
    asked = Schedule(
        name="reports/daily",
        job="reports/daily",
        args={"$day": {"a.b": 1}},
        cron=("15 3 * * *", "0 12 * * SUN"),
        timezone="Europe/Paris",
        overlap=Overlap.BUFFER_ONE,
        jitter=30.0,
        max_runs=7,
        pause_on_failure=3,
        priority=2,
        overrides=Overrides(slots=2, max_time=60.0),
        owner="ann",
        label="Daily report",
        notify={"command": "mail"},
    )
    made = store.schedules.create(asked)
    assert store.schedules.get("reports/daily") == made
    assert made.args == {"$day": {"a.b": 1}}
    assert (made.status, made.rev) == (ScheduleStatus.ACTIVE, 1)
    assert made.next_nominal_at is not None
    assert made.next_at is not None
    assert dt.timedelta(0) <= made.next_at - made.next_nominal_at <= dt.timedelta(seconds=30)
    assert made.next_nominal_at > store.now()


def test_an_interval_is_anchored_to_its_creation(store: Store) -> None:
    made = store.schedules.create(hourly(every=10.0))
    assert made.anchor_at is not None
    assert made.next_at == made.anchor_at + dt.timedelta(seconds=10)


def test_a_name_is_taken_once(store: Store) -> None:
    store.schedules.create(hourly())
    with pytest.raises(errors.Refused, match='there is a schedule "s" already'):
        store.schedules.create(hourly())


def test_what_cannot_be_followed_is_refused_and_nothing_is_stored(store: Store) -> None:
    with pytest.raises(errors.InvalidRecurrence, match="minute 61"):
        store.schedules.create(Schedule(name="s", job="j", cron=("61 * * * *",)))
    assert store.schedules.find() == []


def test_a_moment_in_the_past_is_done_at_once(store: Store) -> None:
    made = store.schedules.create(Schedule(name="s", job="j", at=store.now() - SOON))
    assert (made.status, made.why) == (ScheduleStatus.DONE, "nothing is left to fire")


def test_an_unknown_name_is_not_found_with_a_near_one(store: Store) -> None:
    store.schedules.create(hourly("backup"))
    with pytest.raises(errors.NotFound, match='did you mean "backup"'):
        store.schedules.get("bakcup")


def test_listings_filter_and_page_by_name(store: Store) -> None:
    for n in range(5):
        store.schedules.create(hourly(f"s{n}", job=f"j{n % 2}", owner="ann" if n else "bob", label="x"))
    store.schedules.pause(["s3"])
    find = store.schedules.find
    assert [s.name for s in find(limit=2)] == ["s0", "s1"]
    assert [s.name for s in find(limit=2, after="s1")] == ["s2", "s3"]
    assert [s.name for s in find(ScheduleFilter(job="j1"))] == ["s1", "s3"]
    assert [s.name for s in find(ScheduleFilter(owner="bob"))] == ["s0"]
    assert [s.name for s in find(ScheduleFilter(status=frozenset({ScheduleStatus.PAUSED})))] == ["s3"]
    assert len(find(ScheduleFilter(label="x", source="hand"))) == 5


def test_a_document_nobody_can_read_is_shown_as_broken_and_can_be_removed(
    store: Store, schedules_collection: Any
) -> None:
    schedules_collection.insert_one({"_id": "odd", "status": "whatever", "job": 7})
    [shown] = store.schedules.find(ScheduleFilter(status=frozenset({ScheduleStatus.BROKEN})))
    assert (shown.name, shown.status) == ("odd", ScheduleStatus.BROKEN)
    assert "job: 7 is not a text" in (shown.why or "")
    with pytest.raises(errors.Refused, match="cannot be used"):
        store.schedules.set("odd", {"every": 5.0})
    assert store.schedules.remove(["odd"]) == 1


# --- changing --------------------------------------------------------------------------------------
def test_a_change_of_the_rule_counts_anew_and_another_kind_takes_the_place(store: Store) -> None:
    before = store.schedules.create(hourly())
    after = store.schedules.set("s", {"cron": ("0 0 1 1 *",)})
    assert (after.every, after.cron, after.rev) == (None, ("0 0 1 1 *",), before.rev + 1)
    assert after.next_at != before.next_at
    assert store.schedules.get("s") == after


def test_other_changes_leave_the_next_time_alone(store: Store) -> None:
    before = store.schedules.create(hourly())
    after = store.schedules.set("s", {"priority": 5.0, "overlap": Overlap.ALLOW_ALL})
    assert after.next_at == before.next_at


def test_a_bad_or_unknown_change_is_refused(store: Store) -> None:
    store.schedules.create(hourly())
    with pytest.raises(errors.UsageError, match="rev"):
        store.schedules.set("s", {"rev": 7})
    with pytest.raises(errors.InvalidRecurrence):
        store.schedules.set("s", {"cron": ("x",)})


def test_several_are_paused_and_resumed_or_none(store: Store) -> None:
    for name in ("a", "b"):
        store.schedules.create(hourly(name))
    with pytest.raises(errors.NotFound):
        store.schedules.pause(["a", "missing"])
    assert store.schedules.get("a").status == ScheduleStatus.ACTIVE
    paused = store.schedules.pause(["a", "b"], by="ann")
    assert [(s.status, s.why, s.next_at) for s in paused] == [(ScheduleStatus.PAUSED, "paused by ann", None)] * 2
    resumed = store.schedules.resume(["a", "b"])
    assert all(s.status == ScheduleStatus.ACTIVE and s.next_at is not None for s in resumed)


def test_disabled_is_switched_off_until_resumed(store: Store) -> None:
    store.schedules.create(hourly())
    [off] = store.schedules.disable(["s"])
    assert (off.status, off.next_at) == (ScheduleStatus.DISABLED, None)
    [on] = store.schedules.resume(["s"])
    assert on.status == ScheduleStatus.ACTIVE


def test_what_is_over_cannot_be_resumed(store: Store) -> None:
    store.schedules.create(Schedule(name="s", job="j", at=store.now() - SOON))
    with pytest.raises(errors.Refused, match="nothing is left to fire"):
        store.schedules.resume(["s"])


def test_replacing_keeps_the_books(store: Store) -> None:
    store.schedules.create(hourly())
    run(store, store.firing.run_now("s").id, DONE)
    new = store.schedules.replace(Schedule(name="s", job="other", cron=("* * * * *",)))
    assert (new.job, new.every, new.counters.completed) == ("other", None, 1)
    assert new.last_completed_at is not None


# --- the series' books -----------------------------------------------------------------------------
def test_success_is_remembered_with_its_state_and_failure_changes_nothing_of_it(store: Store) -> None:
    store.schedules.create(hourly())
    first = store.firing.run_now("s").id
    run(store, first, Outcome(reason=Reason.EXIT, exit_code=0, state={"$seen": 7}))
    task = store.tasks.get(first)
    memory = store.schedules.memories(["s", "missing"])
    assert memory == {
        "s": SeriesMemory(last_completed_at=task.ended_at, last_started_at=task.started_at, state={"$seen": 7})
    }
    run(store, store.firing.run_now("s").id, Outcome(reason=Reason.EXIT, exit_code=1, state={"seen": 8}))
    run(store, store.firing.run_now("s").id, CANCELED)
    assert store.schedules.memories(["s"]) == memory
    books = store.schedules.get("s")
    assert (books.counters, books.failures, books.live) == (Counters(completed=1, failed=1, canceled=1), 1, ())


def test_a_success_without_state_keeps_the_last_one(store: Store) -> None:
    store.schedules.create(hourly())
    run(store, store.firing.run_now("s").id, Outcome(reason=Reason.EXIT, exit_code=0, state=[1]))
    run(store, store.firing.run_now("s").id, DONE)
    assert store.schedules.memories(["s"])["s"].state == [1]


def test_booking_twice_counts_once(store: Store) -> None:
    store.schedules.create(hourly())
    first = store.firing.run_now("s").id
    run(store, first, DONE)
    assert store.schedules.settle_series(store.tasks.get(first))
    assert store.schedules.settle_many([first]) == {first}
    assert store.schedules.get("s").counters.completed == 1


def test_a_task_that_has_not_ended_is_not_booked(store: Store) -> None:
    store.schedules.create(hourly())
    first = store.firing.run_now("s").id
    store.schedules.settle_many([first])
    assert store.schedules.get("s").live == (first,)


def test_the_next_run_is_told_also_of_what_nobody_booked_yet(store: Store) -> None:
    store.schedules.create(hourly())
    finish(store, store.firing.run_now("s").id, state=3)
    told = store.schedules.memories(["s"])
    assert told["s"].state == 3
    assert store.schedules.get("s").memory == SeriesMemory()
    settle(store)
    assert store.schedules.get("s").memory == told["s"]


def test_what_is_not_booked_yet_is_told_by_the_rules_of_the_books(store: Store) -> None:
    """Only a success leaves something, without state it keeps the last one, and what ended first counts first."""
    store.schedules.create(hourly(overlap=Overlap.ALLOW_ALL))
    ids = [store.firing.run_now("s").id for _ in range(5)]
    finish(store, ids[0], state="early")
    run(store, ids[1], Outcome(reason=Reason.EXIT, exit_code=0, state=1))
    assert store.schedules.memories(["s"])["s"].state == 1
    finish(store, ids[3], state=2)
    finish(store, ids[2])
    finish(store, ids[4], exit_code=1, state="failed")
    told = store.schedules.memories(["s"])["s"]
    last = store.tasks.get(ids[2])
    assert told == SeriesMemory(last_completed_at=last.ended_at, last_started_at=last.started_at, state=2)
    settle(store)
    assert store.schedules.get("s").memory == told


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_end_that_is_booked_while_the_next_run_asks_is_not_missed(
    store: Store, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Its state moves from the task to the schedule in one step, before or after the ended tasks were read."""
    store.schedules.create(hourly())
    finish(store, store.firing.run_now("s").id, state=3)
    series = store.schedules._series
    find = series._ended

    def slow(*args: Any) -> Any:
        monkeypatch.setattr(series, "_ended", find)
        found = find(*args) if when == "after" else None
        settle(store)
        return find(*args) if found is None else found

    monkeypatch.setattr(series, "_ended", slow)
    assert store.schedules.memories(["s"])["s"].state == 3
    assert store.schedules.get("s").live == ()


@pytest.mark.parametrize(("field", "value"), [("ended_at", "soon"), ("started_at", "late"), ("ended_at", None)])
def test_times_of_any_type_in_a_task_break_no_schedule(
    store: Store, mongo_client: pymongo.MongoClient[Any], database: Any, field: str, value: Any
) -> None:
    store.schedules.create(hourly())
    ran = store.firing.run_now("s").id
    finish(store, ran, state=3)
    mongo_client[database.name]["tasks"].update_one({"_id": ObjectId(ran)}, {"$set": {field: value}})
    told = store.schedules.memories(["s"])["s"]
    assert told.state == (3 if field == "started_at" else None)
    settle(store)
    assert store.schedules.get("s").memory == told
    assert store.schedules.get("s").counters.completed == 1


def finish(store: Store, task_id: str, *, exit_code: int = 0, state: Any = None) -> None:
    """An end that nobody has booked yet."""
    store.queue.claim([task_id], f"t-{task_id}", ME)
    outcome = Outcome(reason=Reason.EXIT, exit_code=exit_code, state=state)
    assert store.queue.finish(task_id, f"t-{task_id}", outcome) is not None


def settle(store: Store) -> None:
    live = store.schedules.get("s").live
    assert store.schedules.settle_many(live) == set(live)


def test_the_books_of_a_removed_schedule_stop_nobody(store: Store) -> None:
    store.schedules.create(hourly())
    first = store.firing.run_now("s").id
    store.schedules.remove(["s"])
    run(store, first, DONE)
    assert store.schedules.settle_many([first]) == {first}


def test_failures_in_a_row_pause_and_a_success_between_starts_anew(store: Store) -> None:
    store.schedules.create(hourly(pause_on_failure=2))
    for outcome in (FAILED, DONE, FAILED):
        run(store, store.firing.run_now("s").id, outcome)
    assert store.schedules.get("s").status == ScheduleStatus.ACTIVE
    run(store, store.firing.run_now("s").id, FAILED)
    paused = store.schedules.get("s")
    assert (paused.status, paused.why) == (ScheduleStatus.PAUSED, "paused after 2 failures in a row")
    assert paused.next_at is None
    [resumed] = store.schedules.resume(["s"])
    assert resumed.failures == 0


def test_history_is_the_series_newest_first_and_clearing_keeps_what_lives(store: Store) -> None:
    store.schedules.create(hourly(overlap=Overlap.ALLOW_ALL))
    ids = [store.firing.run_now("s").id for _ in range(4)]
    for task_id in ids[:3]:
        run(store, task_id, DONE)
        resolve_all(store)
    assert [task.id for task in store.schedules.history("s", 2)] == ids[:1:-1]
    assert [task.id for task in store.schedules.history("s", 9, after=ids[2])] == ids[1::-1]
    assert store.schedules.clear_history(["s"]) == 3
    cleared = store.schedules.get("s")
    assert [task.id for task in store.schedules.history("s")] == ids[3:]
    assert (cleared.counters, cleared.live) == (Counters(), (ids[3],))
    assert cleared.last_completed_at is not None


def resolve_all(store: Store) -> None:
    """What the resolving duty does."""
    ended = store.resolve.ended()
    store.schedules.settle_many(one.id for one in ended)
    store.resolve.tell(ended)
    store.resolve.done(ended)


# --- declared in files -----------------------------------------------------------------------------
def job(content: str, name: str = "backup", **schedule: Any) -> Job:
    return Job(name=name, hash=content, facts=Facts(schedule=schedule))


@pytest.fixture
def publish(store: Store) -> Callable[..., None]:
    def publish(*jobs: Job, instance: str = "one") -> None:
        store.catalogs.publish(instance, jobs)

    return publish


def follow(store: Store) -> dict[str, str]:
    return {change.name: change.what for change in store.declared.follow()}


def test_a_file_that_declares_a_schedule_has_it(store: Store, publish: Callable[..., None]) -> None:
    publish(job("1", cron="15 3 * * *", timezone="Europe/Paris", overlap="buffer_one"), job("x", "plain"))
    assert follow(store) == {"backup": "added"}
    made = store.schedules.get("backup")
    assert (made.job, made.cron, made.timezone) == ("backup", ("15 3 * * *",), "Europe/Paris")
    assert (made.overlap, made.source) == (Overlap.BUFFER_ONE, Source(kind="file", hash="1"))
    assert follow(store) == {}


@pytest.mark.parametrize(
    ("facts", "field", "value"),
    [
        ({"every": 10.0}, "every", 10.0),
        ({"cron": ["0 1 * * *", "@hourly"]}, "cron", ("0 1 * * *", "@hourly")),
        ({"at": "2099-07-01T12:00", "timezone": "Europe/Paris"}, "at", dt.datetime(2099, 7, 1, 10, tzinfo=dt.UTC)),
        ({"after": "other", "when": "any"}, "after", ("other",)),
    ],
)
def test_every_kind_of_declaration(
    store: Store, publish: Callable[..., None], facts: Mapping[str, Any], field: str, value: Any
) -> None:
    publish(job("1", **facts))
    follow(store)
    assert getattr(store.schedules.get("backup"), field) == value
    assert store.schedules.get("backup").status == ScheduleStatus.ACTIVE


def test_a_schedule_altered_by_hand_so_that_it_cannot_follow_its_file_keeps_no_other_from_it(
    store: Store, publish: Callable[..., None], schedules_collection: Any
) -> None:
    publish(job("1", every=60.0))
    follow(store)
    schedules_collection.update_one({"_id": "backup"}, {"$set": {"priority": 1e7}})
    publish(job("2", every=90.0), job("1", "zzz", every=60.0))
    assert follow(store) == {"backup": "broken", "zzz": "added"}


def test_an_edited_file_changes_its_schedule_and_a_pause_by_hand_survives(
    store: Store, publish: Callable[..., None]
) -> None:
    publish(job("1", every=60.0))
    follow(store)
    store.schedules.set("backup", {"priority": 3.0})
    store.schedules.pause(["backup"], by="ann")
    publish(job("2", cron="@daily"))
    assert follow(store) == {"backup": "changed"}
    changed = store.schedules.get("backup")
    assert (changed.every, changed.cron, changed.priority) == (None, ("@daily",), 3.0)
    assert (changed.status, changed.why) == (ScheduleStatus.PAUSED, "paused by ann")


def test_a_file_that_is_gone_leaves_its_schedule_disabled_and_back_it_is_active_again(
    store: Store, publish: Callable[..., None]
) -> None:
    publish(job("1", every=60.0))
    follow(store)
    run(store, store.firing.run_now("backup").id, DONE)
    publish()
    assert follow(store) == {"backup": "gone"}
    gone = store.schedules.get("backup")
    assert (gone.status, gone.next_at, gone.counters.completed) == (ScheduleStatus.DISABLED, None, 1)
    assert follow(store) == {}
    publish(job("1", every=60.0))
    assert follow(store) == {"backup": "changed"}
    back = store.schedules.get("backup")
    assert (back.status, back.counters.completed) == (ScheduleStatus.ACTIVE, 1)


def test_a_file_that_no_longer_declares_it_disables_it_too(store: Store, publish: Callable[..., None]) -> None:
    publish(job("1", every=60.0))
    follow(store)
    publish(job("2"))
    assert follow(store) == {"backup": "gone"}


def test_what_is_switched_off_by_hand_stays_off(store: Store, publish: Callable[..., None]) -> None:
    publish(job("1", every=60.0))
    follow(store)
    store.schedules.disable(["backup"], by="ann")
    publish()
    follow(store)
    publish(job("2", every=30.0))
    follow(store)
    after = store.schedules.get("backup")
    assert (after.status, after.why, after.every) == (ScheduleStatus.DISABLED, "disabled by ann", 30.0)


def test_of_different_copies_the_one_first_published_last_wins(store: Store, publish: Callable[..., None]) -> None:
    publish(job("old", every=60.0), instance="one")
    publish(job("new", every=30.0), instance="two")
    follow(store)
    assert store.schedules.get("backup").every == 30.0
    publish(job("old", every=60.0), instance="one")  # published again, not anew
    assert follow(store) == {}
    assert store.catalogs.copies()["backup"] == {"old": {"one"}, "new": {"two"}}
    publish(instance="two")
    assert follow(store) == {"backup": "changed"}
    assert store.schedules.get("backup").every == 60.0


def test_a_rule_that_cannot_be_read_breaks_its_schedule_only_until_it_is_mended(
    store: Store, publish: Callable[..., None]
) -> None:
    publish(job("1", cron="61 * * * *"), job("1", "good", every=60.0))
    assert follow(store) == {"backup": "broken", "good": "added"}
    broken = store.schedules.get("backup")
    assert broken.status == ScheduleStatus.BROKEN
    assert "minute 61 is not in 0-59" in (broken.why or "")
    publish(job("2", cron="1 * * * *"), job("1", "good", every=60.0))
    assert follow(store) == {"backup": "changed"}
    assert store.schedules.get("backup").status == ScheduleStatus.ACTIVE


def test_a_file_leaves_a_schedule_made_by_hand_alone(store: Store, publish: Callable[..., None]) -> None:
    store.schedules.create(hourly("backup", job="other"))
    publish(job("1", every=60.0))
    assert follow(store) == {}
    assert store.schedules.get("backup").job == "other"


def test_what_a_file_declares_is_changed_there(store: Store, publish: Callable[..., None]) -> None:
    publish(job("1", every=60.0))
    follow(store)
    with pytest.raises(errors.Refused, match="declared in the file"):
        store.schedules.set("backup", {"every": 30.0})
