"""`enqueue`: one task from words, or many from JSON lines."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slotsched.cli.complete import argument_words, job_names
from slotsched.cli.options import LinesFile, OutputOption, TimeoutOption, duration, when
from slotsched.cli.phrases import queued, worst
from slotsched.cli.render import Output, is_terminal, pairs, put, say, show_object
from slotsched.cli.session import Session, now
from slotsched.errors import UsageError
from slotsched.views.text import ago, compact, moment, short, slot_count, span

if TYPE_CHECKING:
    import datetime as dt

    from slotsched.client import Handle
    from slotsched.model import Job, Task, TaskRequest

PUBLISH_SECONDS = 2.5  # an instance rescans its folder and publishes what it found within this time


def enqueue(
    context: typer.Context,
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="The job's name.", autocompletion=job_names)] = None,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="The job's arguments.", autocompletion=argument_words),
    ] = None,
    args: Annotated[
        str | None, typer.Option("--args", metavar="JSON|@FILE|-", help="Arguments as one JSON object.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="T", help="Due at: 03:15, 2026-11-21T03:15[Z].")] = None,
    delay: Annotated[str | None, typer.Option("--in", metavar="D", help="Due after: 10m, 1h30m.")] = None,
    slots: Annotated[int | None, typer.Option("--slots", metavar="N", help="Instead of the job's.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", metavar="M", help="Instead of the job's: 512M.")] = None,
    max_time: Annotated[str | None, typer.Option("--max-time", metavar="D", help="Instead of the job's: 30m.")] = None,
    priority: Annotated[
        float | None, typer.Option("--priority", metavar="N", help="Higher first; a point is 10 minutes of waiting.")
    ] = None,
    retries: Annotated[int | None, typer.Option("--retries", metavar="N", help="Instead of the job's.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="K", help="Only one task per key and 24 h; prints that one's id.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", "-t", metavar="T", help="May be repeated.")] = None,
    after: Annotated[
        list[str] | None, typer.Option("--after", metavar="TASK", help="Wait for this task; may be repeated.")
    ] = None,
    condition: Annotated[
        str | None,
        typer.Option("--when", metavar="W", help="How they must end: success (completed), failure, any."),
    ] = None,
    lines: LinesFile = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end and exit as it did.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show its log and progress until its end.")] = False,
    timeout: TimeoutOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, store nothing.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put a task in the queue. Off a terminal it prints the full id, nothing else.

    With --after it waits until all those tasks have completed (or as --when says), and is canceled once one cannot.

    With --from-jsonl each line is {"job": ..., "args": {...}} and may hold at, in, slots, memory, max_time, priority,
    retries, key, tags, after, when; with JOB given too, each line is that job's arguments. All lines are checked
    first: when one is bad, all bad ones are listed and nothing is stored.
    """
    session = Session.of(context)
    due, patience = when("--at", at), duration("--timeout", timeout)
    options = {
        "at": due,
        "in_": delay,
        "slots": slots,
        "memory": memory,
        "max_time": max_time,
        "priority": priority,
        "retries": retries,
        "key": key,
        "tags": tag or (),
        "after": session.resolve_all(after or ()),
        "when": condition,
    }
    _check_combination(job, lines, at, delay, timeout, args, key, waits=wait or follow)
    if condition is not None and not after:
        raise UsageError("--when needs --after")
    if lines is not None:
        from slotsched.cli.bulk import enqueue_lines

        common = {name: value for name, value in options.items() if value not in (None, (), [])}
        given = _given(session, job, words, args) if job else {}
        enqueue_lines(
            session, lines, job, given, common, wait=wait or follow, timeout=patience, dry_run=dry_run, output=output
        )
        return
    assert job is not None
    found = session.client.job(job)
    request = session.client.request(found, _given(session, found, words, args), **options)
    if dry_run:
        _warn_past(due, due is not None and due <= now())
        _show_request(found, request, output)
        return
    handle = session.client.submit(request)
    _warn_past(due, handle.status == "pending" and not handle.existed)  # by the store's clock
    session.remember(handle.id)
    _show_handle(session, handle, found, request, output, waits=wait or follow)
    if wait or follow:
        raise typer.Exit(_see_through(session, handle, patience, output, follow=follow))


def _check_combination(
    job: str | None,
    lines: Path | None,
    at: str | None,
    delay: str | None,
    timeout: str | None,
    args: str | None,
    key: str | None,
    *,
    waits: bool,
) -> None:
    if job is None and lines is None:
        raise UsageError("name the job, or give --from-jsonl FILE")
    if at is not None and delay is not None:
        raise UsageError("--at and --in exclude each other")
    if timeout is not None and not waits:
        raise UsageError("--timeout needs --wait or --follow")
    if key is not None and lines is not None:
        raise UsageError("--key is for one task; give each line its own")
    if args == "-" and lines is not None and str(lines) == "-":
        raise UsageError("standard input cannot be both --args and --from-jsonl")


