"""Options that several commands share, each declared once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from slotsched.cli.complete import job_names, statuses
from slotsched.cli.render import Output
from slotsched.cli.session import now
from slotsched.errors import UsageError
from slotsched.views.text import parse_moment, parse_since

OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How the answer is printed.", show_default=True)]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's name.", autocompletion=job_names)]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="A part of the id (4 characters or more), or @last.")]
TasksArgument = Annotated[
    list[str], typer.Argument(metavar="TASK", help="Parts of ids (4 characters or more), or @last.")
]
TimeoutOption = Annotated[
    str | None, typer.Option("--timeout", metavar="D", help="Stop waiting after this time (exit 124); tasks go on.")
]
StatusOption = Annotated[
    list[str] | None,
    typer.Option("--status", metavar="S", help="Only this status; may be repeated.", autocompletion=statuses),
]
JobOption = Annotated[
    list[str] | None,
    typer.Option("--job", "-j", metavar="JOB", help="Only this job; may be repeated.", autocompletion=job_names),
]
OwnerOption = Annotated[str | None, typer.Option("--owner", metavar="NAME", help="Only what this user enqueued.")]
TagOption = Annotated[
    list[str] | None, typer.Option("--tag", "-t", metavar="T", help="Only with this tag; may be repeated.")
]
ReasonOption = Annotated[str | None, typer.Option("--reason", metavar="R", help="Only ended for this reason.")]
InstanceOption = Annotated[str | None, typer.Option("--instance", metavar="NAME", help="Only on this instance.")]
SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="T", help="Only enqueued after this time, or within this duration.")
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="T", help="Only enqueued before this time, or longer ago than this.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=0, metavar="N", help="At most N rows; 0: all.")]
LinesFile = Annotated[Path | None, typer.Option("--from-jsonl", metavar="FILE|-", help="One task a line.")]


def parsed(name: str, parse: Callable[[str], Any], text: str | None) -> Any:
    """`parse(text)` with an error that names the option; None for an option not given."""
    if text is None:
        return None
    try:
        return parse(text)
    except (ValueError, UsageError) as error:
        raise UsageError(f"{name}: {error}") from None


def duration(name: str, text: str | None) -> float | None:
    """Seconds of `10m`; None for an option not given."""
    from slotsched.quantities import parse_duration

    seconds: float | None = parsed(name, parse_duration, text)
    return seconds


def when(name: str, text: str | None) -> dt.datetime | None:
    """The aware time of `03:15`, ISO 8601 (without a zone: local); None for an option not given."""
    moment: dt.datetime | None = parsed(name, lambda given: parse_moment(given, now()), text)
    return moment


def since(name: str, text: str | None) -> dt.datetime | None:
    """The aware time of a time, or of a duration before now; None for an option not given."""
    moment: dt.datetime | None = parsed(name, lambda given: parse_since(given, now()), text)
    return moment
