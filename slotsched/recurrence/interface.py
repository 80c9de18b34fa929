"""What every recurrence can be asked, and how moments become numbers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Protocol

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class Recurrence(Protocol):
    """Fires over time. Moments go in aware (ValueError otherwise) and come out aware, in UTC."""

    def next_after(self, moment: dt.datetime) -> dt.datetime | None:
        """The first fire strictly after the moment; None: never again."""
        ...

    def previous_before(self, moment: dt.datetime) -> dt.datetime | None:
        """The last fire strictly before the moment; None: there was none."""
        ...

    def between(self, start: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
        """Every fire with start < fire <= end, in order, found as it is asked for."""
        ...

    def describe(self) -> str:
        """Plain words: `at 03:15 every day, Europe/Paris`."""
        ...


def fires_between(recurrence: Recurrence, start: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
    """`Recurrence.between`, by stepping."""
    fire = recurrence.next_after(start)
    while fire is not None and fire <= end:
        yield fire
        fire = recurrence.next_after(fire)


def microseconds(moment: dt.datetime) -> int:
    """Microseconds since the epoch, exactly (a float of seconds loses them after the year 2100)."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone, so it is no moment")
    return (moment - EPOCH) // _MICROSECOND


def from_seconds(seconds: int) -> dt.datetime:
    """The UTC datetime of whole seconds since the epoch."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
