"""An instance's side of the queue: what is due, what comes next, and how a task changes hands."""

from __future__ import annotations

import datetime as dt
import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bson import DatetimeMS, ObjectId
from pymongo import ReturnDocument

from slotsched import errors
from slotsched.failpoints import failpoint
from slotsched.model import Cancel, InstanceRef, Lane, LogRef, Outcome, Progress, Reservation, Status, Task
from slotsched.store import pipelines
from slotsched.store.barrier import see_all
from slotsched.store.connection import Connection, Document
from slotsched.store.documents import (
    log_to_document,
    progress_to_document,
    read_cancel,
    read_reservation,
    read_status,
    read_task,
    to_object_id,
)
from slotsched.store.reading import Reader, Unreadable

LANES_PER_QUERY = 200  # the planner explodes `$in` into at most this many index scans; beyond it sorts in memory
_PENDING, _RUNNING, _SCHEDULED = Status.PENDING.value, Status.RUNNING.value, Status.SCHEDULED.value
_DUE = {"$expr": {"$lte": ["$due_at", "$$NOW"]}}
_LEAST_DATE = DatetimeMS(-(2**63))
_IN_ORDER = [("rank", 1), ("_id", 1)]


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A pending task as the queue shows it. `due_at`, `max_time` and `reserved` are filled by `blocked` only."""

    id: str
    lane: str
    rank: dt.datetime
    due_at: dt.datetime | None = None
    max_time: float | None = None
    reserved: Reservation | None = None


@dataclass(frozen=True, kw_only=True)
class Held:
    """A running task as the store shows it to its owner."""

    token: str
    fence: int
    cancel: Cancel | None = None


class Queue:
    """Local hints to choose from, and fenced writes that decide."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tasks = connection.collection("tasks")
        self._certain = connection.certain("tasks")

    # --- what is due ------------------------------------------------------------------------------
    @failpoint("promote")
    def promote(self, limit: int = 1000) -> int:
        """scheduled -> pending for tasks whose time has come by the server's clock; how many. Index `due`."""
        with self._connection.guard():
            due = self._tasks.find({"status": _SCHEDULED, **_DUE}, {"_id": 1}).sort("due_at", 1).limit(limit)
            ids = [document["_id"] for document in due]
            if not ids:
                return 0
            changed = self._tasks.update_many(
                {"_id": {"$in": ids}, "status": _SCHEDULED, **_DUE}, {"$set": {"status": _PENDING}}
            )
            return changed.modified_count

    def next_due(self) -> float | None:
        """Seconds until the earliest scheduled task by the server's clock, 0 if overdue. Index `due`."""
        is_date = {"$eq": [{"$type": "$due_at"}, "date"]}
        steps: list[Document] = [
            {"$match": {"status": _SCHEDULED}},
            {"$sort": {"due_at": 1}},
            {"$limit": 1},
            {"$project": {"_id": 0, "wait": {"$cond": [is_date, {"$subtract": ["$due_at", "$$NOW"]}, 0]}}},
        ]
        with self._connection.guard():
            found = next(iter(self._tasks.aggregate(steps)), None)
        return None if found is None else max(0.0, found["wait"] / 1000)

    # --- what comes next --------------------------------------------------------------------------
    def lanes(self) -> list[str]:
        """Every lane that has a pending task. Index `queue`, one key per lane.

        Tasks in a lane that nobody can read end here as failed(invalid).
        """
        with self._connection.guard():
            found = self._tasks.distinct("lane", {"status": _PENDING})
        readable = []
        for lane in found:
            problem = _lane_problem(lane)
            if problem is None:
                readable.append(lane)
            else:
                self._quarantine_lane(lane, problem)
        return readable

    def heads(self) -> list[Waiting]:
        """The first task of every lane, in rank order. Index `queue`, one key per lane."""
        steps: list[Document] = [
            {"$match": {"status": _PENDING}},
            {"$sort": {"status": 1, "lane": 1, "rank": 1, "_id": 1}},
            {"$group": {"_id": "$lane", "task": {"$first": "$_id"}, "rank": {"$first": "$rank"}}},
        ]
        with self._connection.guard():
            found = list(self._tasks.aggregate(steps, hint="queue"))
        heads = [
            Waiting(id=str(head["task"]), lane=head["_id"], rank=head["rank"])
            for head in found
            if _lane_problem(head["_id"]) is None and _is_queued(head["task"], head["rank"])
        ]
        return sorted(heads, key=_order)

    def candidates(self, lanes: Sequence[str], limit: int, *, rank_from: dt.datetime | None = None) -> list[Waiting]:
        """The first `limit` tasks of these lanes in rank order, from `rank_from` on. Index `queue`, covered.

        A local hint: by the time it is read another instance may have claimed them.
        """
        found = self._in_order(lanes, limit, {"_id": 1, "lane": 1, "rank": 1}, rank_from)
        return [Waiting(id=str(d["_id"]), lane=d["lane"], rank=d["rank"]) for d in found]

    def blocked(self, lanes: Sequence[str], limit: int, *, rank_from: dt.datetime | None = None) -> list[Waiting]:
        """Like `candidates`, with what a plan for later needs. Index `queue`, `limit` documents fetched."""
        projection = {"_id": 1, "lane": 1, "rank": 1, "due_at": 1, "max_time": 1, "reserved": 1}
        return [_read_blocked(document) for document in self._in_order(lanes, limit, projection, rank_from)]

    def _in_order(
        self, lanes: Sequence[str], limit: int, projection: Document, rank_from: dt.datetime | None
    ) -> list[Document]:
        parts = [lanes[start : start + LANES_PER_QUERY] for start in range(0, len(lanes), LANES_PER_QUERY)]
        with self._connection.guard():
            runs = [self._run(part, limit, projection, rank_from) for part in parts]
        merged = heapq.merge(*runs, key=lambda document: (document["rank"], document["_id"]))
        return list(itertools.islice(merged, limit))

    def _run(
        self, lanes: Sequence[str], limit: int, projection: Document, rank_from: dt.datetime | None
    ) -> list[Document]:
        wanted: Document = {"status": _PENDING, "lane": {"$in": list(lanes)}}
        if rank_from is not None:
            wanted["rank"] = {"$gte": rank_from}
        found = self._tasks.find(wanted, projection).sort(_IN_ORDER).limit(limit).hint("queue")
        return [d for d in found if self._queued_or_quarantined(d)]

    def _queued_or_quarantined(self, document: Document) -> bool:
        if _is_queued(document["_id"], document.get("rank")):
            return True
        self._end_invalid({"_id": document["_id"], "status": _PENDING}, "its _id or its rank is not what it must be")
        return False

    # --- changing hands ---------------------------------------------------------------------------
    @failpoint("claim")
    def claim(self, ids: Iterable[str], token: str, instance: InstanceRef) -> list[Task]:
        """pending -> running for those of `ids` that nobody took before, under a token that is never used again.

        Raises StoreUnreachable when the effect is unknown: then `settle(token)` tells, and none of it may start.
        A document that cannot be read ends as failed(invalid) and is not among the answer.
        """
        wanted = {"_id": {"$in": [to_object_id(task_id) for task_id in ids]}, "status": _PENDING}
        with self._connection.guard():
            changed = self._tasks.update_many(wanted, pipelines.claim(instance, token))
            return self.claimed(token) if changed.matched_count else []

    @failpoint("settle")
    def settle(self, token: str) -> list[Task]:
        """What a claim with an unknown end got, certainly; the token is abandoned: release all of it, start none.

        The claim may still land after this (a delayed packet); the sweep over `held` finds it then.
        """
        with self._connection.guard():
            see_all(self._connection)
            return self.claimed(token)

    @failpoint("claimed")
    def claimed(self, token: str) -> list[Task]:
        """The running tasks under a token, within the guard of a claim or settle. Index `tokens`, majority read."""
        tasks = []
        for document in self._certain.find({"claim.token": token}).sort(_IN_ORDER):
            try:
                tasks.append(read_task(document))
            except Unreadable as why:
                self._end_invalid({"_id": document["_id"], "claim.token": token}, str(why), token)
        return tasks

    def held(self, instance_id: str, *, settled: bool = False) -> dict[str, Held]:
        """The running tasks the store shows as this instance's, by id. Index `claims`, majority read.

        settled: certainly all of them, for the price of a write; without it a new primary may not show the last claims
        yet, and still show what has ended since.
        """
        held = {}
        projection = {"claim": 1, "fence": 1, "cancel": 1}
        with self._connection.guard():
            if settled:
                see_all(self._connection)
            mine = self._certain.find({"status": _RUNNING, "claim.instance": instance_id}, projection).hint("claims")
            for document in mine:
                try:
                    held[str(document["_id"])] = _read_held(document)
                except Unreadable as why:
                    self._end_invalid({"_id": document["_id"], "status": _RUNNING}, str(why))
        return held

    @failpoint("release")
    def release(self, task_id: str, token: str) -> Status | None:
        """running -> pending without an attempt spent, or canceled if that was asked; None if it is not ours.

        Only by the owner, only while no start right exists.
        """
        try:
            return self._change(task_id, token, pipelines.release())
        except errors.InvalidDocument:  # its like has come since, and keeps its place
            return self._change(task_id, token, pipelines.release(alone=False))

    @failpoint("finish")
    def finish(
        self,
        task_id: str,
        token: str,
        outcome: Outcome,
        *,
        hash: str | None = None,
        log: LogRef | None = None,
        retry_in: float | None = None,
        lane: Lane | None = None,
    ) -> Status | None:
        """Records how an attempt ended, once its tree is dead; the status it led to, None if it is no longer ours.

        Repeat it until it answers: a finish that was applied but whose answer was lost is recognised by its token.
        An outcome that the store refuses for good (a result too large) ends the task as failed(invalid).
        """
        steps = pipelines.finish(token, outcome, hash=hash, log=log, retry_in=retry_in, lane=lane)
        try:
            status = self._change(task_id, token, steps)
        except errors.InvalidDocument as why:
            status = self._change(task_id, token, pipelines.invalid(f"the outcome was refused: {why}", token))
        return status or self._finished_before(task_id, token)

    def _finished_before(self, task_id: str, token: str) -> Status | None:
        with self._connection.guard():
            found = self._certain.find_one({"_id": to_object_id(task_id), "ended": token}, {"status": 1})
        return None if found is None else read_status(found)

    def _change(self, task_id: str, token: str, update: Any) -> Status | None:
        """One fenced write: only while the task runs under this claim. Index `_id`."""
        mine = {"_id": to_object_id(task_id), "status": _RUNNING, "claim.token": token}
        with self._connection.guard():
            changed = self._tasks.find_one_and_update(
                mine, update, projection={"status": 1}, return_document=ReturnDocument.AFTER
            )
        return None if changed is None else read_status(changed)

    # --- while it runs and after ------------------------------------------------------------------
    def progress(self, task_id: str, token: str, progress: Progress) -> None:
        """What the script last said about how far it is. Index `_id`."""
        mine = {"_id": to_object_id(task_id), "status": _RUNNING, "claim.token": token}
        with self._connection.guard():
            self._tasks.update_one(mine, {"$set": {"progress": progress_to_document(progress)}})

    @failpoint("log_uploaded")
    def log_uploaded(self, task_id: str, fence: int, log: LogRef) -> None:
        """Where the log of the attempt with this fence is now, whoever owns the task by then. Index `_id`."""
        with self._connection.guard():
            self._tasks.update_one(
                {"_id": to_object_id(task_id), "attempts.fence": fence},
                {"$set": {"attempts.$.log": log_to_document(log)}},
            )

    def recent_runs(self, job: str, n: int = 20) -> list[float]:
        """Seconds that the last `n` completed runs of a job took, newest first. Index `by_job`."""
        wanted = {"job": job, "status": Status.COMPLETED.value}
        with self._connection.guard():
            found = list(self._tasks.find(wanted, {"started_at": 1, "ended_at": 1}).sort("_id", -1).limit(n))
        return [_seconds(d) for d in found if _has_dates(d)]

    # --- reservations -----------------------------------------------------------------------------
    def reserve(self, task_id: str, reservation: Reservation) -> bool:
        """Notes that an instance keeps slots for a pending task, unless another one does and starts it earlier."""
        free = {
            "$or": [
                {"reserved": None},
                {"reserved.by": reservation.by},
                {"reserved.start": {"$gt": reservation.start}},
                {"$expr": {"$lt": ["$reserved.until", "$$NOW"]}},
            ]
        }
        reserved = {"by": reservation.by, "start": reservation.start, "until": reservation.until}
        wanted = {"_id": to_object_id(task_id), "status": _PENDING, **free}
        with self._connection.guard():
            return self._tasks.update_one(wanted, {"$set": {"reserved": reserved}}).matched_count == 1

    def unreserve(self, task_id: str, by: str) -> None:
        """Takes an instance's own reservation back."""
        with self._connection.guard():
            self._tasks.update_one({"_id": to_object_id(task_id), "reserved.by": by}, {"$unset": {"reserved": ""}})

    # --- documents at fault -----------------------------------------------------------------------
    def quarantine(self, task_id: str, message: str, *, token: str | None = None) -> None:
        """Ends a task whose document is at fault as failed(invalid): a pending one, or one running under `token`."""
        wanted: Document = {"_id": to_object_id(task_id), "status": _PENDING}
        if token is not None:
            wanted = {"_id": to_object_id(task_id), "status": _RUNNING, "claim.token": token}
        with self._connection.guard():
            self._end_invalid(wanted, message, token)

    def quarantine_strays(self) -> int:
        """Ends open tasks that no query of the queue meets, because a field it goes by has a wrong type; how many."""
        # "not at least the least value of the type" has bounds in an index, "not of the type" has none
        strays = [
            (_PENDING, "lane", "", "queue"),
            (_PENDING, "rank", _LEAST_DATE, "queue"),
            (_SCHEDULED, "due_at", _LEAST_DATE, "due"),
            (_RUNNING, "claim.instance", "", "claims"),
        ]
        ended = 0
        with self._connection.guard():
            for status, field, least, index in strays:
                kind = "text" if least == "" else "date"
                update = pipelines.invalid(f"this document cannot be used: {field} is no {kind}")
                wanted = {"status": status, field: {"$not": {"$gte": least}}}
                ended += self._tasks.update_many(wanted, update, hint=index).modified_count
        return ended

    def _quarantine_lane(self, lane: Any, problem: str) -> None:
        with self._connection.guard():
            # $eq: what stands there may be anything, and must not be taken for a query
            self._end_invalid({"status": _PENDING, "lane": {"$eq": lane}}, problem)

    def _end_invalid(self, wanted: Document, message: str, token: str | None = None) -> int:
        return self._tasks.update_many(wanted, pipelines.invalid(message, token)).modified_count


