"""Limits in the store: never more at once or per time than they allow, whoever races, and never less for long."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from store_proxy import Proxy

from slotsched import errors
from slotsched.model import (
    InstanceRef,
    Limit,
    Needs,
    Outcome,
    Rate,
    Reason,
    RetryPolicy,
    Status,
    Task,
    TaskRequest,
    concurrency_limit,
    key_digest,
)
from slotsched.store import Freed, Store, Wanted, connect

ME = InstanceRef(id="instance-0", name="big-0")
DONE = Outcome(reason=Reason.EXIT, exit_code=0)
THREE = Limit(scope="job:a", most=3)
PER_SECOND = Rate(starts=5, seconds=1.0)


def instance(number: int) -> InstanceRef:
    return InstanceRef(id=f"instance-{number}", name=f"big-{number}")


def enqueue(store: Store, count: int, **request: Any) -> list[str]:
    return [one.id for one in store.tasks.enqueue_many(TaskRequest(job="a", **request) for _ in range(count))]


def claim(store: Store, ids: list[str], token: str, limit: Limit | None = THREE, who: InstanceRef = ME) -> list[Task]:
    return store.permits.claim([Wanted(id=task_id, limit=limit) for task_id in ids], token, who)


class Sampler(threading.Thread):
    """Looks every few milliseconds how many tasks run."""

    def __init__(self, tasks: Any) -> None:
        super().__init__(daemon=True)
        self._tasks = tasks
        self._over = threading.Event()
        self.seen: Counter[int] = Counter()

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(10)

    def run(self) -> None:
        while not self._over.wait(0.005):
            self.seen[self._tasks.count_documents({"status": "running"})] += 1


@pytest.fixture
def raw(mongo_client: Any, database: Any) -> Any:
    """The collection, behind the store's back."""
    return mongo_client[database.name].tasks


@contextmanager
def proxied(database: Any, timeout: float = 5.0) -> Iterator[tuple[Store, Proxy]]:
    port = int(database.uri.split(":")[2].split("/")[0])
    with Proxy(port) as proxy:
        store = connect(f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true", database.name, timeout=timeout)
        try:
            store.now()
            yield store, proxy
        finally:
            store.close()


# --- at once ---------------------------------------------------------------------------------------
def test_600_claims_by_8_threads_never_run_more_than_the_limit_and_all_get_their_turn(store: Store, raw: Any) -> None:
    """The checks are the sampler's and each claimer's own count at the moment of its claim."""
    enqueue(store, 600)
    running: set[str] = set()
    most, guard = [0], threading.Lock()
    ends = (DONE, Outcome(reason=Reason.SIGNAL, signal=9))

    def work(number: int) -> int:
        done = 0
        for turn in range(100_000):
            found = store.queue.candidates(["a|1|||"], 3)
            if not found:
                return done
            token = f"{number}-{turn}"
            tasks = claim(store, [one.id for one in found], token, who=instance(number))
            with guard:
                running.update(task.id for task in tasks)
                most[0] = max(most[0], len(running))
            for position, task in enumerate(tasks):
                with guard:
                    running.discard(task.id)
                if position == 2:
                    assert store.queue.release(task.id, token) is Status.PENDING
                else:
                    assert store.queue.finish(task.id, token, ends[turn % 2]) is not None
                    done += 1
        raise AssertionError("never done")

    began = time.monotonic()
    with Sampler(raw) as sampler, ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(work, range(8)))
    seconds = time.monotonic() - began
    print(f"600 claims under a limit of 3 in {seconds:.1f} s; running at once, by samples: {dict(sampler.seen)}")
    assert done == 600
    assert max(sampler.seen) <= 3
    assert most[0] == 3
    assert sum(sampler.seen.values()) > 20
    assert raw.count_documents({"permits": {"$exists": True}}) == 0


def test_a_claim_of_more_than_the_limit_leaves_the_rest_pending(store: Store) -> None:
    ids = enqueue(store, 5)
    won = claim(store, ids, "t1")
    assert len(won) == 3
    assert claim(store, ids, "t2") == []
    assert {task.id for task in won} == set(store.permits.holders([THREE]).values())
    assert store.permits.held([THREE]) == {"job:a#0", "job:a#1", "job:a#2"}
    assert sum(store.tasks.get(task_id).status is Status.PENDING for task_id in ids) == 2


