"""One attempt's log for a web answer: nothing is waited for, and what is missing is said beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from slotsched.errors import UsageError
from slotsched.loglines import Filter, compile_pattern, level_number

if TYPE_CHECKING:
    from slotsched.client import Client
    from slotsched.web.query import Words

MOST_ATTEMPTS = 1_000_000


@dataclass
class LogLines:
    """The stored lines, and sentences about what is not there. The first line has been read: errors have shown."""

    lines: Iterator[bytes]
    notes: list[str] = field(default_factory=list)


def open_log(client: Client, task_id: str, words: Words) -> LogLines:
    """The lines of the attempt that `words` name, of the last one else. Raises NotFound, ArchiveError, UsageError."""
    from slotsched.views.log import Reading, read_log

    attempt = words.number("attempt", least=1, most=MOST_ATTEMPTS)
    notes: list[str] = []
    how = Reading(attempt=attempt, upload_wait=0, notify=notes.append)
    lines = read_log(client.store, lambda log: client.open_archive(log.store), task_id, how)
    first = next(lines, None)
    return LogLines(lines if first is None else chain([first], lines), notes)


def chosen(words: Words) -> Filter | None:
    """What `level` and `grep` let through, None for everything. Raises UsageError."""
    level, grep = words.one("level"), words.one("grep")
    if level is None and grep is None:
        return None
    try:
        lowest = 0 if level is None else level_number(level)
    except ValueError as error:
        raise UsageError(f"level: {error}") from None
    return Filter(min_level=lowest, pattern=None if grep is None else compile_pattern(grep))
