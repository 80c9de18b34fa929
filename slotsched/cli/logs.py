"""`logs`: an attempt's log, rendered, chosen, raw or as it is stored."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Annotated

import typer

from slotsched.cli.options import TaskArgument, parsed
from slotsched.cli.phrases import say_rejoin
from slotsched.cli.render import is_terminal, say, use_color, write
from slotsched.cli.session import Session
from slotsched.errors import SlotschedError, UsageError


class Stream(StrEnum):
    """What `--stream` takes."""

    STDOUT = "stdout"
    STDERR = "stderr"


def logs(
    context: typer.Context,
    task: TaskArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task has ended.")] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, metavar="N", help="Begin with the last N lines.")
    ] = None,
    level: Annotated[
        str | None, typer.Option("--level", metavar="L", help="Only this level and above: debug, info, warn, error.")
    ] = None,
    grep: Annotated[
        str | None, typer.Option("--grep", metavar="RE", help="Only lines in whose message or fields RE is found.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Exactly the bytes the script wrote, control characters too.")
    ] = False,
    stream: Annotated[Stream | None, typer.Option("--stream", help="With --raw: only this stream.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The stored lines, for pino-pretty or jq.")] = False,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, metavar="N", help="Not the last attempt but this one.")
    ] = None,
) -> None:
    """Print a task's log, while it runs and ever after."""
    if raw and (as_json or level or grep):
        raise UsageError("--raw gives exact bytes; it goes with none of --json, --level, --grep")
    if stream is not None and not raw:
        raise UsageError("--stream needs --raw")
    session = Session.of(context)
    chosen = _chooser(level, grep)
    task_id = session.resolve(task)
    lines = _from_tail(session, task_id, follow=follow, attempt=attempt, tail=tail, chosen=chosen)
    try:
        if raw:
            _write_raw(lines, stream, at_once=follow)
        else:
            _write(lines, as_json=as_json, at_once=follow or is_terminal(sys.stdout))
    except KeyboardInterrupt:
        if _goes_on(session, task_id):
            say_rejoin([task_id], how="logs -f")
        raise


def _goes_on(session: Session, task_id: str) -> bool:
    """Whether the task has not ended yet, as far as the store tells now."""
    from slotsched.model import TERMINAL

    try:
        return session.client.get(task_id).status not in TERMINAL
    except SlotschedError:
        return False


def _chooser(level: str | None, grep: str | None) -> Callable[[bytes], bool] | None:
    """What `--level` and `--grep` let through; None for everything."""
    if level is None and grep is None:
        return None
    from slotsched.loglines import Filter, compile_pattern, level_number, parse

    wanted = Filter(
        min_level=parsed("--level", level_number, level) or 0,
        pattern=parsed("--grep", compile_pattern, grep),
    )
    return lambda line: wanted.accepts(parse(line))


def _from_tail(
    session: Session,
    task_id: str,
    *,
    follow: bool,
    attempt: int | None,
    tail: int | None,
    chosen: Callable[[bytes], bool] | None,
) -> Iterator[bytes]:
    """The chosen lines. `tail` means the last of those chosen, but when following: the last of what is there."""
    lines = session.client.log_lines(
        task_id, follow=follow, attempt=attempt, last=tail if not chosen or follow else None, notify=say
    )
    if chosen is None:
        yield from lines
    elif follow or tail is None:
        yield from filter(chosen, lines)
    else:
        yield from deque(filter(chosen, lines), maxlen=tail)


def _write(lines: Iterable[bytes], *, as_json: bool, at_once: bool) -> None:
    from slotsched.loglines import Renderer, parse, plain_json

    renderer, person = Renderer(color=use_color(sys.stdout)), is_terminal(sys.stdout)
    for line in lines:
        if as_json and person:
            write(plain_json(line.decode("utf-8", "replace")))
        elif as_json:
            sys.stdout.buffer.write(line)
        else:
            write(renderer.feed(parse(line)))
        if at_once:
            sys.stdout.flush()
    write(renderer.end())


def _write_raw(lines: Iterable[bytes], stream: Stream | None, *, at_once: bool) -> None:
    from slotsched.loglines import raw

    out = sys.stdout.buffer
    for piece in raw(lines, None if stream is None else stream.value):
        out.write(piece)
        if at_once:
            out.flush()
    out.flush()
