"""The scheduler's own log: pino-shaped JSON on stdout, or readable lines on a terminal.

This is the only structlog configuration. A task's output never comes here; nothing from here goes into a task's log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

import structlog

from slotsched import loglines
from slotsched.contract import LEVEL_DEBUG, LEVEL_ERROR, LEVEL_FATAL, LEVEL_INFO, LEVEL_TRACE, LEVEL_WARN

RESERVED = frozenset({"level", "time", "pid", "hostname", "name", "msg", "err"})

STALL_SECONDS = 0.2  # a line waits for its reader at most; the scheduler's loop waits with it

_MESSAGE = " msg"  # no keyword argument has a blank in it, so no caller's field can meet it
_NAME = " name"
_HOSTNAME = socket.gethostname()
_SILENT = LEVEL_FATAL + 1
_threshold = _SILENT


class Logger(structlog.BoundLoggerBase):
    """`log.info("text", field=value)` on pino's six levels. Below the configured level a call costs a comparison.

    Any field name may be used: one of pino's own gets an underscore behind it (`name` is written as `name_`).
    `exc_info=True` or an exception becomes `err: {type, message, stack}`.
    """

    def trace(self, msg: str, /, **fields: Any) -> None:
        self._log(LEVEL_TRACE, msg, fields)

    def debug(self, msg: str, /, **fields: Any) -> None:
        self._log(LEVEL_DEBUG, msg, fields)

    def info(self, msg: str, /, **fields: Any) -> None:
        self._log(LEVEL_INFO, msg, fields)

    def warning(self, msg: str, /, **fields: Any) -> None:
        self._log(LEVEL_WARN, msg, fields)

    def error(self, msg: str, /, **fields: Any) -> None:
        self._log(LEVEL_ERROR, msg, fields)

    def fatal(self, msg: str, /, **fields: Any) -> None:
        self._log(LEVEL_FATAL, msg, fields)

    def exception(self, msg: str, /, **fields: Any) -> None:
        """An error, with the exception being handled as `err`."""
        self._log(LEVEL_ERROR, msg, {"exc_info": True, **fields})

    def _log(self, level: int, msg: str, fields: dict[str, Any]) -> None:
        if level < _threshold:
            return
        (entry,), _ = self._process_event(str(level), None, {**fields, _MESSAGE: msg})
        self._logger.write(entry)


class _Output:
    """Where entries go, and in which form; one per process, so that loggers may be made before `configure`.

    Writes whole lines. A log that cannot be written (closed pipe, full disk) or that nobody reads (Ctrl-S in the
    terminal, a stopped pager) stops nobody's work: what does not fit is left out, and how much that was is said later.
    """

    def __init__(self) -> None:
        self.stream: TextIO | None = None
        self.pretty = False
        self.color = False
        self._lock = threading.Lock()
        self._left_out = 0  # lines, since nobody reads
        self._torn = False  # the last line that was begun has no end

    def format(self, _logger: Any, _level: str, entry: Any) -> str:
        text = _json(entry)
        if not self.pretty:
            return text
        return loglines.render(loglines.parse(text.encode("utf-8", "backslashreplace")), color=self.color)

    def write(self, entry: str) -> None:
        data = entry.encode("utf-8", "backslashreplace") + b"\n"
        with contextlib.suppress(OSError, ValueError), self._lock:  # ValueError: the stream is closed
            if self.stream is None:
                return
            descriptor = _descriptor(self.stream)
            if descriptor is None:
                self.stream.write(data.decode())
                self.stream.flush()
            else:
                self._put(descriptor, data)

    def _put(self, descriptor: int, data: bytes) -> None:
        """The line, unless it would have to wait: then it is counted, and the count is the next line that can be."""
        if self._left_out and _takes(descriptor, 0.0):
            notice = _pino(None, str(LEVEL_WARN), {_MESSAGE: "lines left out: nobody read", "lines": self._left_out})
            data = b"\n" * self._torn + self.format(None, "", notice).encode("utf-8", "backslashreplace") + b"\n" + data
            self._left_out, self._torn = 0, False
        size = 1 if os.isatty(descriptor) else select.PIPE_BUF  # what surely fits where anything does
        left = memoryview(data)
        while left:
            if not _takes(descriptor, 0.0 if self._left_out else STALL_SECONDS):
                self._left_out += 1
                self._torn = self._torn or len(left) < len(data)
                return
            left = left[os.write(descriptor, left[:size]) :]


def _descriptor(stream: TextIO) -> int | None:
    """None where the stream is none of the system's, as in tests."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _takes(descriptor: int, seconds: float) -> bool:
    """Whether something can be written without waiting; waits up to `seconds` for that."""
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return bool(poller.poll(seconds * 1000))


class _FromLogging(logging.Handler):
    """Brings what libraries log through `logging` (warnings and worse) into this log."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(LEVEL_FATAL, max(LEVEL_WARN, record.levelno + 10))  # WARNING is 30 there and 40 here
        fields = {"exc_info": record.exc_info[1]} if record.exc_info else {}
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            text = str(record.msg)
        get_logger(record.name)._log(level, text, fields)


def configure(stream: TextIO | None = None, *, pretty: bool | None = None, level: str = "info") -> None:
    """Set up the log of this process; a later call replaces what an earlier one set, for all loggers.

    stream: stdout unless given. pretty: None = on a terminal; colour there unless NO_COLOR is set.
    level: `trace` to `fatal`; ValueError for another name.
    """
    global _threshold
    _threshold = loglines.level_number(level)
    target = sys.stdout if stream is None else stream
    terminal = target.isatty()
    _output.stream = target
    _output.pretty = terminal if pretty is None else pretty
    _output.color = terminal and not os.environ.get("NO_COLOR")
    root = logging.getLogger()
    if not any(isinstance(handler, _FromLogging) for handler in root.handlers):
        root.addHandler(_FromLogging(logging.WARNING))


def get_logger(name: str = "slotsched", **fields: Any) -> Logger:
    """A logger whose lines carry `name` and these fields; `bind` makes one with more. Silent until `configure`."""
    return Logger(_output, _PROCESSORS, {_NAME: name, **fields})


def _pino(_logger: Any, level: str, entry: Any) -> dict[str, Any]:
    """Put pino's own fields first, and move a caller's fields of the same names out of the way."""
    line: dict[str, Any] = {
        "level": int(level),
        "time": time.time_ns() // 1_000_000,
        "pid": os.getpid(),
        "hostname": _HOSTNAME,
        "name": entry.pop(_NAME, "slotsched"),
        "msg": str(entry.pop(_MESSAGE)),
    }
    error = _exception(entry.pop("exc_info", None))
    line.update((f"{key}_" if key in RESERVED else key, value) for key, value in entry.items())
    if error is not None:
        line["err"] = _describe(error)
    return line


def _exception(given: object) -> BaseException | None:
    if given is True:
        return sys.exception()
    return given if isinstance(given, BaseException) else None


def _describe(error: BaseException) -> dict[str, str]:
    return {
        "type": type(error).__name__,
        "message": str(error),
        "stack": "".join(traceback.format_exception(error)).rstrip("\n"),
    }


def _json(entry: Mapping[str, Any]) -> str:
    try:
        return json.dumps(entry, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):  # a key that is no string, NaN, a cycle
        shown = {key: value if isinstance(value, (str, int)) else repr(value) for key, value in entry.items()}
        return json.dumps(shown, ensure_ascii=False, separators=(",", ":"))


# Given to each logger instead of structlog.configure: a program that imports slotsched keeps its own configuration.
_output = _Output()
_PROCESSORS = (structlog.contextvars.merge_contextvars, _pino, _output.format)
