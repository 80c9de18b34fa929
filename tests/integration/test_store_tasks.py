"""What people do with tasks: enqueue, look up, list, cancel, retry, remove."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bson
import pytest
from store_proxy import Proxy

from slotsched import errors
from slotsched.model import InstanceRef, Needs, Outcome, Reason, RetryPolicy, Status, TaskRequest
from slotsched.store import Store, TaskFilter, connect

ME = InstanceRef(id="instance-1", name="big-1")
DONE = Outcome(reason=Reason.EXIT, exit_code=0)


@pytest.fixture
def raw(mongo_client: Any, database: Any) -> Any:
    """The collection, behind the store's back."""
    return mongo_client[database.name].tasks


def finish(store: Store, task_id: str, outcome: Outcome = DONE) -> None:
    store.queue.claim([task_id], f"token-{task_id}", ME)
    assert store.queue.finish(task_id, f"token-{task_id}", outcome) is not None


# --- enqueue ---------------------------------------------------------------------------------------
def test_a_task_due_at_once_is_pending_and_comes_back_as_it_was_asked_for(store: Store) -> None:
    request = TaskRequest(
        job="reports/daily",
        args={"day": "2026-01-01", "n": [1, 2.5, None, True], "deep": {"a": {"b": "c"}}},
        needs=Needs(slots=3, memory=1 << 30, resources={"gpu": 1}, tags=("ssd",)),
        priority=2.5,
        retry=RetryPolicy(limit=2, delay=1.0, exponential=False, cap=9.0, on=("lost",)),
        max_time=60.0,
        owner="ann",
        tags=("nightly",),
        keep=3600.0,
    )
    stored = store.tasks.enqueue(request)
    assert (stored.status, stored.existed) == (Status.PENDING, False)
    task = store.tasks.get(stored.id)
    for name in ("job", "args", "needs", "priority", "retry", "max_time", "owner", "tags", "keep", "trigger"):
        assert getattr(task, name) == getattr(request, name), name
    assert (task.attempt, task.fence, task.attempts) == (0, 0, ())
    assert abs((task.created_at - store.now()).total_seconds()) < 5
    assert task.due_at == task.created_at


def test_a_task_due_later_is_scheduled(store: Store) -> None:
    assert store.tasks.enqueue(TaskRequest(job="a", due_in=60)).status is Status.SCHEDULED
    at = store.now() + dt.timedelta(hours=1)
    stored = store.tasks.enqueue(TaskRequest(job="a", due_at=at))
    assert stored.status is Status.SCHEDULED
    assert store.tasks.get(stored.id).due_at == at


def test_a_due_time_that_has_passed_is_due_now(store: Store) -> None:
    at = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    assert store.tasks.enqueue(TaskRequest(job="a", due_at=at)).status is Status.PENDING


def test_the_stores_clock_decides_what_is_due(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(time, "time", lambda: 0.0)  # this machine believes it is 1970
    stored = store.tasks.enqueue(TaskRequest(job="a"))
    assert stored.status is Status.PENDING
    assert store.tasks.get(stored.id).created_at.year >= 2024


def test_operators_dots_and_dollars_are_data(store: Store) -> None:
    args = {"$where": "1", "a.b": {"$set": {"c": "$$NOW"}}, "": "$job", "list": [{"$gt": ""}]}
    stored = store.tasks.enqueue(TaskRequest(job="a", args=args))
    [claimed] = store.queue.claim([stored.id], "token", ME)
    assert claimed.args == args
    outcome = Outcome(reason=Reason.EXIT, exit_code=0, result={"$inc": "$attempt", "x.y": "$$ROOT"}, message="$job")
    store.queue.finish(stored.id, "token", outcome)
    task = store.tasks.get(stored.id)
    assert (task.args, task.result, task.message) == (args, outcome.result, "$job")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"text": "x" * (17 << 20)}, "bytes are more than"),
        ({"a\0b": 1}, "a name holds a NUL character"),
        ({"text": "\ud800"}, "lone surrogate"),
        ({"n": 2**63}, "does not fit 64 bits"),
        ({"n": -(2**63) - 1}, "does not fit 64 bits"),
        ({"when": object()}, "cannot encode"),
        ({1: "x"}, "a name is not a text"),
    ],
)
def test_what_bson_refuses_is_refused_in_one_sentence(store: Store, raw: Any, args: Any, said: str) -> None:
    with pytest.raises(errors.InvalidArguments, match=said) as refused:
        store.tasks.enqueue(TaskRequest(job="a", args=args))
    assert "\n" not in str(refused.value)
    with pytest.raises(errors.InvalidArguments, match=said):
        store.tasks.enqueue_many([TaskRequest(job="fine"), TaskRequest(job="a", args=args)])
    assert raw.count_documents({}) == 0


