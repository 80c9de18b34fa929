"""Schedules for programs and the command line: options are checked here, as for `enqueue`, before anything is stored.

with Client() as client:
    client.schedules.add("backup", {"database": "shop"}, cron="15 3 * * *", timezone="Europe/Paris")
    for fire in client.schedules.next("backup", 3):
        print(fire.nominal_at, *fire.notes)
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from slotsched.due import check_schedule, fires_at, nominal_after, nominals_between, recurrence_of
from slotsched.errors import InvalidRecurrence, NotFound, Refused, UsageError
from slotsched.model import Job, Overlap, Overrides, Schedule, Task
from slotsched.recurrence import find_zone, notes, parse_cron
from slotsched.wishes import read_overrides, read_wishes

if TYPE_CHECKING:
    from slotsched.store import ScheduleFilter, Store

MOST_BACKFILLED = 2000  # rounds that one backfill makes; each stands in the schedule's document until it has ended
_BATCH = 500  # rounds in one transaction
_MILLISECOND = dt.timedelta(milliseconds=1)
_EARLIEST = dt.datetime(1, 1, 2, tzinfo=dt.UTC)  # the day before is not a date everywhere


class Place(Protocol):
    """What is needed of a client."""

    @property
    def store(self) -> Store: ...

    @property
    def owner(self) -> str: ...

    def job(self, name: str) -> Job:
        """Raises NotFound, InvalidJob."""
        ...


@dataclass(frozen=True, kw_only=True)
class Fire:
    """A time to come. local_at: nominal_at in the schedule's zone; due_at: with its jitter; notes: about clocks."""

    nominal_at: dt.datetime
    local_at: dt.datetime
    due_at: dt.datetime
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Backfill:
    """times: those that get a round, oldest first. existing: how many had one. tasks: full ids, none of a dry run."""

    times: tuple[dt.datetime, ...]
    existing: int
    tasks: tuple[str, ...] = ()


