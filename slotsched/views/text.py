"""Words and numbers as people read them: times, short ids, widths. Nothing here knows a command."""

from __future__ import annotations

import datetime as dt
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from slotsched.quantities import format_duration, parse_duration

SHORT_ID = 8  # the last ones: an ObjectId begins with its second
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")


def short(task_id: str) -> str:
    """What is shown of an id on a terminal."""
    return task_id[-SHORT_ID:]


def moment(value: dt.datetime | None) -> str:
    """`2026-11-21 03:15:00 CET` in this machine's zone, `-` for none."""
    return "-" if value is None else local(value)


def local(moment: dt.datetime, now: dt.datetime | None = None) -> str:
    """`2026-11-21 03:15:00 CET` in this machine's zone; only the time of day where that is the day of `now`."""
    try:
        here = moment.astimezone()
    except OverflowError:  # on the calendar's first or last day, which is beyond it here
        here = moment.astimezone(dt.UTC)
    if now is not None and here.date() == now.astimezone().date():
        return f"{here:%H:%M:%S}"
    return f"{here:%Y-%m-%d %H:%M:%S} {here.tzname() or here.strftime('%z')}"


def ago(value: dt.datetime, now: dt.datetime) -> str:
    """`42s ago`, `in 5m00s`."""
    seconds = (now - value).total_seconds()
    return f"{format_duration(seconds)} ago" if seconds >= 0 else f"in {format_duration(-seconds)}"


def parse_moment(text: str, now: dt.datetime) -> dt.datetime:
    """An aware time of `2026-11-21T03:15[:00][+01:00|Z]`, a date, or `03:15` (the next one). ValueError otherwise.

    Without a zone it is this machine's local time. now: aware.
    """
    clock = _CLOCK.fullmatch(text.strip())
    if clock:
        return min(candidate for candidate in _clocks(clock, now, (0, 1, 2)) if candidate > now)
    try:
        moment = dt.datetime.fromisoformat(text.strip()).astimezone(dt.UTC)  # naive: taken as local
        return moment.astimezone()
    except (ValueError, OverflowError):  # also on the calendar's first and last days, which are beyond it elsewhere
        raise ValueError(f'"{text}" is not a time such as 03:15, 2026-11-21T03:15 or 2026-11-21T03:15Z') from None


def parse_since(text: str, now: dt.datetime) -> dt.datetime:
    """The aware time of a duration before `now` (`1h`), of a time of day (the last one), or of a time as in
    `parse_moment`. ValueError otherwise.
    """
    try:
        return now - dt.timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    clock = _CLOCK.fullmatch(text.strip())
    if clock is None:
        return parse_moment(text, now)
    return max(candidate for candidate in _clocks(clock, now, (-1, 0)) if candidate <= now)


def _clocks(clock: re.Match[str], now: dt.datetime, days: Iterable[int]) -> Iterator[dt.datetime]:
    """This time of day on the days so far from today's, in this machine's zone."""
    hour, minute, second = int(clock[1]), int(clock[2]), int(clock[3] or 0)
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(f'"{clock.string}" is not a time of day')
    today = now.astimezone().date()
    for day in days:
        yield dt.datetime.combine(today + dt.timedelta(day), dt.time(hour, minute, second)).astimezone()


def span(seconds: float) -> str:
    """A duration as somebody set it: `30m`, `1h30m`, `2.5s`."""
    return re.sub(r"(?<=[mhd])00[smh]$", "", format_duration(seconds)).replace(".0s", "s")


def slot_count(count: int) -> str:
    """`1 slot`, `4 slots`."""
    return f"{count} slot{'' if count == 1 else 's'}"


def plain(text: Any) -> str:
    """One line without control sequences, fit for a table cell or a message."""
    from slotsched.loglines import plain as without_controls

    value = str(text)
    if value.isascii() and value.isprintable():
        return value.strip()
    return " ".join(without_controls(value).split())


def width(text: str) -> int:
    """Terminal cells `text` takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, cells: int) -> str:
    """`text` in at most `cells` terminal cells, ending in `…` where something was cut."""
    if width(text) <= cells:
        return text
    kept, used = [], 0
    for character in text:
        used += _cells(character)
        if used > cells - 1:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def compact(value: Any) -> str:
    """JSON on one line with everything readable kept readable."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "), default=str)
