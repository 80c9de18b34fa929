"""The options of a schedule as people and programs give them, to the fields of a `Schedule`. Pure."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from typing import Any

from slotsched.errors import UsageError
from slotsched.model import WHENS, CatchUp, Job, Overlap, Overrides, Schedule, read_notify
from slotsched.model.limits import LARGEST_COUNT, PRIORITIES, is_priority
from slotsched.quantities import parse_duration
from slotsched.recurrence import find_zone, parse_every, parse_once
from slotsched.request import build_request

OVERRIDES = tuple(item.name for item in fields(Overrides))


def read_wishes(
    options: Mapping[str, Any], *, unset: Iterable[str] = (), timezone: str | None = None
) -> dict[str, Any]:
    """The fields that the options set; options that are None are not given. Overrides are left to `read_overrides`.

    unset: options that go back to their default. timezone: what times without an offset are read in, unless an option
    says so. Raises UsageError, InvalidRecurrence.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in (*options, *unset):
        if name not in _READERS and name not in OVERRIDES:
            near = difflib.get_close_matches(name, [*_READERS, *OVERRIDES], n=1)
            raise UsageError(f'unknown option "{name}"' + (f', did you mean "{near[0]}"?' if near else ""))
    zone = given.get("timezone", timezone) or "UTC"
    wishes = {name: _READERS[name](name, value, zone) for name, value in given.items() if name in _READERS}
    return wishes | {name: _default(name) for name in unset if name in _READERS}


def read_overrides(job: Job, options: Mapping[str, Any]) -> Overrides:
    """What is to hold instead of the job's own facts, refused in the words of `enqueue`. Raises UsageError."""
    asked = {name: options[name] for name in OVERRIDES if options.get(name) is not None}
    request = build_request(job, {}, **asked)
    read: dict[str, Any] = {
        "slots": request.needs.slots,
        "memory": request.needs.memory,
        "max_time": request.max_time,
        "retries": request.retry.limit,
    }
    return Overrides(**{name: read[name] for name in asked})


def _default(name: str) -> Any:
    field = next(item for item in fields(Schedule) if item.name == name)
    if field.default is MISSING:
        raise UsageError(f"{name}: has no default")
    return field.default


def _texts(name: str, value: Any, _zone: str) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) and item.strip() for item in items):
        raise UsageError(f"{name}: {value!r} is neither a text nor a list of texts")
    return tuple(dict.fromkeys(item.strip() for item in items))


def _every(_name: str, value: Any, _zone: str) -> float:
    return parse_every(value).period.total_seconds()


def _moment(name: str, value: Any, zone: str) -> dt.datetime:
    if isinstance(value, dt.datetime) and value.tzinfo is None:
        raise UsageError(f"{name}: {value.isoformat()} has no time zone")
    if not isinstance(value, (str, dt.datetime)):
        raise UsageError(f"{name}: {value!r} is no time")
    return parse_once(value, zone).at


def _zone_name(_name: str, value: Any, _zone: str) -> str:
    return find_zone(value).name


def _seconds(name: str, value: Any, _zone: str) -> float:
    try:
        return parse_duration(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{name}: {error}") from None


def _count(name: str, value: Any, _zone: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_COUNT:
        raise UsageError(f"{name}: {value!r} is not a positive whole number")
    return value


def _priority(name: str, value: Any, _zone: str) -> float:
    if not is_priority(value):
        raise UsageError(f"{name}: {value!r} is not {PRIORITIES}")
    return value


def _text(name: str, value: Any, _zone: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise UsageError(f"{name}: {value!r} is no text")
    return value


def _notify(name: str, value: Any, _zone: str) -> Any:
    try:
        notify = read_notify(value)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    if "command" in notify:
        raise UsageError(f"{name}: a command is declared in the job file, so that no database decides what runs where")
    return notify


def _one_of(words: Iterable[str], kind: Callable[[str], Any] = str) -> Callable[[str, Any, str], Any]:
    known = [str(word) for word in words]

    def read(name: str, value: Any, _zone: str) -> Any:
        if value not in known:
            near = difflib.get_close_matches(str(value), known, n=1)
            hint = f', did you mean "{near[0]}"?' if near else ""
            raise UsageError(f'{name}: "{value}" is none of {", ".join(known)}{hint}')
        return kind(value)

    return read


def _words_of(kind: type[StrEnum]) -> Callable[[str, Any, str], Any]:
    return _one_of([word.value for word in kind], kind)


_READERS: dict[str, Callable[[str, Any, str], Any]] = {
    "cron": _texts,
    "every": _every,
    "at": _moment,
    "after": _texts,
    "when": _one_of(WHENS),
    "timezone": _zone_name,
    "overlap": _words_of(Overlap),
    "catch_up": _words_of(CatchUp),
    "catch_up_window": _seconds,
    "jitter": _seconds,
    "start_at": _moment,
    "end_at": _moment,
    "max_runs": _count,
    "pause_on_failure": _count,
    "priority": _priority,
    "label": _text,
    "owner": _text,
    "notify": _notify,
}
