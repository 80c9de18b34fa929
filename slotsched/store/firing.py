"""Firing: a schedule's next time and the tasks of this one, in one transaction.

A schedule's document changes only from the revision that was seen, so of instances that race one fires and the others
find nothing to do; the index `rounds` refuses a second task for a nominal time whatever else goes wrong. Everything
that makes a task of a series goes through here, because the overlap policy reads the document's `live` list.
"""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from bson import DatetimeMS, ObjectId
from pymongo import errors as driver
from pymongo.client_session import ClientSession

from slotsched import errors
from slotsched.due import due_times
from slotsched.failpoints import failpoint
from slotsched.model import OPEN, Cancel, Overlap, Schedule, ScheduleStatus, Status
from slotsched.overlap import Plan, lined_up, plan_rounds
from slotsched.store import indexes, pipelines
from slotsched.store.after import poke
from slotsched.store.catalogs import Catalogs
from slotsched.store.connection import Connection, Contended, Document
from slotsched.store.documents import new_id, short
from slotsched.store.enqueue import Enqueued
from slotsched.store.reading import Unreadable
from slotsched.store.rounds import Around, Batch, look_around
from slotsched.store.schedule_documents import read_schedule

MOST_DUE = 1000  # schedules looked at in one query
MOST_DUE_BYTES = 16 * 1024 * 1024  # of them, where arguments are large
BATCH_SCHEDULES = 250  # fired in one transaction
MOST_BACKFILLED = 20_000  # their ids are in the schedule's document until they have ended
PATIENCE_SECONDS = 5.0  # for which a schedule that is locked by somebody else is left alone
_RACE_SECONDS = 0.02  # about what somebody else's transaction takes
_TURNS = 20  # of one document that others keep changing
_ACTIVE = ScheduleStatus.ACTIVE.value
_LEAST_DATE = DatetimeMS(-(2**63))
_OPEN = sorted(OPEN)
_Times = Sequence[dt.datetime]
_Ids = Sequence[str]
_DUPLICATE = 11000  # the server's code


@dataclass(frozen=True, kw_only=True)
class DueSchedule:
    """A schedule whose time has come, and the store's clock when it was seen."""

    schedule: Schedule
    now: dt.datetime


