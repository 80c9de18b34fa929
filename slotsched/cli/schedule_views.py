"""`schedule ls|show|next|history`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slotsched.cli import schedule_options as options
from slotsched.cli.options import LimitOption, OutputOption
from slotsched.cli.options import OwnerOption as OwnerFilter
from slotsched.cli.render import Output, pairs, say, show_object, show_rows, table
from slotsched.cli.session import Session
from slotsched.errors import UsageError
from slotsched.views.text import ago, compact, moment, plain, span

if TYPE_CHECKING:
    import datetime as dt

    from slotsched.model import Schedule, Task
    from slotsched.schedules import Fire

MOST_SHOWN_FIRES = 3
MOST_SHOWN_RUNS = 5


def schedule_ls(
    context: typer.Context,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", metavar="S", help="active, paused, disabled, done, broken; may be repeated."),
    ] = None,
    job: Annotated[str | None, typer.Option("--job", "-j", metavar="JOB", help="Only of this job.")] = None,
    owner: OwnerFilter = None,
    label: Annotated[str | None, typer.Option("--label", "-l", metavar="TEXT", help="Only with this label.")] = None,
    source: Annotated[str | None, typer.Option("--source", metavar="S", help="hand, or file (job files).")] = None,
    limit: LimitOption = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """List schedules: when they fire next, how they ran last."""
    from slotsched.cli.schedule_columns import schedule_columns
    from slotsched.store import ScheduleFilter

    if source not in (None, "hand", "file"):
        raise UsageError(f'--source: "{source}" is neither hand nor file')
    session = Session.of(context)
    wanted = ScheduleFilter(status=_statuses(status), job=job, owner=owner, label=label, source=source)
    found = session.client.schedules.find(wanted, limit + 1 if limit else 0)
    shown = found[:limit] if limit else found
    last: dict[str, Task] = {}
    if output in (Output.TABLE, Output.WIDE):
        last = session.client.store.schedules.latest([one.name for one in shown])
    columns = schedule_columns(session.client.store.now(), last)
    show_rows(shown, columns, output, to_object=lambda one: one.to_object(), to_id=lambda one: one.name)
    if len(found) > len(shown):
        say(f"the first {limit} are shown; -n 0 shows all")


def _statuses(texts: Iterable[str] | None) -> frozenset[Any] | None:
    from slotsched.model import ScheduleStatus

    words = [word for text in texts or () for word in text.split(",") if word]
    for word in words:
        if word not in set(ScheduleStatus):
            raise UsageError(f'--status: "{word}" is none of {", ".join(ScheduleStatus)}')
    return frozenset(map(ScheduleStatus, words)) or None


def schedule_show(context: typer.Context, name: options.NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Show a schedule: its rule, its next fires, its last runs."""
    session = Session.of(context)
    schedule = session.client.schedules.get(name)
    show_object(schedule.to_object(), output, identity=name, lines=lambda: _description(session, schedule))


def _description(session: Session, schedule: Schedule) -> Iterator[str]:
    from slotsched.cli.copies import copies
    from slotsched.cli.schedule_columns import in_words

    store = session.client.store
    now = store.now()
    counts = schedule.counters
    why = f" ({schedule.why})" if schedule.why else ""
    runs = f"{schedule.runs}" + ("" if schedule.max_runs is None else f" of {schedule.max_runs}")
    yield from pairs(
        [
            ("Schedule", schedule.name),
            ("Label", schedule.label or ""),
            ("Job", schedule.job),
            ("Arguments", compact(dict(schedule.args)) if schedule.args else ""),
            ("Status", f"{schedule.status.value}{why}"),
            ("When", in_words(schedule)),
            ("Cron", "\n".join(schedule.cron)),
            ("Time zone", schedule.timezone if schedule.cron or schedule.timezone != "UTC" else ""),
            ("Overlap", schedule.overlap.value),
            ("Catch-up", _catch_up(schedule)),
            ("Jitter", f"up to {span(schedule.jitter)}" if schedule.jitter else ""),
            ("From", moment(schedule.start_at) if schedule.start_at else ""),
            ("Until", moment(schedule.end_at) if schedule.end_at else ""),
            ("Pauses", f"after {schedule.pause_on_failure} failures in a row" if schedule.pause_on_failure else ""),
            ("Instead of the job's", _overrides(schedule)),
            ("Notify", compact(schedule.notify) if schedule.notify else ""),
            ("Owner", schedule.owner or ""),
            ("Declared", _source(schedule)),
            ("Next", _fires(schedule, now)),
            ("Runs", runs),
            ("Ended", f"{counts.completed} completed, {counts.failed} failed, {counts.canceled} canceled"),
            ("Skipped", str(counts.skipped) if counts.skipped else ""),
            ("Failures in a row", str(schedule.failures) if schedule.failures else ""),
            ("Last completed", _last(schedule, now)),
            ("State", compact(schedule.state) if schedule.state is not None else ""),
            ("Last tasks", _runs(store.schedules.history(schedule.name, MOST_SHOWN_RUNS), now)),
            ("Copies", copies(session, schedule.job) if schedule.source.kind == "file" else ""),
        ]
    )


