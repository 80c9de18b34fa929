"""An attempt's log lines: read them, show them on a terminal, choose among them, and get the printed bytes back.

One line is one pino-shaped JSON object. What a script printed is wrapped as
`{level (30 stdout, 40 stderr), time (ms), stream, msg}`; `part: true` stands on all but the last piece of a long line,
`eol: false` where no newline came, `bytes` (base64) beside a readable `msg` where the output was not UTF-8.
A line that was pino-shaped when printed passes unchanged, without a `stream`: which one it came from is told by one
byte of white space at its end. `truncated` is on the lines that stand for output which is not in the log; those and no
others are not the script's.
Everything here is a pure function of lines; nothing in a line is trusted.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from slotsched.contract import LEVEL_INFO, LEVEL_NAMES
from slotsched.errors import UsageError

PATTERN_CHARACTERS = 1000
PATTERN_MEMORY_BYTES = 1 << 20  # compiled, and while it is searched for
SEARCHED_CHARACTERS = 64 * 1024  # of one line
WRAPPER_FIELDS = frozenset({"level", "time", "msg", "stream", "part", "eol", "bytes"})
PASSED_ENDS = {"}": "stdout", "\t": "stderr", " ": "log"}
HIDDEN_FIELDS = frozenset({"level", "time", "msg", "v", "err"})  # not shown behind a message
LOGGER_FIELDS = frozenset({"pid", "hostname", "name"})  # nor these, where a logger of a process put them on every line

_COLORS = {10: "90", 20: "34", 30: "32", 40: "33", 50: "31", 60: "97;41"}
_BARE_VALUE = re.compile(r"[^\s\"'=\\]+")

# Whole sequences go, with what they carry; then every single control character that is left, so that a cut
# sequence loses its introducer and becomes plain text. C1 controls are the 8-bit forms of ESC @ to ESC _.
# A string ends at the next introducer, too: if it went on, a row of introducers would take time in its length squared.
_STRING = r"(?:\x1b[P\]X^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c\x90\x98\x9d\x9e\x9f\n]*(?:\x07|\x1b\\|\x9c)"
_CSI = r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
_ESCAPE = r"\x1b[ -/]*[0-~]"
_CONTROLS = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
_BIDI = r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # can show a text in another order than it has
_OBEYED_IN_JSON = re.compile(rf"[\x7f-\x9f\u2028\u2029]|{_BIDI}")  # JSON itself refuses the others in a string
_SEQUENCES = re.compile("|".join((_STRING, _CSI, _ESCAPE, _CONTROLS, _BIDI)))
_BREAKS = re.compile("\r\n|[\r\u2028\u2029\x85]")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a log. time: ms since 1970 or None; stream: `stdout`, `stderr`, `log`; None where no script wrote it.

    passed: the script printed the object itself. data: the printed bytes where they were not UTF-8.
    fields: whatever else the object holds.
    """

    level: int = LEVEL_INFO
    time: float | None = None
    msg: str = ""
    stream: str | None = None
    part: bool = False
    eol: bool = True
    data: bytes | None = None
    passed: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def printed(self) -> bytes:
        """What the script wrote for this line, without its newline."""
        return self.msg.encode("utf-8", "surrogatepass") if self.data is None else self.data


def parse(line: bytes) -> Line:
    """The parsed line, its newline included; one that is no such object (torn by a crash) is a message as it stands."""
    text = line.decode("utf-8", "replace").removesuffix("\n")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return Line(msg=text)
    level, time, msg, stream = (found.get(name) for name in ("level", "time", "msg", "stream"))
    passed = stream is None and "truncated" not in found
    return Line(
        level=level if isinstance(level, int) else LEVEL_INFO,
        time=time if isinstance(time, int | float) else None,
        msg=msg if isinstance(msg, str) else "" if msg is None else json.dumps(msg),
        stream=PASSED_ENDS.get(text[-1]) if passed else stream if isinstance(stream, str) else None,
        passed=passed,
        part=found.get("part") is True and not passed,
        eol=found.get("eol") is not False or passed,
        data=None if passed else _decoded(found.get("bytes")),
        fields={name: value for name, value in found.items() if passed or name not in WRAPPER_FIELDS},
    )


