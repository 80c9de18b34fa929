"""Schedules as people see them: made, looked at, changed, paused, forgotten; and the tasks of their series.

Every change goes from the revision that was read, so that no instance fires by what is being replaced.
"""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from bson import ObjectId
from pymongo import errors as driver

from slotsched import errors
from slotsched.due import check_schedule, fires_at, nominal_after
from slotsched.model import TERMINAL, Counters, Schedule, ScheduleStatus, SeriesMemory, Task
from slotsched.store import indexes
from slotsched.store.connection import Connection, Document
from slotsched.store.documents import show_task, to_object_id
from slotsched.store.reading import Unreadable
from slotsched.store.schedule_documents import read_schedule, schedule_to_document, show_schedule
from slotsched.store.series import Series

REMOVE_BATCH = 1000
TIMING = ("cron", "every", "at", "after", "timezone", "start_at")  # what decides the nominal times
EDITABLE = frozenset(
    {
        *TIMING,
        *("job", "args", "when", "overlap", "catch_up", "catch_up_window", "jitter", "end_at", "max_runs"),
        *("pause_on_failure", "priority", "overrides", "owner", "label", "notify"),
    }
)
DECLARED = frozenset({"job", "cron", "every", "at", "after", "when", "timezone", "overlap", "catch_up", "notify"})
_TURNS = 20  # of one document that others keep changing
_KINDS = ("cron", "every", "at", "after")
_OVER = sorted(TERMINAL)
_MILLISECOND = dt.timedelta(milliseconds=1)
_ACTIVE, _BROKEN = ScheduleStatus.ACTIVE, ScheduleStatus.BROKEN


@dataclass(frozen=True, kw_only=True)
class ScheduleFilter:
    """What a listing asks for; None and empty mean any. job, owner, label: exactly that; source: `hand` or `file`."""

    status: frozenset[ScheduleStatus] | None = None
    job: str | None = None
    owner: str | None = None
    label: str | None = None
    source: str | None = None


