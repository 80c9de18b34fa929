"""What keeps the store small and whole: indexes, figures, and forgetting what is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slotsched.model import TERMINAL
from slotsched.store import indexes
from slotsched.store.catalogs import Catalogs
from slotsched.store.connection import Connection, Document
from slotsched.store.instances import Instances

PRUNE_BATCH = 1000
DEAD_INSTANCE_SECONDS = 24 * 3600.0  # a dead instance's document is shown for a day
_OVER = sorted(TERMINAL)


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """tasks: how many were deleted. more: it was the limit that ended this, so some that are old may be left."""

    tasks: int
    more: bool


class Upkeep:
    """Maintenance that any instance or person may do at any time."""

    def __init__(self, connection: Connection, instances: Instances, catalogs: Catalogs) -> None:
        self._connection = connection
        self._instances = instances
        self._catalogs = catalogs
        self._tasks = connection.collection("tasks")

    def init(self) -> None:
        """Creates the collections' indexes; safe to repeat."""
        indexes.create(self._connection)

    def stats(self) -> dict[str, dict[str, int]]:
        """Per collection: documents, bytes (uncompressed), stored_bytes and index_bytes."""
        with self._connection.guard():
            return {name: self._figures(name) for name in indexes.INDEXES}

    def _figures(self, name: str) -> dict[str, int]:
        answer: dict[str, Any] = next(
            iter(self._connection.collection(name).aggregate([{"$collStats": {"storageStats": {}}}]))
        )["storageStats"]
        return {
            "documents": int(answer.get("count", 0)),
            "bytes": int(answer.get("size", 0)),
            "stored_bytes": int(answer.get("storageSize", 0)),
            "index_bytes": int(answer.get("totalIndexSize", 0)),
        }

    def prune(self, older_than: float, *, batches: int = 100) -> Pruned:
        """Deletes tasks that ended `older_than` seconds ago, or as long ago as their own `keep` says.

        With them go instances that died a day ago and copies of jobs that nobody has held for `older_than`.

        What others still need stays: a log that is not in the bucket yet, a key whose window is open, children
        that wait to be told. Indexes `by_end` and `expiring`; at most `batches` batches of 1000 of each.
        """
        milliseconds = int(max(older_than, 0) * 1000)
        by_age: Document = {
            "status": {"$in": _OVER},
            "expire_at": {"$exists": False},
            "ended_at": {"$exists": True},
            "$expr": {"$lt": ["$ended_at", {"$subtract": ["$$NOW", milliseconds]}]},
        }
        by_keep: Document = {
            "status": {"$in": _OVER},
            "expire_at": {"$exists": True},
            "$expr": {"$lt": ["$expire_at", "$$NOW"]},
        }
        self._instances.prune(DEAD_INSTANCE_SECONDS)
        self._catalogs.prune(older_than)
        aged = self._delete(by_age | _unneeded(), "by_end", batches)
        expired = self._delete(by_keep | _unneeded(), "expiring", batches)
        return Pruned(tasks=aged.tasks + expired.tasks, more=aged.more or expired.more)

    def _delete(self, wanted: Document, index: str, batches: int) -> Pruned:
        deleted = 0
        for _ in range(batches):
            with self._connection.guard():
                ids = [d["_id"] for d in self._tasks.find(wanted, {"_id": 1}).limit(PRUNE_BATCH).hint(index)]
                if ids:
                    deleted += self._tasks.delete_many({"_id": {"$in": ids}, **wanted}).deleted_count
            if len(ids) < PRUNE_BATCH:
                return Pruned(tasks=deleted, more=False)
        return Pruned(tasks=deleted, more=True)


def _unneeded() -> Document:
    return {
        # nobody ever waited for it, or all who did were told
        "$or": [{"pokes": {"$exists": False}}, {"resolve": {"$ne": True}}],
        "attempts": {"$not": {"$elemMatch": {"log.uploaded": False}}},
        "$nor": [{"key": {"$exists": True}, "$expr": {"$gt": ["$key_until", "$$NOW"]}}],
    }
