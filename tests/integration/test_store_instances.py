"""The life of an instance in the store: register, renew, resume, fence, retire; and what is done with its tasks."""

from __future__ import annotations

import datetime as dt
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from slotsched import errors
from slotsched.model import (
    Capacity,
    Instance,
    InstanceRef,
    Outcome,
    Reason,
    RetryPolicy,
    Status,
    Task,
    TaskRequest,
)
from slotsched.store import Store

EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)
FACTS = Instance(
    id="instance-1",
    name="big-1",
    host="host",
    pid=4711,
    boot_id="boot",
    incarnation=1,
    nonce="n0",
    live=True,
    draining=False,
    capacity=Capacity(slots=8, memory=1 << 34, resources={"gpu": 2}, tags=("ssd",)),
    used=0,
    lease=30.0,
    grace=5.0,
    started_at=EPOCH,
    renewed_at=EPOCH,
    version="1",
    containment={"name": "pidns", "full": True},
)
ME = InstanceRef(id=FACTS.id, name=FACTS.name)


@pytest.fixture
def raw(mongo_client: Any, database: Any) -> Any:
    """The database, behind the store's back."""
    return mongo_client[database.name]


def named(instance_id: str, **changes: Any) -> Instance:
    return replace(FACTS, id=instance_id, nonce=f"nonce-{instance_id}", **changes)


# --- the lease -------------------------------------------------------------------------------------
def test_an_instance_registers_with_the_servers_dates(store: Store) -> None:
    registered = store.instances.register(FACTS)
    assert replace(registered, started_at=EPOCH, renewed_at=EPOCH) == FACTS
    assert abs((registered.started_at - store.now()).total_seconds()) < 5
    assert store.instances.get(FACTS.id) == registered
    assert [one.id for one in store.instances.live()] == [FACTS.id]
    assert store.instances.register(FACTS).nonce == "n0"  # sent again


def test_a_renewal_names_a_nonce_it_knows_and_hears_what_people_set(store: Store) -> None:
    store.instances.register(FACTS)
    store.instances.set_slots("big-1", 3)
    store.instances.set_draining("instance-1", True)
    renewed = store.instances.renew(FACTS.id, 1, ["n0"], "n1", used=5, running=2)
    assert renewed is not None
    assert (renewed.nonce, renewed.used, renewed.running) == ("n1", 5, 2)
    assert (renewed.slots_wanted, renewed.draining) == (3, True)
    assert renewed.renewed_at > store.instances.get(FACTS.id).started_at
    assert store.instances.renew(FACTS.id, 1, ["n0"], "n2") is None  # knows only an old one
    assert store.instances.renew(FACTS.id, 2, ["n1"], "n2") is None  # another incarnation
    again = store.instances.renew(FACTS.id, 1, ["n0", "n1"], "n2", capacity=Capacity(slots=3))
    assert again is not None
    assert again.capacity == Capacity(slots=3)


def test_an_instance_that_ends_by_itself_shows_as_draining_and_that_is_not_what_people_set(store: Store) -> None:
    store.instances.register(FACTS)
    leaving = store.instances.renew(FACTS.id, 1, ["n0"], "n1", draining=True)
    assert leaving is not None
    assert leaving.draining
    resumed = store.instances.resume(replace(FACTS, incarnation=2, nonce="n2"))
    assert resumed is not None
    assert not resumed.draining


def test_a_fenced_instance_can_neither_renew_nor_resume(store: Store) -> None:
    store.instances.register(FACTS)
    assert not store.rescue.fence(FACTS.id, "stale")
    assert store.rescue.seen([FACTS.id, "absent"]) == {FACTS.id: (True, "n0"), "absent": None}
    assert store.rescue.fence(FACTS.id, "n0")
    assert not store.rescue.fence(FACTS.id, "n0")
    assert store.rescue.seen([FACTS.id]) == {FACTS.id: (False, "n0")}
    assert store.instances.renew(FACTS.id, 1, ["n0"], "n1") is None
    assert store.instances.resume(replace(FACTS, incarnation=2, nonce="n1")) is None
    with pytest.raises(errors.Refused, match="not up"):
        store.instances.set_slots("big-1", 2)
    assert store.instances.live() == []


