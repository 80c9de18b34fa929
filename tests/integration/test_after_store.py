"""Tasks that wait for others go in together with the mark on their parents, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pymongo
import pytest
from bson import ObjectId
from store_proxy import Proxy

from slotsched import errors
from slotsched.model import InstanceRef, Needs, Outcome, Reason, RetryPolicy, Status, TaskRequest
from slotsched.store import Store, connect

ME = InstanceRef(id="instance-1", name="big-1")
NOBODY = "0" * 24


@pytest.fixture
def raw(database: Any, mongo_client: pymongo.MongoClient[Any]) -> Any:
    """The database behind the store's back."""
    return mongo_client[database.name]


def child(*parents: str, when: str = "success", **fields: Any) -> TaskRequest:
    return TaskRequest(job="child", parents=parents, when=when, **fields)


def mark(raw: Any, task_id: str) -> tuple[int, bool]:
    document = raw.tasks.find_one({"_id": ObjectId(task_id)})
    return document.get("pokes", 0), document["resolve"]


# --- putting in ------------------------------------------------------------------------------------
def test_a_child_waits_and_its_parents_are_marked(store: Store, raw: Any) -> None:
    first, second = (store.tasks.enqueue(TaskRequest(job="parent")).id for _ in range(2))
    waiting = store.tasks.enqueue(child(first, second, when="any"))
    task = store.tasks.get(waiting.id)
    assert (waiting.status, task.status, task.when) == (Status.WAITING, Status.WAITING, "any")
    assert task.parents == task.after == (first, second)
    assert task.to_object()["parents"] == [first, second]
    assert mark(raw, first) == mark(raw, second) == (1, True)


def test_a_parent_that_is_not_there_is_named_and_nothing_is_stored(store: Store, raw: Any) -> None:
    parent = store.tasks.enqueue(TaskRequest(job="parent")).id
    with pytest.raises(errors.NotFound, match=NOBODY):
        store.tasks.enqueue(child(parent, NOBODY))
    assert raw.tasks.count_documents({}) == 1
    assert mark(raw, parent) == (0, False)


@pytest.mark.parametrize("parent", ["", "8c1d2e3f", "x" * 24, "A" * 24])
def test_what_is_no_full_id_is_refused(store: Store, parent: str) -> None:
    with pytest.raises(errors.UsageError, match="full id"):
        store.tasks.enqueue(child(parent))


def test_an_unknown_condition_is_refused(store: Store) -> None:
    parent = store.tasks.enqueue(TaskRequest(job="parent")).id
    with pytest.raises(errors.UsageError, match="success, failure, any"):
        store.tasks.enqueue(child(parent, when="sometimes"))


def test_many_children_go_in_with_one_mark_and_in_order(store: Store, raw: Any) -> None:
    parent = store.tasks.enqueue(TaskRequest(job="parent")).id
    requests = [child(parent) if n % 3 else TaskRequest(job="other") for n in range(900)]
    stored = store.tasks.enqueue_many(requests)
    tasks = store.tasks.get_many([one.id for one in stored])
    assert [tasks[one.id].job for one in stored] == [request.job for request in requests]
    assert raw.tasks.count_documents({"status": "waiting", "after": parent}) == 600
    assert mark(raw, parent) == (1, True)


def test_a_key_holds_for_children_too(store: Store, raw: Any) -> None:
    parent = store.tasks.enqueue(TaskRequest(job="parent")).id
    first = store.tasks.enqueue(child(parent, key="k"))
    again = store.tasks.enqueue(child(parent, key="k"))
    assert (again.id, again.existed) == (first.id, True)
    many = store.tasks.enqueue_many([child(parent), child(parent, key="k"), child(parent, key="l")])
    assert [one.existed for one in many] == [False, True, False]
    assert many[1].id == first.id
    assert raw.tasks.count_documents({"status": "waiting"}) == 3


def test_a_thousand_parents_are_one_transaction(store: Store, raw: Any) -> None:
    parents = [one.id for one in store.tasks.enqueue_many(TaskRequest(job="parent") for _ in range(1000))]
    waiting = store.tasks.enqueue(child(*parents))
    assert len(store.tasks.get(waiting.id).after) == 1000
    assert raw.tasks.count_documents({"pokes": 1, "resolve": True}) == 1000


