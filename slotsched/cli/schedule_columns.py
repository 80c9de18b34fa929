"""What is shown of schedules: rows, words, fires."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING

from slotsched.cli.columns import status_color
from slotsched.cli.render import Column
from slotsched.errors import UsageError
from slotsched.model import Schedule, ScheduleStatus, Task
from slotsched.views.text import ago, moment, span
from slotsched.views.words import NONE

if TYPE_CHECKING:
    from slotsched.schedules import Fire

COLORS = {"paused": "yellow", "disabled": "yellow", "done": "dim", "broken": "red"}


def schedule_columns(now: dt.datetime, last: Mapping[str, Task]) -> list[Column[Schedule]]:
    """last: the newest task of each series by the schedule's name. now: aware."""

    def run_of(schedule: Schedule) -> str:
        task = last.get(schedule.name)
        return NONE if task is None else moment(task.started_at or task.due_at)

    def color_of(schedule: Schedule) -> str | None:
        task = last.get(schedule.name)
        return None if task is None else status_color(task)

    return [
        Column(title="NAME", cell=lambda one: one.name),
        Column(title="JOB", cell=lambda one: one.job, flexible=True),
        Column(title="WHEN", cell=when_cell, flexible=True),
        Column(title="STATUS", cell=lambda one: one.status.value, color=lambda one: COLORS.get(one.status.value)),
        Column(title="NEXT", cell=lambda one: next_cell(one, now)),
        Column(title="LAST-RUN", cell=run_of),
        Column(title="LAST-STATUS", cell=lambda one: _status(last.get(one.name)), color=color_of),
        Column(title="RUNS", cell=lambda one: str(one.runs), right=True),
        Column(title="OWNER", cell=lambda one: one.owner or NONE),
        Column(title="LABEL", cell=lambda one: one.label or NONE, flexible=True),
        Column(title="SOURCE", cell=lambda one: one.source.kind, wide=True),
        Column(title="OVERLAP", cell=lambda one: one.overlap.value, wide=True),
        Column(title="CATCH-UP", cell=lambda one: one.catch_up.value, wide=True),
        Column(title="FAILURES", cell=lambda one: str(one.failures), right=True, wide=True),
        Column(title="WHY", cell=lambda one: one.why or NONE, flexible=True),
    ]


def _status(task: Task | None) -> str:
    return NONE if task is None else task.status.value


def when_cell(schedule: Schedule) -> str:
    """`15 3 * * * Europe/Paris`, `every 10s`, `at 2026-11-21 03:15:00 CET`, `after backup`."""
    if schedule.cron:
        zone = "" if schedule.timezone == "UTC" else f" {schedule.timezone}"
        return "; ".join(schedule.cron) + zone
    if schedule.every is not None:
        return f"every {span(schedule.every)}"
    if schedule.at is not None:
        return f"at {moment(schedule.at)}"
    if schedule.after:
        how = "" if schedule.when == "success" else f" ({schedule.when})"
        return f"after {', '.join(schedule.after)}{how}"
    return NONE


def next_cell(schedule: Schedule, now: dt.datetime) -> str:
    """How soon it fires, or why it does not."""
    if schedule.status is ScheduleStatus.ACTIVE and schedule.next_at is not None:
        return ago(schedule.next_at, now) if schedule.next_at > now else "now"
    return NONE


def in_words(schedule: Schedule) -> str:
    """Its rule in plain words; for one that cannot be read, as it was written."""
    from slotsched.due import recurrence_of

    try:
        rule = recurrence_of(schedule)
    except UsageError:
        rule = None
    return when_cell(schedule) if rule is None else rule.describe()


def fire_columns(now: dt.datetime) -> list[Column[Fire]]:
    """The local time is in the schedule's zone."""
    return [
        Column(title="LOCAL", cell=lambda fire: f"{fire.local_at:%a %Y-%m-%d %H:%M:%S} {_zone(fire.local_at)}"),
        Column(title="UTC", cell=lambda fire: f"{fire.nominal_at:%Y-%m-%dT%H:%M:%S}{_fraction(fire.nominal_at)}Z"),
        Column(title="IN", cell=lambda fire: ago(fire.due_at, now).removeprefix("in ")),
        Column(title="JITTER", cell=_jitter, wide=True),
        Column(title="NOTE", cell=lambda fire: "; ".join(fire.notes) or NONE, flexible=True),
    ]


def _zone(local: dt.datetime) -> str:
    return local.tzname() or local.strftime("%z")


def _fraction(moment_: dt.datetime) -> str:
    return f".{moment_.microsecond // 1000:03d}" if moment_.microsecond else ""


def _jitter(fire: Fire) -> str:
    late = (fire.due_at - fire.nominal_at).total_seconds()
    return f"+{late:g}s" if late else NONE