def test_arguments_nested_too_deeply_are_refused(store: Store) -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(errors.InvalidArguments, match="nested"):
        store.tasks.enqueue(TaskRequest(job="a", args=deep))


@pytest.mark.parametrize(
    "request_",
    [
        TaskRequest(job="a", needs=Needs(slots=0)),
        TaskRequest(job="a", needs=Needs(slots=-1)),
        TaskRequest(job="a", needs=Needs(slots=2**40)),
        TaskRequest(job="a", needs=Needs(memory=0)),
        TaskRequest(job="a", needs=Needs(resources={"gpu": 0})),
        TaskRequest(job="a", needs=Needs(tags=("a|b",))),
        TaskRequest(job="a|b"),
        TaskRequest(job=""),
        TaskRequest(job="a", priority=float("nan")),
        TaskRequest(job="a", priority=1e300),
        TaskRequest(job="a", due_in=-1),
        TaskRequest(job="a", due_in=float("inf")),
        TaskRequest(job="a", due_in=1e12),
        TaskRequest(job="a", due_at=dt.datetime(2030, 1, 1)),  # noqa: DTZ001 - naive on purpose
        TaskRequest(job="a", due_in=1, due_at=dt.datetime(2030, 1, 1, tzinfo=dt.UTC)),
        TaskRequest(job="a", max_time=0),
        TaskRequest(job="a", max_time=float("nan")),
        TaskRequest(job="a", retry=RetryPolicy(limit=-1)),
        TaskRequest(job="a", retry=RetryPolicy(delay=-1)),
        TaskRequest(job="a", keep=0),
    ],
)
def test_a_request_that_could_never_run_is_refused_and_nothing_is_stored(
    store: Store, raw: Any, request_: TaskRequest
) -> None:
    with pytest.raises(errors.UsageError):
        store.tasks.enqueue(request_)
    assert raw.count_documents({}) == 0


def test_many_go_in_in_batches_and_in_order(store: Store) -> None:
    heard: list[int] = []
    stored = store.tasks.enqueue_many((TaskRequest(job="a", args={"n": n}) for n in range(2500)), heard.append)
    assert heard == [1000, 2000, 2500]
    assert len({one.id for one in stored}) == 2500
    assert store.tasks.get(stored[1234].id).args == {"n": 1234}


def test_many_large_ones_go_in_batches_by_size(store: Store) -> None:
    heard: list[int] = []
    store.tasks.enqueue_many((TaskRequest(job="a", args={"t": "x" * (1 << 20)}) for _ in range(20)), heard.append)
    assert heard == [15, 20]


# --- keys ------------------------------------------------------------------------------------------
def test_a_key_twice_is_one_task(store: Store, raw: Any) -> None:
    first = store.tasks.enqueue(TaskRequest(job="a", args={"x": 1}, key="k"))
    again = store.tasks.enqueue(TaskRequest(job="a", args={"x": 1}, key="k"))
    assert (again.id, first.existed, again.existed) == (first.id, False, True)
    finish(store, first.id)
    ended = store.tasks.enqueue(TaskRequest(job="a", args={"x": 1}, key="k"))
    assert (ended.id, ended.status, ended.existed) == (first.id, Status.COMPLETED, True)
    assert raw.count_documents({}) == 1


@pytest.mark.parametrize(
    "other", [TaskRequest(job="a", args={"x": 2}, key="k"), TaskRequest(job="b", args={"x": 1}, key="k")]
)
def test_a_key_with_other_arguments_is_refused(store: Store, other: TaskRequest) -> None:
    first = store.tasks.enqueue(TaskRequest(job="a", args={"x": 1}, key="k"))
    with pytest.raises(errors.KeyConflict, match=first.id[-8:]):
        store.tasks.enqueue(other)