def test_a_lost_answer_to_the_commit_leaves_one_child(database: Any, store: Store, raw: Any) -> None:
    parent = store.tasks.enqueue(TaskRequest(job="parent")).id
    with Proxy(int(database.uri.split(":")[2].split("/")[0])) as proxy:
        lossy = connect(f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true", database.name, timeout=5.0)
        try:
            lossy.init()
            for command in ("commitTransaction", "insert", "update"):
                proxy.lose(command, 1)
                lossy.tasks.enqueue(child(parent))
                assert proxy.lost == 1
        finally:
            lossy.close()
    assert raw.tasks.count_documents({"status": "waiting"}) == 3


def test_parents_that_end_meanwhile_do_not_keep_a_child_out(store: Store) -> None:
    parents = [one.id for one in store.tasks.enqueue_many(TaskRequest(job="parent") for _ in range(300))]

    def cancel_all(_: int) -> None:
        for parent in parents:
            store.tasks.cancel(parent, "ann")

    def enqueue_all(_: int) -> list[str]:
        return [store.tasks.enqueue(child(*parents, when="any")).id for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        ending, coming = pool.submit(cancel_all, 0), pool.submit(enqueue_all, 0)
        ending.result()
        children = coming.result()
    while ended := store.resolve.ended():
        store.resolve.tell(ended)
        store.resolve.done(ended)
    assert {store.tasks.get(one).status for one in children} == {Status.PENDING}


KILLED = """
    import os, signal, sys
    from slotsched.model import TaskRequest
    from slotsched.store import after, connect

    store = connect(sys.argv[1], sys.argv[2])
    store.init()
    poke = after.poke

    def poke_and_die(*args):
        poke(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    after.poke = poke_and_die
    store.tasks.enqueue(TaskRequest(job="child", parents=(sys.argv[3],)))
"""


@pytest.fixture
def impatient_server(mongo_client: pymongo.MongoClient[Any]) -> Iterator[None]:
    """A server that gives the transaction of a dead client up after a second, not after a minute."""
    limit = "transactionLifetimeLimitSeconds"
    before = mongo_client.admin.command({"getParameter": 1, limit: 1})[limit]
    mongo_client.admin.command({"setParameter": 1, limit: 1})
    yield
    mongo_client.admin.command({"setParameter": 1, limit: before})


@pytest.mark.usefixtures("impatient_server")
def test_a_client_killed_between_the_child_and_the_commit_leaves_nothing(database: Any, store: Store, raw: Any) -> None:
    parent = store.tasks.enqueue(TaskRequest(job="parent")).id
    words = [sys.executable, "-c", textwrap.dedent(KILLED), database.uri, database.name, parent]
    done = subprocess.run(words, capture_output=True, timeout=30, env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert raw.tasks.count_documents({}) == 1
    store.tasks.cancel(parent, "ann")  # and the parent's document is not held by a dead transaction
    assert store.tasks.get(parent).status is Status.CANCELED
    assert mark(raw, parent) == (0, False)


def test_without_the_mark_a_child_would_wait_for_ever(
    database: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = store.tasks.enqueue(TaskRequest(job="parent")).id
    store.tasks.cancel(parent, "ann")
    monkeypatch.setattr("slotsched.store.after.poke", lambda *_: None)
    forgotten = store.tasks.enqueue(child(parent, when="any")).id
    monkeypatch.undo()
    assert store.resolve.ended() == []
    assert store.tasks.get(forgotten).status is Status.WAITING


# --- one at a time ---------------------------------------------------------------------------------
def only(until: str, **args: Any) -> TaskRequest:
    return TaskRequest(job="single", args=args, unique=until)


def claim(store: Store, task_id: str, token: str) -> None:
    assert [task.id for task in store.queue.claim([task_id], token, ME)] == [task_id]


DONE = Outcome(reason=Reason.EXIT, exit_code=0)
FAILED = Outcome(reason=Reason.EXIT, exit_code=1)


@pytest.mark.parametrize("until", ["pending", "running"])
def test_a_second_task_with_the_same_arguments_is_the_first_one(store: Store, until: str) -> None:
    first = store.tasks.enqueue(only(until, x=1))
    again = store.tasks.enqueue(only(until, x=1))
    assert (again.id, again.existed, again.status) == (first.id, True, Status.PENDING)
    assert not store.tasks.enqueue(only(until, x=2)).existed
    assert not store.tasks.enqueue(TaskRequest(job="other", args={"x": 1}, unique=until)).existed
    assert store.tasks.get(first.id).unique == until


def test_until_its_start_a_pending_one_is_the_only_one(store: Store) -> None:
    first = store.tasks.enqueue(only("pending")).id
    claim(store, first, "a")
    second = store.tasks.enqueue(only("pending"))
    assert not second.existed
    assert store.tasks.enqueue(only("pending")).id == second.id


def test_until_its_end_a_running_one_is_the_only_one(store: Store) -> None:
    first = store.tasks.enqueue(only("running")).id
    claim(store, first, "a")
    assert store.tasks.enqueue(only("running")).id == first
    store.queue.finish(first, "a", FAILED, retry_in=0.0)
    assert store.tasks.enqueue(only("running")).id == first, "a retry is due"
    store.queue.promote()
    claim(store, first, "b")
    store.queue.finish(first, "b", DONE)
    assert not store.tasks.enqueue(only("running")).existed


@pytest.mark.parametrize("until", ["pending", "running"])
def test_what_ends_without_a_start_makes_room(store: Store, until: str) -> None:
    first = store.tasks.enqueue(only(until)).id
    store.tasks.cancel(first, "ann")
    second = store.tasks.enqueue(only(until))
    assert not second.existed
    claim(store, second.id, "a")
    store.rescue.take(ME.id)
    assert store.tasks.get(second.id).reason is Reason.LOST
    third = store.tasks.enqueue(only(until))
    assert not third.existed
    store.queue.quarantine(third.id, "at fault")
    assert not store.tasks.enqueue(only(until)).existed


def test_a_claim_that_was_given_back_is_the_only_one_again(store: Store) -> None:
    first = store.tasks.enqueue(only("pending")).id
    claim(store, first, "a")
    store.queue.release(first, "a")
    assert store.tasks.enqueue(only("pending")).id == first
    claim(store, first, "b")
    second = store.tasks.enqueue(only("pending")).id
    assert store.queue.release(first, "b") is Status.PENDING
    assert store.tasks.enqueue(only("pending")).id == second, "who came meanwhile keeps the place"


@pytest.mark.parametrize("until", ["pending", "running"])
def test_of_racing_requests_one_is_stored(store: Store, raw: Any, until: str) -> None:
    with ThreadPoolExecutor(12) as pool:
        stored = list(pool.map(lambda _: store.tasks.enqueue(only(until, x=1)), range(60)))
    assert len({one.id for one in stored}) == 1
    assert sum(not one.existed for one in stored) == 1
    assert raw.tasks.count_documents({}) == 1


def test_racing_starts_and_requests_never_make_two_that_wait(store: Store, raw: Any) -> None:
    most = 0

    def start_what_waits() -> None:
        for turn in range(60):
            found = store.queue.candidates(store.queue.lanes(), 10)
            store.queue.claim([one.id for one in found], f"t{turn}", ME)

    with ThreadPoolExecutor(5) as pool:
        starting = pool.submit(start_what_waits)
        while not starting.done():
            list(pool.map(lambda _: store.tasks.enqueue(only("pending")), range(8)))
            most = max(most, raw.tasks.count_documents({"status": "pending"}))
        starting.result()
    assert most == 1
    assert raw.tasks.count_documents({"status": "running"}) > 1


def test_a_task_that_was_ended_by_hand_keeps_nobody_out(store: Store, raw: Any) -> None:
    first = store.tasks.enqueue(only("running")).id
    raw.tasks.update_one({"_id": ObjectId(first)}, {"$set": {"status": "canceled"}})
    assert not store.tasks.enqueue(only("running")).existed


def test_one_of_a_batch_may_stand_for_others(store: Store, raw: Any) -> None:
    stored = store.tasks.enqueue_many([only("pending", x=n % 3) for n in range(30)])
    assert len({one.id for one in stored}) == 3
    assert raw.tasks.count_documents({}) == 3


def test_a_task_run_again_by_a_person_keeps_to_it(store: Store) -> None:
    first = store.tasks.enqueue(only("running")).id
    store.tasks.cancel(first, "ann")
    again = store.tasks.retry(first, "ann")
    assert store.tasks.retry(first, "ann").id == again.id
    assert store.tasks.get(again.id).unique == "running"


def test_needs_and_retries_do_not_make_a_task_another(store: Store) -> None:
    first = store.tasks.enqueue(only("pending", x=1)).id
    other = TaskRequest(job="single", args={"x": 1}, unique="pending", needs=Needs(slots=4), retry=RetryPolicy(limit=2))
    assert store.tasks.enqueue(other).id == first
