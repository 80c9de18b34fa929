"""The table of writes, second part: who waits for whom, schedules and their series, catalogs, tokens, tails, upkeep."""

from __future__ import annotations

import datetime as dt
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from bson import ObjectId
from write_lab import DONE, FAILED, ME, Case, Scene

from slotsched.errors import NotFound
from slotsched.model import Broken, Facts, Job, Overlap, Schedule, Token
from slotsched.store import Store
from slotsched.store.indexes import INDEXES

FIRE = ("update", "insert", "commitTransaction")
BOOK = ("update", "commitTransaction")
INDEXED = ("createIndexes",) * len(INDEXES)  # a collection each
MINUTE = dt.timedelta(minutes=1)


# --- those who wait -----------------------------------------------------------------------------------


def _told(scene: Scene, outcome: Any = DONE) -> list[Any]:
    """An ended parent with two children, one of which waits for another task as well."""
    parent, other = scene.task(job="parent"), scene.task(job="parent")
    scene.task(job="child", parents=(parent,))
    scene.task(job="child", parents=(parent, other))
    scene.running(parent)
    scene.store.queue.finish(parent, "token-0", outcome)
    return scene.store.resolve.ended()


def _orphans(scene: Scene) -> None:
    """One whose parent was deleted by hand, and one that names none."""
    parent = scene.task(job="parent")
    scene.task(job="child", parents=(parent,))
    scene.raw.tasks.delete_one({"_id": ObjectId(parent)})
    scene.damage(scene.task(), status="waiting", after=5)


RESOLVE = [
    Case("resolve.tell", ("update",), _told, lambda store, ended: store.resolve.tell(ended)),
    Case("resolve.tell of a failure", ("update",), lambda s: _told(s, FAILED), lambda t, ended: t.resolve.tell(ended)),
    Case("resolve.done", ("update",), _told, lambda store, ended: store.resolve.done(ended)),
    Case("resolve.strays", ("update", "update"), _orphans, lambda store, _: store.resolve.strays()),
]


# --- schedules ----------------------------------------------------------------------------------------


def _hourly(name: str = "s", **fields: Any) -> Schedule:
    return Schedule(**{"name": name, "job": "j", "every": 3600.0, **fields})


def _one(scene: Scene, name: str = "s", **fields: Any) -> str:
    return scene.store.schedules.create(_hourly(name, **fields)).name


def _paused(scene: Scene) -> None:
    _one(scene)
    scene.store.schedules.pause(["s"])


def _booked(scene: Scene) -> str:
    """A series with one ended task that is in its books."""
    task_id = _ended_round(scene)
    scene.store.schedules.settle_many([task_id])
    scene.store.resolve.done(scene.store.resolve.ended())
    return task_id


def _ended_round(scene: Scene) -> str:
    _one(scene)
    ran = scene.store.firing.run_now("s")
    scene.running(ran.id)
    scene.store.queue.finish(ran.id, "token-0", DONE)
    return ran.id


def _remove(store: Store, _: object) -> None:
    with suppress(NotFound):  # what a person is told who asks a second time
        store.schedules.remove(["s"])


def _labelled(old: Schedule, _now: dt.datetime) -> Schedule:
    return replace(old, label="new")


SCHEDULES = [
    Case(
        "schedules.create",
        ("insert",),
        lambda s: None,
        lambda store, _: store.schedules.create(_hourly()),
        "person",
        "there is a schedule",
    ),
    Case(
        "schedules.add",
        ("insert",),
        lambda s: None,
        lambda store, _: store.schedules.add(_hourly()),
        "person",
        "there is a schedule",
    ),
    Case(
        "schedules.replace what is there",
        ("insert", "update"),
        _one,
        lambda store, _: store.schedules.replace(_hourly(every=60.0)),
        "person",
    ),
    Case(
        "schedules.replace what is not there",
        ("insert",),
        lambda s: None,
        lambda store, _: store.schedules.replace(_hourly()),
        "person",
        loose=("schedules",),  # said twice it is a change of the first, one revision on
        check=lambda s, _: _only(s, "s"),
    ),
    Case("schedules.set", ("update",), _one, lambda store, _: store.schedules.set("s", {"label": "x"}), "person"),
    Case("schedules.change", ("update",), _one, lambda store, _: store.schedules.change("s", _labelled), "person"),
    Case("schedules.pause", ("update",), _one, lambda store, _: store.schedules.pause(["s"]), "person"),
    Case("schedules.disable", ("update",), _one, lambda store, _: store.schedules.disable(["s"]), "person"),
    Case("schedules.resume", ("update",), _paused, lambda store, _: store.schedules.resume(["s"]), "person"),
    Case("schedules.remove", ("delete",), _one, _remove, "person"),
    Case(
        "schedules.clear_history",
        ("update", "delete"),
        _booked,
        lambda store, _: store.schedules.clear_history(["s"]),
        "person",
    ),
    Case("schedules.settle_many", BOOK, _ended_round, lambda store, task: store.schedules.settle_many([task])),
    Case(
        "schedules.settle_series",
        BOOK,
        _ended_round,
        lambda store, task: store.schedules.settle_series(store.tasks.get(task)),
    ),
]