class Schedules:
    """The collection `schedules`, from outside. Everything here may run on any machine."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._schedules = connection.collection("schedules")
        self._certain = connection.certain("schedules")
        self._tasks = connection.collection("tasks")
        self._series = Series(connection)

    # --- making -----------------------------------------------------------------------------------
    def create(self, schedule: Schedule) -> Schedule:
        """Stores a new schedule, its first time counted from the server's now; as stored.

        Raises UsageError, InvalidRecurrence, InvalidArguments, and Refused where the name is taken.
        """
        check_schedule(schedule)
        return self.add(schedule)

    def add(self, schedule: Schedule) -> Schedule:
        """`create` without a check: a job file's schedule is there also where its rule is broken."""
        indexes.ensure(self._connection)
        made = _begun(schedule, self._connection.now())
        try:
            with self._connection.guard():
                self._insert(made)
        except _Taken:
            raise errors.Refused(
                f'there is a schedule "{schedule.name}" already; change it with: slotsched schedule set'
            ) from None
        return made

    def replace(self, schedule: Schedule) -> Schedule:
        """`create`, or instead of the one of that name, whose books and live tasks stay with the new one."""
        check_schedule(schedule)
        try:
            return self.create(schedule)
        except errors.Refused:
            return self.change(
                schedule.name, lambda old, now: _continued(schedule, old, now), unreadable=lambda: schedule
            )

    def _insert(self, schedule: Schedule) -> None:
        try:
            self._schedules.insert_one(schedule_to_document(schedule))
        except driver.DuplicateKeyError as error:
            found = self._certain.find_one({"_id": schedule.name}, {"created_at": 1, "rev": 1})
            mine = {"created_at": schedule.created_at, "rev": schedule.rev}
            if found is None or {name: found.get(name) for name in mine} != mine:  # else: our own lost answer
                raise _Taken from error

    # --- looking ----------------------------------------------------------------------------------
    def get(self, name: str) -> Schedule:
        """One schedule; a document that cannot be read is shown as `broken`. Raises NotFound with a near name."""
        return show_schedule(self._document(name))

    def _document(self, name: str) -> Document:
        with self._connection.guard():
            document = self._certain.find_one({"_id": name})
        if document is None:
            raise errors.NotFound(self._no(name))
        return document

    def _no(self, name: str) -> str:
        with self._connection.guard():
            known = [str(d["_id"]) for d in self._schedules.find({}, {"_id": 1}).sort("_id", 1).limit(1000)]
        near = difflib.get_close_matches(name, known, n=1)
        return f'no schedule "{name}"' + (f', did you mean "{near[0]}"?' if near else "")

    def find(
        self, wanted: ScheduleFilter | None = None, limit: int = 50, *, after: str | None = None
    ) -> list[Schedule]:
        """One page by name; `after` is the last name of the page before. `state` is left out.

        Indexes `by_status`, `by_job`, `by_owner`, `by_label` or `by_source`; `_id` where nothing is asked.
        """
        query = _query(wanted or ScheduleFilter())
        if after is not None:
            query["_id"] = {"$gt": after}
        with self._connection.guard():
            found = self._schedules.find(query, {"state": 0}).sort("_id", 1).limit(limit)
            return [show_schedule(document) for document in found]

    # --- changing ---------------------------------------------------------------------------------
    def set(self, name: str, changes: Mapping[str, Any]) -> Schedule:
        """Changes fields (of EDITABLE; a new kind of trigger takes the old one's place); as stored then.

        The next time is counted anew from now where a field of TIMING changes. Raises NotFound, UsageError, and
        Refused for what a job file declares: the file would change it back.
        """
        unknown = sorted(set(changes) - EDITABLE)
        if unknown:
            raise errors.UsageError(f"{unknown[0]}: is nothing that can be set on a schedule")
        given = [kind for kind in _KINDS if changes.get(kind)]
        others = {kind: _empty(kind) for kind in _KINDS if given and kind not in changes}

        def change(old: Schedule, now: dt.datetime) -> Schedule:
            if old.source.kind == "file" and (declared := sorted(set(changes) & DECLARED)):
                raise errors.Refused(f'"{name}" is declared in the file of job {old.job}; change {declared[0]} there')
            return changed(old, {**others, **changes}, now)

        return self.change(name, change)

    def pause(self, names: Iterable[str], *, by: str = "") -> list[Schedule]:
        """Nothing more fires until `resume`; tasks there are go on. Raises NotFound before anything is changed."""
        return self._stop(names, ScheduleStatus.PAUSED, f"paused by {by}" if by else "paused")

    def disable(self, names: Iterable[str], *, by: str = "") -> list[Schedule]:
        """Like `pause`, for good: shown as switched off. `resume` switches it on again."""
        return self._stop(names, ScheduleStatus.DISABLED, f"disabled by {by}" if by else "disabled")

    def resume(self, names: Iterable[str]) -> list[Schedule]:
        """Active again, from the next time after now: what passed meanwhile is not caught up on.

        Raises NotFound, UsageError for what is still broken, and Refused where nothing is left to fire.
        """
        return self._all(names, _resumed)

    def _stop(self, names: Iterable[str], status: ScheduleStatus, why: str) -> list[Schedule]:
        def change(old: Schedule, _now: dt.datetime) -> Schedule:
            source = replace(old.source, gone=False)  # from now on it is off by hand, and stays off
            return replace(old, status=status, why=why, next_at=None, next_nominal_at=None, source=source)

        return self._all(names, change)

    def _all(self, names: Iterable[str], change: Callable[[Schedule, dt.datetime], Schedule]) -> list[Schedule]:
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            self._document(name)
        return [self.change(name, change) for name in wanted]

    def change(
        self,
        name: str,
        change: Callable[[Schedule, dt.datetime], Schedule],
        *,
        unreadable: Callable[[], Schedule] | None = None,
    ) -> Schedule:
        """`change(old, now)` in the place of the old one, asked again while others are faster; as stored then.

        unreadable: what to put in the place of a document that cannot be read. Raises NotFound, else Refused for it.
        """
        for _ in range(_TURNS):
            document = self._document(name)
            now = self._connection.now()
            try:
                old = read_schedule(document)
            except Unreadable as why:
                if unreadable is None:
                    raise errors.Refused(f'"{name}" cannot be used: {why}') from why
                old, wanted = unreadable(), _begun(unreadable(), now)
            else:
                wanted = change(old, now)
                if wanted == old:
                    return old
                wanted = replace(wanted, rev=old.rev + 1, updated_at=now)
            if self._swap(document, wanted):
                return wanted
        raise errors.StoreUnreachable(f'"{name}" is being changed by others all the time; try again')

    def _swap(self, seen: Document, wanted: Schedule) -> bool:
        """Only if nobody has changed it since it was seen. Index `_id`."""
        document = schedule_to_document(wanted)
        with self._connection.guard():
            seen_rev = {"rev": seen["rev"]} if "rev" in seen else {"rev": {"$exists": False}}
            return self._schedules.replace_one({"_id": wanted.name, **seen_rev}, document).matched_count == 1

    def remove(self, names: Iterable[str]) -> int:
        """Forgets schedules, broken ones too; how many. Their tasks stay and go on. Raises NotFound before that."""
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            self._document(name)
        with self._connection.guard():
            return self._schedules.delete_many({"_id": {"$in": wanted}}).deleted_count

    # --- the series -------------------------------------------------------------------------------
    def history(self, name: str, limit: int = 50, *, after: str | None = None) -> list[Task]:
        """The series' tasks, newest first; `after` is the last id of the page before. Index `by_schedule`."""
        query: Document = {"schedule": name}
        if after is not None:
            query["_id"] = {"$lt": to_object_id(after)}
        with self._connection.guard():
            found = self._tasks.find(query, {"state": 0}).sort("_id", -1).hint("by_schedule").limit(limit)
            return [show_task(document) for document in found]

    def latest(self, names: Iterable[str]) -> dict[str, Task]:
        """The newest task of each series, where there is one. Index `by_schedule`, one key a series."""
        newest: list[Document] = [{"$sort": {"_id": -1}}, {"$limit": 1}, {"$project": {"state": 0, "result": 0}}]
        of_series = {
            "from": "tasks",
            "localField": "_id",
            "foreignField": "schedule",
            "as": "tasks",
            "pipeline": newest,
        }
        steps: list[Document] = [
            {"$match": {"_id": {"$in": list(names)}}},
            {"$project": {"_id": 1}},
            {"$lookup": of_series},
        ]
        with self._connection.guard():
            found = list(self._schedules.aggregate(steps))
        return {document["_id"]: show_task(task) for document in found for task in document["tasks"]}

    def clear_history(self, names: Iterable[str]) -> int:
        """Removes the series' ended tasks and sets its counters to 0; how many tasks. Index `by_schedule`.

        What the next run is told stays, and so do tasks whose end is not in the books or not told to others yet.
        """
        removed = 0
        for schedule in self._all(names, lambda old, _: replace(old, counters=Counters(), failures=0)):
            live = [ObjectId(one) for one in schedule.live if ObjectId.is_valid(one)]
            ended = {"schedule": schedule.name, "status": {"$in": _OVER}, "resolve": {"$ne": True}}
            removed += self._delete(ended | {"_id": {"$nin": live}})
        return removed

    def _delete(self, wanted: Document) -> int:
        removed = 0
        while True:
            with self._connection.guard():
                found = self._tasks.find(wanted, {"_id": 1}).hint("by_schedule").limit(REMOVE_BATCH)
                ids = [document["_id"] for document in found]
                removed += self._tasks.delete_many({**wanted, "_id": {"$in": ids}}).deleted_count if ids else 0
            if len(ids) < REMOVE_BATCH:
                return removed

    def settle_series(self, task: Task) -> bool:
        """Books the end of a task of a series; False: somebody is changing the schedule, try again later.

        Any number of times, by anybody: the schedule's live list tells what is booked.
        """
        return bool(self._series.settle([task.id]))

    def settle_many(self, ids: Iterable[str]) -> frozenset[str]:
        """`settle_series` for many in one transaction; the ids of those that need no more of it."""
        return frozenset(self._series.settle(ids))

    def memories(self, names: Iterable[str]) -> Mapping[str, SeriesMemory]:
        """What each series' last completed run left for the next one, as far as its schedule can be read."""
        return self._series.memories(names)