def _decoded(value: object) -> bytes | None:
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None


def hole(line: bytes) -> int:
    """How much further on, in the log of the running attempt, stood what follows this line; 0 for an ordinary line.

    A log that reached its cap loses its middle: one line stands in its place, and what follows moved down at the end.
    """
    if b'"hole"' not in line:
        return 0
    marker = parse(line)
    size = marker.fields.get("hole")
    return size if marker.stream is None and not marker.passed and type(size) is int and size > 0 else 0


def stands_for_lost(lines: bytes) -> bool:
    """Whether the last of these whole lines stands for output that is not in the log."""
    last = lines[lines.rfind(b"\n", 0, -1) + 1 :]
    if b'"truncated"' not in last:
        return False
    marker = parse(last)
    return marker.stream is None and not marker.passed and "truncated" in marker.fields


def level_name(level: int) -> str:
    """`info` for 30; the next lower name for a number between, as pino does."""
    return LEVEL_NAMES[max((known for known in LEVEL_NAMES if known <= level), default=min(LEVEL_NAMES))]


def level_number(name: str) -> int:
    """30 for `info` (or `INFO`, `30`, `warning`). ValueError for an unknown name, listing the known ones."""
    wanted = name.strip().lower()
    aliases = {known: number for number, known in LEVEL_NAMES.items()} | {"warning": 40, "critical": 60}
    if wanted in aliases:
        return aliases[wanted]
    if wanted.isdigit():
        return int(wanted)
    raise ValueError(f'no level "{name}" ({", ".join(LEVEL_NAMES.values())})')


def plain(text: str) -> str:
    """The text without anything a terminal would obey: escape sequences, C0 and C1 controls, bidi overrides.

    Newlines and tabs stay. A lone carriage return becomes a space, so that nothing can overwrite what stands before it.
    """
    if text.isprintable() and text.isascii():
        return text
    return _SEQUENCES.sub("", _BREAKS.sub(lambda found: "\n" if found[0] == "\r\n" else " ", text))


def plain_json(text: str) -> str:
    """The same JSON, with escapes for every character in its strings that a terminal could obey."""
    if text.isprintable() and text.isascii():
        return text
    return _OBEYED_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


# --- for terminals ----------------------------------------------------------------------------------


def render(line: Line, *, color: bool = False, zone: dt.tzinfo | None = None) -> str:
    """`00:09:05 INFO  shrunk  file=0.png`, without a newline at the end; zone None = this machine's.

    Further lines of a message or of an error's stack are indented, so that none can pass for a log line of its own.
    """
    head = f"{_clock(line.time, zone)} {_label(line.level, color)} "
    return head + body(line).replace("\n", "\n    ")


def body(line: Line) -> str:
    """The message, its fields and an error's stack as plain text, without time and level: what a search looks at."""
    hidden = HIDDEN_FIELDS | LOGGER_FIELDS if "pid" in line.fields and "hostname" in line.fields else HIDDEN_FIELDS
    shown = " ".join(f"{plain(key)}={_value(value)}" for key, value in line.fields.items() if key not in hidden)
    text = plain(line.msg) + (f"  {shown}" if shown else "")
    return "\n".join(filter(None, (text, _stack(line.fields.get("err"))))).rstrip("\n")


class Renderer:
    """Renders a log line by line, with the pieces of a long line joined again.

    Where a line of another stream stands between the pieces the long line is broken, and goes on with its own head.
    """

    def __init__(self, *, color: bool = False, zone: dt.tzinfo | None = None) -> None:
        self._color = color
        self._zone = zone
        self._open: str | None = None  # the stream whose line is not finished yet

    def feed(self, line: Line) -> str:
        """What to write next: text with its newline, or without one after a piece that goes on."""
        if self._open is not None and line.stream == self._open:
            text = plain(line.msg).replace("\n", "\n    ")
        else:
            text = ("" if self._open is None else "\n") + render(line, color=self._color, zone=self._zone)
        self._open = line.stream if line.part else None
        return text if line.part else text + "\n"

    def end(self) -> str:
        """What is still owed after the last line: the newline of an unfinished one."""
        owed = "" if self._open is None else "\n"
        self._open = None
        return owed