def test_a_restart_resumes_with_the_next_incarnation_and_the_old_one_is_fenced(store: Store) -> None:
    store.instances.register(FACTS)
    store.instances.set_slots(FACTS.id, 4)
    resumed = store.instances.resume(replace(FACTS, incarnation=2, nonce="n1", pid=5))
    assert resumed is not None
    assert (resumed.incarnation, resumed.nonce, resumed.pid, resumed.slots_wanted) == (2, "n1", 5, 4)
    assert store.instances.renew(FACTS.id, 1, ["n0"], "n9") is None
    again = store.instances.resume(replace(FACTS, incarnation=2, nonce="n2"))  # the answer had been lost
    assert again is not None
    assert again.incarnation == 2
    assert store.instances.renew(FACTS.id, 2, ["n2"], "n3") is not None


def test_a_renewal_and_a_fence_at_once_have_one_winner(store: Store) -> None:
    for turn in range(30):
        facts = named(f"instance-{turn}")
        store.instances.register(facts)
        with ThreadPoolExecutor(2) as pool:
            renewal = pool.submit(store.instances.renew, facts.id, 1, [facts.nonce], "fresh")
            fence = pool.submit(store.rescue.fence, facts.id, facts.nonce)
            renewed, fenced = renewal.result(10) is not None, fence.result(10)
        assert renewed != fenced


def test_names_are_not_unique_and_ids_decide(store: Store) -> None:
    store.instances.register(named("aaaa-1"))
    store.instances.register(named("bbbb-2"))
    with pytest.raises(errors.Ambiguous, match="aaaa-1 on host"):
        store.instances.by_name("big-1")
    assert store.instances.by_name("bbbb").id == "bbbb-2"
    store.instances.retire("aaaa-1", 1)
    assert store.instances.by_name("big-1").id == "bbbb-2"
    assert [one.id for one in store.instances.all()] == ["bbbb-2", "aaaa-1"]
    for unknown in ("big-2", ".*", "big-."):
        with pytest.raises(errors.NotFound):
            store.instances.by_name(unknown)


def test_dead_instances_that_own_nothing_are_pruned(store: Store) -> None:
    for instance_id in ("idle", "owner", "alive"):
        store.instances.register(named(instance_id))
    task_id = store.tasks.enqueue(TaskRequest(job="a")).id
    store.queue.claim([task_id], "token", InstanceRef(id="owner", name="x"))
    for instance_id in ("idle", "owner"):
        store.rescue.fence(instance_id, f"nonce-{instance_id}")
    assert store.instances.prune(3600) == 0
    assert store.instances.prune(0) == 1
    assert {one.id for one in store.instances.all()} == {"owner", "alive"}


@pytest.mark.parametrize(
    "fault",
    [
        {"capacity": {"slots": -1}},
        {"capacity": {"slots": math.nan}},
        {"capacity": {"slots": 1e300}},
        {"capacity": None},
        {"lease": "long"},
        {"name": 7},
        {"renewed_at": "yesterday"},
        {"containment": []},
    ],
    ids=str,
)
def test_an_instance_nobody_can_read_is_left_out_and_reported(store: Store, raw: Any, fault: dict[str, Any]) -> None:
    store.instances.register(FACTS)
    store.instances.register(named("broken"))
    raw.instances.update_one({"_id": "broken"}, {"$set": fault})
    raw.instances.insert_one({"_id": 7, "live": True})
    assert [one.id for one in store.instances.all()] == [FACTS.id]
    assert store.instances.by_name("big-1").id == FACTS.id
    assert set(store.instances.unreadable()) == {"broken", "7"}
    assert store.rescue.fence("broken", "nonce-broken")


