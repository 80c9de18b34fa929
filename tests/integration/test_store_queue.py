"""An instance's side of the queue: order, claim, release, every way to finish, and documents at fault."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import pytest
from bson import Int64, ObjectId, Regex

from slotsched.model import (
    InstanceRef,
    LogRef,
    Needs,
    Outcome,
    Progress,
    Reason,
    Reservation,
    RetryPolicy,
    Status,
    TaskRequest,
)
from slotsched.store import Store, TaskFilter

ME = InstanceRef(id="instance-1", name="big-1")
OTHER = InstanceRef(id="instance-2", name="big-2")
DONE = Outcome(reason=Reason.EXIT, exit_code=0)
FAILED = Outcome(reason=Reason.EXIT, exit_code=1)


@pytest.fixture
def raw(mongo_client: Any, database: Any) -> Any:
    """The collection, behind the store's back."""
    return mongo_client[database.name].tasks


def running(store: Store, request: TaskRequest | None = None, token: str = "token") -> str:
    stored = store.tasks.enqueue(request or TaskRequest(job="a"))
    assert len(store.queue.claim([stored.id], token, ME)) == 1
    return stored.id


# --- order and time --------------------------------------------------------------------------------
def test_candidates_come_by_due_time_less_priority(store: Store) -> None:
    plain = store.tasks.enqueue(TaskRequest(job="a")).id
    urgent = store.tasks.enqueue(TaskRequest(job="b", priority=1)).id
    waiting = store.tasks.enqueue(TaskRequest(job="a", due_at=store.now() - dt.timedelta(minutes=15))).id
    assert [one.id for one in store.queue.candidates(store.queue.lanes(), 10)] == [waiting, urgent, plain]


def test_each_lane_has_its_head_and_a_lane_is_a_job_with_its_needs(store: Store) -> None:
    ids = [store.tasks.enqueue(TaskRequest(job="a", needs=Needs(slots=n % 2 + 1))).id for n in range(6)]
    assert sorted(store.queue.lanes()) == ["a|1|||", "a|2|||"]
    assert [(head.id, head.lane) for head in store.queue.heads()] == [(ids[0], "a|1|||"), (ids[1], "a|2|||")]


def test_blocked_tells_what_a_plan_needs(store: Store) -> None:
    task_id = store.tasks.enqueue(TaskRequest(job="a", max_time=90)).id
    start = store.now().replace(microsecond=0)
    hold = Reservation(by=ME.id, start=start, until=start + dt.timedelta(seconds=30))
    assert store.queue.reserve(task_id, hold)
    [blocked] = store.queue.blocked(["a|1|||"], 5)
    assert (blocked.max_time, blocked.reserved) == (90, hold)
    assert blocked.due_at == store.tasks.get(task_id).due_at


def test_a_reservation_gives_way_to_an_earlier_start_or_when_it_is_over(store: Store) -> None:
    task_id = store.tasks.enqueue(TaskRequest(job="a")).id
    now = store.now()
    seconds = lambda n: now + dt.timedelta(seconds=n)  # noqa: E731
    assert store.queue.reserve(task_id, Reservation(by="one", start=seconds(60), until=seconds(90)))
    assert not store.queue.reserve(task_id, Reservation(by="two", start=seconds(70), until=seconds(90)))
    assert store.queue.reserve(task_id, Reservation(by="two", start=seconds(10), until=seconds(-1)))
    assert store.queue.reserve(task_id, Reservation(by="three", start=seconds(70), until=seconds(90)))
    store.queue.unreserve(task_id, "two")
    assert store.tasks.get(task_id).reserved is not None
    store.queue.unreserve(task_id, "three")
    assert store.tasks.get(task_id).reserved is None


