"""What clocks that are put forward or back do to the fires of a cron, told beside the fires in `schedule next`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from slotsched.recurrence.cron import Cron
from slotsched.recurrence.interface import Recurrence, from_seconds, microseconds
from slotsched.recurrence.zones import Change

Kind = Literal["moved", "merged", "dropped", "once", "repeated"]


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
    if not skipped.count:
        return None
    clocks = f"clocks go from {_time(first)} to {_time(end)} on {_date(first)}"
    plural = "does" if skipped.count == 1 else "do"
    if cron.reading.by_pace:
        return Note(fire, "dropped", f"{skipped.words()} {plural} not exist and {plural} not run: {clocks}")
    regular = cron.reading.pattern.first_from(end) == end
    if skipped.count == 1 and not regular:
        return Note(fire, "moved", f"{skipped.words()} does not exist, runs at {_time(end)}: {clocks}")
    others = f" and {_time(end)}" if regular else ""
    return Note(fire, "merged", f"{skipped.words()}{others} are one run at {_time(end)}: {clocks}")


def _twice(cron: Cron, fire: dt.datetime) -> Note | None:
    """The fire's local time comes twice."""
    local = cron.zone.local(fire)
    earlier, later = (local.replace(fold=fold).utcoffset() for fold in (0, 1))
    if earlier is None or later is None or earlier <= later:
        return None  # comes once, or (earlier < later) not at all
    time = f"{local:%H:%M:%S}".removesuffix(":00")
    if local.fold:
        return Note(fire, "repeated", f"{time} comes a second time: clocks were put back on {local:%Y-%m-%d}")
    if cron.reading.by_pace:
        return None  # its second coming gets the note
    return Note(fire, "once", f"{time} comes twice on {local:%Y-%m-%d}, runs the first time only")


@dataclass(frozen=True)
class _Skipped:
    """How many of the cron's local times are skipped, and the first and last of them."""

    count: int
    first: int
    last: int

    def words(self) -> str:
        if self.count <= 2:
            return " and ".join(dict.fromkeys([_time(self.first), _time(self.last)]))
        return f"{_time(self.first)} to {_time(self.last)} ({self.count} times)"


def _named(cron: Cron, first: int, end: int) -> _Skipped:
    pattern = cron.reading.pattern
    count, last, begin = 0, first, None
    wall = pattern.first_from(first)
    while wall is not None and wall < end:
        begin = wall if begin is None else begin
        count, last = count + 1, wall
        wall = pattern.first_from(wall + 1)
    return _Skipped(count, first if begin is None else begin, last)


def _time(wall: int) -> str:
    return f"{from_seconds(wall):%H:%M:%S}".removesuffix(":00")


def _date(wall: int) -> str:
    return f"{from_seconds(wall):%Y-%m-%d}"