# --- rescue ----------------------------------------------------------------------------------------
def lost(store: Store, request: TaskRequest, *, times: int = 1, cancel: bool = False) -> Task:
    """A task whose instance is declared dead `times` times while it runs there."""
    task_id = store.tasks.enqueue(request).id
    for turn in range(times):
        facts = named(f"dead-{turn}")
        store.instances.register(facts)
        store.queue.promote()
        assert store.queue.claim([task_id], f"token-{turn}", InstanceRef(id=facts.id, name=facts.name))
        if cancel:
            store.tasks.cancel(task_id, "ann")
        assert facts.id in store.rescue.owners()
        assert store.rescue.fence(facts.id, facts.nonce)
        assert store.rescue.take(facts.id) == 1
        assert store.rescue.take(facts.id) == 0
        assert store.queue.finish(task_id, f"token-{turn}", Outcome(reason=Reason.EXIT, exit_code=0)) is None
    return store.tasks.get(task_id)


def test_a_live_instance_keeps_its_tasks(store: Store) -> None:
    store.instances.register(FACTS)
    task_id = store.tasks.enqueue(TaskRequest(job="a")).id
    store.queue.claim([task_id], "token", ME)
    with pytest.raises(errors.Refused, match="is live"):
        store.rescue.take(FACTS.id)
    assert store.tasks.get(task_id).status is Status.RUNNING


def test_a_lost_task_without_a_retry_has_failed(store: Store) -> None:
    task = lost(store, TaskRequest(job="a"))
    assert (task.status, task.reason, task.message) == (Status.FAILED, Reason.LOST, "instance dead-0 was lost")
    assert task.ended_at is not None
    [attempt] = task.attempts
    assert (attempt.reason, attempt.ended_at) == (Reason.LOST, task.ended_at)


def test_a_lost_task_that_was_to_be_canceled_is_canceled(store: Store) -> None:
    task = lost(store, TaskRequest(job="a", retry=RetryPolicy(limit=3)), cancel=True)
    assert (task.status, task.reason) == (Status.CANCELED, Reason.CANCELED)


def test_a_lost_task_with_a_retry_left_is_scheduled_after_its_backoff(store: Store) -> None:
    task = lost(store, TaskRequest(job="a", retry=RetryPolicy(limit=1, delay=100, on=("lost",))))
    assert (task.status, task.reason, task.ended_at, task.instance) == (Status.SCHEDULED, Reason.LOST, None, None)
    assert 70 < (task.due_at - store.now()).total_seconds() <= 125


@pytest.mark.parametrize(
    "retry",
    [RetryPolicy(limit=5, on=("exit", "timeout")), RetryPolicy(limit=0, on=("lost",))],
    ids=["not on", "no limit"],
)
def test_a_lost_task_whose_retries_do_not_cover_it_has_failed(store: Store, retry: RetryPolicy) -> None:
    assert lost(store, TaskRequest(job="a", retry=retry)).status is Status.FAILED


def test_a_task_that_was_lost_three_times_is_not_retried_again(store: Store) -> None:
    task = lost(store, TaskRequest(job="a", retry=RetryPolicy(limit=50, delay=0, on=("lost",))), times=3)
    assert (task.status, task.reason, task.attempt) == (Status.FAILED, Reason.LOST, 3)


def test_backoff_doubles_and_is_capped_and_jittered(store: Store) -> None:
    waits = []
    for _ in range(8):
        policy = RetryPolicy(limit=5, delay=1000, cap=1500, on=("lost",))
        task_id = store.tasks.enqueue(TaskRequest(job="a", retry=policy)).id
        store.queue.claim([task_id], "token-a", ME)
        store.queue.finish(task_id, "token-a", Outcome(reason=Reason.EXIT, exit_code=1), retry_in=0)
        store.queue.promote()
        store.queue.claim([task_id], "token-b", ME)
        store.rescue.take(ME.id)
        waits.append((store.tasks.get(task_id).due_at - store.now()).total_seconds())
    assert all(0.74 * 1500 < wait <= 1.25 * 1500 for wait in waits)
    assert len({round(wait) for wait in waits}) > 1


