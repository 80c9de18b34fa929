"""Time zones as stretches of unchanging offset, so that stepping through them is arithmetic on whole seconds.

Local times appear here as *walls*: what clocks on the wall show, as seconds since 1970-01-01 00:00 of that wall. The
wall of a moment is moment + offset.

zoneinfo knows the rules but does not list the moments at which they change, so those are found by looking at the
offset twice a day and halving. Any two changes of one zone since 1960 are at least a week apart.
"""

from __future__ import annotations

import datetime as dt
import difflib
import zoneinfo
from functools import lru_cache
from typing import NamedTuple

from slotsched.errors import InvalidRecurrence
from slotsched.recurrence.interface import EPOCH, from_seconds

FIRST_YEAR, LAST_YEAR = 2, 9998  # a year of room on both sides, so that local times stay what datetime can hold
DAY_SECONDS = 86400
_LOOK_SECONDS = DAY_SECONDS // 2
LARGEST_CHANGE_SECONDS = 2 * DAY_SECONDS  # offsets are less than a day to either side of UTC
_REMEMBERED_YEARS = 4096  # of all zones together; a year is two or three stretches


class Change(NamedTuple):
    """Clocks put forward or back at `moment` (seconds since the epoch). before, after: the offsets, seconds."""

    moment: int
    before: int
    after: int


class Stretch(NamedTuple):
    """start <= moment < end without a change of offset, all seconds. lived: every earlier moment had an earlier wall.

    So lived < start + offset when clocks were put forward at the start (the walls from lived on never were), and
    lived > start + offset while walls come a second time. Stretches also end with each year.
    """

    start: int
    end: int
    offset: int
    lived: int


class Zone:
    """A time zone by its name in the tz database."""

    def __init__(self, name: str, info: dt.tzinfo) -> None:
        self.name = name
        self.info = info
        self._recent: Stretch | None = None

    def __repr__(self) -> str:
        return f"Zone({self.name!r})"

    def stretch(self, moment: int) -> Stretch | None:
        """The stretch that holds the moment; None before FIRST_YEAR and after LAST_YEAR."""
        recent = self._recent  # most questions are about now
        if recent is not None and recent.start <= moment < recent.end:
            return recent
        if not _FIRST_MOMENT <= moment < _END_OF_TIME:
            return None
        stretches = _stretches(self, from_seconds(moment).year)
        self._recent = next(stretch for stretch in stretches if moment < stretch.end)
        return self._recent

    def changes(self, after: int, until: int) -> list[Change]:
        """Every change with after < moment <= until."""
        return _changes(self, after, until)

    def moment(self, wall: int) -> int | None:
        """The first moment at which clocks show this time or a later one; None after LAST_YEAR."""
        stretch = self.stretch(wall - LARGEST_CHANGE_SECONDS)
        while stretch is not None and wall >= stretch.end + stretch.offset:
            stretch = self.stretch(stretch.end)
        return None if stretch is None else max(wall - stretch.offset, stretch.start)

    def local(self, moment: dt.datetime) -> dt.datetime:
        """What clocks in this zone show."""
        return moment.astimezone(self.info)

    def offset(self, moment: int) -> int:
        """Seconds to add to UTC."""
        offset = dt.datetime.fromtimestamp(moment, self.info).utcoffset()
        assert offset is not None
        return offset.days * DAY_SECONDS + offset.seconds


@lru_cache(maxsize=_REMEMBERED_YEARS)
def _stretches(zone: Zone, year: int) -> tuple[Stretch, ...]:
    start, end = _begin(year), _begin(year + 1)
    # Looked at from a little earlier: the last change of the year before may still repeat walls in this one.
    since = start - LARGEST_CHANGE_SECONDS
    offset = zone.offset(since)
    lived = since + offset
    stretches = []
    for change in [*_changes(zone, since, end - 1), Change(end, 0, 0)]:
        if change.moment > start:
            if since < start:  # the year begins in the middle of it, with no change
                since, lived = start, max(lived, start + offset)
            stretches.append(Stretch(since, change.moment, offset, lived))
        lived = max(lived, change.moment + offset)
        since, offset = change.moment, change.after
    return tuple(stretches)


def _changes(zone: Zone, after: int, until: int) -> list[Change]:
    found = []
    before, offset = after, zone.offset(after)
    while before < until:
        looked = min(before + _LOOK_SECONDS, until)
        now = zone.offset(looked)
        if now != offset:
            found.append(Change(_halve(zone, before, looked, offset), offset, now))
        before, offset = looked, now
    return found


def _halve(zone: Zone, before: int, after: int, offset: int) -> int:
    """The first moment without the offset that `before` has and `after` has not."""
    while after - before > 1:
        middle = (before + after) // 2
        if zone.offset(middle) == offset:
            before = middle
        else:
            after = middle
    return after


def _begin(year: int) -> int:
    return (dt.datetime(year, 1, 1, tzinfo=dt.UTC) - EPOCH).days * DAY_SECONDS


_FIRST_MOMENT = _begin(FIRST_YEAR)
_END_OF_TIME = _begin(LAST_YEAR + 1)


@lru_cache(maxsize=1024)
def find_zone(name: str) -> Zone:
    """The zone of that name. Raises InvalidRecurrence with the name that was probably meant."""
    if name == "UTC":
        return Zone(name, dt.UTC)  # also on a machine without the tz database
    # These name a file, but not the same zone everywhere, or one that counts leap seconds.
    if not name.startswith(("right/", "posix")) and name != "localtime":
        try:
            return Zone(name, zoneinfo.ZoneInfo(name))
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            pass
    raise InvalidRecurrence(f'time zone "{name}" is not known{_suggestion(name)}')


def _suggestion(name: str) -> str:
    known = {zone.lower(): zone for zone in zoneinfo.available_timezones() if zone != "localtime"}
    if not known:
        return " because this machine has no time zones: install tzdata"
    cities: dict[str, str] = {}
    for zone in sorted(known.values()):
        cities.setdefault(zone.rpartition("/")[2].lower(), zone)
    for names in (known, cities):
        near = difflib.get_close_matches(name.lower().replace(" ", "_"), names, n=1)
        if near:
            return f', did you mean "{names[near[0]]}"?'
    return " (it is a name like Europe/Paris)"
