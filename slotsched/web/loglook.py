"""A part of an attempt's log as rows for a page: the last lines, or those before a line, all or only some."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from slotsched.loglines import Filter, Line, body, level_name, parse, plain

MOST_ROWS = 2_000  # a page with 145,000 takes a browser five seconds
MOST_BYTES = 2 << 20  # of the stored lines behind them together: a page of rows costs several times that in memory
MOST_CHARACTERS = 64 << 10  # of one row: pieces of a long line are joined up to here
SEARCH_SECONDS = 5.0  # of a whole log


@dataclass(frozen=True, kw_only=True)
class Row:
    """number: of the line in the log, from 1. at: ms since 1970, None where the line does not say."""

    number: int
    at: float | None
    level: str
    stream: str
    text: str


class Newest:
    """The newest of many lines, with their numbers, as many as a page may hold: at least one, whatever its size.

    left_out: older ones made room.
    """

    def __init__(self) -> None:
        self.lines: deque[tuple[int, bytes]] = deque()
        self.left_out = False
        self._bytes = 0

    def fits(self, line: bytes) -> bool:
        """Whether there is room for one more."""
        return len(self.lines) < MOST_ROWS and self._bytes + len(line) <= MOST_BYTES

    def add(self, number: int, line: bytes) -> None:
        """One more; the oldest make room where there is none."""
        while self.lines and not self.fits(line):
            _, oldest = self.lines.popleft()
            self._bytes -= len(oldest)
            self.left_out = True
        self.lines.append((number, line))
        self._bytes += len(line)


@dataclass(frozen=True, kw_only=True)
class Look:
    """rows: oldest first. earlier: there are rows before them. stopped_at: the line at which a search gave up."""

    rows: list[Row] = field(default_factory=list)
    earlier: bool = False
    stopped_at: int | None = None


def look(
    lines: Iterable[bytes],
    wanted: Filter | None = None,
    *,
    before: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Look:
    """The last rows of a log, or the last ones before the line of that number.

    wanted: only lines that it accepts; looking for them ends after SEARCH_SECONDS.
    """
    kept = Newest()
    stopped_at = None
    end = clock() + SEARCH_SECONDS
    for number, line in enumerate(lines, 1):
        if before is not None and number >= before:
            break
        if wanted is not None:
            if clock() > end:
                stopped_at = number
                break
            if not wanted.accepts(parse(line)):
                continue
        kept.add(number, line)
    return Look(rows=rows_of(kept.lines), earlier=kept.left_out, stopped_at=stopped_at)


def rows_of(numbered: Iterable[tuple[int, bytes]]) -> list[Row]:
    """A row a line; the pieces of a long one make one row while no line of another stream comes between them."""
    rows: list[Row] = []
    goes_on: tuple[int, str] | None = None  # a filter may have left out the piece that follows
    for number, text in numbered:
        line = parse(text)
        if (number, line.stream) == goes_on:
            joined = rows[-1].text + body(line)
            rows[-1] = replace(rows[-1], text=_cut(joined))
        else:
            rows.append(_row(number, line))
        goes_on = (number + 1, line.stream) if line.part and line.stream else None
    return rows


def _row(number: int, line: Line) -> Row:
    return Row(
        number=number,
        at=line.time,
        level=level_name(line.level),
        stream=plain(line.stream or ""),
        text=_cut(body(line)),
    )


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
