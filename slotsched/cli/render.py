"""Answers on stdout: tables, objects, ids.

A table is aligned plain columns with a header. On a terminal it is coloured and cut to the width; piped it has
neither, so that `awk` and `grep` see every row whole on one line.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TextIO, TypeVar

from slotsched.views.text import cut, plain, width

Row = TypeVar("Row")

_COLORS = {
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
    "dim": "2",
    "bold": "1",
}
# These and those of log levels (loglines): nothing among them can hide a text.
_OWN_COLORS = re.compile(r"(\x1b\[(?:0|2|1|3[1-46]|90|97;41)m)")
STATUS_COLORS = {
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "canceled": "yellow",
    "scheduled": "dim",
    "waiting": "dim",
}
GAP = "  "
EMPTY = "-"
NARROWEST = 12  # cells a column that gives way keeps


class Output(StrEnum):
    """The values of `-o`."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    JSONL = "jsonl"
    ID = "id"


@dataclass(frozen=True, kw_only=True)
class Column(Generic[Row]):
    """cell: the text for a row. flexible: gives way first when the terminal is narrow. wide: only with `-o wide`.

    most: cells to which it gives way before any other column does.
    color: the name of a colour for a row's cell, or None.
    """

    title: str
    cell: Callable[[Row], str]
    right: bool = False
    flexible: bool = False
    wide: bool = False
    most: int | None = None
    color: Callable[[Row], str | None] | None = None


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads this stream now."""
    return stream.isatty()


def use_color(stream: TextIO) -> bool:
    """A terminal that is not dumb, unless NO_COLOR is set (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, color: str | None, *, enabled: bool) -> str:
    """`text` in a colour, or as it is."""
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m" if enabled and color else text


def columns_of(stream: TextIO) -> int | None:
    """The terminal's width in cells, None where nothing is cut."""
    return shutil.get_terminal_size((80, 24)).columns if is_terminal(stream) else None


def table(
    rows: Sequence[Row], columns: Sequence[Column[Row]], *, wide: bool, limit: int | None, color: bool
) -> Iterator[str]:
    """The lines of a table, header first. limit: cells per line, None = never cut.

    Where a line is too long, columns without a single value go first, then flexible ones are cut.
    """
    shown = [column for column in columns if wide or not column.wide]
    cells = [[plain(column.cell(row)) or EMPTY for column in shown] for row in rows]
    widths = _widths(shown, cells)
    if limit is not None and not wide:
        if _excess(widths, limit) > 0:
            filled = [i for i in range(len(shown)) if any(line[i] != EMPTY for line in cells) or not cells]
            shown, cells = [shown[i] for i in filled], [[line[i] for i in filled] for line in cells]
            widths = _widths(shown, cells)
        _give_way(shown, widths, limit)
    yield _line([column.title for column in shown], shown, widths)
    for row, line in zip(rows, cells, strict=True):
        colors = [column.color(row) if color and column.color else None for column in shown]
        yield _line(line, shown, widths, colors)


def _widths(columns: Sequence[Column[Any]], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max([width(column.title), *(width(line[i]) for line in cells)]) for i, column in enumerate(columns)]


def _excess(widths: Sequence[int], limit: int) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1) - limit


def _give_way(columns: Sequence[Column[Any]], widths: list[int], limit: int) -> None:
    """Narrow the flexible columns, widest first, until the line fits or all are at their least."""
    for i, column in enumerate(columns):
        if column.most is not None:
            widths[i] = max(min(widths[i], column.most), widths[i] - max(0, _excess(widths, limit)))
    excess = _excess(widths, limit)
    flexible = [i for i, column in enumerate(columns) if column.flexible]
    while excess > 0:
        candidates = [i for i in flexible if widths[i] > max(NARROWEST, len(columns[i].title))]
        if not candidates:
            return
        widest = max(candidates, key=lambda i: widths[i])
        widths[widest] -= 1
        excess -= 1


