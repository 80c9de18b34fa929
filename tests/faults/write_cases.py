"""The table of writes: what people and instances do to tasks, to the queue, and to each other. `write_cases_series`
has schedules, catalogs, tokens, tails and upkeep.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from bson import ObjectId
from write_lab import DONE, FAILED, ME, Case, Scene

from slotsched.model import (
    Capacity,
    Instance,
    Limit,
    LogRef,
    Outcome,
    Progress,
    Rate,
    Reason,
    Reservation,
    RetryPolicy,
    Status,
    TaskRequest,
)
from slotsched.store import Store, Wanted

LIMIT = Limit(scope="job:a", most=2)
RATE = Rate(starts=3, seconds=60.0)
LOG = LogRef(store="s3://logs", key="k", bytes=5, uploaded=True, truncated=False)
LOST_RETRY = RetryPolicy(limit=3, delay=0, on=("lost", "exit"))
UNSTORABLE = Outcome(reason=Reason.EXIT, exit_code=0, result={"big": "x" * (17 << 20)})
TRANSACTION = ("insert", "update", "commitTransaction")


def instance(nonce: str = "nonce-0", **fields: Any) -> Instance:
    now = dt.datetime.now(dt.UTC)
    facts: dict[str, Any] = {"id": ME.id, "name": ME.name, "host": "here", "pid": 7, "boot_id": "b", "incarnation": 1}
    facts |= {"nonce": nonce, "live": True, "draining": False, "capacity": Capacity(slots=4), "used": 0}
    facts |= {"lease": 30.0, "grace": 5.0, "started_at": now, "renewed_at": now, "version": "1", "containment": {}}
    return Instance(**facts | fields)


# --- tasks --------------------------------------------------------------------------------------------


def _over(scene: Scene) -> None:
    """A task that ended, and whose key's window is over."""
    task_id = scene.ended(key="k")
    scene.damage(task_id, key_until=scene.store.now() - dt.timedelta(hours=1))


def _stale_unique(scene: Scene) -> None:
    """Somebody ended a task by hand, and it keeps its like out still."""
    scene.damage(scene.task(unique="running"), status="completed")


def _family(scene: Scene) -> list[str]:
    return [scene.task(job="parent"), scene.task(job="parent")]


def _many(store: Store, parents: list[str]) -> object:
    children = [TaskRequest(job="child", parents=tuple(parents), key=f"c{n}") for n in range(2)]
    return store.tasks.enqueue_many([*children, *(TaskRequest(job="a", key=f"k{n}") for n in range(3))])


def _keys(scene: Scene) -> list[str]:
    parents = _family(scene)
    scene.task(job="a", key="k1")
    return parents


def _enqueue(**request: Any) -> Any:
    return lambda store, _: store.tasks.enqueue(TaskRequest(**{"job": "a", **request}))


TASKS = [
    Case("tasks.enqueue", ("insert",), lambda s: None, _enqueue(), "person", "new"),
    Case("tasks.enqueue for later", ("insert",), lambda s: None, _enqueue(due_in=3600), "person", "new"),
    Case("tasks.enqueue with a key", ("insert",), lambda s: None, _enqueue(key="k"), "person"),
    Case("tasks.enqueue with a key in use", ("insert",), lambda s: s.task(key="k"), _enqueue(key="k"), "person"),
    Case("tasks.enqueue with a free key", ("insert", "update", "insert"), _over, _enqueue(key="k"), "person"),
    Case("tasks.enqueue one of a kind", ("insert",), lambda s: None, _enqueue(unique="running"), "person"),
    Case(
        "tasks.enqueue one of a kind, the last ended by hand",
        ("insert", "update", "insert"),
        _stale_unique,
        _enqueue(unique="running"),
        "person",
    ),
    Case(
        "tasks.enqueue after others",
        TRANSACTION,
        _family,
        lambda store, parents: store.tasks.enqueue(TaskRequest(job="child", parents=tuple(parents), key="k")),
        "person",
    ),
    Case("tasks.enqueue_many", (*TRANSACTION, "insert"), _family, _many, "person"),
    Case("tasks.enqueue_many with a key in use", (*TRANSACTION, "insert", "insert"), _keys, _many, "person"),
    Case(
        "tasks.cancel what waits",
        ("findAndModify",),
        lambda s: s.task(),
        lambda store, task: store.tasks.cancel(task, "ann"),
        "person",
        "nothing to cancel",
    ),
    Case(
        "tasks.cancel what runs",
        ("findAndModify",),
        lambda s: s.running()[0],
        lambda store, task: store.tasks.cancel(task, "ann"),
        "person",
        loose=("tasks",),  # every wish is counted, so that its owner hears of each
        check=lambda s, task: _is(s, task, Status.RUNNING, asked=True, kill=False),
    ),
    Case(
        "tasks.cancel at once",
        ("findAndModify",),
        lambda s: s.running()[0],
        lambda store, task: store.tasks.cancel(task, "ann", kill=True),
        "person",
        loose=("tasks",),
        check=lambda s, task: _is(s, task, Status.RUNNING, asked=True, kill=True),
    ),
    Case("tasks.retry", ("insert",), lambda s: s.ended(FAILED), lambda t, i: t.tasks.retry(i, "ann"), "person", "new"),
    Case(
        "tasks.retry_many",
        ("insert",),
        lambda s: [s.ended(FAILED), s.ended(FAILED)],
        lambda store, ids: store.tasks.retry_many(ids, "ann"),
        "person",
        "new",
    ),
    Case(
        "tasks.remove",
        ("delete",),
        lambda s: [s.ended(), s.task()],
        lambda store, ids: store.tasks.remove(ids),
        "person",
    ),
]