def test_a_key_is_free_again_when_its_window_is_over_and_its_task_has_ended(store: Store) -> None:
    request = TaskRequest(job="a", args={"x": 1}, key="k", key_window=0)
    first = store.tasks.enqueue(request)
    assert store.tasks.enqueue(request).id == first.id  # still open
    finish(store, first.id)
    second = store.tasks.enqueue(TaskRequest(job="b", key="k"))
    assert (second.id == first.id, second.existed) == (False, False)
    assert store.tasks.get(first.id).key is None


def test_of_twelve_racers_for_a_key_one_inserts(store: Store, raw: Any) -> None:
    gate = threading.Barrier(12)

    def race(number: int) -> tuple[str, bool]:
        gate.wait()
        stored = store.tasks.enqueue(TaskRequest(job="a", key=f"k{number // 12}"))
        return stored.id, stored.existed

    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(race, range(120)))
    assert raw.count_documents({}) == 10
    assert len({task_id for task_id, _ in results}) == 10
    assert sum(not existed for _, existed in results) == 10


def test_racers_for_a_key_whose_window_is_over_make_one_new_task(store: Store, raw: Any) -> None:
    old = store.tasks.enqueue(TaskRequest(job="a", key="k", key_window=0))
    finish(store, old.id)
    gate = threading.Barrier(12)

    def race(_number: int) -> str:
        gate.wait()
        return store.tasks.enqueue(TaskRequest(job="a", key="k")).id

    with ThreadPoolExecutor(12) as pool:
        ids = set(pool.map(race, range(12)))
    assert len(ids) == 1
    assert ids != {old.id}
    assert raw.count_documents({}) == 2


def test_keys_within_one_batch_find_each_other(store: Store) -> None:
    requests = [TaskRequest(job="a", key=f"k{n % 3}") for n in range(9)]
    stored = store.tasks.enqueue_many(requests)
    assert len({one.id for one in stored}) == 3
    assert [one.existed for one in stored].count(False) == 3


# --- looking ---------------------------------------------------------------------------------------
def test_an_id_is_found_by_any_unique_beginning_or_ending(store: Store) -> None:
    ids = [store.tasks.enqueue(TaskRequest(job="a")).id for _ in range(3)]
    assert store.tasks.look_up(ids[1]) == ids[1]
    assert store.tasks.look_up(ids[1][-8:]) == ids[1]
    assert store.tasks.look_up(ids[1][-4:].upper()) == ids[1]


def test_an_ambiguous_id_names_the_candidates(store: Store) -> None:
    ids = [store.tasks.enqueue(TaskRequest(job=job)).id for job in ("resize", "backup")]
    with pytest.raises(errors.Ambiguous) as said:
        store.tasks.look_up(ids[0][:4])
    assert str(said.value) == (
        f'"{ids[0][:4]}" is ambiguous: '
        + ", ".join(f"{i[-8:]} {j}" for i, j in sorted(zip(ids, ("resize", "backup"), strict=True)))
    )


@pytest.mark.parametrize("text", ["abc", "", "zzzz", "../x", "f" * 25, "ffffffff", "$ne0", "f" * 24])
def test_what_fits_no_task_is_not_found(store: Store, text: str) -> None:
    store.tasks.enqueue(TaskRequest(job="a"))
    with pytest.raises(errors.NotFound):
        store.tasks.look_up(text)


@pytest.mark.parametrize("text", ["x", "f" * 24])
def test_getting_or_canceling_what_is_not_there_is_not_found(store: Store, text: str) -> None:
    for call in (store.tasks.get, lambda i: store.tasks.cancel(i, "ann"), store.tasks.retry):
        with pytest.raises(errors.NotFound):
            call(text)


def test_listings_filter_by_everything_they_offer(store: Store) -> None:
    enqueue = store.tasks.enqueue
    first = enqueue(TaskRequest(job="a", owner="ann", tags=("x", "y"))).id
    second = enqueue(TaskRequest(job="b", owner="bob", tags=("x",))).id
    third = enqueue(TaskRequest(job="b", due_in=60)).id
    finish(store, first)
    finish(store, second, Outcome(reason=Reason.TIMEOUT))

    def found(**wanted: Any) -> list[str]:
        return [task.id for task in store.tasks.find(TaskFilter(**wanted))]

    hour = dt.timedelta(hours=1)
    assert found() == [third, second, first]
    assert found(order="oldest") == [first, second, third]
    assert found(status=frozenset({Status.FAILED, Status.SCHEDULED})) == [third, second]
    assert found(jobs=("a",)) == [first]
    assert found(jobs=("a", "b"), owner="bob") == [second]
    assert found(tags=("x",)) == [second, first]
    assert found(tags=("x", "y")) == [first]
    assert found(reason=Reason.TIMEOUT) == [second]
    assert found(instance=ME.name) == found(instance=ME.id) == [second, first]
    assert found(since=store.now() - hour) == [third, second, first]
    assert found(until=store.now() - hour) == []
    assert found(status=frozenset({Status.FAILED}), since=store.now() - hour) == [second]
    assert found(order="ended") == [second, first]


