"""A single moment."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from slotsched.errors import InvalidRecurrence
from slotsched.recurrence.interface import EPOCH, fires_between, from_seconds, microseconds
from slotsched.recurrence.zones import FIRST_YEAR, LAST_YEAR, Zone, find_zone


@dataclass(frozen=True)
class Once:
    """at: aware, whole milliseconds. zone: where it was meant, for people."""

    at: dt.datetime
    zone: Zone

    def next_after(self, moment: dt.datetime) -> dt.datetime | None:
        """The moment itself, while it is to come."""
        return self.at if microseconds(moment) < microseconds(self.at) else None

    def previous_before(self, moment: dt.datetime) -> dt.datetime | None:
        """The moment itself, once it is over."""
        return self.at if microseconds(moment) > microseconds(self.at) else None

    def between(self, start: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
        """The moment itself, if start < moment <= end."""
        return fires_between(self, start, end)

    def describe(self) -> str:
        """`once at 2026-03-29 03:00:00, Europe/Paris`."""
        local = self.zone.local(self.at).replace(tzinfo=None)
        return f"once at {local.isoformat(' ', 'auto')}, {self.zone.name}"


def parse_once(at: str | dt.datetime, zone: str = "UTC") -> Once:
    """The moment of a datetime or an ISO 8601 text. One without an offset is local time in the zone.

    Of a local time that comes twice it is the first, for one that is skipped the first after it, as for a cron.
    Raises InvalidRecurrence.
    """
    where = find_zone(zone)
    moment = at if isinstance(at, dt.datetime) else _read(at)
    if not FIRST_YEAR < moment.year < LAST_YEAR:
        raise InvalidRecurrence(f"the year {moment.year} is too far away")
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    if moment.tzinfo is None:
        wall = moment.replace(tzinfo=dt.UTC)
        seconds = (wall - EPOCH) // dt.timedelta(seconds=1)
        found = where.moment(seconds)
        assert found is not None  # the year was looked at
        # What is left of a second counts only where the time exists; a skipped one becomes the change itself.
        exists = found + where.offset(found) == seconds
        moment = from_seconds(found).replace(microsecond=moment.microsecond if exists else 0)
    return Once(at=moment.astimezone(dt.UTC), zone=where)


def _read(text: str) -> dt.datetime:
    try:
        return dt.datetime.fromisoformat(text.strip())
    except (ValueError, AttributeError, TypeError):
        raise InvalidRecurrence(
            f'{text!r:.60} is not a moment such as "2026-03-29T02:30" or "2026-03-29T02:30+02:00"'
        ) from None
