"""A series' books: how its tasks ended, and what its last completed run left for the next one.

A task is in its schedule's `live` list from the transaction that made it until the one that books its end; booking it
twice changes nothing. All writes here are transactions that give up at once where somebody else is at the same
document: they are done again by the next pass, and the control loop never waits for a lock.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne
from pymongo.client_session import ClientSession

from slotsched.errors import InvalidDocument
from slotsched.failpoints import failpoint
from slotsched.model import TERMINAL, ScheduleStatus, SeriesMemory, Status
from slotsched.store.connection import Connection, Contended, Document, Pipeline
from slotsched.store.documents import read_status
from slotsched.store.expressions import array, literal, number, plus_one
from slotsched.store.reading import Unreadable
from slotsched.store.schedule_documents import read_schedule

_OVER = sorted(TERMINAL)
_ENDED_FIELDS = {"schedule": 1, "status": 1, "started_at": 1, "ended_at": 1, "state": 1}
_NEVER = dt.datetime.min.replace(tzinfo=dt.UTC)


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
        asked = set(ids)
        ended = self._ended(asked)
        return (asked - {str(document["_id"]) for document in ended}) | self._book(ended)

    def _ended(self, ids: Iterable[str], session: ClientSession | None = None) -> list[Document]:
        """Those that have ended, of any series, in the order of their ends. What is no id is in no live list."""
        known = [ObjectId(one) for one in ids if ObjectId.is_valid(one)]
        if not known:
            return []
        wanted = {"_id": {"$in": known}, "status": {"$in": _OVER}}
        with self._connection.guard():
            found = list(self._certain_tasks.find(wanted, _ENDED_FIELDS, session=session))
        of_series = [task for task in found if isinstance(task.get("schedule"), str)]
        return sorted(of_series, key=lambda task: (_left(task).get("last_completed_at", _NEVER), task["_id"]))

    def _book(self, ended: Sequence[Document]) -> set[str]:
        if not ended:
            return set()
        try:
            self._write(ended)
        except (Contended, InvalidDocument):  # the latter: a schedule that somebody has filled up
            if len(ended) == 1:
                return set()
            middle = len(ended) // 2
            return self._book(ended[:middle]) | self._book(ended[middle:])
        return {str(document["_id"]) for document in ended}

    @failpoint("book")
    def _write(self, ended: Sequence[Document]) -> None:
        books = [UpdateOne({"_id": task["schedule"], "live": str(task["_id"])}, _booked(task)) for task in ended]
        moved = [task["_id"] for task in ended if "state" in task]

        def work(session: ClientSession) -> None:
            self._schedules.bulk_write(books, session=session)
            if moved:
                self._tasks.update_many({"_id": {"$in": moved}}, {"$unset": {"state": ""}}, session=session)

        self._connection.attempt(work)

    def memories(self, names: Iterable[str]) -> Mapping[str, SeriesMemory]:
        """What each series' last completed run left; nothing for those that cannot be read. Indexes `_id`.

        Ends that nobody has booked yet count as if they were: a run that waited for the one before knows what that
        left, also while the schedule is locked by somebody who is about to book it. Booking moves the state from the
        task to the schedule in one transaction, so it is missed on neither side by looking at the tasks first and at
        the schedules last. One session, so that no read is behind the one before it, whichever member answers.
        """
        wanted = {"_id": {"$in": sorted(names)}}
        with self._connection.guard(), self._tasks.database.client.start_session() as session:
            live = [_live(document) for document in self._certain.find(wanted, {"live": 1}, session=session)]
            ended = self._ended(set().union(*live), session)
            documents = list(self._certain.find(wanted, session=session))
        memories = {}
        for document in documents:
            name, live_now = document["_id"], _live(document)
            unbooked = [task for task in ended if task["schedule"] == name and str(task["_id"]) in live_now]
            with suppress(Unreadable):
                memories[name] = _with(read_schedule(document).memory, unbooked)
        return memories


def _live(schedule: Document) -> set[str]:
    found = schedule.get("live")
    return {one for one in found if isinstance(one, str)} if isinstance(found, list) else set()


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


def _left(task: Document) -> Document:
    """What an end leaves for the next run, by the names of `SeriesMemory` and of the schedule's fields.

    Nothing but a success leaves anything; without state of its own it keeps the last one. Times that are none, in
    documents that somebody changed by hand, must not get into the schedule's.
    """
    ended_at, started_at = (_date(task.get(name)) for name in ("ended_at", "started_at"))
    if read_status(task) is not Status.COMPLETED or ended_at is None:
        return {}
    left = {"last_completed_at": ended_at, "last_started_at": started_at}
    return left | ({"state": task["state"]} if "state" in task else {})


def _date(value: Any) -> dt.datetime | None:
    return value if isinstance(value, dt.datetime) else None


def _remembered(task: Document) -> Document:
    """What it left, in the schedule: in the order of ends, as a long run can end after a later one."""
    left = _left(task)
    if not left:
        return {}
    is_latest = {"$gte": [left["last_completed_at"], "$last_completed_at"]}  # a missing date is below every date
    return {name: {"$cond": [is_latest, literal(value), f"${name}"]} for name, value in left.items()}


def _with(memory: SeriesMemory, ended: Sequence[Document]) -> SeriesMemory:
    """The memory once these ends are in the books: `_remembered` in Python."""
    for left in filter(None, map(_left, ended)):
        if memory.last_completed_at is None or left["last_completed_at"] >= memory.last_completed_at:
            memory = replace(memory, **left)
    return memory
