"""What a shell completes beside commands and options: names of jobs, their arguments, statuses.

No database is asked: a completion that waits for the network is worse than none.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import typer

from slotsched.cli.session import Session

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
MOST_FILES = 2000


def job_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names in the jobs folder by file name alone; reading every file would take longer than a person waits."""
    folder = _session(context).settings.jobs_dir
    return sorted({name for name in _names(folder) if name.startswith(incomplete)})


def schedule_names(context: typer.Context, incomplete: str) -> list[str]:
    """Most schedules are named like their job; names of others would have to be asked of the database."""
    return job_names(context, incomplete)


def argument_words(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """`name=` for each argument of the job named before, without those already given."""
    from slotsched.catalog import Folder
    from slotsched.errors import SlotschedError

    name = context.params.get("job")
    if not isinstance(name, str) or "=" in incomplete:
        return []
    given = {word.partition("=")[0] for word in context.params.get("words") or ()}
    with contextlib.suppress(SlotschedError, OSError):
        parameters = Folder(_session(context).settings.jobs_dir).fresh(name).parameters or ()
        return [
            (f"{parameter.name}=", parameter.description or parameter.type)
            for parameter in parameters
            if parameter.name.startswith(incomplete) and parameter.name not in given
        ]
    return []


def statuses(incomplete: str) -> list[str]:
    """The seven statuses of a task."""
    from slotsched.model import Status

    return [status.value for status in Status if status.value.startswith(incomplete)]


def _session(context: typer.Context) -> Session:
    found = context.find_root().obj
    return found if isinstance(found, Session) else Session()


def _names(folder: Path) -> Iterator[str]:
    import os

    seen = 0
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if _NAME.fullmatch(name)]
        prefix = Path(parent).relative_to(folder).as_posix()
        for file in files:
            seen += 1
            if seen > MOST_FILES:
                return
            stem = file.partition(".")[0]
            if _NAME.fullmatch(stem):
                yield stem if prefix == "." else f"{prefix}/{stem}"