def _warn_past(due: dt.datetime | None, is_past: bool) -> None:
    if due is not None and is_past:
        say(f"{moment(due)} is past: it is due at once", color="yellow")


def _given(session: Session, job: Job | str | None, words: list[str] | None, args: str | None) -> dict[str, Any]:
    """The arguments of `--args` with those of the words over them, not yet checked as a whole."""
    from slotsched.catalog.arguments import read_words

    given = read_args(args) if args is not None else {}
    if words:
        found = session.client.job(job) if isinstance(job, str) else job
        assert found is not None
        given.update(read_words(found.parameters, words))
    return given


def read_args(text: str) -> dict[str, Any]:
    """The object of `{...}`, `@FILE` or `-` (standard input). Raises UsageError."""
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        found = json.loads(text)
    except OSError as error:
        raise UsageError(f"--args: cannot read {text[1:] or 'standard input'}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError("--args: not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--args: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError('--args: not a JSON object such as {"width": 640}')
    return found


def _show_request(job: Job, request: TaskRequest, output: Output) -> None:
    from slotsched.model.task import jsonable

    show_object(jsonable(request), output, identity="", lines=lambda: ["would enqueue", *_request_lines(job, request)])


def _request_lines(job: Job, request: TaskRequest) -> list[str]:
    from slotsched.quantities import format_size

    needs = [slot_count(request.needs.slots), *(f"{units} {name}" for name, units in request.needs.resources.items())]
    due = _due(request)
    return list(
        pairs(
            [
                ("  job", job.name),
                ("  arguments", compact(dict(request.args))),
                ("  needs", ", ".join(needs)),
                ("  memory", format_size(request.needs.memory) if request.needs.memory else ""),
                ("  max time", span(request.max_time or job.facts.max_time)),
                ("  retries", str(request.retry.limit)),
                ("  after", _parents(request)),
                ("  due", due or "at once"),
            ]
        )
    )


def _parents(request: TaskRequest) -> str:
    """The tasks it waits for, and how they must end."""
    if not request.parents:
        return ""
    return f"{', '.join(short(parent) for parent in request.parents)} ({request.when})"


def _due(request: TaskRequest) -> str:
    """When it is due, absolute with zone, as far as this machine's clock knows; empty for at once."""
    import datetime as dt

    due = request.due_at
    if due is None and request.due_in:
        due = now() + dt.timedelta(seconds=request.due_in)
    if due is None or due <= now():
        return ""
    return f"{moment(due)} ({ago(due, now())})"


def _show_handle(
    session: Session, handle: Handle, job: Job, request: TaskRequest, output: Output, *, waits: bool
) -> None:
    """The answer, now: the id. With --wait and -o json the answer is the ended task, later."""
    if output is Output.JSON or output is Output.JSONL:
        if not waits:
            show_object(handle.get().to_object(), output, identity=handle.id, lines=list)
    elif output is Output.ID or not is_terminal(sys.stdout):
        put(handle.id)
    elif handle.existed:
        cause = f"for key {request.key}" if request.key else f"and the only one job {job.name} may have at a time"
        put(f"task {short(handle.id)} is there already {cause} ({handle.status.value})")
    else:
        put(queued(handle.id, request, request.max_time or job.facts.max_time, _due(request)))
    sys.stdout.flush()
    if not handle.existed:
        warn_if_stuck(session, request)


def warn_if_stuck(session: Session, request: TaskRequest) -> None:
    """Say so where no instance that is up could ever run it; it is enqueued all the same.

    A job file that was just written is known to instances a little later: a person is not alarmed before that.
    """
    from slotsched.views.explain import obstacle

    fleet = session.client.fleet([request.job])
    patience = time.monotonic() + PUBLISH_SECONDS
    while is_terminal(sys.stderr) and fleet.instances and request.job not in fleet.holders:
        if time.monotonic() > patience:
            break
        time.sleep(0.25)
        fleet = session.client.fleet([request.job])
    reason = obstacle(request.job, request.needs, fleet)
    if reason is not None:
        say(f"queued, but {reason}; it will wait", color="yellow")


def _see_through(session: Session, handle: Handle, timeout: float | None, output: Output, *, follow: bool) -> int:
    task = _followed(session, handle, timeout) if follow else _waited(session, handle, timeout)
    if output in (Output.JSON, Output.JSONL):
        show_object(task.to_object(), output, identity=task.id, lines=list)
    return worst([task])


def _followed(session: Session, handle: Handle, timeout: float | None) -> Task:
    from slotsched.cli.follow import follow

    return follow(session, handle.id, timeout)


def _waited(session: Session, handle: Handle, timeout: float | None) -> Task:
    from slotsched.cli.phrases import ending, say_rejoin
    from slotsched.cli.render import use_color

    try:
        task = session.client.wait([handle], timeout)[0]
    except KeyboardInterrupt:
        say_rejoin([handle.id], how="wait")
        raise
    say(f"{short(task.id)} {task.job} {ending(task, color=use_color(sys.stderr))}")
    return task