class _Taken(Exception):
    """Raised when there is a schedule of that name."""


# --- how a schedule changes: values in, values out ------------------------------------------------
def changed(old: Schedule, changes: Mapping[str, Any], now: dt.datetime) -> Schedule:
    """The schedule with these fields, its next time counted anew where they decide it. Raises UsageError."""
    new = replace(old, **dict(changes))
    check_schedule(new)
    same_times = all(getattr(new, name) == getattr(old, name) for name in TIMING)
    if not same_times:
        new = replace(new, anchor_at=now)
    if new.status is ScheduleStatus.DONE and new != old:
        new = replace(new, status=_ACTIVE, why=None)
    if new.status is not _ACTIVE:
        return new
    pending = old.next_nominal_at if same_times and old.status is _ACTIVE else None
    return timed(new, now if pending is None else pending - _MILLISECOND)


def timed(schedule: Schedule, moment: dt.datetime) -> Schedule:
    """An active schedule with its next time after the moment; done where there is none."""
    if schedule.after:
        return replace(schedule, next_at=None, next_nominal_at=None)
    nominal = nominal_after(schedule, moment)
    spent = schedule.max_runs is not None and schedule.runs >= schedule.max_runs
    if nominal is None or spent:
        why = "all its runs were made" if spent else "nothing is left to fire"
        return replace(schedule, status=ScheduleStatus.DONE, why=why, next_at=None, next_nominal_at=None)
    return replace(schedule, next_nominal_at=nominal, next_at=fires_at(schedule, nominal))


