"""Schedules that job files declare: each follows the newest copy of its file that some instance holds.

Newest is the content that was first published last by the server's clock, so machines with different copies agree. A
copy that declares nothing any more, or that nobody holds, leaves its schedule disabled with its books, not forgotten.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from slotsched import errors
from slotsched.due import check_schedule
from slotsched.failpoints import failpoint
from slotsched.model import CatchUp, Job, Overlap, Schedule, ScheduleStatus, Source
from slotsched.recurrence import parse_once
from slotsched.store.catalogs import Catalogs
from slotsched.store.connection import Connection
from slotsched.store.schedule_documents import show_schedule
from slotsched.store.schedules import DECLARED, Schedules, changed

TRIGGERS = frozenset({"cron", "every", "at", "after"})
GONE = "no instance holds a job file that declares it"
_FILE = "file"
_ACTIVE = ScheduleStatus.ACTIVE


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What following the files did to a schedule. what: `added`, `changed`, `gone`, `broken`."""

    name: str
    what: str
    why: str = ""


class Declared:
    """What any instance does after it has published its catalog, as often as it likes."""

    def __init__(self, connection: Connection, catalogs: Catalogs, schedules: Schedules) -> None:
        self._connection = connection
        self._catalogs = catalogs
        self._editor = schedules
        self._schedules = connection.collection("schedules")

    def follow(self, is_gone: Callable[[str], bool] = lambda _name: True) -> list[Changed]:
        """Makes every declared schedule what the newest copy of its file says; what that changed.

        is_gone: asked about names whose file no living instance holds: it may be taken out, or its machine may be
        down for a while. A schedule that was made by hand under a job's name stays as it is. Indexes `by_source`,
        `by_job` (jobs).
        """
        dead = self._catalogs.dead()
        jobs = self._catalogs.newest_of(self._catalogs.names(), held=True, dead=dead)
        declared = {name: job for name, job in jobs.items() if TRIGGERS & set(job.facts.schedule)}
        known = self._known()
        # Where a file cannot be read, what it said last goes on.
        unreadable = {name for name, holders in self._catalogs.broken().items() if set(holders) - dead}
        changes = [
            self._upserted(job)
            for name, job in declared.items()
            if known.get(name) != Source(kind=_FILE, hash=job.hash)
        ]
        changes += [
            self.disable_missing(name)
            for name, source in known.items()
            if name not in declared and not source.gone and (name in jobs or (name not in unreadable and is_gone(name)))
        ]
        return [change for change in changes if change is not None]

    def _upserted(self, job: Job) -> Changed | None:
        """One that somebody has altered by hand so that it cannot be changed keeps no other from being followed."""
        try:
            return self.upsert_from_file(job)
        except (errors.UsageError, errors.InvalidDocument) as why:
            return Changed(name=job.name, what="broken", why=str(why))

    def _known(self) -> dict[str, Source]:
        with self._connection.guard():
            found = list(self._schedules.find({"source.kind": _FILE}, {"state": 0}).hint("by_source"))
        return {str(document["_id"]): show_schedule(document).source for document in found}

    @failpoint("declare")
    def upsert_from_file(self, job: Job) -> Changed | None:
        """Makes the job's schedule what its file says; None where nothing was to be done."""
        problem: errors.UsageError | None = None
        wishes: Mapping[str, Any] = {}
        try:
            wishes = declared_by(job)
            check_schedule(Schedule(name=job.name, **wishes))
        except errors.UsageError as why:
            problem, wishes = why, {"job": job.name}
        source = Source(kind=_FILE, hash=job.hash)
        fault: dict[str, Any] = {"status": ScheduleStatus.BROKEN, "why": str(problem)} if problem is not None else {}
        try:
            old = self._editor.get(job.name)
        except errors.NotFound:
            with suppress(errors.Refused):  # another instance was faster
                self._editor.add(Schedule(name=job.name, source=source, **{**wishes, **fault}))
            return Changed(name=job.name, what="broken" if problem else "added", why=str(problem or ""))
        if old.source.kind != _FILE or old.source == source:
            return None

        def change(old: Schedule, now: dt.datetime) -> Schedule:
            if problem is not None:
                return replace(old, source=source, next_at=None, next_nominal_at=None, **fault)
            return _followed(old, wishes, source, now)

        self._editor.change(job.name, change)
        return Changed(name=job.name, what="broken" if problem else "changed", why=str(problem or ""))

    def disable_missing(self, name: str) -> Changed | None:
        """Disables a file's schedule that no file declares any more; None where it is none."""

        def change(old: Schedule, _now: dt.datetime) -> Schedule:
            if old.source.kind != _FILE:
                return old
            gone = replace(old, source=replace(old.source, gone=True), next_at=None, next_nominal_at=None)
            if old.status in (ScheduleStatus.PAUSED, ScheduleStatus.DISABLED):
                return gone
            return replace(gone, status=ScheduleStatus.DISABLED, why=GONE)

        try:
            self._editor.change(name, change)
        except (errors.NotFound, errors.Refused):  # removed, or a document nobody can read: a listing shows it
            return None
        return Changed(name=name, what="gone")


def declared_by(job: Job) -> dict[str, Any]:
    """The fields of a Schedule that the facts of a job file say.

    Raises InvalidRecurrence for a bad moment, InvalidArguments where the job cannot run without arguments.
    """
    facts = job.facts.schedule
    missing = [parameter.name for parameter in job.parameters or () if parameter.required]
    if missing:
        raise errors.InvalidArguments(f"no run could start, as {', '.join(missing)} has no default")
    zone = facts.get("timezone", "UTC")
    return {
        "job": job.name,
        "cron": _texts(facts.get("cron")),
        "every": facts.get("every"),
        "at": None if facts.get("at") is None else parse_once(facts["at"], zone).at,
        "after": _texts(facts.get("after")),
        "when": facts.get("when", "success"),
        "timezone": zone,
        "overlap": Overlap(facts.get("overlap", Overlap.SKIP)),
        "catch_up": CatchUp(facts.get("catch_up", CatchUp.ONCE)),
        "notify": facts.get("notify"),
    }


def _followed(old: Schedule, wishes: Mapping[str, Any], source: Source, now: dt.datetime) -> Schedule:
    """What people set besides stays, and so does a pause or a switch by hand."""
    is_back = old.status is ScheduleStatus.DISABLED and old.why == GONE
    if is_back or old.status is ScheduleStatus.BROKEN:
        old = replace(old, status=_ACTIVE, why=None)
    assert set(wishes) == DECLARED
    return changed(replace(old, source=source), wishes, now)


def _texts(value: Any) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)
