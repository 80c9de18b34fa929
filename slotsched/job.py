"""What a job's script may import: `task`, `log` and `Cancel`. Standard library only, and little of that.

Everything reads the environment on first use, so the same script also runs by hand, without slotsched around it:
then `task` has empty values and `log` writes readable lines to stderr.

This module also runs in the interpreters of users' own virtual environments, which may be older than slotsched's.
"""

from __future__ import annotations

import os
import sys
import time

from slotsched import contract

TYPE_CHECKING = False  # importing typing would double this module's import time
if TYPE_CHECKING:
    import datetime as dt
    from typing import Any

_UNSET = object()
_LINE_BYTES = 64 * 1024  # a longer line would not be taken as a log record
_KEPT_CHARACTERS = 4000  # of each text of a record that is too long
_PROGRESS_FILE_BYTES = 64 * 1024
_RESERVED = frozenset({"level", "time", "msg", "stream", "part", "eol", "bytes", "truncated"})


class Cancel(SystemExit):
    """Raise it to end the task as canceled rather than failed; raised in the main thread when slotsched asks to stop.

    A SystemExit, with the exit code for "canceled": `except Exception` does not swallow it, asyncio hands it on
    instead of storing it in a task, and a script run by hand ends with the same code and no traceback. While asyncio
    runs, being asked to stop arrives as the cancellation of the main task, as Ctrl-C does.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(contract.SCRIPT_CANCELED)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Task:
    """The task this process runs. By hand: empty texts, zeros and None."""

    def __init__(self) -> None:
        self._args: dict[str, Any] | None = None
        self._saved: Any = _UNSET
        self._progress_fd: int | None = None
        self._progress_line = b""

    @property
    def id(self) -> str:
        """24 hex digits."""
        return _text(contract.ENV_ID)

    @property
    def job(self) -> str:
        """The job's name."""
        return _text(contract.ENV_JOB)

    @property
    def attempt(self) -> int:
        """1 for the first execution."""
        return _number(contract.ENV_ATTEMPT)

    @property
    def fence(self) -> int:
        """Grows with every claim of this task. Hand it to whatever you write to, and refuse lower ones there."""
        return _number(contract.ENV_FENCE)

    @property
    def trigger(self) -> str:
        """What made the task: `manual`, `schedule:NAME`, `after:ID`, ..."""
        return _text(contract.ENV_TRIGGER)

    @property
    def slots(self) -> int:
        """How many slots the task holds."""
        return _number(contract.ENV_SLOTS)

    @property
    def instance(self) -> str:
        """The name of the instance that runs it."""
        return _text(contract.ENV_INSTANCE)

    @property
    def deadline(self) -> dt.datetime | None:
        """When max time ends; aware."""
        return _moment(contract.ENV_DEADLINE)

    @property
    def last_completed_at(self) -> dt.datetime | None:
        """When the series' last successful run ended; aware. None outside a series and before its first success."""
        return _moment(contract.ENV_LAST_COMPLETED_AT)

    @property
    def last_started_at(self) -> dt.datetime | None:
        """When the series' last successful run started: read from here on, and nothing is missed in between."""
        return _moment(contract.ENV_LAST_STARTED_AT)

    @property
    def args(self) -> dict[str, Any]:
        """The arguments given, as the job's types: paths as Path, dates as date and datetime."""
        if self._args is None:
            self._args = typed(_read_json(contract.ENV_ARGS) or {}, _text(contract.ENV_TYPES))
        return self._args

    def progress(self, fraction: float | None, message: object = "") -> None:
        """Show how far the work is. fraction: 0 to 1, None = unknown. Cheap enough for every turn of a loop.

        A line that would show the same is not written; any other is one small append, so that the newest is there
        even if this process is killed now.
        """
        path = os.environ.get(contract.ENV_PROGRESS)
        if path is None:
            return
        text = " ".join(str(message).split())[:500]
        word = contract.PROGRESS_UNKNOWN if fraction is None else f"{min(1.0, max(0.0, fraction)):.4f}"
        line = f"{word} {text}\n".encode("utf-8", "replace")
        if line != self._progress_line:
            self._progress_line = line
            self._append_progress(path, line)

    def result(self, value: Any) -> None:
        """Give the task's result (JSON; paths and dates become text). A `main` simply returns it."""
        _write_json(contract.ENV_RESULT, value, "result")

    def state(self, value: Any = _UNSET) -> Any:
        """Without a value: what the series saved last, or None. With one: save it, kept only if this run completes."""
        if value is not _UNSET:
            _write_json(contract.ENV_STATE_OUT, value, "state")
            self._saved = value
        elif self._saved is _UNSET:
            self._saved = _read_json(contract.ENV_STATE)
        return self._saved

    def _append_progress(self, path: str, line: bytes) -> None:
        try:
            if self._progress_fd is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._progress_fd = os.open(path, flags, 0o644)
            elif os.fstat(self._progress_fd).st_size > _PROGRESS_FILE_BYTES:
                os.ftruncate(self._progress_fd, 0)
            os.write(self._progress_fd, line)
        except OSError:  # progress is news, not work: a full disk must not end the task
            self._progress_fd = None


