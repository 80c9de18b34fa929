"""What lists of tasks say of one, in a terminal's cells and a page's alike."""

from __future__ import annotations

import datetime as dt

from slotsched.model import OPEN, TERMINAL, Progress, Status, Task
from slotsched.quantities import format_duration
from slotsched.views.explain import Fleet, cause, why

NONE = "-"


def why_words(task: Task, fleet: Fleet, now: dt.datetime) -> str:
    """Why it does not run yet, or how it ended; `-` for what runs or completed."""
    if task.status in TERMINAL:
        return (cause(task) if task.status is not Status.COMPLETED else None) or NONE
    if task.status is Status.RUNNING and task.cancel is None:
        return NONE
    return why(task, fleet, now)


def progress_words(task: Task) -> str:
    """How far it is, or was when it ended without completing."""
    return NONE if task.status is Status.COMPLETED else made_words(task.progress)


def made_words(made: Progress | None) -> str:
    """`38 % 12.png`."""
    if made is None:
        return NONE
    parts = [] if made.fraction is None else [f"{made.fraction * 100:.0f} %"]
    return " ".join([*parts, made.message]).strip() or NONE


def waited(task: Task, now: dt.datetime) -> str:
    """From due to start, or so far; `-` before it is due."""
    until = task.started_at or task.ended_at or now
    seconds = (until - task.due_at).total_seconds()
    if task.status in (Status.SCHEDULED, Status.WAITING):
        return NONE
    return format_duration(seconds)


def ran(task: Task, now: dt.datetime) -> str:
    """From the last attempt's start to its end, or so far."""
    if task.started_at is None or (task.status in OPEN and task.status is not Status.RUNNING):
        return NONE
    return format_duration(((task.ended_at or now) - task.started_at).total_seconds())