def _is(scene: Scene, task_id: str, status: Status, *, asked: bool, kill: bool) -> None:
    task = scene.store.tasks.get(task_id)
    assert task.status is status
    assert (task.cancel is not None) == asked
    assert task.cancel is None or task.cancel.kill == kill


# --- the queue ----------------------------------------------------------------------------------------


def _promotable(scene: Scene) -> None:
    for due_in in (0, 0, 3600):
        task_id = scene.task(due_in=3600)
        if not due_in:
            scene.damage(task_id, due_at=scene.began)


def _asked_to_end(scene: Scene) -> str:
    [task_id] = scene.running()
    scene.store.tasks.cancel(task_id, "ann")
    return task_id


def _twins_of_a_kind(scene: Scene) -> str:
    """Running, one of a kind until its start, and its like waits already."""
    [task_id] = scene.running(scene.task(unique="pending"))
    scene.task(unique="pending")
    return task_id


def _finish(outcome: Outcome, **more: Any) -> Any:
    return lambda store, task: store.queue.finish(task, "token-0", outcome, **more)


def _running(scene: Scene) -> str:
    return scene.running(scene.task(retry=LOST_RETRY))[0]


def _followed(scene: Scene) -> str:
    """Running, and another one waits for it."""
    [task_id] = scene.running()
    scene.task(job="child", parents=(task_id,))
    return task_id


def _reservation(scene: Scene) -> tuple[str, Reservation]:
    at = scene.began
    return scene.task(), Reservation(by=ME.id, start=at, until=at + dt.timedelta(hours=1))


def _reserved(scene: Scene) -> str:
    task_id, reservation = _reservation(scene)
    assert scene.store.queue.reserve(task_id, reservation)
    return task_id


def _strays(scene: Scene) -> None:
    scene.damage(scene.task(), lane=5)
    scene.damage(scene.task(), rank="first")
    scene.damage(scene.task(due_in=60), due_at="soon")
    scene.damage(scene.task(), status="running", claim={"instance": 7})


def _ids(scene: Scene) -> list[str]:
    return [scene.task() for _ in range(3)]


def _one_unreadable(scene: Scene) -> list[str]:
    return [scene.task(), scene.damage(scene.task(), args="none")]


def _none_runs_unread(scene: Scene, ids: list[str]) -> None:
    good, bad = (scene.raw.tasks.find_one({"_id": ObjectId(task_id)}) for task_id in ids)
    assert good["status"] in ("pending", "running")
    assert good["status"] == "pending" or good["claim"]["token"] == "token-1"
    assert (bad["status"], bad.get("reason")) in (("pending", None), ("failed", "invalid"))