def _only(scene: Scene, name: str) -> None:
    assert [one.name for one in scene.store.schedules.find()] == [name]
    assert scene.store.schedules.get(name).every == 3600.0


# --- firing -------------------------------------------------------------------------------------------


def _due(scene: Scene, *names: str, **fields: Any) -> None:
    for name in names or ("s",):
        _one(scene, name, **fields)
    scene.due(*(names or ("s",)))


def _due_again(scene: Scene, overlap: Overlap) -> None:
    """Due, with a task of the last time that has not ended."""
    _due(scene, overlap=overlap)
    assert _fire(scene.store) == 1
    scene.due("s")


def _due_and_followed(scene: Scene) -> None:
    _due(scene, "s", "t")
    scene.store.schedules.create(Schedule(name="f", job="f", after=("s",)))


def _misfits(scene: Scene, **fields: Any) -> None:
    _due(scene, "bad", "good")
    scene.raw.schedules.update_one({"_id": "bad"}, {"$set": fields})


def _fire(store: Store, _: object = None) -> int:
    """Pass after pass, as the duty does it, until nothing is due: what somebody holds locked is freed, or let be."""
    made = 0
    until = time.monotonic() + 10
    while store.firing.next_due() == 0.0 or store.firing._locked:
        assert time.monotonic() < until, "still due"
        store.firing.free_locks()
        made += store.firing.fire(store.firing.due())
    return made


def _all_are_live(scene: Scene, _: object) -> None:
    made = [task.id for task in scene.store.schedules.history("s")]
    assert sorted(scene.store.schedules.get("s").live) == sorted(made)


FIRING = [
    Case("firing.fire", FIRE, lambda s: _due(s, "s", "t", "u"), _fire),
    Case(
        "firing.fire one round after the other",
        ("update", "insert", "update", "commitTransaction"),
        lambda s: _due_again(s, Overlap.BUFFER_ALL),
        _fire,
    ),
    Case(
        "firing.fire and cancel the other",
        ("update", "insert", "update", "update", "commitTransaction"),
        lambda s: _due_again(s, Overlap.CANCEL_OTHER),
        _fire,
    ),
    Case("firing.fire with followers", FIRE, _due_and_followed, _fire),
    Case(
        "firing.fire beside one that cannot be used",
        ("update", *FIRE),
        lambda s: _misfits(s, overrides={"slots": 2**40}),
        _fire,
    ),
    Case(
        "firing.due with one that nobody can read",
        ("update",),
        lambda s: _misfits(s, jitter="much"),
        lambda store, _: store.firing.due(),
    ),
    Case(
        "firing.quarantine_strays",
        ("update",),
        lambda s: _misfits(s, next_at="soon"),
        lambda store, _: store.firing.quarantine_strays(),
    ),
    Case(
        "firing.run_now",
        FIRE,
        _one,
        lambda store, _: store.firing.run_now("s", by="ann"),
        "person",
        "has not ended yet",
    ),
    Case(
        "firing.backfill",
        FIRE,
        lambda s: (_one(s), s.began.replace(minute=0, second=0, microsecond=0))[1],
        lambda store, hour: store.firing.backfill("s", [hour - n * MINUTE for n in range(1, 4)], at_once=2),
        "person",
        loose=("schedules",),  # said twice it makes nothing, and a revision
        check=_all_are_live,
    ),
]


# --- catalogs, and schedules that they declare --------------------------------------------------------

NIGHTLY = Job(name="nightly", hash="1", facts=Facts(schedule={"cron": "0 3 * * *"}))
HOURLY = Job(name="nightly", hash="2", facts=Facts(schedule={"every": 3600.0}))
PLAIN = Job(name="plain", hash="1", facts=Facts(slots=2))
BROKEN = Broken(name="broken", path="broken.py", line=3, message="no such fact")


def _published(scene: Scene) -> None:
    scene.store.catalogs.publish(ME.id, [NIGHTLY, PLAIN], [BROKEN])


def _declared(scene: Scene) -> None:
    _published(scene)
    scene.store.declared.follow()


def _edited(scene: Scene) -> None:
    _declared(scene)
    scene.store.catalogs.publish(ME.id, [HOURLY])


def _forgotten(scene: Scene) -> None:
    _published(scene)
    scene.store.catalogs.publish(ME.id, [NIGHTLY])


