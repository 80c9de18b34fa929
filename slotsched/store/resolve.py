"""Telling those who wait how a task ended. Any instance does it, as often as it likes; what is told stays told.

The order makes a crash harmless: the mark `resolve` is taken back last, and only if no mark came since it was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne

from slotsched import errors
from slotsched.failpoints import failpoint
from slotsched.model import TERMINAL, Status
from slotsched.store import pipelines
from slotsched.store.connection import Connection, Document, Pipeline
from slotsched.store.documents import read_status

PARENTS_PER_QUERY = 200  # index scans of one look for children
CHILDREN_PER_UPDATE = 1000  # what one update changes within one timeout
_OVER = sorted(TERMINAL)
_WAITING = Status.WAITING.value


@dataclass(frozen=True, kw_only=True)
class Followed:
    """An ended task that others may wait for. mark: what matches it only while no mark came since, for `done`.

    series: whether it belongs to one, which keeps its own books.
    """

    id: str
    status: Status
    mark: Document
    series: bool = False


class Resolve:
    """Ended tasks with followers: find some, tell their followers, take the mark back."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tasks = connection.collection("tasks")
        self._certain = connection.certain("tasks")

    def ended(self, limit: int = PARENTS_PER_QUERY) -> list[Followed]:
        """Ended tasks whose followers have not been told yet. Index `resolving`, majority read.

        What was seen here stays true: no follower starts because of an end that an election takes back.
        """
        wanted = {"resolve": True, "status": {"$in": _OVER}}
        with self._connection.guard():
            found = self._certain.find(wanted, {"status": 1, "pokes": 1, "schedule": 1}).hint("resolving").limit(limit)
            return [_followed(document) for document in found]

    @failpoint("tell")
    def tell(self, ended: Sequence[Followed]) -> int:
        """Every child of these goes on, is canceled, or waits for fewer; how many changed. Index `waiters`."""
        return self._tell({parent.id: parent.status for parent in ended})

    def _tell(self, ended: Mapping[str, Status], *, gone: bool = False) -> int:
        """Bounded updates while there are many. The last one asks for all, also where none was seen: a primary without
        its majority shows children as told that the next primary still has waiting, and only a write waits for that.
        """
        steps = pipelines.resolve(ended, gone=gone)
        wanted: Document = {"status": _WAITING, "after": {"$in": list(ended)}}
        told = 0
        while ended:
            with self._connection.guard():
                found = self._tasks.find(wanted, {"_id": 1}).hint("waiters").limit(CHILDREN_PER_UPDATE)
                children = [child["_id"] for child in found]
            if len(children) < CHILDREN_PER_UPDATE:
                return told + self._change(wanted, children, steps)
            told += self._change(_waiting(children), children, steps)
        return told

    def _change(self, wanted: Document, children: list[Any], steps: Pipeline) -> int:
        """Those that are `wanted`; one by one where a document at fault would keep the others waiting."""
        hint = "waiters" if "after" in wanted else None
        try:
            with self._connection.guard():
                return self._tasks.update_many(wanted, steps, hint=hint).modified_count
        except errors.InvalidDocument:
            return sum(self._change_one(child, steps) for child in children)

    def _change_one(self, child: Any, steps: Pipeline) -> int:
        try:
            with self._connection.guard():
                return self._tasks.update_one(_waiting([child]), steps).modified_count
        except errors.InvalidDocument as why:
            with self._connection.guard():
                return self._tasks.update_one(_waiting([child]), pipelines.invalid(str(why))).modified_count

    @failpoint("told")
    def done(self, ended: Sequence[Followed]) -> None:
        """Takes the marks back, unless another one came since they were read. Index `_id`."""
        if not ended:
            return
        updates = [UpdateOne(parent.mark, {"$set": {"resolve": False}}) for parent in ended]
        with self._connection.guard():
            self._tasks.bulk_write(updates, ordered=False)

    def strays(self, limit: int = CHILDREN_PER_UPDATE, *, after: Any = None) -> tuple[int, Any]:
        """Ends waiting tasks that nobody would ever tell; how many, and the id after which to go on, None at the end.

        A parent is only removed once its followers were told, but anybody may delete a document by hand: its children
        are canceled. One that names no parents is failed(invalid). Index `by_status`, `limit` documents at a time.
        """
        wanted: Document = {"status": _WAITING} | ({} if after is None else {"_id": {"$gt": after}})
        with self._connection.guard():
            found = self._tasks.find(wanted, {"after": 1}).sort("_id", 1).hint("by_status").limit(limit)
            parents = {document["_id"]: _texts(document.get("after")) for document in found}
        unusable = [child for child, named in parents.items() if not named]
        missing = self._missing(set().union(*parents.values()))
        ended = self._tell(dict.fromkeys(sorted(missing), Status.CANCELED), gone=True)
        if unusable:
            update = pipelines.invalid("this document cannot be used: after names no tasks to wait for")
            with self._connection.guard():
                ended += self._tasks.update_many(_waiting(unusable), update).modified_count
        return ended, next(reversed(parents)) if len(parents) == limit else None

    def _missing(self, ids: set[str]) -> set[str]:
        """Those that name no task. Not a majority read: a parent can be as young as the child that was just seen."""
        known = [ObjectId(one) for one in ids if ObjectId.is_valid(one)]
        with self._connection.guard():
            return ids - {str(document["_id"]) for document in self._tasks.find({"_id": {"$in": known}}, {"_id": 1})}


def _waiting(children: list[Any]) -> Document:
    return {"_id": {"$in": children}, "status": _WAITING}


def _texts(after: Any) -> list[str]:
    """Empty for what is not a list of texts."""
    return after if isinstance(after, list) and all(isinstance(one, str) for one in after) else []


def _followed(document: Document) -> Followed:
    return Followed(
        id=str(document["_id"]),
        status=read_status(document),
        mark={
            "_id": document["_id"],
            "pokes": {"$eq": document["pokes"]} if "pokes" in document else {"$exists": False},
        },
        series=isinstance(document.get("schedule"), str),
    )
