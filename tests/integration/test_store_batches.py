"""Many tasks at once: what is refused leaves nothing; what is left halfway can be sent again, with keys."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId
from test_store_plans import profiled, read_plan

from slotsched import errors
from slotsched.model import InstanceRef, Outcome, Reason, Status, TaskRequest
from slotsched.store import Store
from slotsched.store.enqueue import BATCH_TASKS

ME = InstanceRef(id="instance-1", name="big-1")


@pytest.fixture
def raw(mongo_client: Any, database: Any) -> Any:
    """The collection, behind the store's back."""
    return mongo_client[database.name].tasks


def keyed(*keys: str, **fields: Any) -> list[TaskRequest]:
    return [TaskRequest(job="a", key=key, **fields) for key in keys]


def plain(count: int) -> list[TaskRequest]:
    return [TaskRequest(job="plain") for _ in range(count)]


def refusal(store: Store, requests: list[TaskRequest]) -> str:
    heard: list[int] = []
    with pytest.raises(errors.KeyConflict) as refused:
        store.tasks.enqueue_many(requests, heard.append)
    assert heard == []
    return str(refused.value)


# --- what is refused -------------------------------------------------------------------------------
def test_a_key_of_another_task_keeps_all_out_and_its_line_is_named(store: Store, raw: Any) -> None:
    there = store.tasks.enqueue(TaskRequest(job="other", key="k"))
    said = refusal(store, [*plain(2), *keyed("k", "l"), *plain(1)])
    assert said == (
        f"1 refused, nothing stored; first: line 3: the key 'k' belongs to {there.id[-8:]} other, "
        "which has another job or other arguments"
    )
    assert raw.count_documents({}) == 1


def test_a_key_of_another_task_in_the_last_batch_keeps_the_first_ones_out(store: Store, raw: Any) -> None:
    store.tasks.enqueue(TaskRequest(job="other", key=f"k{2 * BATCH_TASKS}"))
    said = refusal(store, keyed(*(f"k{n}" for n in range(2 * BATCH_TASKS + 1))))
    assert said.startswith(f"1 refused, nothing stored; first: line {2 * BATCH_TASKS + 1}: ")
    assert raw.count_documents({}) == 1


def test_a_key_that_two_of_them_use_for_different_things_keeps_all_out(store: Store, raw: Any) -> None:
    requests = [*plain(1), *keyed("k"), *plain(BATCH_TASKS), *keyed("k", args={"n": 1}), *keyed("k", args={"n": 2})]
    assert refusal(store, requests) == (
        f"2 refused, nothing stored; first: line {BATCH_TASKS + 3}: the key 'k' belongs to line 2, "
        "which has another job or other arguments"
    )
    assert raw.count_documents({}) == 0


def test_tasks_that_wait_for_others_are_kept_out_with_the_rest(store: Store, raw: Any) -> None:
    parent = store.tasks.enqueue(TaskRequest(job="parent")).id
    store.tasks.enqueue(TaskRequest(job="other", key="k"))
    refusal(store, keyed("j", "k", parents=(parent,)))
    assert raw.count_documents({}) == 2
    assert "pokes" not in raw.find_one({"_id": ObjectId(parent)})


def test_arguments_that_cannot_be_stored_keep_all_batches_out(store: Store, raw: Any) -> None:
    with pytest.raises(errors.InvalidArguments):
        store.tasks.enqueue_many([*plain(BATCH_TASKS + 1), TaskRequest(job="a", args={"n": 2**63})])
    assert raw.count_documents({}) == 0


def test_one_alone_is_refused_in_the_words_of_one(store: Store) -> None:
    store.tasks.enqueue(TaskRequest(job="other", key="k"))
    assert refusal(store, keyed("k")).startswith("the key 'k' belongs to ")


# --- what is not ------------------------------------------------------------------------------------
def test_the_same_again_is_there_already(store: Store, raw: Any) -> None:
    requests = [*keyed("k", "l"), *keyed("k")]
    first, again = store.tasks.enqueue_many(requests), store.tasks.enqueue_many(requests)
    assert [one.existed for one in again] == [True] * 3
    assert [one.id for one in again] == [one.id for one in first]
    assert raw.count_documents({}) == 2