@pytest.mark.parametrize("status", [None, frozenset({Status.PENDING})])
def test_listings_take_moments_from_before_and_after_all_ids(store: Store, status: Any) -> None:
    """An id knows the years from 1970 to 2106."""
    made = store.tasks.enqueue(TaskRequest(job="a")).id
    years = [dt.datetime(year, 6, 1, tzinfo=dt.UTC) for year in (1, 1969, 1970, 2105, 2106, 2107, 9999)]

    def found(**wanted: Any) -> list[str]:
        return [task.id for task in store.tasks.find(TaskFilter(status=status, **wanted))]

    assert [found(since=year) for year in years] == [[made]] * 3 + [[]] * 4
    assert [found(until=year) for year in years] == [[]] * 3 + [[made]] * 4
    assert found(since=years[0], until=years[-1]) == [made]


def test_pages_follow_each_other_without_gap_or_overlap(store: Store) -> None:
    ids = [one.id for one in store.tasks.enqueue_many(TaskRequest(job="a") for _ in range(25))]
    pages: list[str] = []
    after: str | None = None
    while page := store.tasks.find(TaskFilter(), limit=10, after=after):
        pages += [task.id for task in page]
        after = page[-1].id
    assert pages == ids[::-1]


WEIRD = [None, True, 3, math.nan, "x", {"a": 1}, dt.datetime(2020, 1, 1, tzinfo=dt.UTC), bson.MinKey(), bson.MaxKey()]