QUEUE = [
    Case("queue.promote", ("update",), _promotable, lambda store, _: store.queue.promote()),
    Case(
        "queue.lanes with one that nobody can read",
        ("update",),
        lambda s: [s.damage(s.task(), lane="||||"), s.task(job="b")],
        lambda store, _: store.queue.lanes(),
    ),
    Case(
        "queue.candidates with one that nobody can read",
        ("update",),
        lambda s: [s.damage(s.task(), rank="first"), s.task()],
        lambda store, _: store.queue.candidates(store.queue.lanes(), 10),
    ),
    Case(
        "queue.blocked with one that nobody can read",
        ("update",),
        lambda s: [s.damage(s.task(), rank="first"), s.task()],
        lambda store, _: store.queue.blocked(store.queue.lanes(), 10),
    ),
    Case("queue.claim", ("update",), _ids, lambda store, ids: store.queue.claim(ids, "token-1", ME), "claim"),
    Case(
        "queue.claim of one that nobody can read",
        ("update", "update"),
        _one_unreadable,
        lambda store, ids: store.queue.claim(ids, "token-1", ME),
        "claim",
        loose=("tasks",),  # a claim that lands late is given back unread: the next one finds out
        check=_none_runs_unread,
    ),
    Case("queue.settle", ("update",), lambda s: s.running(), lambda store, _: store.queue.settle("token-0")),
    Case(
        "queue.claimed with one that nobody can read",
        ("update",),
        lambda s: s.damage(s.running()[0], args="none"),
        lambda store, _: _guarded_claimed(store),
    ),
    Case(
        "queue.held for certain",
        ("update",),
        lambda s: s.running(),
        lambda store, _: store.queue.held(ME.id, settled=True),
    ),
    Case(
        "queue.held with one that nobody can read",
        ("update",),
        lambda s: s.damage(s.running()[0], fence="first"),
        lambda store, _: store.queue.held(ME.id),
    ),
    Case(
        "queue.release",
        ("findAndModify",),
        lambda s: s.running()[0],
        lambda store, task: store.queue.release(task, "token-0"),
    ),
    Case(
        "queue.release of what was canceled",
        ("findAndModify",),
        _asked_to_end,
        lambda store, task: store.queue.release(task, "token-0"),
    ),
    Case(
        "queue.release beside its like",
        ("findAndModify", "findAndModify"),
        _twins_of_a_kind,
        lambda store, task: store.queue.release(task, "token-0"),
    ),
    Case("queue.finish completed", ("findAndModify",), _running, _finish(DONE, log=LOG), result=True),
    Case("queue.finish of what others wait for", ("findAndModify",), _followed, _finish(DONE), result=True),
    Case("queue.finish failed", ("findAndModify",), _running, _finish(FAILED), result=True),
    Case("queue.finish with a retry", ("findAndModify",), _running, _finish(FAILED, retry_in=3600.0), result=True),
    Case("queue.finish canceled", ("findAndModify",), _asked_to_end, _finish(FAILED, retry_in=1.0), result=True),
    Case("queue.finish with a result too large", ("findAndModify",), _running, _finish(UNSTORABLE), result=True),
    Case(
        "queue.progress",
        ("update",),
        _running,
        lambda store, task: store.queue.progress(task, "token-0", Progress(fraction=0.5, message="half")),
    ),
    Case(
        "queue.log_uploaded",
        ("update",),
        lambda s: s.ended(),
        lambda store, task: store.queue.log_uploaded(task, 1, LOG),
    ),
    Case("queue.reserve", ("update",), _reservation, lambda store, one: store.queue.reserve(*one), result=True),
    Case("queue.unreserve", ("update",), _reserved, lambda store, task: store.queue.unreserve(task, ME.id)),
    Case(
        "queue.quarantine what waits",
        ("update",),
        lambda s: s.task(),
        lambda store, task: store.queue.quarantine(task, "bad"),
    ),
    Case(
        "queue.quarantine what runs",
        ("update",),
        _running,
        lambda store, task: store.queue.quarantine(task, "bad", token="token-0"),
    ),
    Case("queue.quarantine_strays", ("update",) * 4, _strays, lambda store, _: store.queue.quarantine_strays()),
]


def _guarded_claimed(store: Store) -> object:
    with store.queue._connection.guard():
        return store.queue.claimed("token-0")


# --- limits -------------------------------------------------------------------------------------------


def _limited(scene: Scene) -> list[Wanted]:
    return [Wanted(id=task_id, limit=LIMIT) for task_id in _ids(scene)]


def _no_permit_leaks(scene: Scene, _: object) -> None:
    """A permit is held by what runs, and by nothing else; never more than there are."""
    holders = list(scene.raw.tasks.find({"permits": {"$exists": True}}))
    assert all(task["status"] == "running" for task in holders)
    assert len(holders) <= LIMIT.most