def _clock(time: float | None, zone: dt.tzinfo | None) -> str:
    at = local_time(time, zone) if time else None
    return "--:--:--" if at is None else f"{at:%H:%M:%S}"


def local_time(time: float | None, zone: dt.tzinfo | None = None) -> dt.datetime | None:
    """A line's `time` (ms) in a zone, None = this machine's; None for a time that no clock shows."""
    try:
        return None if time is None else dt.datetime.fromtimestamp(time / 1000, dt.UTC).astimezone(zone)
    except (ValueError, OverflowError, OSError):
        return None


def _label(level: int, color: bool) -> str:
    name = level_name(level)
    label = f"{name.upper():<5}"
    return f"\x1b[{_COLORS[level_number(name)]}m{label}\x1b[0m" if color else label


def _value(value: object) -> str:
    if isinstance(value, str):
        text = plain(value)
        return text if _BARE_VALUE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
    return plain(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _stack(err: object) -> str:
    if not isinstance(err, Mapping):
        return ""
    stack = err.get("stack")
    text = stack if isinstance(stack, str) else f"{err.get('type', 'Error')}: {err.get('message', '')}"
    return plain(text)


# --- choosing lines ---------------------------------------------------------------------------------


class Pattern(Protocol):
    """A compiled regular expression of RE2."""

    def search(self, text: bytes, /) -> object | None: ...


@dataclass(frozen=True, kw_only=True)
class Filter:
    """min_level: the lowest level to keep. pattern: from `compile_pattern`; searched for in `body`."""

    min_level: int = 0
    pattern: Pattern | None = None

    def accepts(self, line: Line) -> bool:
        """Whether the line stays."""
        if line.level < self.min_level:
            return False
        return self.pattern is None or _found(self.pattern, body(line)[:SEARCHED_CHARACTERS])


def compile_pattern(text: str) -> Pattern:
    """A regular expression for `Filter`, in the syntax of RE2 (https://github.com/google/re2/wiki/Syntax).

    RE2 takes time in proportion to the text, whatever the pattern, and bounded memory: a pattern may come from anybody.
    For that it has no back references and no looking around. UsageError for a pattern that is malformed or too large.
    """
    if len(text) > PATTERN_CHARACTERS:
        raise UsageError(f"the pattern has {len(text)} characters; {PATTERN_CHARACTERS} are allowed")
    import re2

    options = re2.Options()
    options.max_mem = PATTERN_MEMORY_BYTES
    options.log_errors = False
    try:
        compiled: Pattern = re2.compile(text, options)
    except re2.error as error:
        raise UsageError(f'"{plain(text)}" is not a regular expression: {_said(error)}') from error
    except UnicodeError:
        raise UsageError("the pattern is not valid Unicode") from None
    return compiled


def _said(error: Exception) -> str:
    [text] = error.args
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _found(pattern: Pattern, text: str) -> bool:
    """On the text's UTF-8: a lone surrogate, which RE2 refuses, is searched as a question mark."""
    return pattern.search(text.encode("utf-8", "replace")) is not None


# --- the printed bytes ------------------------------------------------------------------------------


def raw(lines: Iterable[bytes], stream: str | None = None) -> Iterator[bytes]:
    """Exactly the bytes that were printed, in pieces: on one stream, or on all in the order in which they were read.

    Left out: what slotsched itself put into the log, and a line torn by a crash.
    """
    for text in lines:
        line = parse(text)
        if line.stream is None or stream not in (None, line.stream):
            continue
        if line.passed:
            yield text.rstrip(b" \t\n") + b"\n"
        else:
            yield line.printed if line.part or not line.eol else line.printed + b"\n"