def _lane_problem(lane: Any) -> str | None:
    if not isinstance(lane, str):
        return f"lane: {lane!r} is not a text"
    try:
        needs = Lane.parse(lane).needs
    except ValueError:
        return f"lane: {lane[:60]!r} is none that slotsched writes"
    if needs.slots < 1 or (needs.memory or 1) < 1 or any(units < 1 for units in needs.resources.values()):
        return f"lane: {lane[:60]!r} needs less than nothing"
    return None


def _is_queued(task_id: Any, rank: Any) -> bool:
    return isinstance(task_id, ObjectId) and isinstance(rank, dt.datetime)


def _order(waiting: Waiting) -> tuple[dt.datetime, str]:
    return waiting.rank, waiting.id


def _read_blocked(document: Document) -> Waiting:
    """Reservations are hints: one that cannot be read is none."""
    reader = Reader(document)
    try:
        reserved = read_reservation(reader.inner("reserved")) if reader.has("reserved") else None
    except Unreadable:
        reserved = None
    max_time, due_at = document.get("max_time"), document.get("due_at")
    return Waiting(
        id=str(document["_id"]),
        lane=document["lane"],
        rank=document["rank"],
        due_at=due_at if isinstance(due_at, dt.datetime) else None,
        max_time=float(max_time) if isinstance(max_time, (int, float)) and 0 < max_time < 1e9 else None,
        reserved=reserved,
    )


def _read_held(document: Document) -> Held:
    task = Reader(document)
    return Held(
        token=task.inner("claim").text("token"),
        fence=task.count("fence"),
        cancel=read_cancel(task.inner("cancel")) if task.has("cancel") else None,
    )


def _has_dates(document: Document) -> bool:
    return isinstance(document.get("started_at"), dt.datetime) and isinstance(document.get("ended_at"), dt.datetime)


def _seconds(document: Document) -> float:
    run: dt.timedelta = document["ended_at"] - document["started_at"]
    return max(0.0, run.total_seconds())
