"""A brute-force oracle for crons: it walks through elapsed time and looks at the clock on the wall at every step.

It shares nothing with `slotsched.recurrence`, neither the reading of a cron (here every candidate value is held against
every item) nor the search (here there is none). What it knows about clocks is what the walk saw: a time that was shown
before, or passed, and times that were stepped over.

Days on which nothing happens to the clocks are kept as one number, or five years of minutes would not fit in memory.
"""

from __future__ import annotations

import datetime as dt
import random
import zoneinfo
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
B5_ZONES = ["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]


def seconds_of(moment: dt.datetime) -> int:
    return round((moment - EPOCH).total_seconds())


def _number(text: str, names: list[str], low: int) -> int:
    return names.index(text) + low if text in names else int(text)


def _says(item: str, value: int, low: int, high: int, names: list[str]) -> bool:
    """Whether one item of a field names the value."""
    body, _, step = item.partition("/")
    if body in ("*", "?"):
        first, last = low, high
    elif "-" in body:
        first, last = (_number(end, names, low) for end in body.split("-"))
    else:
        first = _number(body, names, low)
        last = high if step else first
    here = first
    while True:  # one by one, around the end of the field where the range says so
        if here == value:
            return (value - first) % (high - low + 1) % int(step or 1) == 0
        if here == last or not low <= here <= high:
            return False
        here = here + 1 if here < high else low


def _field(word: str, low: int, high: int, names: list[str] | None = None) -> set[int]:
    items = word.split(",")
    return {v for v in range(low, high + 1) if any(_says(item, v, low, high, names or []) for item in items)}


@dataclass
class Spec:
    """What a cron says: five or six words, no `H`, no aliases."""

    text: str

    def __post_init__(self) -> None:
        words = self.text.upper().split()
        self.minute, self.hour, self.day, self.month, self.weekday = words[:5]
        self.second = words[5] if len(words) == 6 else "0"
        self.by_pace = any(word[0] == "*" for word in (self.minute, self.hour, self.second))

    @cached_property
    def times(self) -> list[int]:
        """Seconds of the day."""
        return [
            hour * 3600 + minute * 60 + second
            for hour in sorted(_field(self.hour, 0, 23))
            for minute in sorted(_field(self.minute, 0, 59))
            for second in sorted(_field(self.second, 0, 59))
        ]

    @cached_property
    def time_set(self) -> set[int]:
        return set(self.times)

    @cached_property
    def months(self) -> set[int]:
        return _field(self.month, 1, 12, MONTHS)

    def on(self, date: dt.date) -> bool:
        if date.month not in self.months:
            return False
        by_date = any(self._date_says(item, date) for item in self.day.split(","))
        by_weekday = any(self._weekday_says(item, date) for item in self.weekday.split(","))
        if self.day[0] in "*?" or self.weekday[0] in "*?":
            return by_date and by_weekday
        return by_date or by_weekday

    def _date_says(self, item: str, date: dt.date) -> bool:
        last = (date.replace(day=28) + dt.timedelta(days=4)).replace(day=1) - dt.timedelta(days=1)
        if item == "L":
            return date == last
        if item == "LW":
            item = f"{last.day}W"
        if item.endswith("W"):
            wanted = date.replace(day=min(int(item[:-1]), last.day))
            month = [date.replace(day=day) for day in range(1, last.day + 1)]
            working = [day for day in month if day.weekday() < 5]
            return date == min(working, key=lambda day: abs(day - wanted))
        return _says(item, date.day, 1, 31, [])

    def _weekday_says(self, item: str, date: dt.date) -> bool:
        weekday = date.isoweekday() % 7
        if "#" in item:
            day, nth = item.split("#")
            return weekday == _number(day, WEEKDAYS, 0) % 7 and (date.day - 1) // 7 + 1 == int(nth)
        if "L" in item:
            day = item.replace("L", "")
            return weekday == _number(day, WEEKDAYS, 0) % 7 and (date + dt.timedelta(days=7)).month != date.month
        if item.endswith("-7"):
            item = f"{item[:-2]}-6,0"
        return any(_says(part, weekday, 0, 6, WEEKDAYS) for part in item.split(",")) or (item == "7" and weekday == 0)


@dataclass
class _Day:
    """A local date. begins: the moment of its 00:00 if each of its times came once and in order, else None.

    shown: (moment, second of the day, whether this or a later time was shown before), for other days.
    """

    date: dt.date
    begins: int | None = None
    shown: list[tuple[int, int, bool]] = field(default_factory=list)


class Walk:
    """Elapsed time from start to end (UTC, whole days are best) in steps of so many seconds, in one zone."""

    def __init__(self, zone: str, start: dt.datetime, end: dt.datetime, step: int = 60) -> None:
        self.step = step
        self.days: list[_Day] = []
        self.skipped: list[tuple[int, list[dt.datetime]]] = []  # the moment after, and the times stepped over
        self._walk(zoneinfo.ZoneInfo(zone), seconds_of(start), seconds_of(end))

    def _walk(self, zone: dt.tzinfo, start: int, end: int) -> None:
        tick = dt.timedelta(seconds=self.step)
        latest = dt.datetime.fromtimestamp(start, zone).replace(tzinfo=None, fold=0) - tick
        day = _Day(latest.date())
        for moment in range(start, end + 1, self.step):
            wall = dt.datetime.fromtimestamp(moment, zone).replace(tzinfo=None, fold=0)
            if wall.date() != day.date:
                self._keep(day)
                day = _Day(wall.date())
            day.shown.append((moment, wall.hour * 3600 + wall.minute * 60 + wall.second, wall <= latest))
            if wall > latest + tick:
                count = (wall - latest) // tick
                self.skipped.append((moment, [latest + tick * n for n in range(1, count)]))
            latest = max(latest, wall)
        self._keep(day)

    def _keep(self, day: _Day) -> None:
        if day.shown:
            begins = day.shown[0][0]
            plain = [(begins + time, time, False) for time in range(0, 86400, self.step)]
            if day.shown == plain:
                day.begins, day.shown = begins, []
        self.days.append(day)

    def fires(self, spec: Spec) -> list[int]:
        """Every moment in the walk at which the cron fires."""
        found: set[int] = set()
        for day in self.days:
            if not spec.on(day.date):
                continue
            if day.begins is not None:
                found.update([day.begins + time for time in spec.times])
            for moment, time, again in day.shown:
                if time in spec.time_set and (spec.by_pace or not again):
                    found.add(moment)
        if not spec.by_pace:
            for moment, walls in self.skipped:
                if any(wall_time(wall) in spec.time_set and spec.on(wall.date()) for wall in walls):
                    found.add(moment)
        return sorted(found)

    def fires_between(self, spec: Spec, start: dt.datetime, end: dt.datetime) -> list[dt.datetime]:
        """The fires with start < fire <= end, as datetimes."""
        fires = self.fires(spec)
        wanted = fires[bisect_right(fires, seconds_of(start)) : bisect_right(fires, seconds_of(end))]
        return [dt.datetime.fromtimestamp(fire, dt.UTC) for fire in wanted]


def wall_time(wall: dt.datetime) -> int:
    return wall.hour * 3600 + wall.minute * 60 + wall.second


@lru_cache(maxsize=256)
def walk(zone: str, start: dt.datetime, end: dt.datetime, step: int = 60) -> Walk:
    return Walk(zone, start, end, step)


@lru_cache(maxsize=64)
def changes(zone: str, first_year: int, last_year: int) -> list[dt.date]:
    """The UTC dates on which a zone's clocks change, seen by looking every day."""
    info = zoneinfo.ZoneInfo(zone)
    day = dt.datetime(first_year, 1, 1, tzinfo=dt.UTC)
    found = []
    while day.year <= last_year:
        after = day + dt.timedelta(days=1)
        if day.astimezone(info).utcoffset() != after.astimezone(info).utcoffset():
            found.append(day.date())
        day = after
    return found


# Each has its reason: fixed and by pace, in and around the hours at which clocks change, dates by every rule.
NAMED_CRONS = [
    "* * * * *", "*/5 * * * *", "*/7 * * * *", "7-59/15 * * * *", "0 * * * *", "30 * * * *", "15,45 * * * *",
    "0 */2 * * *", "30 */2 * * *", "0 1/2 * * *", "0 */3 * * *", "30 1-23/2 * * *", "0 0-23 * * *", "0 */24 * * *",
    "0 2 * * *", "30 2 * * *", "59 2 * * *", "0 3 * * *", "30 1 * * *", "0 1 * * *", "59 1 * * *", "15 2 * * *",
    "45 1 * * *", "0,30 2 * * *", "0,30 2,3 * * *", "0 2,3 * * *", "0 1,2,3 * * *", "*/10 2 * * *", "* 2 * * *",
    "0-59 2 * * *", "0-30/10 1-3 * * *", "5/20 2 * * *", "0 0 * * *", "59 23 * * *", "1 0 * * *", "0 12 * * *",
    "15 3 * * MON-FRI", "30 2 * * SUN", "30 2 * * 7", "30 2 * * 0", "0 9 * * 1,3,5", "0 22-2 * * *", "0 6 * * FRI-MON",
    "*/15 22-2 * * *", "0 4 * * 5-7", "30 2 1 * *", "30 2 L * *", "30 2 LW * *", "30 2 1W * *", "30 2 15W * *",
    "30 2 31W * *", "30 2 15W,L * *", "30 2 * * 0#1", "30 2 * * SUN#2", "30 1 * * SUN#1", "30 2 * * 0L", "30 2 * * L0",
    "0 3 * * 5#3", "0 3 * * FRIL,MON#1", "0 0 29 2 *", "0 0 31 * *", "0 0 30 * *", "0 0 13 * FRI", "0 0 */2 * MON",
    "0 0 1-7 * *", "0 0 1-7 * MON", "0 0 */10 * *", "0 0 25-5 * *", "30 2 8-14 3 *", "30 2 8-14 3 SUN",
    "30 1 1-7 NOV *", "30 2 25-31 3,10 *", "0 2 * OCT-APR *", "30 2 29 3 *", "30 2 5 4 *", "0 2 4 10 *",
    "0 0 1 1 *", "0 0 1 JAN,JUL *", "0 0 * */3 *", "0 0 1 */2 *", "5-5 2 * * *", "0 12 29 2 0", "0 0 29 FEB */7",
]  # fmt: skip


def some_crons(count: int, seed: int) -> list[str]:
    """Random crons; most fire a few times a day, near the hours at which clocks change."""
    chance = random.Random(seed)
    return [random_cron(chance) for _ in range(count)]


def random_cron(chance: random.Random, *, seconds: bool = False) -> str:
    """Five fields (or six) that name at least one day."""
    minutes = _items(chance, 0, 59) if chance.random() < 0.8 else f"*/{chance.choice([5, 10, 15, 20, 30, 45, 60])}"
    kind = chance.random()
    if kind < 0.12:
        hours = chance.choice(["*", "*/2", "*/3", "*/4", "*/5"])
    else:
        hours = _items(chance, 0, 5) if kind < 0.7 else _items(chance, 0, 23)
    words = [minutes, hours, *_days(chance)]
    if seconds:
        words.append(chance.choice(["0", "30", "15,45", "*/20", "*", "59"]))
    return " ".join(words)


def _items(chance: random.Random, low: int, high: int) -> str:
    kind = chance.random()
    first, second = chance.randint(low, high), chance.randint(low, high)
    if kind < 0.5:
        return str(first)
    if kind < 0.75:
        return f"{first},{second}"
    step = chance.choice(["", "/2", "/3", "/7"])
    return f"{first}-{second}{step}"


def _days(chance: random.Random) -> tuple[str, str, str]:
    day = month = weekday = "*"
    kind = chance.random()
    if kind < 0.25:
        day = chance.choice(["1", "L", "LW", "15W", "1W", "28", "1-7", "*/2", "25-5", "1,15", "31", "2/3"])
    elif kind < 0.55:
        weekday = chance.choice(
            ["MON-FRI", "SUN", "0", "7", "SAT-SUN", "0#1", "SUN#2", "0L", "1,3,5", "FRI-MON", "*/2"]
        )
    elif kind < 0.65:
        day, weekday = chance.choice(["13", "1-7", "*/2", "L"]), chance.choice(["FRI", "SUN", "*/3", "1-5"])
    if chance.random() < 0.25:
        month = chance.choice(["MAR", "3,10", "OCT-APR", "*/2", "NOV", "4", "JAN-JUN"])
    if day == "31" and month in ("NOV", "4"):
        day = "30"
    return day, month, weekday


def first_difference(expected: list[int], got: Iterator[dt.datetime]) -> tuple[int, str | None]:
    """(fires compared, the first mismatch or None); `got` ends where the expected ones do."""
    number = 0
    for number, fire in enumerate(got, 1):
        if number > len(expected):
            return number, f"{fire} is one too many"
        if seconds_of(fire) != expected[number - 1] or fire.microsecond:
            return number, f"{fire}, not {dt.datetime.fromtimestamp(expected[number - 1], dt.UTC)}"
    if number < len(expected):
        return number, f"missing {dt.datetime.fromtimestamp(expected[number], dt.UTC)}"
    return number, None


def within(fires: list[int], start: dt.datetime, end: dt.datetime) -> list[int]:
    return fires[bisect_left(fires, seconds_of(start) + 1) : bisect_right(fires, seconds_of(end))]
