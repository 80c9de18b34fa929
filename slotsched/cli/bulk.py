"""`enqueue --from-jsonl`: many tasks, none where a line is refused, with a bar on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from slotsched import contract
from slotsched.cli.render import Output, is_terminal, put, put_lines, say
from slotsched.cli.session import Session
from slotsched.errors import InvalidBatch, UsageError
from slotsched.views.text import short

if TYPE_CHECKING:
    from slotsched.client import Handle
    from slotsched.model import TaskRequest

MOST_PROBLEMS_SHOWN = 20
MOST_NUMBERS_SHOWN = 100


def enqueue_lines(
    session: Session,
    source: Path,
    job: str | None,
    args: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    wait: bool,
    timeout: float | None,
    dry_run: bool,
    output: Output,
) -> None:
    """Enqueue a line each, or report every line that is wrong and enqueue none.

    args: given to every task, under the line's own. options: of `enqueue`, under the line's own. timeout: seconds.
    """
    requests = _checked(session, source, job, args, options)
    if not requests:
        say("no lines, nothing to enqueue")
        return
    if dry_run:
        say(f"would enqueue {len(requests)} tasks")
        return
    handles = _store(session, requests)
    session.remember(handles[-1].id)
    _show(handles, output)
    if wait:
        from slotsched.cli.tasks import wait_for

        ids = list(dict.fromkeys(handle.id for handle in handles))
        raise typer.Exit(wait_for(session, ids, timeout, sys.stderr))


def _checked(
    session: Session, source: Path, job: str | None, args: Mapping[str, Any], options: Mapping[str, Any]
) -> list[TaskRequest]:
    """The requests; on any bad line the report of all and exit 2."""
    numbers: list[int] = []
    items: list[Any] = []
    problems: list[tuple[int, str]] = []
    lines = 0
    for number, line in _numbered(source):
        lines += 1
        try:
            items.append(_item(line, job, args, options))
            numbers.append(number)
        except UsageError as error:
            problems.append((number, str(error)))
    requests: list[TaskRequest] = []
    try:
        requests = session.client.requests(items)
    except InvalidBatch as batch:
        problems += [(numbers[position - 1], sentence) for position, sentence in batch.problems]
    if problems:
        _report(sorted(problems), lines)
        raise typer.Exit(contract.EXIT_USAGE)
    return requests


def _item(line: str, job: str | None, args: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError("not a JSON object")
    if job is not None:
        return {**options, "job": job, "args": {**args, **found}}
    return {**options, **found}


def _numbered(source: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, counted from 1. Raises UsageError for a file that cannot be read."""
    try:
        if str(source) == "-":
            yield from _not_blank(sys.stdin)
        else:
            with source.open(encoding="utf-8") as stream:
                yield from _not_blank(stream)
    except OSError as error:
        raise UsageError(f"--from-jsonl: cannot read {source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--from-jsonl: {source} is not UTF-8") from None


def _not_blank(stream: Any) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield number, line


def _report(problems: list[tuple[int, str]], lines: int) -> None:
    for number, sentence in problems[:MOST_PROBLEMS_SHOWN]:
        say(f"line {number}: {sentence}")
    rest = [str(number) for number, _ in problems[MOST_PROBLEMS_SHOWN:]]
    if rest:
        more = " ..." if len(rest) > MOST_NUMBERS_SHOWN else ""
        say(f"... and {len(rest)} more: lines {', '.join(rest[:MOST_NUMBERS_SHOWN])}{more}")
    say(f"{len(problems)} of {lines} lines refused, nothing was stored")


def _store(session: Session, requests: list[TaskRequest]) -> list[Handle]:
    with _bar(len(requests)) as advance:
        return session.client.submit_many(requests, advance)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None] | None]:
    if not is_terminal(sys.stderr):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("enqueue"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("", total=total)
        yield lambda done: bars.update(bar, completed=done)


def _show(handles: list[Handle], output: Output) -> None:
    existed = sum(handle.existed for handle in handles)
    if output is Output.JSON:
        put(json.dumps([_object(handle) for handle in handles], indent=2))
    elif output is Output.JSONL:
        put_lines(json.dumps(_object(handle)) for handle in handles)
    elif output is Output.ID or not is_terminal(sys.stdout):
        put_lines(handle.id for handle in handles)
    else:
        first, last = short(handles[0].id), short(handles[-1].id)
        put(f"{len(handles) - existed} tasks queued, {first} to {last}")
    if existed:
        say(f"{existed} of them were there already, by their key")


def _object(handle: Handle) -> dict[str, Any]:
    return {"id": handle.id, "status": handle.status.value, "existed": handle.existed}
