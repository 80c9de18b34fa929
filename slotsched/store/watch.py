"""Wake-ups: what changed among the tasks, pushed by the server. Hints only; polling beneath finds the same."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pymongo.change_stream import CollectionChangeStream

from slotsched import errors
from slotsched.model import Status
from slotsched.store.connection import Connection, Document, Pipeline

_QUEUED = [Status.PENDING.value, Status.SCHEDULED.value]


@dataclass(frozen=True, kw_only=True)
class Work:
    """There is something new to do. lane: where, None if only a look at the lanes can tell. due_now: or only later."""

    lane: str | None
    due_now: bool


@dataclass(frozen=True, kw_only=True)
class Touched:
    """A task was canceled, deleted, or changed by somebody who is not its owner."""

    task_id: str


@dataclass(frozen=True, kw_only=True)
class Followers:
    """A task ended that others wait for, or something began to wait for one: they may have to be told."""

    task_id: str


@dataclass(frozen=True, kw_only=True)
class Freed:
    """A task that held a permit of a limit has ended. followers: others waited for it, too."""

    followers: bool


Event = Work | Touched | Followers | Freed

# An owner's own claims and finishes are no news to anybody: they set or unset `claim` in the same write. Unless a
# permit comes free with it, which a task may wait for anywhere.
_INTERESTING: Pipeline = [
    {
        "$match": {
            "$or": [
                {"operationType": "insert", "fullDocument.status": {"$in": _QUEUED}},
                {"operationType": {"$in": ["delete", "replace"]}},
                {"operationType": "update", "updateDescription.updatedFields.status": {"$in": _QUEUED}},
                {
                    "operationType": "update",
                    "updateDescription.updatedFields.status": {"$exists": True, "$ne": Status.RUNNING.value},
                    "updateDescription.removedFields": {"$ne": "claim"},
                },
                {"operationType": "update", "updateDescription.updatedFields.cancel": {"$exists": True}},
                {"operationType": "update", "updateDescription.updatedFields.cancels": {"$exists": True}},
                {"operationType": "update", "updateDescription.updatedFields.pokes": {"$exists": True}},
                {"operationType": "update", "updateDescription.removedFields": "permits"},
            ]
        }
    },
    {
        "$project": {
            "operationType": 1,
            "documentKey": 1,
            "fullDocument.lane": 1,
            "fullDocument.status": 1,
            "updateDescription.updatedFields.status": 1,
            "updateDescription.updatedFields.pokes": 1,
            "updateDescription.removedFields": 1,
        }
    },
]


class Watch:
    """An open change stream over the tasks. Open it before reading the lanes, and read them again after reopening.

    Use as a context manager, from one thread. Any trouble leaves as StoreUnreachable: close, wait, open again.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stream: CollectionChangeStream[Document] | None = None

    def __enter__(self) -> Watch:
        with self._connection.guard():
            self._stream = self._connection.certain("tasks").watch(_INTERESTING, max_await_time_ms=1000)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            with suppress(errors.StoreError), self._connection.guard():
                self._stream.close()
            self._stream = None

    def try_next(self, timeout: float = 1.0) -> Event | None:
        """The next event, or None when `timeout` seconds brought none (rounded up to one wait of the server, 1 s)."""
        assert self._stream is not None, "use it as a context manager"
        until = time.monotonic() + timeout
        while True:
            with self._connection.guard():
                change = self._stream.try_next()
            if change is None and not self._stream.alive:  # the collection was dropped: from now on it never waits
                raise errors.StoreUnreachable("the change stream has ended")
            event = None if change is None else _event(change)
            if event is not None or time.monotonic() >= until:
                return event


def _event(change: Any) -> Event | None:
    operation = change["operationType"]
    if operation == "insert":
        inserted = change.get("fullDocument", {})
        lane = inserted.get("lane")
        return Work(lane=lane if isinstance(lane, str) else None, due_now=inserted.get("status") == "pending")
    described = change.get("updateDescription", {})
    updated = described.get("updatedFields", {})
    if "permits" in described.get("removedFields", ()) and updated.get("status") not in _QUEUED:
        return Freed(followers="pokes" in updated)
    if operation == "update" and "pokes" in updated:
        return Followers(task_id=str(change["documentKey"]["_id"]))
    status = updated.get("status")
    if operation == "update" and status in _QUEUED:
        return Work(lane=None, due_now=status == Status.PENDING)
    return Touched(task_id=str(change["documentKey"]["_id"]))
