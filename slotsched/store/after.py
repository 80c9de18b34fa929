"""Tasks that wait for others: the child and the mark on its parents are written in one transaction.

Without it, a parent that ends between the two would never look for this child. With it there are only two orders: the
parent ends first, then the mark has its followers told (again); or the child is there first, then the end finds it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bson import ObjectId
from pymongo import errors as driver
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from slotsched import errors
from slotsched.store.connection import Connection, Document

SENDS = 3  # of one transaction, before the store counts as unreachable
_DUPLICATE = 11000


def poke(tasks: Collection[Document], parents: Iterable[str], session: ClientSession) -> None:
    """Marks the tasks as waited for; inside the transaction that inserts who waits. Raises NotFound. Index `_id`.

    `pokes` counts the marks: whoever has told the followers takes the mark `resolve` back only if none came since.
    """
    ids = [ObjectId(parent) for parent in dict.fromkeys(parents)]
    marked = tasks.update_many(
        {"_id": {"$in": ids}}, {"$inc": {"pokes": 1}, "$set": {"resolve": True}}, session=session
    )
    if marked.matched_count < len(ids):
        found = {document["_id"] for document in tasks.find({"_id": {"$in": ids}}, {"_id": 1}, session=session)}
        missing = next(task_id for task_id in ids if task_id not in found)
        raise errors.NotFound(f'no task "{missing}" to wait for')


class Waiters:
    """Inserts tasks that have parents. Index `_id`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tasks = connection.collection("tasks")

    def refused(self, documents: Sequence[Document]) -> set[ObjectId]:
        """Inserts them all with their marks, or none; the ids that a key held by another task keeps out.

        Where a key is in the way of several, each is inserted by itself. Raises NotFound for a parent that is not
        there: then nothing of this transaction is.
        """
        if not documents:
            return set()
        problem = self._send(documents)
        if problem is None or _is_own(problem, documents):
            return set()
        if len(documents) == 1:
            return {documents[0]["_id"]}
        return set().union(*(self.refused([document]) for document in documents))

    def _send(self, documents: Sequence[Document]) -> Mapping[str, Any] | None:
        """The duplicate that was in the way; None once the transaction is in."""
        parents = list(dict.fromkeys(itertools.chain.from_iterable(document["after"] for document in documents)))

        def insert(session: ClientSession) -> None:
            poke(self._tasks, parents, session)
            self._tasks.insert_many(documents, session=session)

        for send in itertools.count(1):
            try:
                self._connection.transaction(insert)
            except errors.StoreUnreachable:
                if send == SENDS:
                    raise
            except errors.InvalidDocument as error:
                problem = _duplicate(error.__cause__)
                if problem is None:
                    raise
                return problem
            else:
                return None
        raise AssertionError("unreachable")


def _duplicate(cause: BaseException | None) -> Mapping[str, Any] | None:
    """What a unique index said, if it was one."""
    if isinstance(cause, driver.BulkWriteError):
        problems: list[Mapping[str, Any]] = cause.details.get("writeErrors") or []
        return next((problem for problem in problems if problem.get("code") == _DUPLICATE), None)
    return None


def _is_own(problem: Mapping[str, Any], documents: Sequence[Document]) -> bool:
    """Whether an earlier send of the same transaction was committed after all: it was whole."""
    ours = {document["_id"] for document in documents}
    return "_id" in problem.get("keyPattern", {}) and problem.get("keyValue", {}).get("_id") in ours