@pytest.mark.parametrize("order", ["newest", "oldest", "ended"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_listing_read_in_pages_is_what_one_page_shows(
    store: Store, raw: Any, monkeypatch: pytest.MonkeyPatch, order: Any, size: int
) -> None:
    """Also of documents that somebody damaged, and of many that ended at once, among which there is no order."""
    for one in store.tasks.enqueue_many(TaskRequest(job="a", owner="ann") for _ in range(6)):
        store.tasks.cancel(one.id, "ann")
    like = raw.find_one({})
    at_once = [{**like, "_id": bson.ObjectId(), "ended_at": like["ended_at"]} for _ in range(5)]
    raw.insert_many([*at_once, *({**like, "_id": value, "ended_at": value} for value in WEIRD)])
    places = {str(d["_id"]): str(d["ended_at" if order == "ended" else "_id"]) for d in raw.find({})}
    wanted = TaskFilter(owner="ann", order=order)

    def found(limit: int) -> list[str]:
        ids = [task.id for task in store.tasks.find(wanted, limit=limit)]
        assert len(set(ids)) == len(ids)
        return [places[task_id] for task_id in ids]

    whole = found(0)
    assert len(whole) == 11 + len(WEIRD)
    monkeypatch.setattr("slotsched.store.tasks.PAGE_TASKS", size)
    assert found(0) == whole
    assert found(8) == whole[:8]
    assert [places[task.id] for task in itertools.islice(store.tasks.each(wanted), 8)] == whole[:8]


def test_many_are_read_over_a_link_that_brings_each_answer_just_in_time(database: Any, store: Store) -> None:
    """The timeout is that of a call, however many of them an answer takes."""
    ids = [one.id for one in store.tasks.enqueue_many(TaskRequest(job="a") for _ in range(1100))]
    with Proxy(int(database.uri.partition("127.0.0.1:")[2].partition("/")[0])) as proxy:
        far = connect(proxy.uri, database.name, timeout=1.5)
        try:
            far.now()
            proxy.delay(0.9)
            assert [task.id for task in far.tasks.find(TaskFilter(order="oldest"), limit=600)] == ids[:600]
            assert set(far.tasks.get_many(ids)) == set(ids)
        finally:
            far.close()


def test_what_was_run_again_is_told_for_any_number_of_tasks(store: Store) -> None:
    start = store.now()
    old = [one.id for one in store.tasks.enqueue_many(TaskRequest(job=f"job-{n % 2}") for n in range(700))]
    for task_id in old:
        store.tasks.cancel(task_id, "ann")
    assert store.tasks.retried(since=start) == set()
    store.tasks.retry_many(old[:600])
    store.tasks.enqueue_many(TaskRequest(job="other") for _ in range(600))
    assert store.tasks.retried(since=start) == set(old[:600])
    assert store.tasks.retried(("job-1", "other"), since=start) == set(old[1:600:2])
    assert store.tasks.retried(since=store.now() + dt.timedelta(seconds=1)) == set()


def test_counts_stop_at_ten_thousand(store: Store) -> None:
    store.tasks.enqueue_many(TaskRequest(job="a") for _ in range(10_050))
    counts = store.tasks.counts()
    assert counts[Status.PENDING] == 10_000
    assert counts[Status.RUNNING] == 0


# --- changing --------------------------------------------------------------------------------------
def test_a_task_that_has_not_started_is_canceled_at_once(store: Store) -> None:
    for request in (TaskRequest(job="a"), TaskRequest(job="a", due_in=60)):
        stored = store.tasks.enqueue(request)
        task = store.tasks.cancel(stored.id, "ann")
        assert (task.status, task.reason, task.message) == (Status.CANCELED, Reason.CANCELED, "canceled by ann")
        assert task.ended_at is not None
        assert store.queue.claim([stored.id], f"late-{stored.id}", ME) == []


def test_canceling_a_running_task_tells_its_owner_and_a_kill_stays_a_kill(store: Store) -> None:
    stored = store.tasks.enqueue(TaskRequest(job="a"))
    store.queue.claim([stored.id], "token", ME)
    task = store.tasks.cancel(stored.id, "ann")
    assert task.status is Status.RUNNING
    cancel = store.queue.held(ME.id)[stored.id].cancel
    assert cancel is not None
    assert (cancel.by, cancel.kill) == ("ann", False)
    store.tasks.cancel(stored.id, "$bob", kill=True)
    store.tasks.cancel(stored.id, "$bob")
    cancel = store.queue.held(ME.id)[stored.id].cancel
    assert cancel is not None
    assert (cancel.by, cancel.kill) == ("$bob", True)


def test_a_task_that_has_ended_refuses_to_be_canceled(store: Store) -> None:
    stored = store.tasks.enqueue(TaskRequest(job="a"))
    finish(store, stored.id, Outcome(reason=Reason.EXIT, exit_code=1))
    with pytest.raises(errors.Refused) as said:
        store.tasks.cancel(stored.id, "ann")
    short = stored.id[-8:]
    assert f"{short} already failed 0." in str(said.value)
    assert str(said.value).endswith(f" ago; nothing to cancel. To run it again: slotsched retry {short}")


def test_a_retry_is_a_new_task_with_the_same_arguments(store: Store) -> None:
    request = TaskRequest(job="a", args={"x": 1}, needs=Needs(slots=2), tags=("t",), key="k", max_time=5, priority=1)
    stored = store.tasks.enqueue(request)
    with pytest.raises(errors.Refused, match="is pending"):
        store.tasks.retry(stored.id)
    finish(store, stored.id, Outcome(reason=Reason.EXIT, exit_code=1))
    again = store.tasks.get(store.tasks.retry(stored.id, owner="bob").id)
    assert (again.retry_of, again.trigger, again.owner) == (stored.id, f"retry:{stored.id}", "bob")
    assert (again.args, again.needs, again.tags, again.max_time) == ({"x": 1}, Needs(slots=2), ("t",), 5)
    assert (again.status, again.attempt, again.key) == (Status.PENDING, 0, None)
    assert store.tasks.get(stored.id).status is Status.FAILED


def test_only_what_has_ended_is_removed(store: Store) -> None:
    ended, pending = (store.tasks.enqueue(TaskRequest(job="a")).id for _ in range(2))
    finish(store, ended)
    assert store.tasks.remove([ended, pending]) == 1
    assert [task.id for task in store.tasks.find(TaskFilter())] == [pending]


def test_a_database_without_any_collection_is_empty_not_an_error(database: Any) -> None:
    fresh = connect(database.uri, database.name)
    try:
        assert fresh.tasks.find(TaskFilter()) == []
        assert fresh.instances.live() == []
        assert fresh.catalogs.names() == []
        assert fresh.rescue.owners() == []
    finally:
        fresh.close()
