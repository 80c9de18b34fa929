"""What clocks that are put forward or back do to the fires of a cron, told beside the fires in `schedule next`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from slotsched.recurrence.cron import Cron
from slotsched.recurrence.interface import Recurrence, from_seconds, microseconds
from slotsched.recurrence.zones import DAY_SECONDS, Change

Kind = Literal["moved", "merged", "dropped", "once", "repeated"]

_LISTED_TIMES = 3  # more skipped times than this are told by the first and the last


@dataclass(frozen=True)
class Note:
    """A remark on one of the fires.

    - moved: its time is skipped by the clocks, it fires right after
    - merged: several times, at least one of them skipped, are this one fire
    - dropped: times between the fire before and this one are skipped, and for a cron by pace they do not happen
    - once: its time comes twice, and this is the first; it does not fire again
    - repeated: its time comes a second time, and it fires again, because the cron goes by elapsed time
    """

    fire: dt.datetime
    kind: Kind
    text: str


def notes(recurrence: Recurrence, fires: Sequence[dt.datetime]) -> list[Note]:
    """The remarks on fires of this recurrence (ascending, none left out between them), in their order.

    Only crons have any: an interval and a single moment know no local time.
    """
    if not isinstance(recurrence, Cron):
        return []
    found = []
    before = recurrence.previous_before(fires[0]) if fires else None
    for fire in fires:
        since = fire if before is None else before
        found += _notes(recurrence, since, fire)
        before = fire
    return found


def _notes(cron: Cron, before: dt.datetime, fire: dt.datetime) -> list[Note]:
    """What is to be said about one fire, the fire before it being known."""
    at = microseconds(fire) // 1_000_000
    found = []
    for change in cron.zone.changes(microseconds(before) // 1_000_000, at):
        if change.after > change.before:
            note = _forward(cron, change, fire)
            if note is not None:
                found.append(note)
    note = _twice(cron, fire)
    return found if note is None else [*found, note]


def _forward(cron: Cron, change: Change, fire: dt.datetime) -> Note | None:
    """Clocks were put forward between the fire before and this one, or at this one."""
    first, end = change.moment + change.before, change.moment + change.after
    skipped = _named(cron, first, end)
    if not skipped:
        return None
    # A day may be left out as a whole: then times alone say nothing.
    time = _time if first // DAY_SECONDS == end // DAY_SECONDS else _date_and_time
    clocks = f"clocks go from {time(first)} to {time(end)}" + (f" on {_date(first)}" if time is _time else "")
    not_there = f"{_listed(skipped, time)} {'does' if len(skipped) == 1 else 'do'} not exist"
    if cron.reading.by_pace:
        return Note(fire, "dropped", f"{not_there} and {'is' if len(skipped) == 1 else 'are'} left out: {clocks}")
    if cron.reading.pattern.first_from(end) == end:
        return Note(fire, "merged", f"{not_there}, one run with {time(end)}: {clocks}")
    if len(skipped) > 1:
        return Note(fire, "merged", f"{not_there}, one run at {time(end)}: {clocks}")
    return Note(fire, "moved", f"{not_there}, runs at {time(end)}: {clocks}")


def _twice(cron: Cron, fire: dt.datetime) -> Note | None:
    """The fire's local time comes twice."""
    local = cron.zone.local(fire)
    earlier, later = (local.replace(fold=fold).utcoffset() for fold in (0, 1))
    if earlier is None or later is None or earlier <= later:
        return None  # comes once, or (earlier < later) not at all
    time = _time(microseconds(local.replace(tzinfo=dt.UTC)) // 1_000_000)
    if local.fold:
        return Note(fire, "repeated", f"{time} comes a second time: clocks were put back on {local:%Y-%m-%d}")
    if cron.reading.by_pace:
        return None  # its second coming gets the note
    return Note(fire, "once", f"{time} comes twice on {local:%Y-%m-%d}, runs the first time only")


def _named(cron: Cron, first: int, end: int) -> list[int]:
    """The walls from `first` to before `end` that the cron names."""
    walls = []
    wall = cron.reading.pattern.first_from(first)
    while wall is not None and wall < end:
        walls.append(wall)
        wall = cron.reading.pattern.first_from(wall + 1)
    return walls


def _listed(walls: list[int], words: Callable[[int], str]) -> str:
    if len(walls) <= _LISTED_TIMES:
        return " and ".join(filter(None, [", ".join(map(words, walls[:-1])), words(walls[-1])]))
    return f"{words(walls[0])} to {words(walls[-1])} ({len(walls)} times)"


def _time(wall: int) -> str:
    return f"{from_seconds(wall):%H:%M:%S}".removesuffix(":00")


def _date(wall: int) -> str:
    return f"{from_seconds(wall):%Y-%m-%d}"


def _date_and_time(wall: int) -> str:
    return f"{_date(wall)} {_time(wall)}"
