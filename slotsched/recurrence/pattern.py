"""Which local times a cron names: the calendar and the clock face, without zones.

Local times are walls (see `zones`). Sets of small numbers are bit masks: the next or previous member is two machine
operations, and a cron takes a few hundred bytes however many times a day it fires.
"""

from __future__ import annotations

import calendar
import datetime as dt
from dataclasses import dataclass, field
from functools import lru_cache

from slotsched.recurrence.zones import DAY_SECONDS, FIRST_YEAR, LAST_YEAR

_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_SATURDAY, _SUNDAY = 5, 6  # as date.weekday() counts
_SAME_CALENDAR_YEARS = 400  # after which every date falls on the same weekday again


def mask(values: frozenset[int]) -> int:
    """The bit mask of a set of numbers."""
    return sum(1 << value for value in values)


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _highest(bits: int) -> int:
    return bits.bit_length() - 1


# (weekday of the first, number of days) of a month.
_kind = lru_cache(maxsize=12 * _SAME_CALENDAR_YEARS)(calendar.monthrange)


@dataclass(frozen=True, kw_only=True)
class DayRule:
    """Which days of a month, as written. Days of the week: 0 is Sunday.

    both: a day must fit the day of month and the day of week (one of them is `*`), else either is enough.
    last, last_weekday: `L`, `LW`. nearest: `15W`. nth: (day of week, n) of `5#3`. last_of: `5L`.
    """

    both: bool = True
    days: frozenset[int] = frozenset()
    last: bool = False
    last_weekday: bool = False
    nearest: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()
    nth: frozenset[tuple[int, int]] = frozenset()
    last_of: frozenset[int] = frozenset()

    def only_dates(self) -> bool:
        """Whether the day of month is given by plain numbers only."""
        return bool(self.days) and not (self.last or self.last_weekday or self.nearest)

    def of_month(self, first: int, length: int) -> int:
        """The mask of the days of a month that has `length` days and begins on weekday `first` (0 is Monday)."""
        by_date = self._by_date(first, length)
        by_weekday = self._by_weekday(first, length)
        chosen = by_date & by_weekday if self.both else by_date | by_weekday
        return mask(frozenset(chosen))

    def _by_date(self, first: int, length: int) -> set[int]:
        chosen = {day for day in self.days if day <= length}
        if self.last:
            chosen.add(length)
        if self.last_weekday:
            chosen.add(_nearest_weekday(length, first, length))
        chosen.update(_nearest_weekday(min(day, length), first, length) for day in self.nearest)
        return chosen

    def _by_weekday(self, first: int, length: int) -> set[int]:
        chosen = set()
        for day in range(1, length + 1):
            weekday = (first + day) % 7  # 0 is Sunday: first counts from Monday, and day from 1
            nth = (day + 6) // 7
            if weekday in self.weekdays or (weekday, nth) in self.nth or (weekday in self.last_of and day + 7 > length):
                chosen.add(day)
        return chosen


def _nearest_weekday(day: int, first: int, length: int) -> int:
    """The Monday to Friday nearest to the day, in the same month."""
    weekday = (first + day - 1) % 7
    if weekday == _SATURDAY:
        return day - 1 if day > 1 else day + 2
    if weekday == _SUNDAY:
        return day + 1 if day < length else day - 2
    return day


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """The local times a cron names. seconds, minutes, hours, months: masks, none empty."""

    seconds: int
    minutes: int
    hours: int
    months: int
    day_rule: DayRule
    _months_seen: dict[tuple[int, int], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def first_from(self, wall: int) -> int | None:
        """The first named time at or after the wall."""
        day, second = divmod(wall, DAY_SECONDS)
        found = self._day_from(day)
        if found == day:
            time = self._time_from(second)
            if time is not None:
                return day * DAY_SECONDS + time
            found = self._day_from(day + 1)
        return None if found is None else found * DAY_SECONDS + self._first_time()

    def last_until(self, wall: int) -> int | None:
        """The last named time at or before the wall."""
        day, second = divmod(wall, DAY_SECONDS)
        found = self._day_until(day)
        if found == day:
            time = self._time_until(second)
            if time is not None:
                return day * DAY_SECONDS + time
            found = self._day_until(day - 1)
        return None if found is None else found * DAY_SECONDS + self._last_time()

    def is_possible(self) -> bool:
        """Whether any day ever fits."""
        return self._day_from(0) is not None

    def _month(self, year: int, month: int) -> int:
        """The mask of the fitting days. There are only 28 kinds of months, so each is worked out once."""
        if not self.months >> month & 1:
            return 0
        kind = _kind(year, month)
        if kind not in self._months_seen:
            self._months_seen[kind] = self.day_rule.of_month(*kind)
        return self._months_seen[kind]

    def _day_from(self, day: int) -> int | None:
        date = dt.date.fromordinal(day + _EPOCH_DAY)
        year, month = date.year, date.month
        days = self._month(year, month) >> date.day << date.day
        last = min(year + _SAME_CALENDAR_YEARS, LAST_YEAR)
        while not days:
            later = self.months >> (month + 1)
            year, month = (year, month + 1 + _lowest(later)) if later else (year + 1, _lowest(self.months))
            if year > last:
                return None
            days = self._month(year, month)
        return dt.date(year, month, _lowest(days)).toordinal() - _EPOCH_DAY

    def _day_until(self, day: int) -> int | None:
        date = dt.date.fromordinal(day + _EPOCH_DAY)
        year, month = date.year, date.month
        days = self._month(year, month) & ((2 << date.day) - 1)
        last = max(year - _SAME_CALENDAR_YEARS, FIRST_YEAR)
        while not days:
            earlier = self.months & ((1 << month) - 1)
            year, month = (year, _highest(earlier)) if earlier else (year - 1, _highest(self.months))
            if year < last:
                return None
            days = self._month(year, month)
        return dt.date(year, month, _highest(days)).toordinal() - _EPOCH_DAY

    def _first_time(self) -> int:
        return _lowest(self.hours) * 3600 + _lowest(self.minutes) * 60 + _lowest(self.seconds)

    def _last_time(self) -> int:
        return _highest(self.hours) * 3600 + _highest(self.minutes) * 60 + _highest(self.seconds)

    def _time_from(self, second_of_day: int) -> int | None:
        hour, rest = divmod(second_of_day, 3600)
        minute, second = divmod(rest, 60)
        if self.hours >> hour & 1:
            seconds = self.seconds >> second
            if seconds and self.minutes >> minute & 1:
                return second_of_day + _lowest(seconds)
            minutes = self.minutes >> (minute + 1)
            if minutes:
                return hour * 3600 + (minute + 1 + _lowest(minutes)) * 60 + _lowest(self.seconds)
        hours = self.hours >> (hour + 1)
        if not hours:
            return None
        return (hour + 1 + _lowest(hours)) * 3600 + _lowest(self.minutes) * 60 + _lowest(self.seconds)

    def _time_until(self, second_of_day: int) -> int | None:
        hour, rest = divmod(second_of_day, 3600)
        minute, second = divmod(rest, 60)
        if self.hours >> hour & 1:
            seconds = self.seconds & ((2 << second) - 1)
            if seconds and self.minutes >> minute & 1:
                return hour * 3600 + minute * 60 + _highest(seconds)
            minutes = self.minutes & ((1 << minute) - 1)
            if minutes:
                return hour * 3600 + _highest(minutes) * 60 + _highest(self.seconds)
        hours = self.hours & ((1 << hour) - 1)
        if not hours:
            return None
        return _highest(hours) * 3600 + _highest(self.minutes) * 60 + _highest(self.seconds)
