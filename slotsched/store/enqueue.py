"""Putting tasks in: one or many, each exactly once, however often the network makes us say it.

The `_id` is made here, so a document that was sent twice is refused the second time by its own `_id`, and that is
success: this refusal, too, is told only once a majority holds what it met. An idempotency key is a unique index: of
racing requests one inserts, the others find its task. So is what keeps a job from having two tasks with the same
arguments.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bson import ObjectId, encode
from pymongo import errors as driver

from slotsched import errors
from slotsched.model import TERMINAL, Status, TaskRequest
from slotsched.store import indexes
from slotsched.store.after import Waiters
from slotsched.store.connection import Connection, Document
from slotsched.store.documents import new_document, read_status, short

BATCH_TASKS = 1000
BATCH_BYTES = 16 * 1024 * 1024  # what one batch sends within one timeout
SENDS = 3  # of the same documents, before the store counts as unreachable
CLOCK_DOUBT = dt.timedelta(seconds=1)  # the server's clock as we know it is that good
_KEYS = ("key", "unique_key")
_STARTED = frozenset(Status) - {Status.WAITING, Status.SCHEDULED, Status.PENDING}
_KEY_ROUNDS = 10  # races over one key that a request loses before it gives up


@dataclass(frozen=True, kw_only=True)
class Enqueued:
    """existed: the task was there before, under the request's key or as the one its job may have."""

    id: str
    status: Status
    existed: bool = False


