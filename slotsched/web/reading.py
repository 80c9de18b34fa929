"""One attempt's log for a web answer: nothing is waited for, and what is missing is said beside it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from slotsched.errors import UsageError
from slotsched.loglines import Filter, compile_pattern, level_number, parse

if TYPE_CHECKING:
    from slotsched.client import Client
    from slotsched.web.query import Words

MOST_ATTEMPTS = 1_000_000
SEARCH_SECONDS = 60.0  # of a whole log
TURN_SECONDS = 1.0  # of it on a thread, before others have theirs
PIECE_BYTES = 64 << 10


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


def in_pieces(lines: Iterable[bytes], wanted: Filter | None = None) -> Iterator[bytes]:
    """The lines, or those that are wanted, in pieces: one a turn, at least one. UsageError where a search takes too
    long; of the first turn's errors the answer has the status, later ones cut it.
    """
    kept: list[bytes] = []
    size, end, turn = 0, time.monotonic() + SEARCH_SECONDS, time.monotonic() + TURN_SECONDS
    for line in lines:
        if wanted is None or wanted.accepts(parse(line)):
            kept.append(line)
            size += len(line)
        now = time.monotonic()
        if wanted is not None and now > end:
            raise UsageError(f"the search took more than {SEARCH_SECONDS:.0f} s; ask for less")
        if size > PIECE_BYTES or now > turn:
            yield b"".join(kept)
            kept, size, turn = [], 0, time.monotonic() + TURN_SECONDS
    yield b"".join(kept)
