"""A schedule: what creates tasks over time, and what it remembers of its series."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from slotsched.model.task import jsonable


class ScheduleStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"  # by a person, or after failures in a row
    DISABLED = "disabled"  # by a person, or because the job file no longer declares it
    DONE = "done"  # nothing is left to fire
    BROKEN = "broken"  # its document cannot be used; `why` says what is wrong


class Overlap(StrEnum):
    """What happens to a round whose predecessors have not ended (the words are Temporal's)."""

    SKIP = "skip"
    BUFFER_ONE = "buffer_one"  # it waits, unless one waits already
    BUFFER_ALL = "buffer_all"  # it waits behind those that wait
    CANCEL_OTHER = "cancel_other"  # they are canceled, and it waits for their end
    ALLOW_ALL = "allow_all"


class CatchUp(StrEnum):
    """What happens to times that passed while nobody could fire them."""

    ONCE = "once"  # one round, for the latest of them
    ALL = "all"  # a round for each within the window
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What a schedule's tasks ask for instead of their job file's facts. memory: bytes; max_time: seconds."""

    slots: int | None = None
    memory: int | None = None
    max_time: float | None = None
    retries: int | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a schedule comes from. kind: `hand`, or `file` with the content hash of the copy that was followed last.

    gone: no instance holds a copy that declares it any more, which is why it is disabled.
    """

    kind: str = "hand"
    hash: str | None = None
    gone: bool = False


@dataclass(frozen=True, kw_only=True)
class Counters:
    """How the series' tasks ended, and how many rounds the overlap policy left out."""

    completed: int = 0
    failed: int = 0
    canceled: int = 0
    skipped: int = 0


@dataclass(frozen=True, kw_only=True)
class SeriesMemory:
    """What the series' last completed run left for the next one: when it started and ended, and what it saved."""

    last_completed_at: dt.datetime | None = None
    last_started_at: dt.datetime | None = None
    state: Any = None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Exactly one of cron, every, at and after says when.

    cron: one or more crons, read in `timezone`. every: seconds, counted from `start_at`, else from `anchor_at` (when
    the period was set). after: names of schedules or jobs; each of their rounds (run-now included) brings one of this
    series, which starts once that round ended as `when` says.

    catch_up_window, jitter: seconds. start_at, end_at: the first and last moment a nominal time may have.
    runs: rounds created so far, at most `max_runs`. pause_on_failure: failures in a row that pause it, None = never.
    priority: None = the job file's. label: what people call it. next_nominal_at: the next time by its rule; next_at:
    when it fires, which is that plus the jitter. rev: grows with every change. live: ids of its tasks whose end is
    not in the books yet, oldest first. failures: in a row.
    """

    name: str
    job: str
    args: Mapping[str, Any] = field(default_factory=dict)
    cron: tuple[str, ...] = ()
    every: float | None = None
    at: dt.datetime | None = None
    after: tuple[str, ...] = ()
    when: str = "success"
    timezone: str = "UTC"
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.ONCE
    catch_up_window: float = 86400.0
    jitter: float = 0.0
    start_at: dt.datetime | None = None
    end_at: dt.datetime | None = None
    max_runs: int | None = None
    pause_on_failure: int | None = None
    priority: float | None = None
    overrides: Overrides = field(default_factory=Overrides)
    owner: str | None = None
    label: str | None = None
    notify: Any = None
    source: Source = field(default_factory=Source)
    status: ScheduleStatus = ScheduleStatus.ACTIVE
    why: str | None = None
    next_at: dt.datetime | None = None
    next_nominal_at: dt.datetime | None = None
    anchor_at: dt.datetime | None = None
    rev: int = 0
    runs: int = 0
    failures: int = 0
    live: tuple[str, ...] = ()
    counters: Counters = field(default_factory=Counters)
    last_nominal_at: dt.datetime | None = None
    last_completed_at: dt.datetime | None = None
    last_started_at: dt.datetime | None = None
    state: Any = None
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None

    @property
    def memory(self) -> SeriesMemory:
        return SeriesMemory(
            last_completed_at=self.last_completed_at, last_started_at=self.last_started_at, state=self.state
        )

    def to_object(self) -> dict[str, Any]:
        """Plain JSON-ready values: dates as ISO 8601 UTC with `Z`, nested types as objects."""
        shown: dict[str, Any] = jsonable(self)
        return shown
