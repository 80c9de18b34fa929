"""A steady pace: every so many seconds from a start. Fire n is start + n periods, so nothing ever drifts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from slotsched.errors import InvalidRecurrence
from slotsched.quantities import parse_duration
from slotsched.recurrence.interface import EPOCH, fires_between, microseconds

MIN_PERIOD_SECONDS = 0.1  # shorter ones ask for a loop inside one job
_MAX_PERIOD_SECONDS = 1e9  # 31 years
_MILLISECOND = 1000  # microseconds


@dataclass(frozen=True)
class Interval:
    """start: aware, the first fire. period: positive. Both whole milliseconds, which is what a document store keeps:

    the fire after a fire that was stored and read back must not be that fire again.
    """

    start: dt.datetime
    period: dt.timedelta

    def next_after(self, moment: dt.datetime) -> dt.datetime | None:
        """The first fire strictly after the moment; the start itself if that is still to come."""
        passed = microseconds(moment) - microseconds(self.start)
        return self._fire(max(passed // self._period + 1, 0))

    def previous_before(self, moment: dt.datetime) -> dt.datetime | None:
        """The last fire strictly before the moment; None if the start is not before it."""
        passed = microseconds(moment) - microseconds(self.start)
        number = -(-passed // self._period) - 1
        return self._fire(number) if number >= 0 else None

    def between(self, start: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
        """Every fire with start < fire <= end, in order."""
        return fires_between(self, start, end)

    def describe(self) -> str:
        """`every 1 hour 30 minutes from 2026-01-01 00:00:00 UTC`."""
        start = self.start.astimezone(dt.UTC).replace(tzinfo=None)
        unit = "milliseconds" if start.microsecond else "seconds"
        return f"every {_in_words(self._period // _MILLISECOND)} from {start.isoformat(' ', unit)} UTC"

    @property
    def _period(self) -> int:
        return self.period // dt.timedelta(microseconds=1)

    def _fire(self, number: int) -> dt.datetime | None:
        try:
            return (self.start + number * self.period).astimezone(dt.UTC)
        except OverflowError:
            return None


def parse_every(every: str | float, start: dt.datetime | None = None) -> Interval:
    """An interval of `10s`, `1h30m` or a number of seconds. start: aware, cut to milliseconds; None: the epoch.

    Raises InvalidRecurrence for what is no duration, is shorter than MIN_PERIOD_SECONDS, or no whole milliseconds.
    """
    try:
        seconds = parse_duration(every)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidRecurrence(f"every: {error}") from None
    if seconds < MIN_PERIOD_SECONDS or seconds > _MAX_PERIOD_SECONDS:
        raise InvalidRecurrence(f'every "{every}" is not between {MIN_PERIOD_SECONDS:g} s and 30 years')
    period = dt.timedelta(microseconds=round(seconds * 1_000_000))
    if period % dt.timedelta(milliseconds=1):
        raise InvalidRecurrence(f'every "{every}" is not a whole number of milliseconds')
    if start is None:
        start = EPOCH
    elif start.tzinfo is None:
        raise InvalidRecurrence(f"the start {start.isoformat()} has no time zone")
    start = start.astimezone(dt.UTC)
    return Interval(start=start.replace(microsecond=start.microsecond // 1000 * 1000), period=period)


def _in_words(milliseconds: int) -> str:
    parts = []
    rest = milliseconds
    for unit, size in (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1000)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}{'s' if count > 1 else ''}")
    if rest:
        parts.append(f"{rest} ms")
    return parts[0].removeprefix("1 ") if len(parts) == 1 else " ".join(parts)