def test_a_key_whose_window_is_over_is_free_for_something_else_once_its_task_has_ended(store: Store, raw: Any) -> None:
    old = store.tasks.enqueue(TaskRequest(job="old", key="k", key_window=0))
    assert "line 2: the key 'k' belongs to" in refusal(store, [*plain(1), *keyed("k")])
    store.queue.claim([old.id], "token", ME)
    assert store.queue.finish(old.id, "token", Outcome(reason=Reason.EXIT, exit_code=0)) is Status.COMPLETED
    stored = store.tasks.enqueue_many([*plain(1), *keyed("k")])
    assert [one.existed for one in stored] == [False, False]
    assert store.tasks.get(stored[1].id).key == "k"


def test_a_key_in_a_list_is_refused_when_its_turn_comes(store: Store, raw: Any) -> None:
    """Somebody changed a document by hand; the index holds what stands in a list, too."""
    store.tasks.enqueue_many([*plain(1), *keyed("k", "l")])
    raw.update_one({"key": "k"}, {"$set": {"key": ["k", 1]}})
    with pytest.raises(errors.KeyConflict, match="the key 'k' belongs to"):
        store.tasks.enqueue_many([*plain(1), *keyed("k", args={"n": 1})])


# --- what comes up halfway -------------------------------------------------------------------------
def test_what_a_key_taken_meanwhile_leaves_is_found_when_all_is_sent_again(store: Store, raw: Any) -> None:
    requests = keyed(*(f"k{n}" for n in range(2 * BATCH_TASKS)))
    last = f"k{2 * BATCH_TASKS - 1}"
    with pytest.raises(errors.KeyConflict) as refused:
        store.tasks.enqueue_many(requests, lambda _: store.tasks.enqueue(TaskRequest(job="other", key=last)))
    assert "nothing stored" not in str(refused.value)
    assert raw.count_documents({"job": "a"}) == 2 * BATCH_TASKS - 1
    stored = store.tasks.enqueue_many([*requests[:-1], *keyed("new")])
    assert [one.existed for one in stored] == [*[True] * (2 * BATCH_TASKS - 1), False]
    assert raw.count_documents({"job": "a"}) == 2 * BATCH_TASKS


# --- what it costs ----------------------------------------------------------------------------------
@pytest.mark.parametrize("there", [False, True], ids=["new", "there already, as something else"])
def test_a_thousand_keys_are_one_look_up_in_the_index(
    store: Store, mongo_client: Any, database: Any, there: bool
) -> None:
    keys = [f"k{n}" for n in range(BATCH_TASKS)]
    store.tasks.enqueue_many(keyed(*(keys if there else [f"other-{key}" for key in keys]), args={"n": 1}))
    observed = mongo_client[database.name]
    with profiled(observed):
        if there:
            assert refusal(store, keyed(*keys)).startswith(f"{BATCH_TASKS} refused, nothing stored; first: line 1: ")
        else:
            store.tasks.enqueue_many(keyed(*keys))
    entries = observed["system.profile"].find({"ns": f"{database.name}.tasks", "op": {"$ne": "insert"}})
    [plan] = [read_plan(entry) for entry in entries]
    assert (plan.command, plan.summary) == ("query", "IXSCAN { key: 1 }")
    assert (plan.keys, plan.documents) == ((BATCH_TASKS, BATCH_TASKS) if there else (plan.keys, 0))


@pytest.mark.parametrize("requests", [plain(BATCH_TASKS), keyed("k")], ids=["no keys", "one alone"])
def test_nothing_is_looked_up_where_nothing_can_be_left_halfway(
    store: Store, mongo_client: Any, database: Any, requests: list[TaskRequest]
) -> None:
    observed = mongo_client[database.name]
    with profiled(observed):
        store.tasks.enqueue_many(requests)
    assert {entry["op"] for entry in observed["system.profile"].find({"ns": f"{database.name}.tasks"})} == {"insert"}