class Firing:
    """What makes the tasks of series. Collections `schedules` and `tasks`."""

    def __init__(self, connection: Connection, catalogs: Catalogs) -> None:
        self._connection = connection
        self._catalogs = catalogs
        self._schedules = connection.collection("schedules")
        self._certain = connection.certain("schedules")
        self._tasks = connection.collection("tasks")
        self._locked: dict[str, float] = {}  # names, and until when (CLOCK_MONOTONIC) they are left alone
        self._contended = False  # since locks were freed last
        self._freed_at = 0.0  # CLOCK_MONOTONIC

    # --- what is due ------------------------------------------------------------------------------
    def due(self, limit: int = MOST_DUE) -> list[DueSchedule]:
        """Active schedules whose time has come by the server's clock, the longest due first. Index `due`.

        A document that cannot be read becomes `broken` here, and is not among the answer.
        """
        steps: list[Document] = [
            {"$match": self._due({"$expr": {"$lte": ["$next_at", "$$NOW"]}})},
            {"$sort": {"next_at": 1}},
            {"$limit": limit},
            {"$project": {"state": 0}},
            {"$addFields": {"_now": "$$NOW", "_bytes": {"$bsonSize": "$$ROOT"}}},
        ]
        found: list[DueSchedule] = []
        size = 0
        with self._connection.guard():
            for document in self._schedules.aggregate(steps):
                try:
                    schedule = read_schedule(document)
                except Unreadable as why:
                    self._break({"_id": document["_id"], "next_at": document["next_at"]}, str(why))
                    continue
                found.append(DueSchedule(schedule=schedule, now=document["_now"]))
                size += document["_bytes"]
                if size > MOST_DUE_BYTES:
                    break
        return found

    def next_due(self) -> float | None:
        """Seconds until the earliest schedule by the server's clock, 0 if overdue. Index `due`, one key."""
        steps: list[Document] = [
            {"$match": self._due({})},
            {"$sort": {"next_at": 1}},
            {"$limit": 1},
            {"$project": {"_id": 0, "wait": {"$subtract": ["$next_at", "$$NOW"]}}},
        ]
        with self._connection.guard():
            found = next(iter(self._schedules.aggregate(steps)), None)
        return None if found is None else max(0.0, found["wait"] / 1000)

    def quarantine_strays(self) -> int:
        """Active schedules that `due` never meets, because `next_at` is no date, become broken; how many."""
        wanted = {"status": _ACTIVE, "next_at": {"$exists": True, "$not": {"$gte": _LEAST_DATE}}}
        with self._connection.guard():
            return self._schedules.update_many(wanted, _broken("next_at is no date")).modified_count

    def _due(self, more: Document) -> Document:
        """Active schedules that have a next time, without those that are left alone for a while."""
        now = time.monotonic()
        self._locked = {name: until for name, until in self._locked.items() if until > now}
        others = {"_id": {"$nin": sorted(self._locked)}} if self._locked else {}
        return {"status": _ACTIVE, "next_at": {"$gt": _LEAST_DATE}} | others | more

    def free_locks(self) -> int:
        """What killed instances left locked, freed; how many of their transactions. Nothing if nobody was in the way.

        At most once in PATIENCE_SECONDS: for so long a schedule that was in the way is left alone.
        """
        now = time.monotonic()
        if not self._contended or now < self._freed_at + PATIENCE_SECONDS:
            return 0
        self._contended, self._freed_at = False, now
        try:
            freed = self._connection.free_locks()
        except (errors.StoreUnsuitable, errors.InvalidDocument):
            return 0  # a user without the right to look: the server frees them, later
        if freed:
            self._locked.clear()
        return freed

    # --- firing -----------------------------------------------------------------------------------
    @failpoint("fire")
    def fire(self, due: Sequence[DueSchedule]) -> int:
        """Makes the tasks of what is due and moves each schedule on; how many tasks this call made.

        What somebody else fires at the same time is theirs. A schedule that cannot be used becomes `broken`.
        """
        indexes.ensure(self._connection)
        parts = [due[start : start + BATCH_SCHEDULES] for start in range(0, len(due), BATCH_SCHEDULES)]
        made = 0
        with ThreadPoolExecutor(1, "fire") as writer:
            written: tuple[Sequence[DueSchedule], Future[int]] | None = None
            for part in parts:
                batch = self._batch(part)  # while the store takes the one before
                made += self._landed(*written) if written else 0
                written = part, writer.submit(self._write, batch)
            made += self._landed(*written) if written else 0
        return made

    def _landed(self, part: Sequence[DueSchedule], written: Future[int]) -> int:
        """How many tasks were made; where others are in the way, of what they leave, by halves."""
        try:
            return written.result()
        except Contended:
            if len(part) == 1:
                self._locked[part[0].schedule.name] = time.monotonic() + PATIENCE_SECONDS
                self._contended = True
                return 0
        except (errors.InvalidDocument, _Duplicate) as why:
            if len(part) == 1:
                return self._fire_refused(part[0], why)
        time.sleep(_RACE_SECONDS * random.random())
        rest = self._unfired(part)
        middle = (len(rest) + 1) // 2
        return self._fire(rest[:middle]) + self._fire(rest[middle:])

    def _fire(self, part: Sequence[DueSchedule]) -> int:
        """Nothing else at the same time."""
        written: Future[int] = Future()
        try:
            written.set_result(self._write(self._batch(part)) if part else 0)
        except (Contended, _Duplicate, errors.InvalidDocument) as why:
            written.set_exception(why)
        return self._landed(part, written)

    def _unfired(self, batch: Sequence[DueSchedule]) -> list[DueSchedule]:
        """Those that nobody has changed since they were seen. Index `_id`, majority read."""
        names = [one.schedule.name for one in batch]
        with self._connection.guard():
            revs = {d["_id"]: d.get("rev") for d in self._certain.find({"_id": {"$in": names}}, {"rev": 1})}
        return [one for one in batch if revs.get(one.schedule.name) == one.schedule.rev]

    def _fire_refused(self, due: DueSchedule, why: Exception) -> int:
        """One whose tasks the store does not take: their nominal times have theirs, or the document is at fault."""
        name = due.schedule.name
        if isinstance(why, errors.InvalidDocument):
            self._break({"_id": name, "rev": due.schedule.rev}, str(why))
            return 0
        try:
            return self._write(self._batch([due], taken=self.taken(name, due_times(due.schedule, due.now).times)))
        except (Contended, _Duplicate):
            return 0  # still due; the next pass sees it again

    def taken(self, name: str, times: Sequence[dt.datetime]) -> frozenset[dt.datetime]:
        """Those of the nominal times that have a task already, certainly. Index `rounds`, majority read."""
        wanted = {"schedule": name, "nominal_at": {"$in": list(times)}}
        with self._connection.guard():
            found = self._connection.certain("tasks").find(wanted, {"nominal_at": 1})
            return frozenset(document["nominal_at"] for document in found)

    def _batch(self, part: Sequence[DueSchedule], taken: frozenset[dt.datetime] = frozenset()) -> Batch:
        """What to write for these; one whose rule or request is at fault becomes broken instead."""
        around = look_around(self._connection, self._catalogs, [one.schedule for one in part])
        batch = Batch(around, part[-1].now)
        for one in part:
            try:
                _add(batch, one, taken)
            except errors.UsageError as why:
                self._break({"_id": one.schedule.name, "rev": one.schedule.rev}, str(why))
        return batch

    # --- by hand ----------------------------------------------------------------------------------
    def run_now(self, name: str, *, by: str | None = None, overlap: Overlap | None = None) -> Enqueued:
        """A round at once, whatever the schedule's status. overlap: instead of the schedule's own policy.

        Raises NotFound, and Refused while an earlier round runs and the policy is `skip` (or one waits already and it
        is `buffer_one`).
        """

        def plan(schedule: Schedule, around: Around, now: dt.datetime) -> Plan:
            live, policy = around.live(schedule), overlap or schedule.overlap
            planned = plan_rounds(policy, [None], [str(new_id(now))], live)
            if not planned.rounds:
                raise errors.Refused(
                    f'"{name}" has not ended yet ({", ".join(short(task.id) for task in live)}) and its overlap policy '
                    f"is {policy}; wait for it, cancel it, or ask for another policy"
                )
            return planned

        return self._by_hand(name, f"run-now:{name}", by, plan)[0]

    def backfill(
        self,
        name: str,
        times: Sequence[dt.datetime],
        *,
        by: str | None = None,
        at_once: int = 1,
        ahead: Sequence[str] = (),
    ) -> list[Enqueued]:
        """A round for each nominal time that has none yet, in order, at most `at_once` of them at the same time.

        `times` from `nominals_between`; those that have a task are left out. The overlap policy is not asked: they
        wait for one another, and the schedule's own rounds take them into account. ahead: ids of the rounds made
        before, in order, where a backfill comes in parts. Raises NotFound, UsageError.
        """
        if at_once < 1:
            raise errors.UsageError(f"{at_once} at once: must be at least 1")
        wanted = sorted(set(times))
        if len(wanted) > MOST_BACKFILLED:
            raise errors.UsageError(f"{len(wanted)} times are more than {MOST_BACKFILLED}; take a shorter stretch")
        made: list[Enqueued] = []
        for start in range(0, len(wanted), BATCH_SCHEDULES):
            part = wanted[start : start + BATCH_SCHEDULES]
            line = [*ahead, *(one.id for one in made)][-at_once:]

            def plan(
                _schedule: Schedule, _around: Around, now: dt.datetime, part: _Times = part, line: _Ids = line
            ) -> Plan:
                taken = self.taken(name, part)
                left = [time for time in part if time not in taken]
                return lined_up(left, [str(new_id(now)) for _ in left], at_once, line)

            made += self._by_hand(name, f"schedule:{name}", by, plan)
        return made

    def _by_hand(
        self, name: str, trigger: str, by: str | None, plan: Callable[[Schedule, Around, dt.datetime], Plan]
    ) -> list[Enqueued]:
        indexes.ensure(self._connection)
        for _ in range(_TURNS):
            schedule, now = self._read(name), self._connection.now()
            around = look_around(self._connection, self._catalogs, [schedule])
            batch = Batch(around, now)
            tasks = batch.add_by_hand(schedule, plan(schedule, around, now), trigger=trigger, owner=by)
            try:
                self._write(batch)
            except (Contended, _Duplicate):
                time.sleep(_RACE_SECONDS * (1 + random.random()))
            else:
                return [Enqueued(id=str(task["_id"]), status=Status(task["status"])) for task in tasks]
        raise errors.StoreUnreachable(f'"{name}" is being changed by others all the time; try again')

    def _read(self, name: str) -> Schedule:
        with self._connection.guard():
            document = self._certain.find_one({"_id": name})
        if document is None:
            raise errors.NotFound(f'no schedule "{name}"')
        try:
            return read_schedule(document)
        except Unreadable as why:
            raise errors.Refused(f'"{name}" cannot be used: {why}') from why

    # --- writing ----------------------------------------------------------------------------------
    def _write(self, batch: Batch) -> int:
        """One transaction: schedules from the revision that was seen, cancels, marks on parents, tasks.

        Before it, followers that no round can be made for are put aside. Raises Contended where a schedule or a parent
        is not as it was seen, or somebody is changing it right now.
        """
        for name, (rev, why) in batch.faulty.items():
            self._break({"_id": name, "rev": rev}, why)
        updates = batch.updates()
        parents = sorted(batch.parents)

        def work(session: ClientSession) -> int:
            if self._schedules.bulk_write(updates, ordered=False, session=session).matched_count != len(updates):
                raise Contended
            if batch.tasks:
                self._insert(batch.tasks, session)
            # Last what others write without a transaction, who wait where this process dies before the commit.
            if parents:
                self._poke(parents, session)
            for name, ids in batch.cancels:
                others = {"_id": {"$in": [ObjectId(one) for one in ids]}, "status": {"$in": _OPEN}}
                self._tasks.update_many(others, pipelines.cancel(Cancel(by=f"schedule:{name}")), session=session)
            return len(batch.tasks)

        return self._connection.attempt(work) if updates else 0

    def _poke(self, parents: Sequence[str], session: ClientSession) -> None:
        try:
            poke(self._tasks, parents, session)
        except errors.NotFound as why:  # somebody deleted one since it was seen
            raise Contended from why

    @failpoint("fire_insert")
    def _insert(self, tasks: list[Document], session: ClientSession) -> None:
        try:
            self._tasks.insert_many(tasks, ordered=False, session=session)
        except driver.BulkWriteError as error:
            if any(problem.get("code") == _DUPLICATE for problem in error.details.get("writeErrors", [])):
                raise _Duplicate from error
            raise

    def _break(self, wanted: Document, why: str) -> None:
        """An active schedule that cannot be used is put aside, with the reason, so that the others go on."""
        wanted = {"status": _ACTIVE, **wanted}
        try:
            with self._connection.guard():
                self._schedules.update_one(wanted, _broken(why))
        except errors.InvalidDocument:  # it is as large as can be: the reason has no room
            with self._connection.guard():
                self._schedules.update_one(wanted, _set_aside())


class _Duplicate(Exception):
    """Raised when a nominal time has its task already."""


def _add(batch: Batch, due: DueSchedule, taken: frozenset[dt.datetime]) -> None:
    schedule = due.schedule
    found = due_times(schedule, due.now)
    times = [time for time in found.times if time not in taken]
    plan = plan_rounds(
        schedule.overlap,
        times,
        [str(new_id(due.now)) for _ in times],
        batch.around.live(schedule),
        late=found.late,
        room=None if schedule.max_runs is None else max(0, schedule.max_runs - schedule.runs),
    )
    batch.add_fire(schedule, plan, found.next)


def _broken(why: str) -> Document:
    aside = _set_aside()
    return {**aside, "$set": {**aside["$set"], "why": why}, "$currentDate": {"updated_at": True}}


def _set_aside() -> Document:
    return {"$set": {"status": ScheduleStatus.BROKEN.value}, "$unset": {"next_at": "", "next_nominal_at": ""}}