def _catch_up(schedule: Schedule) -> str:
    window = f" of the last {span(schedule.catch_up_window)}" if schedule.catch_up == "all" else ""
    return f"{schedule.catch_up.value}{window}"


def _overrides(schedule: Schedule) -> str:
    from slotsched.quantities import format_size

    asked = schedule.overrides
    return ", ".join(
        text
        for value, text in (
            (asked.slots, f"{asked.slots} slots"),
            (asked.memory, f"memory {format_size(asked.memory or 0)}"),
            (asked.max_time, f"max time {span(asked.max_time or 0)}"),
            (asked.retries, f"{asked.retries} retries"),
            (schedule.priority, f"priority {schedule.priority or 0:g}"),
        )
        if value is not None
    )


def _source(schedule: Schedule) -> str:
    if schedule.source.kind != "file":
        return ""
    return f"in the file of job {schedule.job}" + (", which is gone" if schedule.source.gone else "")


def _fires(schedule: Schedule, now: dt.datetime) -> str:
    from slotsched.cli.schedule_columns import fire_columns

    fires = _upcoming(schedule, now, MOST_SHOWN_FIRES)
    lines = list(table(fires, fire_columns(now), wide=False, limit=None, color=False))
    return "\n".join(line.removesuffix("-").rstrip() for line in lines[1:])


def _last(schedule: Schedule, now: dt.datetime) -> str:
    if schedule.last_completed_at is None:
        return ""
    started = "" if schedule.last_started_at is None else f", started {moment(schedule.last_started_at)}"
    return f"{moment(schedule.last_completed_at)} ({ago(schedule.last_completed_at, now)}){started}"


def _runs(tasks: Iterable[Task], now: dt.datetime) -> str:
    from slotsched.model import TERMINAL
    from slotsched.views.text import short
    from slotsched.views.words import ran

    return "\n".join(
        plain(
            f"{short(task.id)}  {task.status.value:<9}  {moment(task.started_at or task.due_at)}"
            + (f"  {ran(task, now)}" if task.status in TERMINAL else "")
        )
        for task in tasks
    )


def schedule_next(
    context: typer.Context,
    name: options.NameArgument,
    count: Annotated[int, typer.Option("--n", "-n", "--limit", metavar="N", min=1, help="So many.")] = 10,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the next fires: local time, UTC, what changed clocks do.

    The local time is in the schedule's own zone.
    """
    from slotsched.cli.schedule_columns import fire_columns

    session = Session.of(context)
    schedule = session.client.schedules.get(name)
    now = session.client.store.now()
    fires = _upcoming(schedule, now, count)
    show_rows(fires, fire_columns(now), output, to_object=_fire_object, to_id=lambda fire: fire.nominal_at.isoformat())
    if schedule.after:
        say(f"{name} follows {', '.join(schedule.after)}: a round of it comes with each of theirs")
    elif schedule.status.value != "active":
        say(f"{name} is {schedule.status.value}" + (f": {schedule.why}" if schedule.why else ""), color="yellow")
    elif not fires:
        say(f"{name} does not fire any more")


def _upcoming(schedule: Schedule, now: dt.datetime, count: int) -> list[Fire]:
    from slotsched.schedules import upcoming

    try:
        return upcoming(schedule, now, count)
    except UsageError:  # its status says that it is broken, and why
        return []


def _fire_object(fire: Fire) -> dict[str, Any]:
    from slotsched.model.task import jsonable

    return {
        "nominal_at": jsonable(fire.nominal_at),
        "local": fire.local_at.isoformat(),
        "due_at": jsonable(fire.due_at),
        "notes": list(fire.notes),
    }


def schedule_history(
    context: typer.Context,
    name: options.NameArgument,
    limit: LimitOption = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the tasks of a series, newest first."""
    from slotsched.cli.columns import task_columns
    from slotsched.views.explain import Fleet

    session = Session.of(context)
    tasks = session.client.schedules.history(name, limit)
    columns = task_columns(Fleet(), session.client.store.now())
    show_rows(tasks, columns, output, to_object=lambda task: task.to_object(), to_id=lambda task: task.id)
