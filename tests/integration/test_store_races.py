"""Writes that race, and answers that get lost: whatever the order, one owner, one end, nothing stuck."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from store_proxy import Proxy

from slotsched import errors
from slotsched.model import (
    TERMINAL,
    InstanceRef,
    Outcome,
    Reason,
    RetryPolicy,
    Status,
    Task,
    TaskRequest,
)
from slotsched.store import Store, TaskFilter, connect

T = TypeVar("T")
DONE = Outcome(reason=Reason.EXIT, exit_code=0)
FAILED = Outcome(reason=Reason.EXIT, exit_code=1)
ME = InstanceRef(id="instance-0", name="big-0")


def instance(number: int) -> InstanceRef:
    return InstanceRef(id=f"instance-{number}", name=f"big-{number}")


@contextmanager
def proxied(database: Any, timeout: float = 5.0) -> Iterator[tuple[Store, Proxy]]:
    """A store whose connections go through a proxy that can lose, hold and delay answers."""
    port = int(database.uri.split(":")[2].split("/")[0])
    with Proxy(port) as proxy:
        store = connect(f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true", database.name, timeout=timeout)
        try:
            store.now()  # the handshakes are done before a test drops anything
            yield store, proxy
        finally:
            store.close()


def until_answered(call: Callable[[], T], tries: int = 20) -> T:
    """What a scheduler does with a write whose end is unknown: send it again."""
    for _ in range(tries):
        try:
            return call()
        except errors.StoreUnreachable:
            continue
    raise AssertionError("never answered")


# --- racing claims ---------------------------------------------------------------------------------
def test_of_many_claimers_each_task_goes_to_one(store: Store) -> None:
    store.tasks.enqueue_many(TaskRequest(job=f"job-{n % 5}") for n in range(400))
    won: list[list[str]] = [[] for _ in range(8)]

    def claim_all(number: int) -> None:
        for turn in range(1000):
            found = store.queue.candidates(store.queue.lanes(), 15)
            if not found:
                return
            tasks = store.queue.claim([one.id for one in found], f"{number}-{turn}", instance(number))
            won[number] += [task.id for task in tasks]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(claim_all, range(8)))
    counted = Counter(task_id for ids in won for task_id in ids)
    assert len(counted) == 400
    assert set(counted.values()) == {1}
    for number in range(8):
        assert set(store.queue.held(f"instance-{number}")) == set(won[number])
    assert all(task.fence == 1 for task in store.tasks.find(TaskFilter(), limit=0))


def test_cancel_claim_finish_and_release_at_once_leave_one_truth(store: Store) -> None:
    """Four kinds of writers on each task; afterwards every status fits what each of them was told."""
    for turn in range(40):
        task_id = store.tasks.enqueue(TaskRequest(job="a")).id
        gate = threading.Barrier(4)

        def claimer(
            number: int, task_id: str = task_id, turn: int = turn, gate: threading.Barrier = gate
        ) -> Status | None:
            gate.wait()
            token = f"{turn}-{number}"
            if not store.queue.claim([task_id], token, instance(number)):
                return None
            return store.queue.release(task_id, token) if number else store.queue.finish(task_id, token, FAILED)

        def canceler(task_id: str = task_id, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            try:
                store.tasks.cancel(task_id, "ann")
            except errors.Refused:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            claims = [pool.submit(claimer, number) for number in range(3)]
            canceled = pool.submit(canceler).result(30)
            results = [claim.result(30) for claim in claims]
        task = store.tasks.get(task_id)
        if canceled:
            assert task.status is Status.CANCELED, (task, results)
        else:
            assert task.status is Status.FAILED
        assert sum(result in TERMINAL for result in results) <= 1
        assert store.queue.claim([task_id], f"{turn}-late", ME) == []


def test_a_rescue_beside_the_owners_finish_ends_each_task_once(store: Store) -> None:
    ids = [one.id for one in store.tasks.enqueue_many(TaskRequest(job="a") for _ in range(60))]
    store.queue.claim(ids, "token", ME)
    gate = threading.Barrier(3)
    finished: list[str] = []

    def finish_all() -> None:
        gate.wait()
        for task_id in ids:
            if store.queue.finish(task_id, "token", DONE) is not None:
                finished.append(task_id)

    def rescue() -> int:
        gate.wait()
        return store.rescue.take(ME.id)  # there is no document of this instance: it may be taken from

    with ThreadPoolExecutor(3) as pool:
        owner, rescuers = pool.submit(finish_all), [pool.submit(rescue) for _ in range(2)]
        owner.result(30)
        taken = sum(rescuer.result(30) for rescuer in rescuers)
    assert len(finished) + taken == len(ids)
    for task in store.tasks.find(TaskFilter(), limit=0):
        assert (task.status, task.reason) == (
            (Status.COMPLETED, Reason.EXIT) if task.id in finished else (Status.FAILED, Reason.LOST)
        )


# --- lost answers ----------------------------------------------------------------------------------
@pytest.mark.parametrize("losses", [1, 2])
def test_an_enqueue_whose_answer_is_lost_is_one_task(store: Store, database: Any, losses: int) -> None:
    with proxied(database) as (through, proxy):
        proxy.lose("insert", losses)
        stored = through.tasks.enqueue(TaskRequest(job="a", key="k"))
        assert proxy.lost == losses
    assert [task.id for task in store.tasks.find(TaskFilter())] == [stored.id]


@pytest.mark.parametrize("losses", [1, 2])
def test_a_batch_whose_answer_is_lost_is_stored_once(store: Store, database: Any, losses: int) -> None:
    with proxied(database) as (through, proxy):
        proxy.lose("insert", losses)
        stored = through.tasks.enqueue_many(TaskRequest(job="a", key=f"k{n}") for n in range(300))
        assert proxy.lost == losses
    assert {one.id for one in stored} == {task.id for task in store.tasks.find(TaskFilter(), limit=0)}
    assert len(stored) == 300
    assert not any(one.existed for one in stored)


def test_a_claim_whose_answer_is_lost_is_settled_and_given_back(store: Store, database: Any) -> None:
    ids = [one.id for one in store.tasks.enqueue_many(TaskRequest(job="a") for _ in range(20))]
    with proxied(database) as (through, proxy):
        proxy.lose("update", 1)
        with pytest.raises(errors.StoreUnreachable):
            through.queue.claim(ids, "token", ME)
        assert proxy.lost == 1
        mine = until_answered(lambda: through.queue.settle("token"))
        assert {task.id for task in mine} == set(ids)
        for task in mine:
            assert through.queue.release(task.id, "token") is Status.PENDING
    assert [(task.status, task.attempt) for task in store.tasks.find(TaskFilter())] == [(Status.PENDING, 0)] * 20


def test_a_claim_that_lands_after_it_was_settled_is_found_by_the_sweep(store: Store, database: Any) -> None:
    ids = [one.id for one in store.tasks.enqueue_many(TaskRequest(job="a") for _ in range(5))]
    with proxied(database, timeout=1.0) as (through, proxy):
        proxy.hold("update", 1)
        with pytest.raises(errors.StoreUnreachable):
            through.queue.claim(ids, "token", ME)
        assert store.queue.settle("token") == []
        proxy.let_go()
        held = wait_for(lambda: store.queue.held(ME.id))
    assert set(held) == set(ids)
    for task_id, claim in held.items():
        assert store.queue.release(task_id, claim.token) is Status.PENDING


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_a_finish_whose_answer_is_lost_is_recognised(store: Store, database: Any, losses: int) -> None:
    task_id = store.tasks.enqueue(TaskRequest(job="a")).id
    store.queue.claim([task_id], "token", ME)
    with proxied(database) as (through, proxy):
        proxy.lose("findAndModify", losses)
        assert until_answered(lambda: through.queue.finish(task_id, "token", DONE)) is Status.COMPLETED
    assert len(store.tasks.get(task_id).attempts) == 1


@pytest.mark.parametrize("losses", [1, 3])
def test_a_retry_whose_answer_is_lost_is_counted_once(store: Store, database: Any, losses: int) -> None:
    task_id = store.tasks.enqueue(TaskRequest(job="a")).id
    store.queue.claim([task_id], "token", ME)
    with proxied(database) as (through, proxy):
        proxy.lose("findAndModify", losses)
        finish = lambda: through.queue.finish(task_id, "token", Outcome(reason=Reason.LOST), retry_in=0)  # noqa: E731
        assert until_answered(finish) is Status.SCHEDULED
    task = store.tasks.get(task_id)
    assert (task.attempt, len(task.attempts)) == (1, 1)


@pytest.mark.parametrize("command", ["insert", "update", "findAndModify"])
def test_a_store_that_goes_silent_ends_every_call_in_time(store: Store, database: Any, command: str) -> None:
    task_id = store.tasks.enqueue(TaskRequest(job="a")).id
    calls: dict[str, Callable[[Store], object]] = {
        "insert": lambda s: s.tasks.enqueue(TaskRequest(job="b")),
        "update": lambda s: s.queue.claim([task_id], "token", ME),
        "findAndModify": lambda s: s.tasks.cancel(task_id, "ann"),
    }
    with proxied(database, timeout=0.6) as (through, proxy):
        proxy.blackhole()
        began = threading.Event()
        finished = threading.Event()

        def call() -> None:
            began.set()
            with pytest.raises(errors.StoreUnreachable, match="cannot reach"):
                calls[command](through)
            finished.set()

        thread = threading.Thread(target=call)
        thread.start()
        assert finished.wait(5)
        thread.join(5)


def test_a_slow_answer_within_the_timeout_is_an_answer(store: Store, database: Any) -> None:
    with proxied(database, timeout=5.0) as (through, proxy):
        proxy.delay(0.4)
        task_id = through.tasks.enqueue(TaskRequest(job="a")).id
        assert len(through.queue.claim([task_id], "token", ME)) == 1


@pytest.mark.parametrize("losses", [1, 3])
def test_a_rescue_whose_answer_is_lost_is_repeated(store: Store, database: Any, losses: int) -> None:
    retry = RetryPolicy(limit=5, delay=0, on=("lost",))
    ids = [one.id for one in store.tasks.enqueue_many(TaskRequest(job="a", retry=retry) for _ in range(10))]
    store.queue.claim(ids, "token", ME)
    with proxied(database) as (through, proxy):
        proxy.lose("update", losses)
        until_answered(lambda: through.rescue.take(ME.id))
    tasks: list[Task] = store.tasks.find(TaskFilter())
    assert [(task.status, task.attempt) for task in tasks] == [(Status.SCHEDULED, 1)] * 10
    assert store.rescue.owners() == []


def wait_for(probe: Callable[[], T], seconds: float = 10.0) -> T:
    """The first true value of a probe of the store."""
    gate = threading.Event()
    for _ in range(int(seconds / 0.02)):
        found = probe()
        if found:
            return found
        gate.wait(0.02)
    raise AssertionError("waited in vain")