def _begun(schedule: Schedule, now: dt.datetime) -> Schedule:
    new = replace(schedule, rev=1, anchor_at=now, created_at=now, updated_at=now)
    return timed(new, now) if new.status is _ACTIVE else new


def _continued(new: Schedule, old: Schedule, now: dt.datetime) -> Schedule:
    """`new` in the place of `old`: wishes of the one, books of the other."""
    wishes = {name: getattr(new, name) for name in (*EDITABLE, "source")}
    active = replace(old, status=_ACTIVE, why=None, failures=0, runs=0)
    return changed(replace(active, next_nominal_at=None, next_at=None), wishes, now)


def _resumed(old: Schedule, now: dt.datetime) -> Schedule:
    if old.status is _ACTIVE:
        return old
    check_schedule(old)
    new = timed(replace(old, status=_ACTIVE, why=None, failures=0, source=replace(old.source, gone=False)), now)
    if new.status is not _ACTIVE:
        raise errors.Refused(f'"{old.name}" cannot be resumed: {new.why}')
    return new


def _empty(field: str) -> Any:
    return next(item.default for item in fields(Schedule) if item.name == field)


def _query(wanted: ScheduleFilter) -> Document:
    query: Document = {
        "job": wanted.job,
        "owner": wanted.owner,
        "label": wanted.label,
        "source.kind": wanted.source,
    }
    query = {name: value for name, value in query.items() if value is not None}
    if wanted.status is not None:
        statuses = sorted(wanted.status)
        known = sorted(ScheduleStatus)
        # a document whose status is none we know is shown as broken, so it is found as that
        query["status"] = (
            {"$nin": [s for s in known if s not in statuses]} if _BROKEN in wanted.status else {"$in": statuses}
        )
    return query