def test_only_what_is_due_by_the_servers_clock_is_promoted(store: Store, raw: Any) -> None:
    soon = store.tasks.enqueue(TaskRequest(job="a", due_in=3600)).id
    store.tasks.enqueue(TaskRequest(job="a", due_in=7200))
    wait = store.queue.next_due()
    assert wait is not None
    assert 3590 < wait < 3601, "its $$NOW of reads may be some milliseconds behind that of writes"
    assert store.queue.promote() == 0
    raw.update_one({"_id": ObjectId(soon)}, {"$set": {"due_at": store.now() - dt.timedelta(seconds=1)}})
    assert store.queue.next_due() == 0
    assert store.queue.promote() == 1
    assert store.tasks.get(soon).status is Status.PENDING
    assert store.queue.promote() == 0


def test_nothing_scheduled_is_never_due(store: Store) -> None:
    store.tasks.enqueue(TaskRequest(job="a"))
    assert store.queue.next_due() is None


# --- claim and release -----------------------------------------------------------------------------
def test_a_claim_opens_an_attempt_and_raises_the_fence(store: Store) -> None:
    task_id = store.tasks.enqueue(TaskRequest(job="a")).id
    [task] = store.queue.claim([task_id], "token", ME)
    assert (task.status, task.instance, task.attempt, task.fence) == (Status.RUNNING, ME, 1, 1)
    [attempt] = task.attempts
    assert (attempt.number, attempt.fence, attempt.instance, attempt.started_at) == (1, 1, ME, task.started_at)
    assert store.queue.claim([task_id], "other", OTHER) == []
    held = store.queue.held(ME.id)
    assert (held[task_id].token, held[task_id].fence, held[task_id].cancel) == ("token", 1, None)
    assert store.queue.held(OTHER.id) == {}


def test_a_claim_comes_back_in_rank_order(store: Store) -> None:
    low = store.tasks.enqueue(TaskRequest(job="a", priority=-1)).id
    high = store.tasks.enqueue(TaskRequest(job="a", priority=1)).id
    assert [task.id for task in store.queue.claim([low, high], "token", ME)] == [high, low]


def test_a_released_task_is_as_if_never_claimed_but_for_its_fence(store: Store) -> None:
    task_id = store.tasks.enqueue(TaskRequest(job="a")).id
    before = store.tasks.get(task_id)
    store.queue.claim([task_id], "token", ME)
    assert store.queue.release(task_id, "wrong") is None
    assert store.queue.release(task_id, "token") is Status.PENDING
    after = store.tasks.get(task_id)
    assert after.fence == 1
    assert (after.attempt, after.attempts, after.instance, after.started_at) == (0, (), None, None)
    assert (after.status, after.due_at) == (Status.PENDING, before.due_at)
    assert store.queue.release(task_id, "token") is None
    [again] = store.queue.claim([task_id], "token-2", ME)
    assert (again.attempt, again.fence, len(again.attempts)) == (1, 2, 1)


def test_a_release_after_a_cancel_is_the_cancel(store: Store) -> None:
    task_id = running(store)
    store.tasks.cancel(task_id, "ann")
    assert store.queue.release(task_id, "token") is Status.CANCELED
    task = store.tasks.get(task_id)
    assert (task.reason, task.message, task.attempt) == (Reason.CANCELED, "canceled by ann", 0)
    assert task.ended_at is not None