class Enqueuer:
    """Inserts tasks. Indexes `_id`, `keys`, `uniques`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tasks = connection.collection("tasks")
        self._certain = connection.certain("tasks")
        self._waiters = Waiters(connection)

    def enqueue(self, request: TaskRequest) -> Enqueued:
        """Inserts one task, or finds the one that stands for it. Raises KeyConflict, UsageError, InvalidArguments.

        With parents: NotFound where one of them does not exist.
        """
        document = new_document(request, self._connection.now())
        indexes.ensure(self._connection)
        return self._insert(document)

    def enqueue_many(
        self, requests: Iterable[TaskRequest], on_batch: Callable[[int], None] | None = None
    ) -> list[Enqueued]:
        """Inserts in batches; `on_batch` hears how many are in after each. Raises what `enqueue` raises.

        All are checked, and their keys looked up, before any is sent: what is refused then leaves nothing. What comes
        up later leaves what was sent before: an outage, a key that another client takes meanwhile (KeyConflict), a
        parent that is not there (NotFound). With keys all can be sent again.
        """
        documents = [new_document(request, self._connection.now()) for request in requests]
        if not documents:
            return []
        indexes.ensure(self._connection)
        if len(documents) > 1:  # one alone is refused whole anyway
            self._check_keys(documents)
        done: list[Enqueued] = []
        for batch in _batches(documents):
            done += self._insert_batch(batch)
            if on_batch is not None:
                on_batch(len(done))
        return done

    def _check_keys(self, documents: Sequence[Document]) -> None:
        """Raises KeyConflict where a key is used here, or in the store, for another job or other arguments."""
        first: dict[str, tuple[int, Document]] = {}
        conflicts: dict[int, str] = {}
        for position, document in enumerate(documents, 1):
            if "key" not in document:
                continue
            earlier, like = first.setdefault(document["key"], (position, document))
            if _differs(like, document):
                conflicts[position] = _conflict(document["key"], f"line {earlier}")
        for found in self._holders(list(first)):
            position, document = first[found["key"]]
            if not _differs(found, document):
                continue
            with self._connection.guard():
                freed = self._freed(found)
            if not freed:
                conflicts[position] = _conflict(found["key"], _shown(found))
        if conflicts:
            line = min(conflicts)
            raise errors.KeyConflict(f"{len(conflicts)} refused, nothing stored; first: line {line}: {conflicts[line]}")

    def _holders(self, keys: Sequence[str]) -> Iterator[Document]:
        """The tasks that have these keys: what `_freed` and a message need. Index `keys`; 1000 of them at a time."""
        fields = {"key": 1, "key_hash": 1, "key_until": 1, "job": 1}
        for start in range(0, len(keys), BATCH_TASKS):
            wanted = {"key": {"$in": keys[start : start + BATCH_TASKS]}}
            with self._connection.guard():
                found = list(self._certain.find(wanted, fields, batch_size=BATCH_TASKS + 1))  # one round trip
            yield from (document for document in found if isinstance(document["key"], str))

    def _insert(self, document: Document) -> Enqueued:
        for _ in range(_KEY_ROUNDS):
            if not self._refused([document]):
                return _enqueued(document)
            found = self._holder(document) or self._same(document)
            if found is not None:
                return found
        raise errors.StoreUnreachable("the task that stands for this one changes too fast; try again")

    def _insert_batch(self, batch: list[Document]) -> list[Enqueued]:
        refused = self._refused(batch)
        return [self._insert(d) if d["_id"] in refused else _enqueued(d) for d in batch]

    def _refused(self, batch: list[Document]) -> set[ObjectId]:
        """Sends the batch until it is answered; the ids that a key held by another task keeps out."""
        following = [document for document in batch if "after" in document]
        others = [document for document in batch if "after" not in document]
        return self._waiters.refused(following) | (self._refused_others(others) if others else set())

    def _refused_others(self, batch: list[Document]) -> set[ObjectId]:
        with self._connection.guard():
            for send in itertools.count(1):
                try:
                    self._tasks.insert_many(batch, ordered=False)
                except driver.BulkWriteError as error:
                    if not error.details.get("writeConcernErrors"):
                        return {batch[problem["index"]]["_id"] for problem in _refusals(error)}
                    if send == SENDS:
                        raise
                except driver.ConnectionFailure:
                    if send == SENDS:
                        raise
                else:
                    return set()
        raise AssertionError("unreachable")

    def _holder(self, document: Document) -> Enqueued | None:
        """The task that has this document's key; None once the key is free and the insert can be tried again."""
        key = document.get("key")
        if key is None:
            return None
        with self._connection.guard():
            found = self._certain.find_one({"key": key})
            if found is None:
                return None
            if found["_id"] == document["_id"]:
                return _enqueued(document)
            if self._freed(found):
                return None
        if _differs(found, document):
            raise errors.KeyConflict(_conflict(key, _shown(found)))
        return Enqueued(id=str(found["_id"]), status=read_status(found), existed=True)

    def _same(self, document: Document) -> Enqueued | None:
        """The task with the same arguments that keeps this one out; None once it does not any more.

        What starts or ends a task gives its `unique_key` back in the same write; one that somebody ended by hand is
        relieved of it here.
        """
        unique_key = document.get("unique_key")
        if unique_key is None:
            return None
        with self._connection.guard():
            found = self._certain.find_one({"unique_key": unique_key})
            if found is None:
                return None
            if found["_id"] == document["_id"]:
                return _enqueued(document)
            over = _over(found)
            if found.get("status") in over:
                stale = {"_id": found["_id"], "unique_key": unique_key, "status": {"$in": over}}
                self._tasks.update_one(stale, {"$unset": {"unique_key": ""}})
                return None
        return Enqueued(id=str(found["_id"]), status=read_status(found), existed=True)

    def _freed(self, found: Document) -> bool:
        """Takes the key from a task that has ended and whose window is over by the server's clock.

        True too where another request did so since: whose the key is now has to be looked up again. Without a doubt
        about the window nothing is written: a program that may only insert can repeat its keys.
        """
        until = found.get("key_until")
        if isinstance(until, dt.datetime) and until > self._connection.now() + CLOCK_DOUBT:
            return False
        self._tasks.update_one(
            {
                "_id": found["_id"],
                "key": found["key"],
                "key_until": found.get("key_until"),
                "status": {"$in": [status.value for status in TERMINAL]},
                "$expr": {"$lte": ["$key_until", "$$NOW"]},
            },
            {"$unset": {"key": "", "key_until": "", "key_hash": ""}},
        )
        return self._certain.find_one({"_id": found["_id"], "key": found["key"]}, {"_id": 1}) is None


def _differs(found: Document, document: Document) -> bool:
    """Whether these two of one key have another job or other arguments."""
    return bool(found.get("key_hash") != document["key_hash"])


def _conflict(key: str, holder: str) -> str:
    return f"the key {key!r} belongs to {holder}, which has another job or other arguments"


def _shown(found: Document) -> str:
    return f"{short(str(found['_id']))} {found.get('job')}"


def _over(found: Document) -> list[str]:
    """The statuses in which this task keeps nobody out any more."""
    unique = found.get("unique")
    until_start = isinstance(unique, dict) and unique.get("until") == "pending"
    return sorted(_STARTED if until_start else TERMINAL)


def _enqueued(document: Document) -> Enqueued:
    return Enqueued(id=str(document["_id"]), status=Status(document["status"]))


def _refusals(error: driver.BulkWriteError) -> Iterator[dict[str, Any]]:
    """The refusals by a key; a duplicate on our own `_id` is an earlier send's success, anything else is raised."""
    for problem in error.details["writeErrors"]:
        if problem.get("code") != 11000:
            raise driver.OperationFailure(str(problem.get("errmsg")), problem.get("code"), problem) from error
        if any(name in problem.get("keyPattern", {}) for name in _KEYS):
            yield problem


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        length = len(encode(document))
        if batch and (len(batch) == BATCH_TASKS or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += length
    if batch:
        yield batch