CATALOGS = [
    Case(
        "catalogs.publish",
        ("update", "delete"),
        lambda s: s.store.catalogs.publish(ME.id, [PLAIN], [BROKEN]),
        lambda store, _: store.catalogs.publish(ME.id, [NIGHTLY, PLAIN]),
    ),
    Case(
        "catalogs.set_enabled off",
        ("update",),
        lambda s: None,
        lambda store, _: store.catalogs.set_enabled("plain", False),
        "person",
    ),
    Case(
        "catalogs.set_enabled on",
        ("delete",),
        lambda s: s.store.catalogs.set_enabled("plain", False),
        lambda store, _: store.catalogs.set_enabled("plain", True),
        "person",
    ),
    Case("catalogs.prune", ("delete",), _forgotten, lambda store, _: store.catalogs.prune(-3600.0)),
    Case("declared.follow a new file", ("insert",), _published, lambda store, _: store.declared.follow()),
    Case("declared.follow a change", ("update",), _edited, lambda store, _: store.declared.follow()),
    Case(
        "declared.upsert_from_file",
        ("insert",),
        _published,
        lambda store, _: store.declared.upsert_from_file(NIGHTLY),
    ),
    Case(
        "declared.disable_missing",
        ("update",),
        _declared,
        lambda store, _: store.declared.disable_missing("nightly"),
    ),
]


# --- tokens -------------------------------------------------------------------------------------------


def _token(scene: Scene) -> Token:
    token = scene.store.tokens.verify(scene.store.tokens.add("ann"))
    assert token is not None
    return token


def _session(scene: Scene) -> str:
    return scene.store.tokens.open_session(_token(scene))


def _revocable(scene: Scene) -> list[str]:
    """A token with two sessions beside one that stays; the secrets."""
    stays = scene.store.tokens.add("bob")
    token = _token(scene)
    return [stays, *(scene.store.tokens.open_session(token) for _ in range(2))]


def _add(store: Store, told: list[str]) -> None:
    told.append(store.tokens.add("ann", read_only=True))


def _whoever_was_told_a_secret_gets_in(scene: Scene, told: list[str]) -> None:
    """With the one token that there is. Who was told none removes it and makes another."""
    assert len(told) <= 1
    assert [scene.store.tokens.verify(secret) for secret in told] == scene.store.tokens.find()[: len(told)]


def _revoke(store: Store, _: object) -> None:
    with suppress(NotFound):
        store.tokens.remove("ann")


def _only_the_other_gets_in(scene: Scene, secrets: list[str]) -> None:
    stays, *sessions = secrets
    assert scene.store.tokens.verify(stays) is not None
    assert [scene.store.tokens.session(secret) for secret in sessions] == [None, None]


TOKENS = [
    Case(
        "tokens.add",
        ("insert",),
        lambda s: [],
        _add,
        "person",
        "there is a token",
        check=_whoever_was_told_a_secret_gets_in,
    ),
    Case("tokens.remove", ("delete", "delete"), _revocable, _revoke, "person", check=_only_the_other_gets_in),
    Case(
        "tokens.open_session",
        ("update",),
        _token,
        lambda store, token: store.tokens.open_session(token),
        "person",
        "new",
    ),
    Case(
        "tokens.close_session",
        ("delete",),
        _session,
        lambda store, secret: store.tokens.close_session(secret),
        "person",
    ),
]


# --- tails and upkeep ---------------------------------------------------------------------------------


def _shipped(scene: Scene) -> str:
    task_id = scene.task()
    for offset in (0, 5):
        scene.store.tails.ship(task_id, 1, offset, b"12345")
    return task_id


def _long_over(scene: Scene) -> None:
    """A task and a copy to be forgotten, and a task with a key in its window, which stays."""
    scene.ended(keep=1.0)
    scene.raw.tasks.update_many({}, {"$set": {"expire_at": scene.began - MINUTE}})
    scene.ended()
    scene.ended(key="k")
    _forgotten(scene)


UPKEEP = [
    Case(
        "tails.ship",
        ("insert",),
        lambda s: s.task(),
        lambda store, task: store.tails.ship(task, 1, 0, b"first line"),
    ),
    Case("tails.trim", ("delete",), _shipped, lambda store, task: store.tails.trim(task, 1, 5)),
    Case(
        "upkeep.prune",
        ("update", "delete", "delete", "delete", "delete"),
        _long_over,
        lambda store, _: store.upkeep.prune(0.0),
    ),
    Case(
        "upkeep.init",
        INDEXED,
        lambda s: None,
        lambda store, _: store.upkeep.init(),
        "person",
        patient=True,
    ),
    Case("init", INDEXED, lambda s: None, lambda store, _: store.init(), "person", patient=True),
]
