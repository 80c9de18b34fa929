"""What a round of a series is in the store: its task, those of the series that follow it, and what they change.

A series that follows another (`after`) gets a task for each of its rounds in the same transaction, waiting for that
round and no other; so it is there from the moment its predecessor is, and no round can miss it.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne

from slotsched.due import fires_at
from slotsched.errors import UsageError
from slotsched.model import OPEN, Facts, Job, Overlap, Schedule, ScheduleStatus, Status, TaskRequest
from slotsched.overlap import LiveTask, Plan
from slotsched.request import build_request
from slotsched.store.catalogs import Catalogs
from slotsched.store.connection import Connection, Document
from slotsched.store.documents import new_document, new_id, read_status
from slotsched.store.reading import Unreadable
from slotsched.store.schedule_documents import read_schedule

_ACTIVE = ScheduleStatus.ACTIVE.value


@dataclass(frozen=True, kw_only=True)
class Around:
    """What surrounds some schedules: jobs by name, the statuses of their live tasks that still exist, and the
    schedules that follow a name (of a schedule or of a job).
    """

    jobs: Mapping[str, Job]
    statuses: Mapping[str, Status]
    followers: Mapping[str, Sequence[Schedule]]

    def live(self, schedule: Schedule) -> list[LiveTask]:
        """The schedule's tasks that have not ended, oldest first."""
        return [
            LiveTask(id=task_id, waiting=self.statuses[task_id] is Status.WAITING)
            for task_id in schedule.live
            if self.statuses.get(task_id) in OPEN
        ]

    def kept(self, schedule: Schedule) -> list[str]:
        """The live list without tasks that somebody removed: nothing will ever be booked for them."""
        return [task_id for task_id in schedule.live if task_id in self.statuses]

    def following(self, schedule: Schedule) -> list[Schedule]:
        found = {one.name: one for name in (schedule.name, schedule.job) for one in self.followers.get(name, ())}
        return [found[name] for name in sorted(found)]


def look_around(connection: Connection, catalogs: Catalogs, schedules: Sequence[Schedule]) -> Around:
    """Three queries for any number of schedules. Indexes `followers`, `by_job` (jobs), `_id` (tasks)."""
    followers: dict[str, list[Schedule]] = {}
    known = {schedule.name: schedule for schedule in schedules}
    names = {name for schedule in schedules for name in (schedule.name, schedule.job)}
    while names:
        found = [one for one in _followers(connection, names) if one.name not in known]
        for one in found:
            known[one.name] = one
            for name in one.after:
                followers.setdefault(name, []).append(one)
        names = {name for one in found for name in (one.name, one.job)}
    live = [ObjectId(one) for schedule in known.values() for one in schedule.live if ObjectId.is_valid(one)]
    return Around(
        jobs=catalogs.newest_of({schedule.job for schedule in known.values()}),
        statuses=_statuses(connection, live) if live else {},
        followers=followers,
    )


def _followers(connection: Connection, names: Iterable[str]) -> list[Schedule]:
    wanted = {"status": _ACTIVE, "after": {"$in": sorted(names)}}
    found = []
    with connection.guard():
        for document in connection.certain("schedules").find(wanted, {"state": 0}).hint("followers"):
            with suppress(Unreadable):  # a listing shows what is wrong with it
                found.append(read_schedule(document))
    return found


def _statuses(connection: Connection, ids: Sequence[ObjectId]) -> dict[str, Status]:
    with connection.guard():
        found = connection.collection("tasks").find({"_id": {"$in": list(ids)}}, {"status": 1})
        return {str(document["_id"]): read_status(document) for document in found}


@dataclass
class _Change:
    """What happens to one schedule's document, provided that it is as it was seen."""

    schedule: Schedule
    wanted: Document
    live: list[str]
    runs: int
    set: Document = field(default_factory=dict)
    unset: Document = field(default_factory=dict)

    def update(self, now: dt.datetime) -> UpdateOne:
        limit = self.schedule.max_runs
        if limit is not None and self.runs >= limit and self.schedule.status is ScheduleStatus.ACTIVE:
            self.end("all its runs were made")
        fields = {"live": self.live, "runs": self.runs, "rev": self.schedule.rev + 1, "updated_at": now, **self.set}
        fields = {name: value for name, value in fields.items() if name not in self.unset}
        update = {"$set": fields} | ({"$unset": self.unset} if self.unset else {})
        return UpdateOne(self.wanted, update, hint="_id_")  # without it the server weighs other indexes, each time

    def end(self, why: str) -> None:
        self.set |= {"status": ScheduleStatus.DONE.value, "why": why}
        self.unset |= {"next_at": "", "next_nominal_at": ""}


