"""`schedule add|set|pause|resume|run|rm|clear-history|backfill`: what changes schedules or makes their tasks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slotsched.cli import schedule_options as options
from slotsched.cli.options import JobArgument, OutputOption, TimeoutOption, duration, since
from slotsched.cli.render import Output, is_terminal, put, put_lines, say, show_object
from slotsched.cli.session import Session
from slotsched.errors import UsageError
from slotsched.views.text import ago, moment, short

if TYPE_CHECKING:
    from slotsched.model import Schedule

UNSETTABLE = (
    *("timezone", "overlap", "catch-up", "catch-up-window", "jitter", "start-at", "end-at", "max-runs", "priority"),
    *("pause-on-failure", "slots", "memory", "max-time", "retries", "label", "owner", "notify", "when"),
)


@options.with_wishes
def schedule_add(
    context: typer.Context,
    job: JobArgument,
    words: options.WordsArgument = None,
    args: options.ArgsOption = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Default: the job's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, store nothing.")] = False,
    output: OutputOption = Output.TABLE,
    *,
    wishes: dict[str, Any],
) -> None:
    """Run a job again and again, once later, or after another one.

    Exactly one of --cron, --every, --at and --after says when. Any instance fires it, by the database's clock.
    """
    session = Session.of(context)
    if not any(kind in wishes for kind in options.KINDS):
        raise UsageError('say when: --cron "15 3 * * *", --every 10m, --at 03:15 or --after NAME')
    if "when" in wishes and "after" not in wishes:
        raise UsageError("--when needs --after")
    arguments = _arguments(session, job, words, args)
    if dry_run:
        schedule = session.client.schedules.check(job, arguments, name=name, **wishes)
        _show(session, schedule, output, "would add")
        return
    _show(session, session.client.schedules.add(job, arguments, name=name, **wishes), output, "added")


@options.with_wishes
def schedule_set(
    context: typer.Context,
    name: options.NameArgument,
    words: options.WordsArgument = None,
    args: options.ArgsOption = None,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="OPTION", help="Back to its default, such as end-at. May be repeated."),
    ] = None,
    output: OutputOption = Output.TABLE,
    *,
    wishes: dict[str, Any],
) -> None:
    """Change a schedule; another kind of time replaces the old one.

    KEY=VALUE words change single arguments, --args replaces them all. Tasks that are there stay as they are.
    """
    session = Session.of(context)
    job = session.client.schedules.get(name).job
    changed = session.client.schedules.set(
        name,
        _arguments(session, job, words, args) if words or args is not None else None,
        replace_args=args is not None,
        unset=_unset(unset or ()),
        **wishes,
    )
    _show(session, changed, output, "changed")


def _unset(names: Iterable[str]) -> list[str]:
    found = []
    for name in names:
        plain = name.removeprefix("--").replace("_", "-")
        if plain not in UNSETTABLE:
            raise UsageError(f'--unset: "{name}" is none of {", ".join(UNSETTABLE)}')
        found.append(plain.replace("-", "_"))
    return found


def _arguments(session: Session, job: str, words: list[str] | None, args: str | None) -> dict[str, Any]:
    from slotsched.catalog.arguments import read_words
    from slotsched.cli.enqueue import read_args

    given = read_args(args) if args is not None else {}
    return {**given, **read_words(session.client.job(job).parameters, words)} if words else given


def _show(session: Session, schedule: Schedule, output: Output, done: str) -> None:
    if output is Output.TABLE and not is_terminal(sys.stdout):
        put(schedule.name)
    else:
        show_object(
            schedule.to_object(), output, identity=schedule.name, lines=lambda: _sentences(session, schedule, done)
        )
    if schedule.status.value != "active":
        say(
            f"{schedule.name} is {schedule.status.value}" + (f": {schedule.why}" if schedule.why else ""),
            color="yellow",
        )


def _sentences(session: Session, schedule: Schedule, done: str) -> Iterator[str]:
    from slotsched.cli.schedule_columns import in_words
    from slotsched.schedules import upcoming

    yield f"{schedule.name} {done}: {in_words(schedule)}"
    server_now = session.client.store.now()
    for fire in upcoming(schedule, server_now, 1) if schedule.status.value == "active" else ():
        yield f"next {moment(fire.due_at)} ({ago(fire.due_at, server_now)})"


# --- several at a time -----------------------------------------------------------------------------


def schedule_pause(context: typer.Context, names: options.NamesArgument) -> None:
    """Let nothing more fire until it is resumed; tasks go on."""
    for schedule in Session.of(context).client.schedules.pause(*names):
        put(f"{schedule.name} {schedule.status.value}")


def schedule_resume(context: typer.Context, names: options.NamesArgument) -> None:
    """Let schedules fire again, from their next time on."""
    session = Session.of(context)
    for schedule in session.client.schedules.resume(*names):
        next_at = "" if schedule.next_at is None else f", next {moment(schedule.next_at)}"
        put(f"{schedule.name} {schedule.status.value}{next_at}")


def schedule_run(
    context: typer.Context,
    names: options.NamesArgument,
    overlap: Annotated[
        str | None, typer.Option("--overlap", metavar="P", help="Instead of the schedule's own policy: allow_all.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for their ends and exit as the worst did.")] = False,
    timeout: TimeoutOption = None,
) -> None:
    """Run now. Off a terminal it prints the tasks' full ids, nothing else.

    It counts as a round: series that follow it get theirs. Also for schedules that are paused.
    """
    session = Session.of(context)
    patience = duration("--timeout", timeout)
    if timeout is not None and not wait:
        raise UsageError("--timeout needs --wait")
    ids = []
    for name in dict.fromkeys(names):
        ids.append(session.client.schedules.run(name, overlap=overlap))
        session.remember(ids[-1])
        put(f"task {short(ids[-1])} queued  {name}" if is_terminal(sys.stdout) else ids[-1])
    sys.stdout.flush()
    if wait:
        from slotsched.cli.tasks import wait_for

        raise typer.Exit(wait_for(session, ids, patience, sys.stderr))


def schedule_rm(context: typer.Context, names: options.NamesArgument) -> None:
    """Forget schedules; their tasks stay."""
    Session.of(context).client.schedules.remove(*names)
    put_lines(f"{name} removed" for name in dict.fromkeys(names))


def schedule_clear_history(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Names of schedules.", autocompletion=options.schedule_names),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Of every schedule.")] = False,
) -> None:
    """Remove a series' ended tasks and set its counters to 0.

    What the next run is told of the last one stays.
    """
    if bool(names) == every:
        raise UsageError("name the schedules, or say --all")
    schedules = Session.of(context).client.schedules
    wanted = [one.name for one in schedules.find()] if every else list(names or ())
    count = schedules.clear_history(*wanted)
    put(f"{count} task{'' if count == 1 else 's'} removed")


def schedule_backfill(
    context: typer.Context,
    name: options.NameArgument,
    start: Annotated[str, typer.Option("--from", metavar="T", help="The first time, or this long ago.")],
    end: Annotated[str | None, typer.Option("--to", metavar="T", help="The last time. Default: now.")] = None,
    at_once: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="So many at a time.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the times, make nothing.")] = False,
) -> None:
    """Make the tasks of times that were missed or lie before it.

    A time that has its task already is left out. Off a terminal it prints the tasks' full ids.
    """
    session = Session.of(context)
    first = since("--from", start)
    assert first is not None
    made = session.client.schedules.backfill(name, first, since("--to", end), at_once=at_once, dry_run=dry_run)
    if dry_run:
        put_lines(f"{time:%Y-%m-%dT%H:%M:%S}Z  {moment(time)}" for time in made.times)
    elif not is_terminal(sys.stdout):
        put_lines(made.tasks)
    there = f"; {made.existing} had theirs already" if made.existing else ""
    count = len(made.times)
    say(f"{'would make ' if dry_run else ''}{count} task{'' if count == 1 else 's'}{there}")
