"""A series' books: how its tasks ended, and what its last completed run left for the next one.

A task is in its schedule's `live` list from the transaction that made it until the one that books its end; booking it
twice changes nothing. All writes here are transactions that give up at once where somebody else is at the same
document: they are done again by the next pass, and the control loop never waits for a lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne
from pymongo.client_session import ClientSession

from slotsched.failpoints import failpoint
from slotsched.model import TERMINAL, Schedule, ScheduleStatus, SeriesMemory, Status
from slotsched.store.connection import Connection, Contended, Document, Pipeline
from slotsched.store.documents import read_status
from slotsched.store.expressions import array, literal, number, plus_one
from slotsched.store.reading import Unreadable
from slotsched.store.schedule_documents import read_schedule

_OVER = sorted(TERMINAL)
_ENDED_FIELDS = {"schedule": 1, "status": 1, "started_at": 1, "ended_at": 1, "state": 1}


class Series:
    """What the end of a task means for its schedule. Collections `schedules` and `tasks`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._schedules = connection.collection("schedules")
        self._certain = connection.certain("schedules")
        self._tasks = connection.collection("tasks")
        self._certain_tasks = connection.certain("tasks")

    def settle(self, ids: Iterable[str]) -> set[str]:
        """Books the ends of tasks; the ids of those that need no more of it (also: not ended by anybody's account,
        of no series, or of one that was removed). The others: somebody is changing the schedule, try again.

        Index `_id`; majority read, as what is booked once is never taken back.
        """
        asked = list(ids)
        if not asked:
            return set()
        wanted = {"_id": {"$in": [ObjectId(one) for one in asked]}, "status": {"$in": _OVER}}
        with self._connection.guard():
            ended = [d for d in self._certain_tasks.find(wanted, _ENDED_FIELDS) if isinstance(d.get("schedule"), str)]
        return (set(asked) - {str(document["_id"]) for document in ended}) | self._book(ended)

    def _book(self, ended: Sequence[Document]) -> set[str]:
        if not ended:
            return set()
        try:
            self._write(ended)
        except Contended:
            if len(ended) == 1:
                return set()
            middle = len(ended) // 2
            return self._book(ended[:middle]) | self._book(ended[middle:])
        return {str(document["_id"]) for document in ended}

    @failpoint("book")
    def _write(self, ended: Sequence[Document]) -> None:
        books = [
            UpdateOne({"_id": task["schedule"], "live": str(task["_id"])}, _booked(task))
            for task in sorted(ended, key=lambda task: task["_id"])
        ]
        moved = [task["_id"] for task in ended if "state" in task]

        def work(session: ClientSession) -> None:
            self._schedules.bulk_write(books, session=session)
            if moved:
                self._tasks.update_many({"_id": {"$in": moved}}, {"$unset": {"state": ""}}, session=session)

        self._connection.attempt(work)

    def memories(self, names: Iterable[str]) -> Mapping[str, SeriesMemory]:
        """What each series' last completed run left; nothing for those that cannot be read. Index `_id`.

        Ends that nobody has booked yet are booked first: a run that waited for the one before knows what that left.
        """
        wanted = {"_id": {"$in": sorted(names)}}
        with self._connection.guard():
            live = [one for d in self._certain.find(wanted, {"live": 1}) for one in _texts(d.get("live"))]
        self.settle(live)
        memories = {}
        with self._connection.guard():
            for document in self._certain.find(wanted):
                with suppress(Unreadable):
                    schedule: Schedule = read_schedule(document)
                    memories[schedule.name] = schedule.memory
        return memories


def _texts(live: Any) -> list[str]:
    return [one for one in live if isinstance(one, str) and ObjectId.is_valid(one)] if isinstance(live, list) else []


def _booked(task: Document) -> Pipeline:
    """The schedule after this end. Failures in a row pause it where it says so."""
    status = read_status(task)
    remaining = {"$filter": {"input": array("$live"), "as": "one", "cond": {"$ne": ["$$one", str(task["_id"])]}}}
    fields: Document = {
        "live": remaining,
        "rev": plus_one("$rev"),
        "updated_at": "$$NOW",
        f"counters.{status.value}": plus_one(f"$counters.{status.value}"),
    }
    if status is Status.COMPLETED:
        fields |= {"failures": 0} | _remembered(task)
    if status is not Status.FAILED:
        return [{"$set": fields}]
    fields["failures"] = plus_one("$failures")
    too_often = {
        "$and": [
            {"$eq": ["$status", ScheduleStatus.ACTIVE.value]},
            {"$isNumber": "$pause_on_failure"},
            {"$gte": ["$failures", number("$pause_on_failure")]},
        ]
    }
    why = {"$concat": ["paused after ", {"$toString": "$failures"}, " failures in a row"]}
    paused = {
        "status": {"$cond": ["$too_often", ScheduleStatus.PAUSED.value, "$status"]},
        "why": {"$cond": ["$too_often", why, "$why"]},
        "next_at": {"$cond": ["$too_often", "$$REMOVE", "$next_at"]},
        "next_nominal_at": {"$cond": ["$too_often", "$$REMOVE", "$next_nominal_at"]},
    }
    return [{"$set": fields}, {"$set": {"too_often": too_often}}, {"$set": paused}, {"$unset": ["too_often"]}]


def _remembered(task: Document) -> Document:
    """What the next run is told: kept in the order of ends, as a long run can end after a later one."""
    if "ended_at" not in task:
        return {}
    is_latest = {"$gte": [task["ended_at"], "$last_completed_at"]}  # a missing date is below every date
    fields = {"last_completed_at": task["ended_at"], "last_started_at": task.get("started_at")}
    if "state" in task:
        fields["state"] = task["state"]
    return {name: {"$cond": [is_latest, literal(value), f"${name}"]} for name, value in fields.items()}