class Schedules:
    """Reached as `Client.schedules`. Names are the schedules' own; every method raises NotFound for one not known."""

    def __init__(self, place: Place) -> None:
        self._place = place

    # --- making and changing ------------------------------------------------------------------------

    def add(
        self, job: str, args: Mapping[str, Any] | None = None, *, name: str | None = None, **options: Any
    ) -> Schedule:
        """Stores a new schedule, named like its job unless `name` says otherwise.

        Exactly one of these says when: cron (a text or several), every (seconds or `10m`), at (an aware time or an ISO
        text), after (names of schedules or jobs whose rounds it follows, each as `when` says).
        timezone (default UTC): what crons and times without an offset are read in. overlap, catch_up: see the model.
        catch_up_window, jitter: seconds or `10m`. start_at, end_at: aware times or ISO texts. max_runs,
        pause_on_failure: whole numbers. priority, slots, memory, max_time, retries: instead of the job's own. label,
        owner, notify (see the job fact).
        Raises NotFound, InvalidJob, InvalidArguments, UsageError (InvalidRecurrence for its rule), and Refused where
        the name is taken; then nothing was stored.
        """
        return self._place.store.schedules.create(self.check(job, args, name=name, **options))

    def check(
        self, job: str, args: Mapping[str, Any] | None = None, *, name: str | None = None, **options: Any
    ) -> Schedule:
        """What `add` would store, checked but not stored; the same parameters and errors."""
        wishes = read_wishes({"owner": self._place.owner, **options})
        found = self._place.job(job)
        schedule = Schedule(
            name=name or job,
            job=job,
            args=_checked_args(found, args or {}),
            overrides=read_overrides(found, options),
            **wishes,
        )
        check_schedule(schedule)
        self._check_after(schedule.after)
        self._check_to_come(schedule)
        return schedule

    def set(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        unset: Iterable[str] = (),
        replace_args: bool = False,
        **options: Any,
    ) -> Schedule:
        """Changes what is given (see `add`); a new cron, every, at or after takes the old one's place.

        args: over the ones it has, or instead of them with `replace_args`. unset: options that go back to their
        default. Raises UsageError, InvalidArguments, and Refused for what a job file declares.
        """
        old = self._place.store.schedules.get(name)
        unset = list(unset)
        if both := sorted(set(unset) & set(options)):
            raise UsageError(f"{both[0]}: is set and unset at once")
        changes = read_wishes(options, unset=unset, timezone=old.timezone)
        self._check_after(changes.get("after") or ())
        if args is not None or replace_args:
            found = self._place.job(old.job)
            changes["args"] = _checked_args(found, {**({} if replace_args else old.args), **(args or {})})
        overrides = self._overrides(old, options, unset)
        if overrides != old.overrides:
            changes["overrides"] = overrides
        if not changes:
            raise UsageError("nothing to change was given")
        return self._place.store.schedules.set(name, changes)

    def _overrides(self, old: Schedule, options: Mapping[str, Any], unset: Sequence[str]) -> Overrides:
        names = set(Overrides.__dataclass_fields__)
        asked = {name: value for name, value in options.items() if name in names and value is not None}
        new = old.overrides
        if asked:
            read = read_overrides(self._place.job(old.job), asked)
            new = replace(new, **{name: getattr(read, name) for name in asked})
        return replace(new, **{name: None for name in unset if name in names})

    def _check_after(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self._place.store.schedules.get(name)
            except NotFound as no_schedule:
                try:
                    self._place.job(name)
                except NotFound:
                    raise NotFound(f"after: {no_schedule}, and no job of that name either") from None

    def _check_to_come(self, schedule: Schedule) -> None:
        """A schedule that is over before it began is somebody's mistake."""
        now = self._place.store.now()
        if schedule.after or nominal_after(replace(schedule, anchor_at=now), now) is not None:
            return
        if schedule.at is not None:
            raise InvalidRecurrence(f"at: {schedule.at:%Y-%m-%d %H:%M:%S} UTC has passed")
        raise InvalidRecurrence("it would never fire: nothing is left between now and its end")

    def pause(self, *names: str) -> list[Schedule]:
        """Nothing more fires until `resume`; tasks that are there go on."""
        return self._place.store.schedules.pause(names, by=self._place.owner)

    def resume(self, *names: str) -> list[Schedule]:
        """Active again, from the next time after now. Raises Refused where nothing is left to fire."""
        return self._place.store.schedules.resume(names)

    def remove(self, *names: str) -> int:
        """Forgets them; their tasks stay. Raises Refused for one that a job file declares: it would come back."""
        for one in map(self.get, names):
            if one.source.kind == "file" and not one.source.gone:
                raise Refused(
                    f"{one.name} is declared in its job file and would come back; take it out there, or: "
                    f"slotsched schedule pause {one.name}"
                )
        return self._place.store.schedules.remove(names)

    # --- looking ------------------------------------------------------------------------------------

    def get(self, name: str) -> Schedule:
        """The schedule as it is now."""
        return self._place.store.schedules.get(name)

    def find(self, wanted: ScheduleFilter | None = None, limit: int = 0) -> list[Schedule]:
        """By name, without their saved state. limit: 0 = all."""
        return list(itertools.islice(self._pages(wanted, limit), limit or None))

    def _pages(self, wanted: ScheduleFilter | None, limit: int) -> Iterator[Schedule]:
        size, last = min(limit or 500, 500), None
        while page := self._place.store.schedules.find(wanted, size, after=last):
            yield from page
            if len(page) < size:
                return
            last = page[-1].name

    def next(self, name: str, count: int = 10) -> list[Fire]:
        """The next times by its rule and bounds; none where it follows others. A pause is not regarded."""
        return upcoming(self.get(name), self._place.store.now(), count)

    def history(self, name: str, limit: int = 50) -> list[Task]:
        """The series' tasks, newest first. limit: 0 = all."""
        self.get(name)
        return self._place.store.schedules.history(name, limit)

    def clear_history(self, *names: str) -> int:
        """Removes the series' ended tasks and sets the counters to 0; how many tasks."""
        return self._place.store.schedules.clear_history(names)

    # --- making rounds ------------------------------------------------------------------------------

    def run(self, name: str, *, overlap: str | None = None) -> str:
        """Run now: a round at once, whatever the schedule's status; the task's full id.

        overlap: instead of the schedule's own policy. Raises Refused where the policy leaves the round out.
        """
        policy = None if overlap is None else Overlap(read_wishes({"overlap": overlap})["overlap"])
        return self._place.store.firing.run_now(name, by=self._place.owner, overlap=policy).id

    def backfill(
        self,
        name: str,
        start: dt.datetime,
        end: dt.datetime | None = None,
        *,
        at_once: int = 1,
        dry_run: bool = False,
    ) -> Backfill:
        """A round for each nominal time from `start` to `end` (both aware and included; None: now) without one.

        at_once: how many of them may run at the same time. Raises UsageError for more than MOST_BACKFILLED.
        """
        schedule, now = self.get(name), self._place.store.now()
        end = now if end is None else end
        if at_once < 1:
            raise UsageError("at once: must be at least 1")
        if end > now:
            raise UsageError("what is to come needs no backfill: end at the present")
        if recurrence_of(schedule) is None:
            raise UsageError(f'"{name}" follows {", ".join(schedule.after)} and has no times of its own')
        begin = max(start, _EARLIEST) - _MILLISECOND
        if schedule.every is not None and schedule.start_at is None and schedule.anchor_at is not None:
            begin = max(begin, schedule.anchor_at)  # from when it counts; the first time is a period later
        times = list(itertools.islice(nominals_between(schedule, begin, end), MOST_BACKFILLED + 1))
        if len(times) > MOST_BACKFILLED:
            raise UsageError(f"these are more than {MOST_BACKFILLED} rounds, the most that one backfill makes")
        firing = self._place.store.firing
        taken = firing.taken(name, times)
        left = tuple(time for time in times if time not in taken)
        if dry_run:
            return Backfill(times=left, existing=len(times) - len(left))
        made: list[str] = []
        for first in range(0, len(left), _BATCH):
            part = left[first : first + _BATCH]
            made += [one.id for one in firing.backfill(name, part, by=self._place.owner, at_once=at_once, ahead=made)]
        return Backfill(times=left, existing=len(times) - len(left), tasks=tuple(made))


def upcoming(schedule: Schedule, now: dt.datetime, count: int) -> list[Fire]:
    """The next `count` fires after now."""
    schedule = schedule if schedule.anchor_at is not None else replace(schedule, anchor_at=now)
    times: list[dt.datetime] = []
    fire = nominal_after(schedule, now)
    while fire is not None and len(times) < count:
        times.append(fire)
        fire = nominal_after(schedule, fire)
    remarks = _remarks(schedule, now, times)
    zone = find_zone(schedule.timezone)
    return [
        Fire(
            nominal_at=time,
            local_at=zone.local(time),
            due_at=fires_at(schedule, time),
            notes=tuple(remarks.get(time, ())),
        )
        for time in times
    ]


def _remarks(schedule: Schedule, now: dt.datetime, times: Sequence[dt.datetime]) -> dict[dt.datetime, list[str]]:
    """What changed clocks do, by fire; of several crons each has its own."""
    remarks: dict[dt.datetime, list[str]] = {}
    for text in schedule.cron if times else ():
        cron = parse_cron(text, schedule.timezone, schedule.name)
        for note in notes(cron, list(cron.between(now, times[-1]))):
            remarks.setdefault(note.fire, []).append(note.text)
    return remarks


def _checked_args(job: Job, args: Mapping[str, Any]) -> dict[str, Any]:
    from slotsched.catalog.arguments import check_arguments

    return check_arguments(job.name, job.parameters, args)