# --- finish ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("outcome", "retry_in", "asked", "status", "reason"),
    [
        (DONE, None, False, Status.COMPLETED, Reason.EXIT),
        (DONE, 5.0, False, Status.COMPLETED, Reason.EXIT),
        (DONE, None, True, Status.COMPLETED, Reason.EXIT),
        (FAILED, None, False, Status.FAILED, Reason.EXIT),
        (FAILED, None, True, Status.CANCELED, Reason.CANCELED),
        (FAILED, 5.0, True, Status.CANCELED, Reason.CANCELED),
        (FAILED, 5.0, False, Status.SCHEDULED, Reason.EXIT),
        (Outcome(reason=Reason.SIGNAL, signal=11), None, False, Status.FAILED, Reason.SIGNAL),
        (Outcome(reason=Reason.TIMEOUT, exit_code=0), None, False, Status.FAILED, Reason.TIMEOUT),
        (Outcome(reason=Reason.CANCELED, exit_code=0), None, True, Status.CANCELED, Reason.CANCELED),
        (Outcome(reason=Reason.CANCELED_BY_JOB, exit_code=100), 5.0, False, Status.CANCELED, Reason.CANCELED_BY_JOB),
        (Outcome(reason=Reason.NOT_STARTED, message="gone"), None, False, Status.FAILED, Reason.NOT_STARTED),
        (Outcome(reason=Reason.SHUTDOWN, signal=15), 1.0, False, Status.SCHEDULED, Reason.SHUTDOWN),
        (Outcome(reason=Reason.LOST), 1.0, False, Status.SCHEDULED, Reason.LOST),
    ],
)
def test_every_ending_leads_to_its_status(
    store: Store, outcome: Outcome, retry_in: float | None, asked: bool, status: Status, reason: Reason
) -> None:
    task_id = running(store)
    if asked:
        store.tasks.cancel(task_id, "ann")
    assert store.queue.finish(task_id, "token", outcome, retry_in=retry_in) is status
    task = store.tasks.get(task_id)
    assert (task.status, task.reason) == (status, reason)
    assert (task.exit_code, task.signal) == (outcome.exit_code, outcome.signal)
    assert (task.ended_at is None) == (status is Status.SCHEDULED)
    assert task.attempts[-1].reason is outcome.reason
    assert task.attempts[-1].ended_at is not None
    assert store.queue.held(ME.id) == {}


def test_a_finish_fills_the_attempts_record_in_the_same_write(store: Store) -> None:
    task_id = running(store)
    log = LogRef(store="s3://logs", key="2026/01/01/x/1.ndjson.gz", bytes=12, truncated=True)
    outcome = Outcome(
        reason=Reason.EXIT,
        exit_code=3,
        message="oops",
        cpu_seconds=1.5,
        peak_memory=1 << 40,
        progress=Progress(fraction=0.5),
    )
    store.queue.finish(task_id, "token", outcome, hash="abc", log=log)
    task = store.tasks.get(task_id)
    [attempt] = task.attempts
    assert (attempt.exit_code, attempt.message, attempt.hash, attempt.log) == (3, "oops", "abc", log)
    assert (attempt.cpu_seconds, attempt.peak_memory) == (1.5, 1 << 40)
    assert attempt.ended_at == task.ended_at
    assert task.progress == Progress(fraction=0.5)
    assert task.instance == ME
    uploaded = LogRef(store="s3://logs", key=log.key, bytes=12, uploaded=True)
    store.queue.log_uploaded(task_id, 1, uploaded)
    assert store.tasks.get(task_id).attempts[0].log == uploaded


def test_an_end_that_is_told_late_is_dated_back_but_never_before_the_start(store: Store) -> None:
    first, second = running(store), running(store, token="token-2")
    store.queue.finish(first, "token", Outcome(reason=Reason.EXIT, exit_code=0, ago=1e300))
    task = store.tasks.get(first)
    assert task.ended_at == task.started_at
    store.queue.finish(second, "token-2", Outcome(reason=Reason.EXIT, exit_code=0, ago=math.nan))
    assert store.tasks.get(second).status is Status.COMPLETED


def test_a_finish_told_again_is_recognised_and_a_strangers_is_not(store: Store) -> None:
    task_id = running(store)
    assert store.queue.finish(task_id, "wrong", DONE) is None
    assert store.queue.finish(task_id, "token", DONE) is Status.COMPLETED
    assert store.queue.finish(task_id, "token", FAILED) is Status.COMPLETED
    assert store.queue.finish(task_id, "wrong", FAILED) is None


