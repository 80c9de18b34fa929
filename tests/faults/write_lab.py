"""Every write through a network at fault, beside a twin of it without a fault: both must leave the same documents.

A `Case` says how a write is called in earnest: an instance repeats its own until they are answered and settles a claim,
a person asks once and reads what is said. A `Fault` is what the network does to one of the messages that it sends.
"""

from __future__ import annotations

import datetime as dt
import queue
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pymongo
import pytest
from bson import ObjectId
from pymongo import common
from pymongo import errors as driver
from store_proxy import Proxy

from slotsched import errors
from slotsched.model import InstanceRef, Outcome, Reason, Status, TaskRequest
from slotsched.store import Store, connect
from slotsched.store.indexes import INDEXES

SHORT_SECONDS = 0.5  # what a call may take where the network keeps it waiting
LONG_SECONDS = 10.0  # ... where a message is lost at once, whatever else this machine does
OVER = 1.2  # a delay as long as this many timeouts
COLLECTIONS = (*INDEXES, "rates", "barriers")
UNREACHABLE = re.compile(r"(cannot reach mongodb://\S+ \(.+\) after [\d.]+ s\. .+|could not do it now)")
ME = InstanceRef(id="instance-0", name="big-0")
DONE = Outcome(reason=Reason.EXIT, exit_code=0)
FAILED = Outcome(reason=Reason.EXIT, exit_code=1)
Picture = dict[str, list[Any]]


@dataclass(frozen=True)
class Fault:
    """name: `lost`, `lost twice`, `slow`, `late`, `silence`. at: of which of the case's writes, None: of all."""

    name: str
    at: int | None = None

    def __str__(self) -> str:
        return self.name if self.at is None else f"{self.name} {self.at}"


