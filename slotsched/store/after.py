"""Tasks that wait for others: the child and the mark on its parents are written in one transaction.

Without it, a parent that ends between the two would never look for this child. With it there are only two orders: the
parent ends first, then the mark has its followers told (again); or the child is there first, then the end finds it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from bson import ObjectId
from pymongo import errors as driver
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from slotsched import errors
from slotsched.store.connection import Connection, Document

SENDS = 3  # of one transaction, before the store counts as unreachable
_DUPLICATE = 11000


class _Taken(Exception):
    """Raised to leave a transaction that a unique index refused. own: the `_id` that an earlier send of the same
    documents has put in, None where another task's key is in the way.
    """

    def __init__(self, own: ObjectId | None) -> None:
        super().__init__()
        self.own = own


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
        self._certain = connection.certain("tasks")

    def refused(self, documents: Sequence[Document]) -> set[ObjectId]:
        """Inserts them all with their marks, or none; the ids that a key held by another task keeps out.

        Where a key is in the way of several, each is inserted by itself. Raises NotFound for a parent that is not
        there: then nothing of this transaction is.
        """
        if not documents:
            return set()
        if self._send(documents):
            return set()
        if len(documents) == 1:
            return {documents[0]["_id"]}
        return set().union(*(self.refused([document]) for document in documents))

    def _send(self, documents: Sequence[Document]) -> bool:
        """Whether they are in; not where a key was in the way."""
        for send in itertools.count(1):
            try:
                return self._send_once(documents)
            except errors.StoreUnreachable:
                if send == SENDS:
                    raise
        raise AssertionError("unreachable")

    def _send_once(self, documents: Sequence[Document]) -> bool:
        parents = list(dict.fromkeys(itertools.chain.from_iterable(document["after"] for document in documents)))

        def insert(session: ClientSession) -> None:
            try:
                self._tasks.insert_many(documents, session=session)
            except driver.BulkWriteError as error:
                raise _taken(error, documents) from error
            # Last: what a client that dies before the commit has marked, nobody can write until the server gives its
            # transaction up (transactionLifetimeLimitSeconds, 60 s if nobody changed it).
            poke(self._tasks, parents, session)

        try:
            self._connection.transaction(insert)
        except _Taken as taken:
            if taken.own is None:
                return False
            self._make_certain(taken.own)
        return True

    def _make_certain(self, task_id: ObjectId) -> None:
        """Raises StoreUnreachable unless a majority holds this task, which an earlier send has put in.

        The server does not say so when it refuses to put it in again: a primary that has lost the others meets what
        goes with it. What a majority read shows stays. Leaving the transaction has waited for a majority as long as
        the deadline allowed, so where all is well it is shown by now.
        """
        with self._connection.guard():
            found = self._certain.find_one({"_id": task_id}, {"_id": 1})
        if found is None:
            uri = self._connection.target.uri
            raise errors.StoreUnreachable(f"{uri} has this task, but no majority of its set keeps it yet; try again")


def _taken(error: driver.BulkWriteError, documents: Sequence[Document]) -> Exception:
    """What to leave the transaction with. One that was committed before is whole: its own `_id` tells of all of it."""
    for problem in error.details.get("writeErrors") or []:
        if problem.get("code") == _DUPLICATE:
            ours = {document["_id"] for document in documents}
            met = problem.get("keyValue", {}).get("_id")
            return _Taken(met if met in ours else None)
    return error