def test_a_retry_is_due_after_its_delay_with_a_new_place_in_the_queue(store: Store) -> None:
    task_id = running(store, TaskRequest(job="a", priority=2))
    store.queue.finish(task_id, "token", FAILED, retry_in=30)
    task = store.tasks.get(task_id)
    assert 29 < (task.due_at - store.now()).total_seconds() <= 30
    assert (task.instance, task.attempt, task.exit_code) == (None, 1, 1)
    assert store.queue.claim([task_id], "early", ME) == []


def test_a_second_attempt_begins_clean_and_keeps_the_first_ones_record(store: Store) -> None:
    task_id = running(store)
    store.queue.finish(task_id, "token", FAILED, retry_in=0)
    assert store.queue.promote() == 1
    [task] = store.queue.claim([task_id], "token-2", OTHER)
    assert (task.attempt, task.fence, task.reason, task.exit_code) == (2, 2, None, None)
    assert [(a.number, a.exit_code, a.instance.id) for a in task.attempts] == [(1, 1, ME.id), (2, None, OTHER.id)]
    assert store.queue.finish(task_id, "token", DONE) is Status.RUNNING  # recorded before; another attempt runs
    assert store.queue.finish(task_id, "token-2", DONE) is Status.COMPLETED
    assert [a.exit_code for a in store.tasks.get(task_id).attempts] == [1, 0]


def test_a_task_retried_without_end_keeps_its_newest_hundred_records(store: Store, raw: Any) -> None:
    task_id = store.tasks.enqueue(TaskRequest(job="a", retry=RetryPolicy(limit=1000))).id
    for number in range(105):
        store.queue.claim([task_id], f"token-{number}", ME)
        store.queue.finish(task_id, f"token-{number}", FAILED, retry_in=0)
        store.queue.promote()
    task = store.tasks.get(task_id)
    assert (task.attempt, len(task.attempts), task.attempts[-1].number) == (105, 100, 105)


def test_an_outcome_that_cannot_be_stored_fails_the_task_as_invalid(store: Store) -> None:
    for number, result in enumerate(["x" * (17 << 20), {"a\0b": 1}, {"n": 2**64}, {"s": "\udfff"}]):
        task_id = running(store, token=f"token-{number}")
        outcome = Outcome(reason=Reason.EXIT, exit_code=0, result=result)
        assert store.queue.finish(task_id, f"token-{number}", outcome) is Status.FAILED
        task = store.tasks.get(task_id)
        assert (task.reason, task.result) == (Reason.INVALID, None)
        assert task.message is not None
        assert "outcome was refused" in task.message
    assert store.queue.held(ME.id) == {}


def test_progress_is_taken_from_the_owner_only(store: Store) -> None:
    task_id = running(store)
    store.queue.progress(task_id, "token", Progress(fraction=0.25, message="$a quarter"))
    store.queue.progress(task_id, "wrong", Progress(fraction=0.9))
    assert store.tasks.get(task_id).progress == Progress(fraction=0.25, message="$a quarter")


def test_recent_runs_are_the_seconds_of_completed_ones(store: Store) -> None:
    for number, outcome in enumerate([DONE, FAILED, DONE]):
        task_id = running(store, token=f"token-{number}")
        store.queue.finish(task_id, f"token-{number}", outcome)
    runs = store.queue.recent_runs("a")
    assert len(runs) == 2
    assert all(0 <= seconds < 10 for seconds in runs)
    assert store.queue.recent_runs("b") == []


# --- documents at fault ----------------------------------------------------------------------------
def healthy(**changes: Any) -> dict[str, Any]:
    """A pending task as the store writes it, with something wrong."""
    task_id = ObjectId()
    now = dt.datetime.now(dt.UTC)
    document: dict[str, Any] = {
        "_id": task_id,
        "rid": str(task_id)[::-1],
        "job": "a",
        "args": {},
        "status": "pending",
        "needs": {"slots": 1, "resources": {}, "tags": []},
        "lane": "a|1|||",
        "rank": now,
        "priority": 0,
        "due_at": now,
        "created_at": now,
        "attempt": 0,
        "fence": 0,
        "attempts": [],
        "trigger": "manual",
        "retry": {"limit": 0, "delay": 10.0, "exponential": True, "cap": 3600.0, "on": []},
    }
    document |= changes
    return {name: value for name, value in document.items() if value is not ...}


