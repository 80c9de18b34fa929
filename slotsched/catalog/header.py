"""The `# /// script` block of a job file, or its sidecar: TOML with the line of every key.

The block's grammar is PEP 723's, with `//` allowed in place of `#` for languages that comment that way.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_OPENING = re.compile(rb"^(#|//) /// script[ \t]*\r?$", re.MULTILINE)
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)$")
_OWN_TABLE = b"[tool.slotsched"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class HeaderError(ValueError):
    """Raised when a header cannot be read. line: of the file. ours: whether it is meant for slotsched at all."""

    def __init__(self, line: int, message: str, *, ours: bool) -> None:
        super().__init__(message)
        self.line = line
        self.ours = ours


@dataclass(frozen=True, kw_only=True)
class Header:
    """A parsed header. first: the line it begins at; lines: the file's line of each key, by its path of names."""

    table: Mapping[str, Any]
    lines: Mapping[tuple[str, ...], int]
    first: int = 1

    def line(self, *path: str) -> int:
        """The line of that key, else of the nearest table around it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return self.first

    @property
    def facts(self) -> Any:
        """What is at `[tool.slotsched]`; None where there is no such table."""
        tool = self.table.get("tool")
        return tool.get("slotsched") if isinstance(tool, dict) else None


def read_block(data: bytes) -> Header | None:
    """The first `script` block of a file's bytes; None where there is none. Raises HeaderError."""
    data = data.removeprefix(_BYTE_ORDER_MARK)
    opening = _OPENING.search(data)
    if opening is None:
        return None
    first = data.count(b"\n", 0, opening.start()) + 1
    marker = opening[1]
    content = list(_comment_lines(data[opening.end() :], marker))
    closings = [number for number, line in enumerate(content) if line == b"///"]
    ours = any(line.startswith(_OWN_TABLE) for line in content)
    if len(_OPENING.findall(data)) > 1:
        raise HeaderError(first, "the file has two script blocks", ours=ours)
    if not closings:
        raise HeaderError(first, f'the script block is not closed by a line "{marker.decode()} ///"', ours=ours)
    # PEP 723: the block ends at the last such line of the unbroken run of comments.
    return _parse(b"\n".join(content[: closings[-1]]), first + 1, ours=ours)


def read_sidecar(data: bytes) -> Header:
    """A `NAME.toml`. Raises HeaderError."""
    ours = any(line.startswith(_OWN_TABLE) for line in data.split(b"\n"))
    return _parse(data.removeprefix(_BYTE_ORDER_MARK).replace(b"\r\n", b"\n"), 1, ours=ours)


def _comment_lines(data: bytes, marker: bytes) -> Iterator[bytes]:
    for raw in data.split(b"\n")[1:]:
        line = raw.rstrip(b"\r")
        if line == marker:
            yield b""
        elif line.startswith(marker + b" "):
            yield line[len(marker) + 1 :]
        else:
            return


def _parse(data: bytes, first: int, *, ours: bool) -> Header:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first + data.count(b"\n", 0, error.start)
        raise HeaderError(line, "the header is not UTF-8", ours=ours) from None
    try:
        table = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, but also a number of 5,000 digits
        found = _TOML_LINE.search(str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        message = _TOML_LINE.sub("", str(error)).strip()
        raise HeaderError(first + line - 1, f"not TOML: {message}", ours=ours) from None
    except RecursionError:
        raise HeaderError(first, "not TOML: nested too deeply", ours=ours) from None
    lines = {path: first + number for path, number in _key_lines(text)}
    return Header(table=table, lines=lines, first=first)


# --- where each key stands: tomllib does not say ----------------------------------------------------

_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_OR_QUOTED = r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'"""
_KEY = re.compile(rf"(?:{_BARE_OR_QUOTED})(?:[ \t]*\.[ \t]*(?:{_BARE_OR_QUOTED}))*")
_KEY_PART = re.compile(_BARE_OR_QUOTED)
_VALUE_PIECE = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\]|\\.)*"|'[^']*'|\#[^\n]*|[\[{]|[\]}]|,|\n|[^"'\#\[\]{},\n]+''',
    re.DOTALL,
)


def _key_lines(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Each key's path and line (0 and up) in TOML that tomllib has accepted."""
    table: tuple[str, ...] = ()
    position = 0
    seen: set[tuple[str, ...]] = set()
    while (gap := _GAP.match(text, position)) and gap.end() < len(text):
        position = gap.end()
        line = text.count("\n", 0, position)
        is_table = text[position] == "["
        key = _KEY.search(text, position)
        if key is None:
            return
        path = (*(() if is_table else table), *_parts(key[0]))
        if is_table:
            table = path
            position = _end_of_line(text, key.end())
        else:
            position = _end_of_value(text, text.index("=", key.end()) + 1)
        for end in range(1, len(path) + 1):
            if path[:end] not in seen:
                seen.add(path[:end])
                yield path[:end], line


def _parts(key: str) -> tuple[str, ...]:
    parts = _KEY_PART.findall(key)
    return tuple(tomllib.loads(f"key = {part}")["key"] if part[0] in "\"'" else part for part in parts)


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _end_of_value(text: str, position: int) -> int:
    """Where the value that begins here ends: the first newline outside of brackets and strings."""
    depth = 0
    for piece in _VALUE_PIECE.finditer(text, position):
        if piece[0] == "\n" and depth == 0:
            return piece.start()
        depth += (piece[0] in ("[", "{")) - (piece[0] in ("]", "}"))
    return len(text)