def _line(
    cells: Sequence[str],
    columns: Sequence[Column[Any]],
    widths: Sequence[int],
    colors: Sequence[str | None] | None = None,
) -> str:
    parts = []
    for i, (cell, column) in enumerate(zip(cells, columns, strict=True)):
        text = cut(cell, widths[i])
        padding = " " * (widths[i] - width(text))
        text = paint(text, colors[i] if colors else None, enabled=True)
        parts.append(padding + text if column.right else text + padding)
    return GAP.join(parts).rstrip()


def show_rows(
    rows: Iterable[Row],
    columns: Sequence[Column[Row]],
    output: Output,
    *,
    to_object: Callable[[Row], Any],
    to_id: Callable[[Row], str],
) -> None:
    """Print rows in the form of `-o`. A list is one JSON array; jsonl is one object a line; id one id a line.

    Only a table has to be whole before it is printed; anything else is printed row by row.
    """
    if output in (Output.TABLE, Output.WIDE):
        wide, listed = output is Output.WIDE, list(rows)
        if listed or is_terminal(sys.stdout):
            lines = table(listed, columns, wide=wide, limit=columns_of(sys.stdout), color=use_color(sys.stdout))
            put_lines(lines)
    elif output is Output.ID:
        put_lines(to_id(row) for row in rows)
    elif output is Output.JSONL:
        put_lines(as_json(to_object(row)) for row in rows)
    else:
        put_lines(_array(map(to_object, rows)))


def _array(objects: Iterable[Any]) -> Iterator[str]:
    """One JSON array, an object at a time."""
    last = None
    for value in objects:
        yield "[" if last is None else f"{last},"
        last = "  " + as_json(value, indent=2).replace("\n", "\n  ")
    yield "[]" if last is None else f"{last}\n]"


def show_object(value: Any, output: Output, *, identity: str, lines: Callable[[], Iterable[str]]) -> None:
    """Print one thing: its JSON, its id, or the given lines for people."""
    if output is Output.JSON:
        put(as_json(value, indent=2))
    elif output is Output.JSONL:
        put(as_json(value))
    elif output is Output.ID:
        put(identity)
    else:
        put_lines(lines())


def as_json(value: Any, *, indent: int | None = None) -> str:
    """JSON text; readable where stdout can show all of Unicode, else with escapes that JSON itself knows."""
    from slotsched.loglines import plain_json
    from slotsched.views.objects import strict_json

    return plain_json(strict_json(value, ensure_ascii=not _is_utf8(sys.stdout), indent=indent))


def pairs(items: Iterable[tuple[str, str]]) -> Iterator[str]:
    """`Name:  value` lines, aligned; a value of several lines is indented under its first."""
    from slotsched.loglines import plain as without_controls

    listed = [(plain(name), without_controls(value)) for name, value in items if value]
    left = max((len(name) for name, _ in listed), default=0) + 1
    for name, value in listed:
        first, *rest = value.splitlines() or [""]
        yield f"{name + ':':<{left}}  {first}"
        for line in rest:
            yield f"{'':<{left}}  {line}"


def put(text: str) -> None:
    """One line of the answer."""
    write(text + "\n")


def write(text: str) -> None:
    """A part of the answer. What the terminal's encoding lacks is shown as an escape, not fatal."""
    sys.stdout.write(_printable(harmless(text), sys.stdout))


def put_lines(lines: Iterable[str]) -> None:
    for line in lines:
        put(line)


def say(text: str, *, color: str | None = None) -> None:
    """One line for the person at the terminal, on stderr: never part of the answer, and lost where nobody reads it."""
    with contextlib.suppress(OSError):
        sys.stderr.write(paint(_printable(harmless(text), sys.stderr), color, enabled=use_color(sys.stderr)) + "\n")
        sys.stderr.flush()


def say_lines(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


def harmless(text: str) -> str:
    """The text with no control sequences but our own colours: whatever a database or a script put into it."""
    if text.isascii() and text.removesuffix("\n").isprintable():
        return text
    from slotsched.loglines import plain as without_controls

    return "".join(
        piece if _OWN_COLORS.fullmatch(piece) else without_controls(piece) for piece in _OWN_COLORS.split(text)
    )


def _is_utf8(stream: TextIO) -> bool:
    return (stream.encoding or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8")


def _printable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