FAULTS: list[dict[str, Any]] = [
    {"needs": {"slots": -1}},
    {"needs": {"slots": math.nan}},
    {"needs": {"slots": 1e300}},
    {"needs": {"slots": "8"}},
    {"needs": {"slots": True}},
    {"needs": {"slots": 1, "memory": math.inf}},
    {"needs": {"slots": 1, "resources": {"gpu": -1}}},
    {"needs": ...},
    {"needs": None},
    {"job": 7},
    {"job": ...},
    {"args": "x"},
    {"args": ...},
    {"attempt": math.nan},
    {"attempts": [7]},
    {"attempts": [{"fence": 1}]},
    {"due_at": "now"},
    {"created_at": ...},
    {"priority": "high"},
    {"retry": 3},
    {"retry": {"limit": math.nan, "delay": 1, "exponential": True, "cap": 1, "on": []}},
    {"tags": "x"},
    {"cancel": "please"},
    {"max_time": math.nan},
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_claim_ends_a_document_it_cannot_read_and_claims_the_others(
    store: Store, raw: Any, fault: dict[str, Any]
) -> None:
    bad, good = healthy(**fault), healthy()
    raw.insert_many([bad, good])
    ids = [one.id for one in store.queue.candidates(store.queue.lanes(), 10)]
    assert set(ids) == {str(bad["_id"]), str(good["_id"])}
    claimed = store.queue.claim(ids, "token", ME)
    assert [task.id for task in claimed] == [str(good["_id"])]
    ended = raw.find_one({"_id": bad["_id"]})
    assert (ended["status"], ended["reason"]) == ("failed", "invalid")
    assert ended["message"]
    assert list(store.queue.held(ME.id)) == [str(good["_id"])]


@pytest.mark.parametrize("fault", [{"attempt": "one"}, {"attempts": "none"}, {"fence": {}}], ids=str)
def test_what_a_claim_writes_anew_needs_no_sound_old_value(store: Store, raw: Any, fault: dict[str, Any]) -> None:
    document = healthy(**fault)
    raw.insert_one(document)
    [task] = store.queue.claim([str(document["_id"])], "token", ME)
    assert (task.attempt, task.fence, len(task.attempts)) == (1, 1, 1)


def test_an_integer_that_a_shell_stored_as_a_double_is_an_integer(store: Store, raw: Any) -> None:
    document = healthy(needs={"slots": 4.0}, attempt=0.0, fence=Int64(0))
    raw.insert_one(document)
    [task] = store.queue.claim([str(document["_id"])], "token", ME)
    assert (task.needs.slots, task.attempt) == (4, 1)


LANE_FAULTS: list[dict[str, Any]] = [
    {"lane": "nonsense"},
    {"lane": "a|-1|||"},
    {"lane": "a|NaN|||"},
    {"lane": "a|1||gpu=-3|"},
    {"lane": 5},
    {"lane": None},
    {"lane": ...},
    {"lane": {"a": 1}},
    {"rank": "first"},
    {"rank": ...},
    {"rank": math.nan},
]


@pytest.mark.parametrize("fault", LANE_FAULTS, ids=str)
def test_a_task_in_a_lane_nobody_can_read_ends_and_the_others_go_on(
    store: Store, raw: Any, fault: dict[str, Any]
) -> None:
    bad, good = healthy(**fault), healthy()
    raw.insert_many([bad, good])
    store.queue.quarantine_strays()
    lanes = store.queue.lanes()
    assert lanes == ["a|1|||"]
    assert [one.id for one in store.queue.candidates(lanes, 10)] == [str(good["_id"])]
    assert [one.id for one in store.queue.heads()] == [str(good["_id"])]
    ended = raw.find_one({"_id": bad["_id"]})
    assert (ended["status"], ended["reason"]) == ("failed", "invalid")


def test_strange_ids_and_dates_beyond_our_years_stop_nobody(store: Store, raw: Any, mongo_client: Any) -> None:
    raw.database.command(
        "insert",
        "tasks",
        documents=[healthy(_id="a text"), healthy(_id=7), healthy()],
    )
    from bson import DatetimeMS

    far = healthy(rank=DatetimeMS(2**60), due_at=DatetimeMS(2**60))
    raw.insert_one(far)
    lanes = store.queue.lanes()
    assert len(store.queue.candidates(lanes, 10)) == 1
    assert len(store.queue.blocked(lanes, 10)) == 1
    assert len(store.tasks.find(TaskFilter(), limit=10)) == 4
    assert raw.count_documents({"status": "failed", "reason": "invalid"}) == 3


def test_scheduled_tasks_without_a_date_are_ended_and_do_not_stop_the_clock(store: Store, raw: Any) -> None:
    store.tasks.enqueue(TaskRequest(job="a", due_in=60))
    raw.insert_many([healthy(status="scheduled", due_at=value) for value in ("soon", None, 5, {"a": 1}, True)])
    store.queue.quarantine_strays()
    wait = store.queue.next_due()
    assert wait is not None
    assert 50 < wait <= 60
    assert store.queue.promote() == 0
    assert raw.count_documents({"status": "failed", "reason": "invalid"}) == 5


def test_running_tasks_with_a_broken_claim_are_ended(store: Store, raw: Any) -> None:
    mine = {"instance": ME.id, "token": 5}
    raw.insert_many([healthy(status="running", claim=claim) for claim in ("me", {"instance": 5}, mine)])
    raw.insert_one(healthy(status="running"))
    store.queue.quarantine_strays()
    assert store.queue.held(ME.id) == {}
    assert raw.count_documents({"status": "running"}) == 0


def test_a_listing_shows_what_it_cannot_read_with_the_reason(store: Store, raw: Any) -> None:
    good = store.tasks.enqueue(TaskRequest(job="fine")).id
    raw.insert_many([healthy(status="sleeping"), healthy(status=7), healthy(needs="x", job="odd"), {"_id": "alien"}])
    tasks = store.tasks.find(TaskFilter(), limit=10)
    assert len(tasks) == 5
    shown = [task for task in tasks if task.id != good]
    assert all("cannot be read" in (task.message or "") for task in shown)
    # The status is kept where it is one: who waits for the task must not take it for ended before it is.
    assert {(task.job, task.status, task.reason) for task in shown} == {
        ("odd", Status.PENDING, None),
        ("a", Status.FAILED, Reason.INVALID),
        ("?", Status.FAILED, Reason.INVALID),
    }
    assert [task.job for task in tasks if task.id == good] == ["fine"]


@pytest.mark.parametrize("lane", [{"$gt": ""}, {"$exists": True}, Regex(".")])
def test_a_lane_that_is_a_query_ends_the_one_task_that_has_it(store: Store, raw: Any, lane: Any) -> None:
    sound = [store.tasks.enqueue(TaskRequest(job="a")).id for _ in range(3)]
    odd = store.tasks.enqueue(TaskRequest(job="a")).id
    raw.update_one({"_id": ObjectId(odd)}, {"$set": {"lane": lane}})
    assert store.queue.lanes() == ["a|1|||"]
    assert {raw.find_one({"_id": ObjectId(one)})["status"] for one in sound} == {"pending"}
    assert raw.find_one({"_id": ObjectId(odd)}, {"status": 1, "reason": 1, "_id": 0}) == {
        "status": "failed",
        "reason": "invalid",
    }