@pytest.mark.parametrize(
    "fault",
    [
        {"attempts": "none"},
        {"attempts": [7, {"fence": 1}]},
        {"attempt": "x"},
        {"retry": "often"},
        {"retry": {"on": "lost", "limit": 5}},
        {"retry": {"on": ["lost"], "limit": math.inf, "delay": math.nan, "cap": "x", "exponential": 1}},
        {"retry": {"on": ["lost"], "limit": 9, "delay": 1e308, "cap": 1e308, "exponential": True}},
        {"losses": "many"},
        {"priority": math.nan, "retry": {"on": ["lost"], "limit": 9, "delay": 1, "cap": 1, "exponential": True}},
        {"priority": 1e300, "retry": {"on": ["lost"], "limit": 9, "delay": 1, "cap": 1, "exponential": True}},
        {"keep": 1e300},
        {"keep": "long"},
        {"cancel": {"by": 7}},
    ],
    ids=str,
)
def test_a_rescue_ends_documents_at_fault_with_the_others(store: Store, raw: Any, fault: dict[str, Any]) -> None:
    ids = [one.id for one in store.tasks.enqueue_many(TaskRequest(job="a") for _ in range(3))]
    store.queue.claim(ids, "token", ME)
    from bson import ObjectId

    raw.tasks.update_one({"_id": ObjectId(ids[1])}, {"$set": fault})
    assert store.rescue.take(ME.id) == 3
    assert raw.tasks.count_documents({"status": "running"}) == 0
    assert store.rescue.owners() == []
    assert [store.tasks.get(task_id).reason for task_id in (ids[0], ids[2])] == [Reason.LOST, Reason.LOST]


@pytest.mark.parametrize("slots", [0, -1, 2**31, 3_000_000_000])
def test_slots_that_no_instance_can_offer_are_refused(store: Store, slots: int) -> None:
    store.instances.register(FACTS)
    with pytest.raises(errors.UsageError, match="from 1 to 2147483647"):
        store.instances.set_slots(FACTS.name, slots)


@pytest.mark.parametrize("wish", [3_000_000_000, 0, "many", None, 1.5])
def test_a_wish_for_slots_that_cannot_be_read_costs_no_lease(store: Store, raw: Any, wish: Any) -> None:
    store.instances.register(FACTS)
    raw.instances.update_one({"_id": FACTS.id}, {"$set": {"slots_wanted": wish}})
    renewed = store.instances.renew(FACTS.id, FACTS.incarnation, [FACTS.nonce], "n1")
    assert renewed is not None
    assert renewed.slots_wanted is None


# --- the next document of the same instance ---------------------------------------------------------
def test_an_instance_takes_over_what_people_had_set_of_the_one_before(store: Store) -> None:
    registered = store.instances.register(replace(FACTS, draining=True, slots_wanted=3))
    assert (registered.draining, registered.slots_wanted) == (True, 3)
    assert store.instances.wishes(FACTS.id) == (True, 3)


def test_a_registration_that_is_sent_again_does_not_undo_what_people_have_set_meanwhile(store: Store) -> None:
    before = replace(FACTS, draining=True, slots_wanted=3)
    store.instances.register(before)
    store.instances.set_draining(FACTS.id, False)
    store.instances.set_slots(FACTS.id, 2)
    again = store.instances.register(before)
    assert (again.draining, again.slots_wanted) == (False, 2)


def test_the_wishes_of_a_dead_instance_are_still_known_and_its_own_end_is_none_of_them(store: Store) -> None:
    store.instances.register(FACTS)
    assert store.instances.wishes(FACTS.id) == (False, None)
    assert store.instances.renew(FACTS.id, 1, ["n0"], "n1", draining=True) is not None
    store.instances.set_slots(FACTS.id, 2)
    assert store.rescue.fence(FACTS.id, "n1")
    assert store.instances.wishes(FACTS.id) == (False, 2)
    assert store.instances.wishes("nobody") == (False, None)
