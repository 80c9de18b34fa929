"""When a schedule fires: its rule, its bounds, its jitter, and which of the times that passed are still wanted. Pure.

A *nominal* time is what the rule says; the schedule fires at the nominal time plus its jitter, which depends on the
name and the nominal time alone, so that whoever computes it gets the same. Every moment is whole milliseconds.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from slotsched.errors import InvalidRecurrence, UsageError
from slotsched.model import WHENS, CatchUp, Schedule
from slotsched.model.limits import LARGEST_COUNT, LARGEST_SECONDS, LARGEST_SIZE, PRIORITIES, is_priority
from slotsched.recurrence import Recurrence, find_zone, parse_cron, parse_every, parse_once
from slotsched.recurrence.zones import FIRST_YEAR, LAST_YEAR

ON_TIME_SECONDS = 60.0  # a fire this late still counts as on time for a schedule that catches up on nothing
MOST_AT_ONCE = 200  # rounds of one schedule in one transaction; more stay due
LARGEST_JITTER_SECONDS = 86400.0
LARGEST_WINDOW_SECONDS = 366 * 86400.0
_MILLISECOND = dt.timedelta(milliseconds=1)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,199}")


@dataclass(frozen=True, kw_only=True)
class DueTimes:
    """times: nominal times to make rounds for, in order. next: the first nominal time after those considered.

    late: whether this catches up on something: several times, or one that should have fired long ago.
    """

    times: tuple[dt.datetime, ...]
    next: dt.datetime | None
    late: bool = False


@contextmanager
def _within_the_calendar() -> Iterator[None]:
    """A document can hold the calendar's first and last days, and no sum may leave it: that is the schedule's fault."""
    try:
        yield
    except OverflowError:
        raise InvalidRecurrence("its times, or their jitter, lead out of the years 1 to 9999") from None


class _Several:
    """The fires of several recurrences together; one that two share counts once."""

    def __init__(self, parts: Sequence[Recurrence]) -> None:
        self._parts = parts

    def next_after(self, moment: dt.datetime) -> dt.datetime | None:
        return min((fire for part in self._parts if (fire := part.next_after(moment)) is not None), default=None)

    def previous_before(self, moment: dt.datetime) -> dt.datetime | None:
        return max((fire for part in self._parts if (fire := part.previous_before(moment)) is not None), default=None)

    def between(self, start: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
        fire = self.next_after(start)
        while fire is not None and fire <= end:
            yield fire
            fire = self.next_after(fire)

    def describe(self) -> str:
        return "; ".join(part.describe() for part in self._parts)


def recurrence_of(schedule: Schedule) -> Recurrence | None:
    """The schedule's rule, without its bounds; None where it follows other series. Raises InvalidRecurrence."""
    if schedule.cron:
        crons: list[Recurrence] = [parse_cron(text, schedule.timezone, schedule.name) for text in schedule.cron]
        return crons[0] if len(crons) == 1 else _Several(crons)
    if schedule.every is not None:
        return parse_every(schedule.every, schedule.start_at or schedule.anchor_at)
    if schedule.at is not None:
        return parse_once(schedule.at, schedule.timezone)
    return None


@_within_the_calendar()
def nominal_after(schedule: Schedule, moment: dt.datetime) -> dt.datetime | None:
    """The first nominal time strictly after the moment and within the schedule's bounds; None: never again.

    Raises InvalidRecurrence.
    """
    recurrence = recurrence_of(schedule)
    return None if recurrence is None else _next(schedule, recurrence, moment)