class Batch:
    """The writes of one transaction, gathered. tasks: documents to insert. parents: ids of tasks outside the batch
    that some of them wait for. cancels: (schedule's name, ids).

    faulty: followers that get no round because of what is wrong with them, by name: the revision seen, and why. Whom
    they follow goes on.
    """

    def __init__(self, around: Around, now: dt.datetime) -> None:
        self.around = around
        self.tasks: list[Document] = []
        self.parents: set[str] = set()
        self.cancels: list[tuple[str, tuple[str, ...]]] = []
        self.faulty: dict[str, tuple[int, str]] = {}
        self._now = now
        self._changes: dict[str, _Change] = {}

    def updates(self) -> list[UpdateOne]:
        return [change.update(self._now) for change in self._changes.values()]

    def add_fire(self, schedule: Schedule, plan: Plan, following: dt.datetime | None) -> None:
        """The rounds of a schedule whose time has come; `following` is its next nominal time.

        Raises UsageError for a request that could never be claimed; then nothing of it is in the batch.
        """
        tasks = self._own(schedule, plan, trigger=f"schedule:{schedule.name}", owner=schedule.owner, timed=True)
        change = self._change(schedule, {"status": _ACTIVE, "next_at": schedule.next_at})
        change.runs += len(plan.rounds)
        if plan.rounds:
            change.set["last_nominal_at"] = plan.rounds[-1].nominal_at
        if plan.skipped:
            change.set["counters.skipped"] = schedule.counters.skipped + plan.skipped
        if following is None:
            change.end("nothing is left to fire")
        else:
            change.set |= {"next_nominal_at": following, "next_at": fires_at(schedule, following)}
        self._add(change, plan, tasks)

    def add_by_hand(self, schedule: Schedule, plan: Plan, *, trigger: str, owner: str | None) -> list[Document]:
        """Rounds that a person asked for; their documents. Raises UsageError."""
        tasks = self._own(schedule, plan, trigger=trigger, owner=owner or schedule.owner, timed=False)
        self._add(self._change(schedule, {}), plan, tasks)
        return tasks

    def _own(self, schedule: Schedule, plan: Plan, *, trigger: str, owner: str | None, timed: bool) -> list[Document]:
        job = self.around.jobs.get(schedule.job)
        tasks = []
        for one in plan.rounds:
            due_at = fires_at(schedule, one.nominal_at) if timed and one.nominal_at is not None else self._now
            request = replace(
                request_of(schedule, job), trigger=trigger, owner=owner, due_at=due_at, parents=one.behind, when="any"
            )
            tasks.append(task_of(schedule, request, one.id, one.nominal_at, self._now))
        return tasks

    def _change(self, schedule: Schedule, more: Document) -> _Change:
        wanted = {"_id": schedule.name, "rev": schedule.rev, **more}
        return _Change(schedule=schedule, wanted=wanted, live=self.around.kept(schedule), runs=schedule.runs)

    def _add(self, change: _Change, plan: Plan, tasks: list[Document]) -> None:
        ids = {one.id for one in plan.rounds}
        change.live += [one.id for one in plan.rounds]
        self._changes[change.schedule.name] = change
        self.tasks += tasks
        self.parents |= {parent for one in plan.rounds for parent in one.behind} - ids
        if plan.cancel:
            self.cancels.append((change.schedule.name, plan.cancel))
        for one in plan.rounds:
            self._follow(change.schedule, one.id)

    def _follow(self, schedule: Schedule, task_id: str) -> None:
        """A round of every series that follows this one, and of those that follow them."""
        # The names on the way to each, so that series that follow one another in a circle end.
        followed = deque([(schedule, task_id, frozenset({schedule.name}))])
        while followed:
            before, parent, above = followed.popleft()
            for follower in self.around.following(before):
                if follower.name in above:
                    continue
                try:
                    round_id = self._round_behind(follower, parent)
                except UsageError as why:
                    self.faulty[follower.name] = follower.rev, str(why)
                    continue
                if round_id is not None:
                    followed.append((follower, round_id, above | {follower.name}))

    def _round_behind(self, follower: Schedule, parent: str) -> str | None:
        """The id of its round that waits for that task; None where all its runs were made. Raises UsageError for a
        request that could never be claimed; then nothing of it is in the batch.
        """
        change = self._changes.get(follower.name) or self._change(follower, {"status": _ACTIVE})
        if follower.max_runs is not None and change.runs >= follower.max_runs:
            return None
        round_id = str(new_id(self._now))
        request = replace(
            request_of(follower, self.around.jobs.get(follower.job)),
            trigger=f"after:{parent}",
            owner=follower.owner,
            parents=(parent, *self._ahead(change)),
            when=follower.when,
        )
        document = task_of(follower, request, round_id, None, self._now)
        document["behind"] = list(request.parents[1:])
        self.parents |= set(request.parents[1:]) & set(follower.live)
        self.tasks.append(document)
        self._changes[follower.name] = change
        change.live.append(round_id)
        change.runs += 1
        return round_id

    def _ahead(self, change: _Change) -> list[str]:
        """The follower's own last round: whatever its policy, it is never left out, as it belongs to one round of the
        other series; unless all are allowed at once it waits for the one before.
        """
        if change.schedule.overlap is Overlap.ALLOW_ALL:
            return []
        return [one for one in change.live if self.around.statuses.get(one, Status.WAITING) in OPEN][-1:]


def request_of(schedule: Schedule, job: Job | None) -> TaskRequest:
    """What the schedule's tasks ask for: its own wishes, else the job's facts; `job` None: no instance knows it now.

    A job's `unique` is left out: for a series the overlap policy says the same, and more. Raises UsageError.
    """
    asked = schedule.overrides
    request = build_request(
        job or Job(name=schedule.job, hash="", facts=Facts()),
        schedule.args,
        slots=asked.slots,
        memory=asked.memory,
        max_time=asked.max_time,
        retries=asked.retries,
        priority=schedule.priority,
        owner=schedule.name,  # whoever runs this instance is not who wants the task; the caller puts that in
    )
    return replace(request, unique=None)


def task_of(
    schedule: Schedule, request: TaskRequest, task_id: str, nominal_at: dt.datetime | None, now: dt.datetime
) -> Document:
    """The document of a round, with an id that was made before. Raises UsageError, InvalidArguments."""
    document: dict[str, Any] = new_document(request, now)
    document |= {"_id": ObjectId(task_id), "rid": task_id[::-1], "schedule": schedule.name}
    return document if nominal_at is None else document | {"nominal_at": nominal_at}
