"""Commands on tasks that exist: wait, cancel, kill, retry, why, task show, task rm."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from slotsched import contract
from slotsched.cli.options import (
    JobOption,
    OutputOption,
    OwnerOption,
    SinceOption,
    TagOption,
    TaskArgument,
    TasksArgument,
    TimeoutOption,
    YesOption,
    duration,
    since,
)
from slotsched.cli.phrases import confirm, ending, say_rejoin, worst
from slotsched.cli.render import Output, is_terminal, pairs, put, say, show_object, use_color
from slotsched.cli.session import Session, now
from slotsched.errors import SlotschedError, UsageError
from slotsched.views.text import moment, plain, short

if TYPE_CHECKING:
    from slotsched.client import Handle
    from slotsched.model import Task


def wait(context: typer.Context, tasks: TasksArgument, timeout: TimeoutOption = None) -> None:
    """Wait until tasks have ended.

    Exits as the worst of them did: failed 1, canceled 100, completed 0.
    """
    session = Session.of(context)
    seconds = duration("--timeout", timeout)
    ids = session.resolve_all(tasks)
    raise typer.Exit(wait_for(session, ids, seconds, sys.stdout))


def wait_for(session: Session, ids: Sequence[str], timeout: float | None, stream: TextIO) -> int:
    """Say each end as it comes; the exit code of the worst. stream: stdout where the ends are the answer, or stderr."""
    from slotsched.model import TERMINAL

    ended: list[Task] = []
    try:
        for task in session.client.watch(ids, timeout):
            if task.status in TERMINAL:
                ended.append(task)
                _tell(f"{short(task.id)} {task.job} {ending(task, color=use_color(stream))}", stream)
    except KeyboardInterrupt:
        say_rejoin(ids, how="wait")
        raise
    return worst(ended)


def _tell(line: str, stream: TextIO) -> None:
    if stream is sys.stdout:
        put(line)
        sys.stdout.flush()
    else:
        say(line)


def cancel(context: typer.Context, tasks: TasksArgument) -> None:
    """End tasks: SIGTERM, then SIGKILL after the job's grace. They end canceled."""
    _each(context, tasks, _end_one(kill=False))


def kill(context: typer.Context, tasks: TasksArgument) -> None:
    """End tasks at once: SIGKILL. They end canceled."""
    _each(context, tasks, _end_one(kill=True))


def task_rm(context: typer.Context, tasks: TasksArgument) -> None:
    """Delete finished tasks from the database."""

    def remove(session: Session, task_id: str) -> str:
        session.client.remove(task_id)
        return f"{short(task_id)} removed"

    _each(context, tasks, remove)


def _end_one(*, kill: bool) -> Callable[[Session, str], str]:
    def end(session: Session, task_id: str) -> str:
        from slotsched.model import Status

        task = session.client.kill(task_id) if kill else session.client.cancel(task_id)
        if task.status is not Status.RUNNING:
            return f"{short(task_id)} {task.status.value}"
        where = task.instance.name if task.instance else "its instance"
        return f"{short(task_id)} asked to {'die' if kill else 'end'} on {where}"

    return end


def _each(context: typer.Context, texts: Sequence[str], act: Callable[[Session, str], str]) -> None:
    """Do it to every task; one that cannot be done is said and stops no other. Exits with the first one's code."""
    session = Session.of(context)
    code = contract.EXIT_OK
    for text in texts:
        try:
            put(act(session, session.resolve(text)))
        except SlotschedError as error:
            if error.exit_code == contract.EXIT_STORE_UNREACHABLE:
                raise
            say(str(error))
            code = code or error.exit_code
    raise typer.Exit(code)


def retry(
    context: typer.Context,
    tasks: Annotated[list[str] | None, typer.Argument(metavar="TASK", help="Parts of ids, or @last.")] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="All failed tasks of --since, instead of named ones.")
    ] = False,
    after: SinceOption = None,
    job: JobOption = None,
    owner: OwnerOption = None,
    tag: TagOption = None,
    yes: YesOption = False,
) -> None:
    """Run ended tasks again, as new tasks.

    They have the same job, arguments and needs, and retry_of; the old ones stay as they are. With --failed it says how
    many there are and asks, unless --yes is given; those that somebody has run again already are left out.
    """
    session = Session.of(context)
    if failed == bool(tasks):
        raise UsageError(
            "name the tasks, or give --failed --since 1h" if not tasks else "TASK and --failed exclude each other"
        )
    if not failed:
        _each(context, tasks or (), lambda session, task_id: _retried(session, task_id, session.client.retry(task_id)))
        return
    if after is None:
        raise UsageError("--failed needs --since, such as --since 1h")
    _retry_failed(session, after, job, owner, tag, yes=yes)


def _retry_failed(
    session: Session, after: str, job: list[str] | None, owner: str | None, tag: list[str] | None, *, yes: bool
) -> None:
    found = _failed(session, after, job, owner, tag)
    tasks = f"{len(found)} failed task{'' if len(found) == 1 else 's'}"
    period = f"since {moment(since('--since', after))}"
    if not found:
        say(f"no failed task {period} that was not run again")
        return
    confirm(f"Run {tasks} {period} again?", yes=yes)
    again = session.client.store.tasks.retry_many(found, session.client.owner)
    for old, new in again.items():
        put(_line(old, new.id))
    if again:
        session.remember(list(again.values())[-1].id)
    if len(again) < len(found):
        say(f"{len(found) - len(again)} of the {tasks} cannot be run again")
    say(f"{len(again)} of {tasks} {period} run again")


def _failed(session: Session, after: str, job: list[str] | None, owner: str | None, tag: list[str] | None) -> list[str]:
    """The failed tasks that no later task is a retry of, first those that ended first: twice does not double them."""
    from slotsched.model import Status
    from slotsched.store import TaskFilter

    tasks = session.client.store.tasks
    start, jobs = since("--since", after), tuple(job or ())
    assert start is not None
    wanted = TaskFilter(
        status=frozenset({Status.FAILED}),
        jobs=jobs,
        owner=owner,
        tags=tuple(tag or ()),
        since=start,
        order="ended",
    )
    failed = [task.id for task in tasks.each(wanted)]
    retried = tasks.retried(jobs, since=start) if failed else set()
    return [task_id for task_id in reversed(failed) if task_id not in retried]


def _retried(session: Session, old: str, handle: Handle) -> str:
    session.remember(handle.id)
    return _line(old, handle.id)


def _line(old: str, new: str) -> str:
    return f"task {short(new)} queued, again what {short(old)} did" if is_terminal(sys.stdout) else new


def why(context: typer.Context, task: TaskArgument) -> None:
    """Say why a task does not run yet, or how it ended."""
    session = Session.of(context)
    put(plain(session.client.why(session.resolve(task))))


def task_show(context: typer.Context, task: TaskArgument, output: OutputOption = Output.TABLE) -> None:
    """Show everything about one task."""
    session = Session.of(context)
    found = session.client.get(session.resolve(task))
    show_object(found.to_object(), output, identity=found.id, lines=lambda: pairs(_facts(session, found)))


def _facts(session: Session, task: Task) -> list[tuple[str, str]]:
    from slotsched.views.facts import facts

    return facts(task, session.client.explain(task), now())