class Log:
    """Log lines with fields, as pino writes them, on a pipe of their own; readable on stderr without slotsched.

    A field whose name the record needs itself (level, time, msg, ...) gets an underscore behind it.
    Lines of one process stay whole; so do those of several up to 4,096 bytes, which the kernel writes at once.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        self._opened = False
        self._lock = _new_lock()
        # No fork while another thread writes or imports: the child would wait for a thread it does not have.
        os.register_at_fork(
            before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._lock.release
        )

    def debug(self, msg: object, /, **fields: Any) -> None:
        self._write(contract.LEVEL_DEBUG, msg, fields)

    def info(self, msg: object, /, **fields: Any) -> None:
        self._write(contract.LEVEL_INFO, msg, fields)

    def warn(self, msg: object, /, **fields: Any) -> None:
        self._write(contract.LEVEL_WARN, msg, fields)

    warning = warn

    def error(self, msg: object, /, **fields: Any) -> None:
        self._write(contract.LEVEL_ERROR, msg, fields)

    def fatal(self, msg: object, /, **fields: Any) -> None:
        self._write(contract.LEVEL_FATAL, msg, fields)

    def exception(self, msg: object, /, **fields: Any) -> None:
        """An error, with the exception being handled under `err`."""
        kind, error, _ = sys.exc_info()
        if error is not None and kind is not None:
            import traceback

            stack = "".join(traceback.format_exception(kind, error, error.__traceback__))
            fields.setdefault("err", {"type": kind.__name__, "message": _str(error), "stack": stack})
        self._write(contract.LEVEL_ERROR, msg, fields)

    def _write(self, level: int, msg: object, fields: dict[str, Any]) -> None:
        if not self._opened:
            with self._lock:
                import json  # noqa: F401 - here, under the lock, rather than on first use

                self._fd = _log_descriptor()
                self._opened = True
        if self._fd is None:
            _write_readable(level, _str(msg), fields)
            return
        line = _record(level, _str(msg), fields)
        try:
            with self._lock:
                while line:
                    line = line[os.write(self._fd, line) :]
        except BrokenPipeError:
            pass  # nobody reads any more; that must not end the script
        except OSError:
            self._fd = None


# --- values -----------------------------------------------------------------------------------------


def typed(args: dict[str, Any], types: str) -> dict[str, Any]:
    """The arguments with what JSON has no type for converted. types: `folder=path days=list:date`."""
    converted = dict(args)
    for word in types.split():
        name, _, kind = word.partition("=")
        if converted.get(name) is None:
            continue
        outer, _, inner = kind.rpartition(":")
        convert = _converter(inner)
        value = converted[name]
        if outer == "list":
            converted[name] = [convert(item) for item in value]
        elif outer == "dict":
            converted[name] = {key: convert(item) for key, item in value.items()}
        else:
            converted[name] = convert(value)
    return converted


def _converter(kind: str) -> Any:
    if kind == "path":
        from pathlib import Path

        return Path
    import datetime as dt

    return dt.date.fromisoformat if kind == "date" else dt.datetime.fromisoformat


def to_json(value: Any, what: str) -> bytes:
    """The value as JSON, with paths and dates as text. Raises TypeError or ValueError that name the trouble."""
    import json

    try:
        data = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_default).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"the {what} holds text that is not Unicode") from None
    except RecursionError:
        raise ValueError(f"the {what} is nested too deeply") from None
    except TypeError as error:
        raise TypeError(f"the {what} is not JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"the {what} is not JSON: {error}") from None
    if len(data) > contract.VALUE_BYTES:
        raise ValueError(f"the {what} is more than 1 MiB as JSON; put the data into a file and give its path")
    return data


def _default(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "__fspath__"):
        return os.fspath(value)
    raise TypeError(f"a {type(value).__name__} ({value!r:.60})")


def _write_json(variable: str, value: Any, what: str) -> None:
    data = to_json(value, what)
    path = os.environ.get(variable)
    if path is None:
        return
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as file:  # noqa: PTH123 - pathlib would double our cost
        file.write(data)
    os.replace(temporary, path)  # noqa: PTH105 - the same


def _read_json(variable: str) -> Any:
    path = os.environ.get(variable)
    if path is None:
        return None
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib would double our cost
            data = file.read()
    except FileNotFoundError:
        return None
    if data == b"{}":
        return {}
    import json

    return json.loads(data)


def _text(variable: str) -> str:
    return os.environ.get(variable, "")


def _number(variable: str) -> int:
    text = _text(variable)
    return int(text) if text.isdigit() else 0


def _moment(variable: str) -> dt.datetime | None:
    text = _text(variable)
    if not text:
        return None
    import datetime as dt

    return dt.datetime.fromisoformat(text.replace("Z", "+00:00"))


# --- log records ------------------------------------------------------------------------------------


def _record(level: int, msg: str, fields: dict[str, Any]) -> bytes:
    record = {"level": level, "time": int(time.time() * 1000), "msg": msg}
    for name, value in fields.items():
        record[f"{name}_" if name in _RESERVED else name] = value
    line = _dumped(record)
    if len(line) > _LINE_BYTES:
        line = _dumped({name: _shortened(value) for name, value in record.items()})
    if len(line) > _LINE_BYTES:
        line = _dumped(
            {"level": level, "time": record["time"], "msg": _shortened(msg), "fields_": "too long, left out"}
        )
    return line


def _dumped(record: dict[str, Any]) -> bytes:
    import json

    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_str)
    except (TypeError, ValueError, RecursionError):  # a tuple as a key, NaN, a circle: that field as text
        text = json.dumps({name: _simple(value) for name, value in record.items()}, ensure_ascii=False)
    return text.encode("utf-8", "replace") + b"\n"


def _simple(value: Any) -> Any:
    return value if isinstance(value, (str, int)) or value is None else _str(value)


def _shortened(value: Any) -> Any:
    text = value if isinstance(value, str) else _str(value)
    if len(text) <= _KEPT_CHARACTERS:
        return value
    return f"{text[:_KEPT_CHARACTERS]}... ({len(text) - _KEPT_CHARACTERS} more characters)"


def _str(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever a user's __str__ raises, the line is still written
        return f"<{type(value).__name__}>"


def _write_readable(level: int, msg: str, fields: dict[str, Any]) -> None:
    shown = "".join(f"  {name}={_str(value)}" for name, value in fields.items() if name != "err")
    stack = fields["err"].get("stack", "") if isinstance(fields.get("err"), dict) else ""
    name = contract.LEVEL_NAMES[level].upper()
    text = f"{time.strftime('%H:%M:%S')} {name:5} {msg}{shown}\n{stack}"
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # stderr is closed, or there is none


def _log_descriptor() -> int | None:
    """The log pipe. A child process may have the number in its environment but another file behind it."""
    text = _text(contract.ENV_LOG_FD)
    if not text.isdigit():
        return None
    import fcntl
    import stat

    try:
        is_pipe = stat.S_ISFIFO(os.fstat(int(text)).st_mode)
        writable = fcntl.fcntl(int(text), fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    except OSError:
        return None
    return int(text) if is_pipe and writable else None


def _new_lock() -> Any:
    from _thread import RLock  # without what threading imports

    return RLock()


task = Task()
log = Log()
