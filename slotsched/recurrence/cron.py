"""Crons in a time zone, and what they do when clocks are put forward or back.

The rules are those of Debian's cron (its manual, "Notes"; Debian bug 217836), without its limit of three hours:

- A cron *by pace* has a `*`, `*/n` or `H/n` among its hours, minutes or seconds. It follows elapsed time: it fires at
  every moment whose local time it names. `0 */2 * * *` fires at both 02:00 when clocks go back from 03:00, and at no
  02:00 when there is none.
- Any other cron has *fixed* times, and each happens once: at the first moment when clocks show that time or a later
  one. So a time that comes twice counts the first time, and a time that is skipped counts as soon as clocks are past
  it. Several skipped at once, and one that is due at that very moment, are one fire.

For fixed times this makes moment(n) = min{t: local(t) >= n}, which grows with n whatever a zone does: half-hour changes
(Australia/Lord_Howe), midnights that do not exist (America/Sao_Paulo), a whole day left out (Pacific/Apia 2011).

A fire is found by arithmetic on the calendar (`pattern`) and on stretches of unchanging offset (`zones`); nothing walks
from minute to minute.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field

from slotsched.errors import InvalidRecurrence
from slotsched.recurrence import describe, grammar
from slotsched.recurrence.interface import fires_between, from_seconds, microseconds
from slotsched.recurrence.zones import LARGEST_CHANGE_SECONDS, Stretch, Zone, find_zone

_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Cron:
    """A checked cron, from `parse_cron`. Two are equal if they were written alike for the same zone and name.

    The largest step between two fires is 40 years (29 February on a given day of the week).
    """

    text: str
    zone: Zone
    name: str
    reading: grammar.Reading = field(repr=False, compare=False)

    def next_after(self, moment: dt.datetime) -> dt.datetime | None:
        """The first fire strictly after the moment. None from LAST_YEAR on."""
        at = microseconds(moment) // _MICROSECONDS
        found = self._next_by_pace(at + 1) if self.reading.by_pace else self._next_fixed(at)
        return None if found is None else from_seconds(found)

    def previous_before(self, moment: dt.datetime) -> dt.datetime | None:
        """The last fire strictly before the moment. None before FIRST_YEAR."""
        at = -(-microseconds(moment) // _MICROSECONDS) - 1
        found = self._previous_by_pace(at) if self.reading.by_pace else self._previous_fixed(at)
        return None if found is None else from_seconds(found)

    def between(self, start: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
        """Every fire with start < fire <= end, in order."""
        return fires_between(self, start, end)

    def describe(self) -> str:
        """Plain words, such as `at 03:15 on Monday to Friday, Europe/Paris`."""
        return f"{describe.cron(self.reading)}, {self.zone.name}"

    def _next_fixed(self, at: int) -> int | None:
        """The first fire after `at`: that of the first named time which clocks have not shown or passed by then."""
        stretch = self.zone.stretch(at)
        if stretch is None:
            return None
        wall = self.reading.pattern.first_from(max(at + 1 + stretch.offset, stretch.lived))
        return None if wall is None else self._moment(wall, stretch)

    def _previous_fixed(self, at: int) -> int | None:
        """The last fire up to `at`: that of the last named time which clocks have shown or passed by then."""
        stretch = self.zone.stretch(at)
        if stretch is None:
            return None
        wall = self.reading.pattern.last_until(max(at + stretch.offset, stretch.lived - 1))
        return None if wall is None else self._moment(wall, stretch)

    def _moment(self, wall: int, stretch: Stretch) -> int | None:
        if max(stretch.lived, stretch.start + stretch.offset) <= wall < stretch.end + stretch.offset:
            return wall - stretch.offset  # nearly always, and quicker
        return self.zone.moment(wall)

    def _next_by_pace(self, start: int) -> int | None:
        """The first fire from `start` on."""
        while (stretch := self.zone.stretch(start)) is not None:
            wall = self.reading.pattern.first_from(start + stretch.offset)
            if wall is None:
                return None
            if wall < stretch.end + stretch.offset:
                return wall - stretch.offset
            # Years may be leapt over, but not walls that come again and were not looked at the first time.
            looked_at_all = stretch.end - start >= LARGEST_CHANGE_SECONDS
            start = max(stretch.end, wall - LARGEST_CHANGE_SECONDS) if looked_at_all else stretch.end
        return None

    def _previous_by_pace(self, end: int) -> int | None:
        """The last fire up to `end`."""
        while (stretch := self.zone.stretch(end)) is not None:
            wall = self.reading.pattern.last_until(end + stretch.offset)
            if wall is None:
                return None
            if wall >= stretch.start + stretch.offset:
                return wall - stretch.offset
            looked_at_all = end - stretch.start >= LARGEST_CHANGE_SECONDS
            end = min(stretch.start - 1, wall + LARGEST_CHANGE_SECONDS) if looked_at_all else stretch.start - 1
        return None


def parse_cron(text: str, zone: str = "UTC", name: str = "") -> Cron:
    """The cron of that text in a zone of the tz database; `H` is chosen by the name. Raises InvalidRecurrence.

    A text seen before costs a look-up, a new one about a tenth of a millisecond.
    """
    if not isinstance(text, str):
        raise InvalidRecurrence(f"{text!r:.60} is not a cron: it is a text such as 15 3 * * *")
    reading = grammar.read(text, name if "h" in text.lower() else "")
    return Cron(text=" ".join(text.split()), zone=find_zone(zone), name=name, reading=reading)
