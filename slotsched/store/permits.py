"""Limits of concurrency, exact under races: a running task holds a numbered permit, and an index lets each have one
holder.

The permit is set by the claim itself and unset by the write that finishes, rescues or releases the task. There is no
counter that could go wrong: whatever crashes, a permit is taken exactly as long as its task runs. After a limit was
lowered, those above it run to their end.
"""

from __future__ import annotations

import datetime as dt
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pymongo import UpdateOne
from pymongo import errors as driver

from slotsched.failpoints import failpoint
from slotsched.model import InstanceRef, Limit, Status, Task
from slotsched.store import pipelines
from slotsched.store.connection import Connection, Document
from slotsched.store.documents import to_object_id
from slotsched.store.queue import Queue

ROUNDS = 5  # races over permits that one claim loses before it leaves the rest to the next pass


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A pending task to claim under a limit. by: the claim must land before (server's time), None = whenever."""

    id: str
    limit: Limit | None
    by: dt.datetime | None = None


class Permits:
    """Claims of tasks that come under a limit, and who holds its permits."""

    def __init__(self, connection: Connection, queue: Queue) -> None:
        self._connection = connection
        self._queue = queue
        self._tasks = connection.collection("tasks")

    def held(self, limits: Iterable[Limit]) -> frozenset[str]:
        """Those of the limits' permits that somebody holds. A hint. Index `permits`, covered."""
        permits = [permit for limit in limits for permit in limit.permits]
        if not permits:
            return frozenset()
        with self._connection.guard():
            return frozenset(self._held(permits))

    def holders(self, limits: Iterable[Limit]) -> dict[str, str]:
        """The ids of the tasks that hold these limits' permits, by permit. Index `permits`."""
        permits = [permit for limit in limits for permit in limit.permits]
        with self._connection.guard():
            found = list(self._tasks.find({"permits": {"$in": permits}}, {"permits": 1})) if permits else []
        asked = frozenset(permits)
        return {permit: str(task["_id"]) for task in found for permit in task["permits"] if permit in asked}

    @failpoint("claim_limited")
    def claim(self, wanted: Sequence[Wanted], token: str, instance: InstanceRef) -> list[Task]:
        """pending -> running like `Queue.claim`, but each with a free permit of its limit; those without stay pending.

        One update per task: an update of many would stop at the first permit that another claim was faster to take.
        For what was refused another number is tried, under the same token: every send before was answered.
        """
        left, won = list(wanted), 0
        with self._connection.guard():
            for _ in range(ROUNDS):
                assigned, without = self._assign(left)
                if not assigned:
                    break
                refused, claimed = self._send(assigned, token, instance)
                left, won = [*refused, *without], won + claimed
            return self._queue.claimed(token) if won else []

    def free_strays(self) -> int:
        """Takes the permits of tasks that do not run, which somebody changed by hand: nobody else ever would. How many.

        Index `permits`, as many documents as there are tasks that hold one.
        """
        strays = {"permits": {"$exists": True}, "status": {"$ne": Status.RUNNING.value}}
        with self._connection.guard():
            return self._tasks.update_many(strays, {"$unset": {"permits": ""}}, hint="permits").modified_count

    def _held(self, permits: Sequence[str]) -> list[str]:
        # Named one by one the permits are exact bounds, so that keys answer; a range would fetch each document.
        found = self._tasks.find({"permits": {"$in": permits}}, return_key=True).hint("permits")
        return [key["permits"] for key in found]

    def _assign(self, wanted: Sequence[Wanted]) -> tuple[list[tuple[Wanted, str | None]], list[Wanted]]:
        """A free number for each as far as there are any, at random: racing claims seldom meet. And the rest."""
        limits = {task.limit for task in wanted if task.limit is not None}
        permits = [permit for limit in limits for permit in limit.permits]
        taken = frozenset(self._held(permits)) if permits else frozenset()
        free: dict[Limit, list[str]] = defaultdict(list)
        for limit in limits:
            free[limit] = [permit for permit in limit.permits if permit not in taken]
            random.shuffle(free[limit])
        assigned: list[tuple[Wanted, str | None]] = []
        without: list[Wanted] = []
        for task in wanted:
            if task.limit is None:
                assigned.append((task, None))
            elif free[task.limit]:
                assigned.append((task, free[task.limit].pop()))
            else:
                without.append(task)
        return assigned, without

    @failpoint("permits")
    def _send(
        self, assigned: Sequence[tuple[Wanted, str | None]], token: str, instance: InstanceRef
    ) -> tuple[list[Wanted], int]:
        """What the index refused, and how many are ours."""
        writes = [
            UpdateOne(_still_wanted(task), pipelines.claim(instance, token, [permit] if permit else []))
            for task, permit in assigned
        ]
        try:
            return [], self._tasks.bulk_write(writes, ordered=False).matched_count
        except driver.BulkWriteError as error:
            if error.details.get("writeConcernErrors"):
                raise
            return [assigned[index][0] for index in _refused(error)], error.details["nMatched"]


def _still_wanted(task: Wanted) -> Document:
    wanted: Document = {"_id": to_object_id(task.id), "status": Status.PENDING.value}
    return wanted if task.by is None else wanted | {"$expr": {"$lte": ["$$NOW", task.by]}}


def _refused(error: driver.BulkWriteError) -> list[int]:
    """The positions that the index refused; anything else is raised."""
    for problem in error.details["writeErrors"]:
        if problem.get("code") != 11000:
            raise driver.OperationFailure(str(problem.get("errmsg")), problem.get("code"), problem) from error
    return [problem["index"] for problem in error.details["writeErrors"]]