class Scene:
    """A database of its own, a store beside the proxy, and two behind it: a patient one and one that gives up soon."""

    def __init__(self, mongod: Any, client: pymongo.MongoClient[Any]) -> None:
        self.name = f"test_{secrets.token_hex(6)}"
        self._client = client
        self.raw = client.get_database(self.name)
        self.proxy = Proxy(mongod.port)
        self.proxy.__enter__()
        self.store = connect(mongod.uri, self.name, timeout=30.0)
        self.store.init()
        self.patient, self.hasty = (
            connect(self.proxy.uri, self.name, timeout=seconds) for seconds in (LONG_SECONDS, SHORT_SECONDS)
        )
        for through in (self.patient, self.hasty):
            through._connection.indexed = True
        self.began = self.store.now()
        self._first = 0

    def clear(self) -> None:
        """No documents, no faults, and nothing on its way."""
        self.proxy.calm()
        self.proxy.wait_answered()
        for _ in range(20):
            try:
                for name in COLLECTIONS:
                    deletes = [{"q": {}, "limit": 0}]
                    self.raw.command({"delete": name, "deletes": deletes, "maxTimeMS": 500, "writeConcern": {"w": 1}})
                break
            except driver.OperationFailure:  # a transaction that its client could not end any more
                self.store._connection.free_locks()
        else:
            raise AssertionError("something stays locked")
        self.store.firing._locked.clear()
        self.began = self.store.now()
        self._first = _counter(ObjectId())
        for through in (self.patient, self.hasty):
            through.firing._locked.clear()
            through.now()  # the handshakes are done before a test drops anything

    def close(self) -> None:
        for store in (self.patient, self.hasty, self.store):
            store.close()
        self.proxy.__exit__(None, None, None)
        self._client.drop_database(self.name)

    # --- what a case prepares -------------------------------------------------------------------------
    def task(self, **request: Any) -> str:
        return self.store.tasks.enqueue(TaskRequest(**{"job": "a", **request})).id

    def running(self, *ids: str, token: str = "token-0", owner: InstanceRef = ME) -> list[str]:
        """Claimed, as by that instance."""
        claimed = self.store.queue.claim(ids or [self.task()], token, owner)
        assert len(claimed) == max(1, len(ids))
        return [task.id for task in claimed]

    def ended(self, outcome: Outcome = DONE, **request: Any) -> str:
        [task_id] = self.running(self.task(**request), token=f"token-{secrets.randbelow(10**9)}")
        claim = self.raw.tasks.find_one({"_id": ObjectId(task_id)})["claim"]
        assert self.store.queue.finish(task_id, claim["token"], outcome) is not None
        return task_id

    def damage(self, task_id: str, **fields: Any) -> str:
        self.raw.tasks.update_one({"_id": ObjectId(task_id)}, {"$set": fields})
        return task_id

    def due(self, *names: str, late: float = 0.5) -> None:
        """These schedules' time has come."""
        nominal = self.store.now() - dt.timedelta(seconds=late)
        nominal = nominal.replace(microsecond=nominal.microsecond // 1000 * 1000)
        times = {"next_at": nominal, "next_nominal_at": nominal, "anchor_at": nominal}
        self.raw.schedules.update_many({"_id": {"$in": list(names)}}, {"$set": times})

    # --- what there is --------------------------------------------------------------------------------
    def picture(self) -> Picture:
        """Every document, without what differs between two runs of the same: ids, moments, what chance picked."""
        everything = {name: list(self.raw[name].find({})) for name in COLLECTIONS}
        tasks = sorted(everything["tasks"], key=lambda task: self._made(task["_id"]))
        names = {str(task["_id"]): f"task {number}" for number, task in enumerate(tasks)}
        everything["tasks"] = tasks
        normal = _Normal(self.began, names)
        for name in set(COLLECTIONS) - {"tasks"}:
            everything[name].sort(key=lambda document: str(normal(document["_id"])))
        return {name: [normal(document) for document in found] for name, found in everything.items() if found}

    def _made(self, task_id: Any) -> int:
        """The order in which this process made the ids, whichever store's clock is in them."""
        return (_counter(task_id) - self._first) % 2**24 if isinstance(task_id, ObjectId) else -1


def _counter(task_id: ObjectId) -> int:
    return int.from_bytes(task_id.binary[-3:], "big")


@dataclass(frozen=True)
class _Normal:
    began: dt.datetime
    names: dict[str, str]

    def __call__(self, value: Any) -> Any:
        match value:
            case dict():
                return {self(key): self(inner) for key, inner in sorted(value.items())}
            case list():
                return [self(inner) for inner in value]
            case ObjectId():
                return self.names.get(str(value), "?")
            case dt.datetime():
                minutes = round((value - self.began).total_seconds() / 60)
                return f"began + {minutes} min" if abs(minutes) < 600 else "far from now"
            case str():
                return self._text(value)
        return value

    def _text(self, text: str) -> str:
        for task_id, name in self.names.items():
            text = text.replace(task_id, name).replace(task_id[::-1], name).replace(task_id[-8:], name)
        return re.sub(r"(token|nonce|#)-?\d+|\b(?:[0-9a-f]{64}|[0-9a-f]{24}|[0-9a-f]{8})\b", r"\1 any", text)


# --- cases --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """name: begins with the method (`tasks.cancel`), then which kind of it. sends: its writes on the wire, in order.

    prepare: makes what the write needs; its result is given to the call. call: the write through a store.
    by: `instance` (again until it is answered), `claim` (settled), `person` (once; then as they are told), `leaver`
    (once, and nobody is told). again: what a person meets who says it once more after it was carried out: `same` (the
    same end), a part of the refusal, or `new` (it is a request of its own). result: whether the twin's result must
    come back. loose: names of collections whose documents may differ, judged by `check` instead.
    """

    name: str
    sends: tuple[str, ...]
    prepare: Callable[[Scene], Any]
    call: Callable[[Store, Any], Any]
    by: str = "instance"
    again: str = "same"
    result: bool = False
    loose: tuple[str, ...] = ()
    check: Callable[[Scene, Any], None] | None = None
    patient: bool = False

    @property
    def method(self) -> str:
        return self.name.split(" ", 1)[0]

    def faults(self) -> list[Fault]:
        names = ("lost", "lost twice") if self.patient else ("lost", "lost twice", "slow", "late")
        kinds = [Fault(name, place) for place in range(len(self.sends)) for name in names]
        return [*kinds, Fault("silence")]


@dataclass
class Twin:
    """The same case without a fault: the documents before, after, and after a claim was given back unstarted."""

    before: Picture
    after: Picture
    released: Picture
    result: Any
    writes: list[str]


def without_a_fault(case: Case, scene: Scene) -> Twin:
    scene.clear()
    prepared = case.prepare(scene)
    before = scene.picture()
    scene.proxy.writes.clear()
    result = case.call(scene.patient, prepared)
    writes = list(scene.proxy.writes)
    after = scene.picture()
    if case.check is not None:
        case.check(scene, prepared)
    released = after
    if case.by == "claim":
        give_back(scene.store, "token-1")
        released = scene.picture()
    return Twin(before, after, released, _shown(result), writes)


def _shown(result: Any) -> Any:
    return result if isinstance(result, (Status, bool, int, type(None))) else None


# --- faults -------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What came of a case under a fault. wrong: sentences, none if all is well. unreachable: how often it was said."""

    wrong: list[str] = field(default_factory=list)
    unreachable: int = 0
    lost: int = 0


def with_a_fault(case: Case, fault: Fault, scene: Scene, twin: Twin) -> Run:
    scene.clear()
    prepared = case.prepare(scene)
    run = Run()
    through = scene.patient if fault.name.startswith("lost") else scene.hasty
    through.now()
    inject(scene.proxy, case, fault)
    wanted = _CALLERS[case.by](case, scene, through, prepared, twin, run)
    run.lost = scene.proxy.lost
    scene.proxy.calm()  # what was held back lands now, after everything else
    scene.proxy.wait_answered()
    if case.by == "claim" and run.unreachable:
        sweep(scene)
    _compare(case, "in the end", scene.picture(), wanted, run)
    if case.check is not None:
        case.check(scene, prepared)
    if fault.name.startswith("lost") and not run.lost:
        run.wrong.append("no answer was lost")
    return run


def inject(proxy: Proxy, case: Case, fault: Fault) -> None:
    if fault.at is None:
        proxy.blackhole()
        return
    command = case.sends[fault.at]
    others = case.sends[: fault.at].count(command)
    match fault.name:
        case "lost":
            proxy.lose(command, 1, after=others)
        case "lost twice":
            proxy.lose(command, 2, after=others)
        case "slow":
            proxy.slow(command, OVER * SHORT_SECONDS, after=others)
        case "late":
            proxy.hold(command, 1, after=others)


def until_answered(call: Callable[[], Any], scene: Scene, run: Run) -> Any:
    """What an instance does with a write whose end is unknown: send it again. The network is whole by then."""
    for _ in range(20):
        try:
            return call()
        except errors.StoreUnreachable as error:
            run.unreachable += 1
            _check_sentence(error, run)
            scene.proxy.heal()
    run.wrong.append("never answered")
    return None


def _by_instance(case: Case, scene: Scene, through: Store, prepared: Any, twin: Twin, run: Run) -> list[Picture]:
    result = until_answered(lambda: case.call(through, prepared), scene, run)
    if case.result and _shown(result) != twin.result:
        run.wrong.append(f"answered {result}, without a fault {twin.result}")
    return [twin.after]


def _by_claim(case: Case, scene: Scene, through: Store, prepared: Any, twin: Twin, run: Run) -> list[Picture]:
    """As Claimer does it: what an answer was lost for is settled, given back, and never started."""
    try:
        case.call(through, prepared)
    except errors.StoreUnreachable as error:
        run.unreachable += 1
        _check_sentence(error, run)
        scene.proxy.heal()
        until_answered(lambda: give_back(through, "token-1"), scene, run)
        return [twin.released, twin.before]
    return [twin.after]


def give_back(store: Store, token: str) -> None:
    for task in store.queue.settle(token):
        store.queue.release(task.id, token)


def sweep(scene: Scene) -> None:
    """What every renewal does: claims that this instance does not know of are given back."""
    for task_id, held in scene.store.queue.held(ME.id).items():
        scene.store.queue.release(task_id, held.token)


def _by_person(case: Case, scene: Scene, through: Store, prepared: Any, twin: Twin, run: Run) -> list[Picture]:
    try:
        case.call(through, prepared)
    except errors.StoreUnreachable as error:
        run.unreachable += 1
        _check_sentence(error, run)
    else:
        return [twin.after]
    scene.proxy.heal()
    if case.again == "new":
        return [twin.before, twin.after]
    try:
        until_answered(lambda: case.call(through, prepared), scene, run)
    except errors.Refused as refused:
        if case.again == "same" or case.again not in str(refused):
            run.wrong.append(f"asked again: {refused}")
    return [twin.after]


def _by_leaver(case: Case, scene: Scene, through: Store, prepared: Any, twin: Twin, run: Run) -> list[Picture]:
    try:
        case.call(through, prepared)
    except errors.StoreUnreachable as error:
        run.unreachable += 1
        _check_sentence(error, run)
        return [twin.before, twin.after]
    return [twin.after]


_CALLERS = {"instance": _by_instance, "claim": _by_claim, "person": _by_person, "leaver": _by_leaver}


def _check_sentence(error: Exception, run: Run) -> None:
    if not UNREACHABLE.search(str(error)):
        run.wrong.append(f"says only: {error}")


def _compare(case: Case, when: str, found: Picture, wanted: Sequence[Picture], run: Run) -> None:
    strict = [name for name in COLLECTIONS if name not in (*case.loose, "barriers")]
    if not any(all(found.get(name) == one.get(name) for name in strict) for one in wanted):
        run.wrong += [f"{when}: {line}" for name in strict for line in _differences(name, found, wanted[0])]


def _differences(name: str, found: Picture, wanted: Picture) -> list[str]:
    """What is other, field by field."""
    there, twins = found.get(name, []), wanted.get(name, [])
    if len(there) != len(twins):
        return [f"{name}: {len(there)} documents instead of {len(twins)}"]
    return [
        f"{name}: {field} of {one['_id']} is {one.get(field)}, not {twin.get(field)}"
        for one, twin in zip(there, twins, strict=True)
        for field in sorted({*one, *twin})
        if one.get(field) != twin.get(field)
    ]


# --- many at once -------------------------------------------------------------------------------------


class Studio:
    """Scenes that are used again, and the twins that have been seen: most of a fault's time is waiting."""

    def __init__(self, mongod: Any, client: pymongo.MongoClient[Any]) -> None:
        self._mongod, self._client = mongod, client
        self._free: queue.SimpleQueue[Scene] = queue.SimpleQueue()
        self._made: list[Scene] = []
        self._lock = threading.Lock()
        self._twins: dict[str, Twin] = {}
        self._locks: dict[str, threading.Lock] = {}

    @contextmanager
    def scene(self) -> Iterator[Scene]:
        try:
            scene = self._free.get_nowait()
        except queue.Empty:
            scene = Scene(self._mongod, self._client)
            with self._lock:
                self._made.append(scene)
        yield scene
        self._free.put(scene)  # one in which something failed is not used again

    def twin(self, case: Case) -> Twin:
        with self._lock:
            own = self._locks.setdefault(case.name, threading.Lock())
        with own:
            if case.name not in self._twins:
                with self.scene() as scene:
                    self._twins[case.name] = without_a_fault(case, scene)
            return self._twins[case.name]

    def run(self, case: Case, fault: Fault) -> Run:
        twin = self.twin(case)
        with self.scene() as scene:
            return with_a_fault(case, fault, scene, twin)

    def close(self) -> None:
        for scene in self._made:
            scene.close()


@contextmanager
def impatience() -> Iterator[None]:
    """A driver that lost its connection looks for the server at once, not after half a second; and what keeps a
    schedule locked is not waited for as long as in earnest.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.02)
        patch.setattr("slotsched.store.connection.ABANDONED_SECONDS", 0.3)
        patch.setattr("slotsched.store.firing.PATIENCE_SECONDS", 0.2)
        yield
