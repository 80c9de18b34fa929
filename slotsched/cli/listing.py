"""`ps` and `task ls`: which tasks, as rows, once or redrawn."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from slotsched.cli.options import (
    InstanceOption,
    JobOption,
    LimitOption,
    OutputOption,
    OwnerOption,
    ReasonOption,
    SinceOption,
    StatusOption,
    TagOption,
    UntilOption,
)
from slotsched.cli.render import (
    Column,
    Output,
    columns_of,
    is_terminal,
    put_lines,
    say,
    show_rows,
    table,
    use_color,
)
from slotsched.cli.session import Session, now
from slotsched.errors import UsageError

if TYPE_CHECKING:
    from slotsched.model import Task
    from slotsched.store import TaskFilter
    from slotsched.views.tasks import Page

REDRAW_SECONDS = 1.0
_HOME_AND_CLEAR = "\x1b[H\x1b[J"
_ALTERNATE_SCREEN, _MAIN_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def ps(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", "-a", help="Finished tasks too.")] = False,
    status: StatusOption = None,
    job: JobOption = None,
    owner: OwnerOption = None,
    tag: TagOption = None,
    reason: ReasonOption = None,
    instance: InstanceOption = None,
    after: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 100,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Redraw until Ctrl-C.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what is not finished, newest first, and why it waits."""
    wanted = _filter(status, job, owner, tag, reason, instance, after, until, unfinished=not every)
    session = Session.of(context)
    if watch:
        _watch(session, wanted, limit, output)
    else:
        _show(session, wanted, limit, output, none="" if every else "nothing waits or runs; ps -a shows what has ended")


def task_ls(
    context: typer.Context,
    status: StatusOption = None,
    job: JobOption = None,
    owner: OwnerOption = None,
    tag: TagOption = None,
    reason: ReasonOption = None,
    instance: InstanceOption = None,
    after: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """List tasks of every status, newest first."""
    wanted = _filter(status, job, owner, tag, reason, instance, after, until, unfinished=False)
    _show(Session.of(context), wanted, limit, output)


def _filter(
    status: list[str] | None,
    job: list[str] | None,
    owner: str | None,
    tag: list[str] | None,
    reason: str | None,
    instance: str | None,
    after: str | None,
    until: str | None,
    *,
    unfinished: bool,
) -> TaskFilter:
    from slotsched.model import OPEN
    from slotsched.views.tasks import read_filter

    wanted = read_filter(
        status=status or (),
        jobs=job or (),
        owner=owner,
        tags=tag or (),
        reason=reason,
        instance=instance,
        since=after,
        until=until,
        now=now(),
        option="--",
    )
    if unfinished and wanted.status is None and reason is None:
        return replace(wanted, status=frozenset(OPEN))
    return wanted


def _page(session: Session, wanted: TaskFilter, limit: int) -> Page:
    from slotsched.views.tasks import page

    return page(session.client.store, wanted, limit)


def _show(session: Session, wanted: TaskFilter, limit: int, output: Output, *, none: str = "") -> None:
    """none: what a person is told when there is no task to show."""
    show = _show_table if output in (Output.TABLE, Output.WIDE) else _show_objects
    is_some, is_more = show(session, wanted, limit, output)
    if is_more:
        say(f"the newest {limit} are shown; -n 0 shows all")
    if none and not is_some and is_terminal(sys.stdout):
        say(none)


def _show_table(session: Session, wanted: TaskFilter, limit: int, output: Output) -> tuple[bool, bool]:
    """Print them; whether there were any, and whether there are more."""
    from slotsched.cli.columns import task_columns

    rows = _page(session, wanted, limit)
    _print(rows.tasks, task_columns(rows.fleet, rows.now), output)
    return bool(rows.tasks), rows.more


def _show_objects(session: Session, wanted: TaskFilter, limit: int, output: Output) -> tuple[bool, bool]:
    """The same, one by one as they are read: there may be more of them than anybody wants to hold."""
    from slotsched.views.tasks import each

    found = each(session.client.store, wanted, limit + 1 if limit else 0)
    first = list(itertools.islice(found, 1))
    _print(itertools.islice(itertools.chain(first, found), limit or None), (), output)
    return bool(first), next(found, None) is not None


def _print(tasks: Iterable[Task], columns: Sequence[Column[Task]], output: Output) -> None:
    show_rows(tasks, columns, output, to_object=lambda task: task.to_object(), to_id=lambda task: task.id)


def _watch(session: Session, wanted: TaskFilter, limit: int, output: Output) -> None:
    if output not in (Output.TABLE, Output.WIDE):
        raise UsageError("--watch redraws a table; for programs use: slotsched wait, or ps -o jsonl in a loop")
    if not is_terminal(sys.stdout):
        _watch_piped(session, wanted, limit)
        return
    sys.stdout.write(_ALTERNATE_SCREEN)
    try:
        while True:
            _redraw(session, wanted, limit, wide=output is Output.WIDE)
            time.sleep(REDRAW_SECONDS)
    finally:
        sys.stdout.write(_MAIN_SCREEN)
        sys.stdout.flush()


def _redraw(session: Session, wanted: TaskFilter, limit: int, *, wide: bool) -> None:
    import shutil

    from slotsched.cli.columns import task_columns
    from slotsched.views.text import moment

    height = shutil.get_terminal_size().lines
    rows = _page(session, wanted, max(1, min(limit or height, height - 3)))  # 0 would mean all
    width, color = columns_of(sys.stdout), use_color(sys.stdout)
    lines = list(table(rows.tasks, task_columns(rows.fleet, rows.now), wide=wide, limit=width, color=color))
    title = f"{len(rows.tasks)}{'+' if rows.more else ''} tasks  {moment(rows.now)}  Ctrl-C ends"
    sys.stdout.write(_HOME_AND_CLEAR)
    put_lines([title, "", *lines][: height - 1])
    sys.stdout.flush()


def _watch_piped(session: Session, wanted: TaskFilter, limit: int) -> None:
    """Off a terminal: a line for each task whenever its status or reason for waiting changed."""
    from slotsched.cli.columns import task_columns
    from slotsched.views.words import why_words

    seen: dict[str, tuple[str, str]] = {}
    is_first = True
    while True:
        rows = _page(session, wanted, limit)
        columns = task_columns(rows.fleet, rows.now)
        state = {task.id: (task.status.value, why_words(task, rows.fleet, rows.now)) for task in rows.tasks}
        changed = [task for task in rows.tasks if seen.get(task.id) != state[task.id]]
        lines = list(table(changed, columns, wide=False, limit=None, color=False))
        put_lines(lines if is_first else lines[1:])
        sys.stdout.flush()
        seen, is_first = state, False
        time.sleep(REDRAW_SECONDS)