def test_each_key_has_its_own_limit_and_lane(store: Store) -> None:
    texts = ["customer=acme", "customer=acme", "customer=bolt"]
    ids = [store.tasks.enqueue(TaskRequest(job="a", concurrency_key=text)).id for text in texts]
    assert len(store.queue.lanes()) == 2
    limits = [concurrency_limit("a", 1, per_key=True, key=key_digest(text)) for text in texts]
    wanted = [Wanted(id=task_id, limit=limit) for task_id, limit in zip(ids, limits, strict=True)]
    won = store.permits.claim(wanted, "t1", ME)
    assert sorted(task.concurrency_key or "" for task in won) == ["customer=acme", "customer=bolt"]


RETRY = RetryPolicy(limit=2, delay=0.0)
ENDS = {
    "finish": lambda store, task: store.queue.finish(task.id, "t1", DONE),
    "failure": lambda store, task: store.queue.finish(task.id, "t1", Outcome(reason=Reason.EXIT, exit_code=1)),
    "retry": lambda store, task: store.queue.finish(task.id, "t1", Outcome(reason=Reason.TIMEOUT), retry_in=60.0),
    "release": lambda store, task: store.queue.release(task.id, "t1"),
    "quarantine": lambda store, task: store.queue.quarantine(task.id, "bad", token="t1"),
    "rescue": lambda store, _: store.rescue.take(ME.id),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_permit_is_free_again_with_the_write_that_ends_the_run(end: str, store: Store) -> None:
    ids = enqueue(store, 4, retry=RETRY)
    won = claim(store, ids[:3], "t1")
    ENDS[end](store, won[0])
    left = 0 if end == "rescue" else 2
    assert len(store.permits.held([THREE])) == left
    assert len(claim(store, ids[3:], "t2", who=instance(2))) == 1


def test_what_a_killed_claimer_holds_is_free_once_it_is_rescued_and_not_before(store: Store) -> None:
    ids = enqueue(store, 4)
    assert len(claim(store, ids, "t1", who=instance(1))) == 3
    assert claim(store, ids, "t2", who=instance(2)) == []
    assert store.rescue.take("instance-1") == 3
    assert len(claim(store, ids, "t3", who=instance(2))) == 1


def test_a_claim_whose_answer_is_lost_keeps_its_permits_until_it_is_settled_and_released(
    store: Store, database: Any
) -> None:
    ids = enqueue(store, 3)
    with proxied(database, timeout=1.0) as (cut, proxy):
        cut.permits.held([THREE])
        proxy.lose("update", 1000)
        with pytest.raises(errors.StoreUnreachable):
            claim(cut, ids, "t1")
    got = store.queue.settle("t1")
    assert len(store.permits.held([THREE])) == len(got) == 3
    for task in got:
        store.queue.release(task.id, "t1")
    assert store.permits.held([THREE]) == frozenset()


def test_a_lowered_limit_lets_what_runs_end_and_a_raised_one_counts_at_once(store: Store) -> None:
    ids = enqueue(store, 6)
    won = claim(store, ids, "t1")
    one = Limit(scope="job:a", most=1)
    assert claim(store, ids, "t2", one) == []
    for task in won:
        store.queue.finish(task.id, "t1", DONE)
    assert len(claim(store, ids, "t3", one)) == 1
    assert len(claim(store, ids, "t4", Limit(scope="job:a", most=3))) == 2


def test_others_hear_of_a_permit_that_came_free(store: Store) -> None:
    [task_id] = enqueue(store, 1)
    claim(store, [task_id], "t1")
    with store.watch() as stream:
        store.queue.finish(task_id, "t1", DONE)
        assert stream.try_next(timeout=5.0) == Freed(followers=False)


def test_free_permits_are_read_from_keys_alone(store: Store, raw: Any) -> None:
    claim(store, enqueue(store, 300), "t1", Limit(scope="job:a", most=250))
    permits = Limit(scope="job:a", most=250).permits
    plan = raw.database.command(
        "explain",
        {"find": "tasks", "filter": {"permits": {"$in": permits}}, "returnKey": True, "hint": "permits"},
        verbosity="executionStats",
    )["executionStats"]
    assert plan["totalDocsExamined"] == 0
    assert plan["totalKeysExamined"] <= 2 * 250 + 1
    assert len(store.permits.held([Limit(scope="job:a", most=250)])) == 250


# --- per time --------------------------------------------------------------------------------------
def test_8_threads_never_start_more_than_the_rate_in_any_stretch_and_use_all_of_it(store: Store) -> None:
    enqueue(store, 100)
    over = time.monotonic() + 3.5

    def work(number: int) -> list[dt.datetime]:
        started: list[dt.datetime] = []
        for turn in range(10_000):
            if time.monotonic() > over:
                break
            if store.rates.room({"a": PER_SECOND})["a"].starts <= 0:
                continue
            token = f"{number}-{turn}"
            grant = store.rates.take("a", PER_SECOND, 3, token)
            found = store.queue.candidates(["a|1|||"], grant.starts) if grant.starts else []
            wanted = [Wanted(id=one.id, limit=None, by=grant.by) for one in found]
            tasks = store.permits.claim(wanted, token, instance(number)) if wanted else []
            store.rates.correct("a", PER_SECOND, token, [task.started_at for task in tasks if task.started_at])
            started += [task.started_at for task in tasks if task.started_at]
        return started

    with ThreadPoolExecutor(8) as pool:
        starts = sorted(moment for found in pool.map(work, range(8)) for moment in found)
    gaps = [(later - first).total_seconds() for first, later in zip(starts, starts[5:], strict=False)]
    print(f"{len(starts)} starts in 3.5 s at {PER_SECOND}; six of them took {min(gaps):.3f} s at least")
    assert min(gaps) >= 1.0
    assert len(starts) >= 15


def test_a_claim_that_comes_too_late_for_its_starts_gets_nothing(store: Store) -> None:
    [task_id] = enqueue(store, 1)
    late = store.now() - dt.timedelta(seconds=1)
    assert store.permits.claim([Wanted(id=task_id, limit=None, by=late)], "t1", ME) == []
    assert store.tasks.get(task_id).status is Status.PENDING


def test_starts_that_a_crash_left_taken_come_back_by_themselves(store: Store, mongo_client: Any, database: Any) -> None:
    rate = Rate(starts=2, seconds=60.0)
    assert store.rates.take("a", rate, 5, "crashed").starts == 2
    room = store.rates.room({"a": rate})["a"]
    assert (room.starts, 55 < room.wait <= 62) == (0, True)
    past = store.now() - dt.timedelta(seconds=1)
    mongo_client[database.name].rates.update_one({"_id": "a"}, {"$set": {"claims.$[].until": past}})
    assert store.rates.room({"a": rate})["a"].starts == 2
    assert store.rates.take("a", rate, 5, "next").starts == 2


def test_starts_that_were_taken_and_not_used_are_given_back(store: Store) -> None:
    rate = Rate(starts=3, seconds=60.0)
    assert store.rates.take("a", rate, 3, "t1").starts == 3
    store.rates.correct("a", rate, "t1", [store.now()])
    store.rates.correct("a", rate, "t1", [store.now()])
    assert store.rates.room({"a": rate})["a"].starts == 2
    assert store.rates.take("a", rate, 1, "t2").starts == 1
    assert store.rates.room({"a": rate, "b": rate})["b"].starts == 3


def test_a_retry_after_memory_waits_in_the_lane_of_its_larger_need(store: Store) -> None:
    task_id = store.tasks.enqueue(
        TaskRequest(job="a", needs=Needs(memory=100), retry=RETRY, concurrency_key="customer=acme")
    ).id
    [task] = store.queue.claim([task_id], "t1", ME)
    grown = TaskRequest(job="a", needs=Needs(memory=150), concurrency_key="customer=acme").lane
    memory = Outcome(reason=Reason.MEMORY, signal=9)
    assert store.queue.finish(task.id, "t1", memory, retry_in=0.0, lane=grown) is Status.SCHEDULED
    assert store.queue.promote() == 1
    assert store.queue.lanes() == [str(grown)]
    assert store.tasks.get(task_id).needs == Needs(memory=150)


def test_a_cancel_that_wins_over_the_retry_leaves_the_needs_as_they_were(store: Store) -> None:
    [task_id] = [store.tasks.enqueue(TaskRequest(job="a", needs=Needs(memory=100), retry=RETRY)).id]
    store.queue.claim([task_id], "t1", ME)
    store.tasks.cancel(task_id, by="ann")
    grown = TaskRequest(job="a", needs=Needs(memory=150)).lane
    store.queue.finish(task_id, "t1", Outcome(reason=Reason.MEMORY), retry_in=0.0, lane=grown)
    task = store.tasks.get(task_id)
    assert (task.status, task.needs.memory) == (Status.CANCELED, 100)
