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

The next fire is searched stretch by stretch (see `zones`), within one by arithmetic (see `pattern`); nothing walks from
minute to minute.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field

from slotsched.errors import InvalidRecurrence
from slotsched.recurrence import describe, grammar
from slotsched.recurrence.interface import fires_between, from_seconds, microseconds
from slotsched.recurrence.zones import FIRST_YEAR, LAST_YEAR, Stretch, Zone, find_zone

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
        start = microseconds(moment) // _MICROSECONDS + 1
        if moment.year > LAST_YEAR:
            return None
        find = self._first_by_pace if self.reading.by_pace else self._first_fixed
        for stretch in self.zone.onwards(start):
            found = find(stretch, max(start, stretch.start))
            if found is not None:
                return from_seconds(found)
        return None

    def previous_before(self, moment: dt.datetime) -> dt.datetime | None:
        """The last fire strictly before the moment. None before FIRST_YEAR."""
        end = -(-microseconds(moment) // _MICROSECONDS) - 1
        if moment.year < FIRST_YEAR:
            return None
        find = self._last_by_pace if self.reading.by_pace else self._last_fixed
        for stretch in self.zone.backwards(end):
            found = find(stretch, min(end, stretch.end - 1))
            if found is not None:
                return from_seconds(found)
        return None

    def between(self, start: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
        """Every fire with start < fire <= end, in order."""
        return fires_between(self, start, end)

    def describe(self) -> str:
        """Plain words, such as `at 03:15 on Monday to Friday, Europe/Paris`."""
        return f"{describe.cron(self.reading)}, {self.zone.name}"

    def _first_by_pace(self, stretch: Stretch, start: int) -> int | None:
        wall = self.reading.pattern.first_from(start + stretch.offset)
        return wall - stretch.offset if wall is not None and wall < stretch.end + stretch.offset else None

    def _last_by_pace(self, stretch: Stretch, end: int) -> int | None:
        wall = self.reading.pattern.last_until(end + stretch.offset)
        return wall - stretch.offset if wall is not None and wall >= stretch.start + stretch.offset else None

    def _first_fixed(self, stretch: Stretch, start: int) -> int | None:
        if start == stretch.start and self._was_skipped(stretch):
            return start
        wall = self.reading.pattern.first_from(max(start + stretch.offset, stretch.lived))
        return wall - stretch.offset if wall is not None and wall < stretch.end + stretch.offset else None

    def _last_fixed(self, stretch: Stretch, end: int) -> int | None:
        wall = self.reading.pattern.last_until(end + stretch.offset)
        if wall is not None and wall >= max(stretch.start + stretch.offset, stretch.lived):
            return wall - stretch.offset
        return stretch.start if self._was_skipped(stretch) else None

    def _was_skipped(self, stretch: Stretch) -> bool:
        """Whether one of the times skipped right before the stretch is named."""
        begin = stretch.start + stretch.offset
        if stretch.lived >= begin:
            return False
        wall = self.reading.pattern.first_from(stretch.lived)
        return wall is not None and wall < begin


def parse_cron(text: str, zone: str = "UTC", name: str = "") -> Cron:
    """The cron of that text in a zone of the tz database; `H` is chosen by the name. Raises InvalidRecurrence.

    A repeated text costs a look-up, a new one about a fifth of a millisecond.
    """
    if not isinstance(text, str):
        raise InvalidRecurrence(f"{text!r:.60} is not a cron: it is a text such as 15 3 * * *")
    reading = grammar.read(text, name if "h" in text.lower() else "")
    return Cron(text=" ".join(text.split()), zone=find_zone(zone), name=name, reading=reading)