def nominals_between(schedule: Schedule, start: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
    """The nominal times with start < time <= end, whatever the schedule's own bounds; none where it follows others."""
    recurrence = recurrence_of(schedule)
    return iter(()) if recurrence is None else recurrence.between(start, end)


@_within_the_calendar()
def fires_at(schedule: Schedule, nominal: dt.datetime) -> dt.datetime:
    """The nominal time plus its jitter: 0 to `jitter` seconds, the same for everyone who asks.

    Raises InvalidRecurrence where no calendar has that day.
    """
    span = round(schedule.jitter * 1000)
    if span <= 0:
        return nominal
    text = f"{schedule.name}\0{nominal.astimezone(dt.UTC).isoformat()}".encode("utf-8", "surrogatepass")
    chance = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    return nominal + dt.timedelta(milliseconds=chance % (span + 1))


@_within_the_calendar()
def due_times(schedule: Schedule, now: dt.datetime) -> DueTimes:
    """What to do at `now` (the store's clock) about a schedule whose next nominal time is `next_nominal_at`.

    Raises InvalidRecurrence for a rule that cannot be read or leads out of the calendar, and where there is none: it
    would be due for ever.
    """
    first = schedule.next_nominal_at
    recurrence = recurrence_of(schedule)
    if first is None or recurrence is None:
        raise InvalidRecurrence("next_nominal_at: missing" if recurrence else "it is due, and nothing says when")
    if fires_at(schedule, first) > now:
        return DueTimes(times=(), next=first)
    last = _latest(schedule, recurrence, first, now)
    overdue = (now - fires_at(schedule, last)).total_seconds() > ON_TIME_SECONDS
    times: tuple[dt.datetime, ...] = (last,)
    considered = last
    if schedule.catch_up is CatchUp.NONE and overdue:
        times = ()
    elif schedule.catch_up is CatchUp.ALL:
        times = tuple(itertools.islice(_window(schedule, recurrence, first, last, now), MOST_AT_ONCE))
        considered = times[-1] if times else last
    return DueTimes(
        times=times, next=_next(schedule, recurrence, considered), late=overdue or considered > first or len(times) > 1
    )


def _next(schedule: Schedule, recurrence: Recurrence, moment: dt.datetime) -> dt.datetime | None:
    if schedule.start_at is not None:
        moment = max(moment, schedule.start_at - _MILLISECOND)
    fire = recurrence.next_after(moment)
    return None if fire is None or (schedule.end_at is not None and fire > schedule.end_at) else fire


def _latest(schedule: Schedule, recurrence: Recurrence, first: dt.datetime, now: dt.datetime) -> dt.datetime:
    """The latest nominal time that has come with its jitter: found backwards, as there may be millions."""
    until = now if schedule.end_at is None else min(now, schedule.end_at)
    found = recurrence.previous_before(until + _MILLISECOND)
    while found is not None and found > first and fires_at(schedule, found) > now:
        found = recurrence.previous_before(found)
    return first if found is None else max(first, found)


def _window(
    schedule: Schedule, recurrence: Recurrence, first: dt.datetime, last: dt.datetime, now: dt.datetime
) -> Iterator[dt.datetime]:
    oldest = now - dt.timedelta(seconds=schedule.catch_up_window)
    if first >= oldest:
        yield first
        oldest = first + _MILLISECOND
    yield from recurrence.between(oldest - _MILLISECOND, last)


# --- what a schedule may be -----------------------------------------------------------------------
def check_schedule(schedule: Schedule) -> None:
    """Raises UsageError (InvalidRecurrence for its rule) for a schedule that could never be followed."""
    _check(_NAME.fullmatch(schedule.name) is not None, f"name: {schedule.name!r:.80} is no name for a schedule")
    _check_kind(schedule)
    find_zone(schedule.timezone)
    recurrence_of(schedule)
    _check_bounds(schedule)
    _check(schedule.when in WHENS, f"when: {schedule.when!r} is none of {', '.join(WHENS)}")
    for label, seconds, most in (
        ("jitter", schedule.jitter, LARGEST_JITTER_SECONDS),
        ("catch_up_window", schedule.catch_up_window, LARGEST_WINDOW_SECONDS),
    ):
        _check(0 <= seconds <= most, f"{label}: {seconds} is not from 0 to {most:g} seconds")
    for label, count in (("max_runs", schedule.max_runs), ("pause_on_failure", schedule.pause_on_failure)):
        _check(count is None or 1 <= count <= LARGEST_COUNT, f"{label}: {count} is not from 1 to {LARGEST_COUNT}")
    priority = schedule.priority
    _check(priority is None or is_priority(priority), f"priority: {priority!r} is not {PRIORITIES}")
    _check_overrides(schedule)


def _check_kind(schedule: Schedule) -> None:
    kinds = {
        "cron": bool(schedule.cron),
        "every": schedule.every is not None,
        "at": schedule.at is not None,
        "after": bool(schedule.after),
    }
    given = [name for name, there in kinds.items() if there]
    if len(given) != 1:
        raise InvalidRecurrence(
            f"{' and '.join(given)} exclude each other" if given else f"one of {', '.join(kinds)} must say when"
        )
    _check(schedule.name not in schedule.after, f'after: "{schedule.name}" cannot follow itself')


def _check_bounds(schedule: Schedule) -> None:
    for label, moment in (("start_at", schedule.start_at), ("end_at", schedule.end_at)):
        if moment is not None:
            _check(moment.tzinfo is not None, f"{label}: needs a time zone")
            _check(FIRST_YEAR < moment.year < LAST_YEAR, f"{label}: the year {moment.year} is too far away")
    if schedule.start_at is not None and schedule.end_at is not None:
        _check(schedule.start_at <= schedule.end_at, "end_at: is before start_at")


def _check_overrides(schedule: Schedule) -> None:
    asked = schedule.overrides
    for label, number, least, most in (
        ("slots", asked.slots, 1, LARGEST_COUNT),
        ("memory", asked.memory, 1, LARGEST_SIZE),
        ("retries", asked.retries, 0, LARGEST_COUNT),
    ):
        _check(number is None or least <= number <= most, f"{label}: {number} is not from {least} to {most}")
    _check(
        asked.max_time is None or 0 < asked.max_time <= LARGEST_SECONDS,
        f"max_time: {asked.max_time} is not more than 0 and up to {LARGEST_SECONDS:.0f} seconds",
    )


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)
