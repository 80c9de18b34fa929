"""What a cron says, in plain words, from the values it has in the end: `H` and names are resolved.

`15 3 * * MON-FRI` is "at 03:15 on Monday to Friday", `*/10 8-17 1 * *` "every 10 minutes from 08:00 to 17:59 on day 1
of every month". Exact before short: no time that fires is left out of the words.
"""

from __future__ import annotations

import calendar
from collections.abc import Callable, Sequence

from slotsched.recurrence.grammar import Reading
from slotsched.recurrence.pattern import DayRule, Pattern

_MONTHS = tuple(calendar.month_name)[1:]
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_STEPPED_DATES = 3  # more dates than this, evenly spaced, are told by their step
_LISTED_TIMES = 6  # more times a day than this are told by hours and minutes


def cron(reading: Reading) -> str:
    """The times and the days of a cron."""
    pattern = reading.pattern
    days = _days(pattern)
    clock = _clock(pattern)
    if not days:
        return f"{clock} every day" if clock.startswith("at ") and not clock.endswith("hour") else clock
    return f"{clock} {days}"


def _members(mask: int) -> list[int]:
    return [number for number in range(mask.bit_length()) if mask >> number & 1]


def _clock(pattern: Pattern) -> str:
    hours, minutes, seconds = (_members(mask) for mask in (pattern.hours, pattern.minutes, pattern.seconds))
    if len(seconds) > 1:
        return _with_seconds(hours, minutes, _paced(seconds, 60, "second"))
    if len(hours) * len(minutes) <= _LISTED_TIMES and len(hours) < 24:
        ending = f":{seconds[0]:02d}" if seconds[0] else ""
        return "at " + _listed([f"{hour:02d}:{minute:02d}{ending}" for hour in hours for minute in minutes])
    if seconds[0]:
        return _with_seconds(hours, minutes, f"at second {seconds[0]}")
    return _hours_and_minutes(hours, minutes)


def _with_seconds(hours: list[int], minutes: list[int], seconds: str) -> str:
    if len(minutes) == 60:
        whole = seconds if seconds.startswith("every") else f"{seconds} of every minute"
        return whole + _in_hours(hours)
    return f"{seconds} of {_numbered('minute', minutes)}" + (_in_hours(hours) or " of every hour")


def _hours_and_minutes(hours: list[int], minutes: list[int]) -> str:
    if len(minutes) > 1:
        pace = _paced(minutes, 60, "minute")
        return pace + (_in_hours(hours) or ("" if pace.startswith("every") else " of every hour"))
    past = f"at minute {minutes[0]} of " if minutes[0] else ""
    if len(hours) == 24:
        return f"{past}every hour"
    step = _step(hours, 24)
    if step is None:
        return f"at minute {minutes[0]} of {_numbered('hour', hours)}"
    start = f" from {hours[0]:02d}:{minutes[0]:02d}" if hours[0] or minutes[0] else ""
    return f"every {step} hours{start}"


def _in_hours(hours: list[int]) -> str:
    if len(hours) == 24:
        return ""
    if hours[-1] - hours[0] == len(hours) - 1:
        return f" from {hours[0]:02d}:00 to {hours[-1]:02d}:59"
    return f" in {_numbered('hour', hours)}"


def _paced(values: list[int], count: int, unit: str) -> str:
    """`every minute`, `every 15 minutes`, `every 15 minutes from minute 7`, `at minutes 5 and 40`."""
    if len(values) == count:
        return f"every {unit}"
    step = _step(values, count)
    if step is None:
        return f"at {_numbered(unit, values)}"
    return f"every {step} {unit}s" + (f" from {unit} {values[0]}" if values[0] else "")


def _step(values: list[int], count: int) -> int | None:
    """The step that leads through all values and evenly on into the next round; None if there is none."""
    step = count // len(values)
    even = len(values) > 1 and step * len(values) == count and values == list(range(values[0], count, step))
    return step if even else None


def _days(pattern: Pattern) -> str:
    rule = pattern.day_rule
    months = _members(pattern.months)
    named = "" if len(months) == 12 else _runs(months, lambda month: _MONTHS[month - 1])
    by_date = "" if len(rule.days) == 31 else _dates(rule)
    by_weekday = "" if len(rule.weekdays) == 7 else _by_weekday(rule)
    if not rule.both and not (by_date and by_weekday):
        by_date = by_weekday = ""  # one of them is every day, and either is enough
    of_month = f"of {named or 'every month'}"
    if by_date and by_weekday:
        both = "where that is" if rule.both else "and also on"
        return f"on {by_date} {of_month}, {both} {by_weekday}"
    if by_date:
        return f"on {by_date} {of_month}"
    if by_weekday:
        if rule.nth or rule.last_of:
            return f"on {by_weekday} {of_month}"
        return f"on {by_weekday}" + (f" in {named}" if named else "")
    return f"in {named}" if named else ""


def _dates(rule: DayRule) -> str:
    parts = [_plain_dates(sorted(rule.days))] if rule.days else []
    parts += [f"the weekday nearest to day {day}" for day in sorted(rule.nearest)]
    if rule.last_weekday:
        parts.append("the last weekday")
    if rule.last:
        parts.append("the last day")
    return _listed(parts)


def _plain_dates(days: list[int]) -> str:
    step = days[1] - days[0] if len(days) > _STEPPED_DATES else 1
    if step > 1 and days == list(range(days[0], 32, step)):
        ordinal = {2: "2nd", 3: "3rd"}.get(step, f"{step}th")
        return f"every {ordinal} day from day {days[0]}"
    return _numbered("day", days)


def _by_weekday(rule: DayRule) -> str:
    week = sorted(rule.weekdays, key=_from_monday)
    parts = [_runs([_from_monday(day) for day in week], lambda day: _WEEKDAYS[(day + 1) % 7])] if week else []
    parts += [
        f"the {_ORDINALS[n - 1]} {_WEEKDAYS[day]}"
        for day, n in sorted(rule.nth, key=lambda nth: (nth[1], _from_monday(nth[0])))
    ]
    parts += [f"the last {_WEEKDAYS[day]}" for day in sorted(rule.last_of, key=_from_monday)]
    return _listed(parts)


def _from_monday(weekday: int) -> int:
    return (weekday + 6) % 7


def _numbered(unit: str, values: list[int]) -> str:
    return f"{unit}{'s' if len(values) > 1 else ''} {_runs(values, str)}"


def _runs(values: Sequence[int], name: Callable[[int], str]) -> str:
    """Three or more in a row as `first to last`."""
    runs: list[list[int]] = []
    for value in values:
        if runs and runs[-1][-1] == value - 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    words = []
    for run in runs:
        words += [f"{name(run[0])} to {name(run[-1])}"] if len(run) > 2 else [name(value) for value in run]
    return _listed(words)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