def _take_once(store: Store, tokens: list[str]) -> object:
    tokens.append(f"token-{len(tokens)}")  # as a claim has it: fresh for every send
    return store.rates.take("a", RATE, 2, tokens[-1])


def _never_more_than_the_rate(scene: Scene, tokens: list[str]) -> None:
    """What an answer was lost for counts for nothing, and for no longer than the rate's time."""
    [log] = scene.raw.rates.find({})
    assert len(log["claims"]) <= RATE.starts
    last = sum(claim["token"] == tokens[-1] for claim in log["claims"])
    assert last == (2 if len(tokens) == 1 else min(2, RATE.starts - (len(log["claims"]) - last)))


def _taken(scene: Scene) -> list[dt.datetime]:
    scene.store.rates.take("a", RATE, 2, "token-0")
    return [scene.began]


LIMITS = [
    Case(
        "permits.claim",
        ("update",),
        _limited,
        lambda store, wanted: store.permits.claim(wanted, "token-1", ME),
        "claim",
        check=_no_permit_leaks,
    ),
    Case(
        "permits.free_strays",
        ("update",),
        lambda s: [s.running(s.damage(s.task(), permits=["job:b#0"])), s.damage(s.task(), permits=["job:a#0"])],
        lambda store, _: store.permits.free_strays(),
    ),
    Case(
        "rates.take",
        ("findAndModify",),
        lambda s: [],
        _take_once,
        loose=("rates",),
        check=_never_more_than_the_rate,
    ),
    Case(
        "rates.correct",
        ("update",),
        _taken,
        lambda store, started: store.rates.correct("a", RATE, "token-0", started),
    ),
]


# --- instances ----------------------------------------------------------------------------------------


def _registered(scene: Scene) -> list[str]:
    scene.store.instances.register(instance())
    return ["nonce-0"]


def _renew(store: Store, nonces: list[str]) -> object:
    nonces.append(f"nonce-{len(nonces)}")
    return store.instances.renew(ME.id, 1, nonces, nonces[-1], used=2, running=1, capacity=Capacity(slots=8))


def _resume(store: Store, nonces: list[str]) -> object:
    nonces.append(f"nonce-{len(nonces)}")
    return store.instances.resume(instance(nonces[-1], incarnation=2))


def _newest_nonce(scene: Scene, nonces: list[str]) -> None:
    """A renewal that was late does not undo a later one: the instance could not renew any more."""
    [found] = scene.raw.instances.find({})
    assert found["nonce"] == nonces[-1]


def _long_dead(scene: Scene) -> None:
    _registered(scene)
    scene.store.instances.retire(ME.id, 1)
    scene.raw.instances.update_one({"_id": ME.id}, {"$set": {"died_at": scene.began - dt.timedelta(days=2)}})
    scene.raw.jobs.insert_one({"_id": "copy:a@1", "kind": "copy", "job": "a", "hash": "1", "holders": [ME.id]})


def _owned(scene: Scene) -> None:
    """Three tasks of an instance that nobody knows: one to be retried, one canceled, one followed."""
    ids = [scene.task(retry=LOST_RETRY), scene.task(), scene.task()]
    scene.running(*ids)
    scene.store.tasks.cancel(ids[1], "ann")
    scene.task(job="child", parents=(ids[2],))


INSTANCES = [
    Case("instances.register", ("findAndModify",), lambda s: None, lambda t, _: t.instances.register(instance())),
    Case("instances.renew", ("findAndModify",), _registered, _renew, check=_newest_nonce),
    Case("instances.resume", ("findAndModify",), _registered, _resume, check=_newest_nonce),
    Case("instances.resume what nobody knows", ("update",), lambda s: ["nonce-0"], _resume),
    Case("instances.retire", ("update",), _registered, lambda store, _: store.instances.retire(ME.id, 1), "leaver"),
    Case(
        "instances.set_slots",
        ("findAndModify",),
        _registered,
        lambda store, _: store.instances.set_slots(ME.name, 7),
        "person",
    ),
    Case(
        "instances.set_draining",
        ("findAndModify",),
        _registered,
        lambda store, _: store.instances.set_draining(ME.name, True),
        "person",
    ),
    Case("instances.prune", ("update", "delete"), _long_dead, lambda store, _: store.instances.prune(86400.0)),
    Case("rescue.fence", ("update",), _registered, lambda store, _: store.rescue.fence(ME.id, "nonce-0")),
    Case("rescue.take", ("update", "update"), _owned, lambda store, _: store.rescue.take(ME.id)),
]
