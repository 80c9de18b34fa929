"""The facts under `[tool.slotsched]`: their names, what each may be, and how they become `Facts`."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from slotsched import contract
from slotsched.catalog.storable import refuse_unstorable
from slotsched.catalog.values import shown, suggestion
from slotsched.errors import InvalidArguments, InvalidRecurrence
from slotsched.model import UNIQUES, WHENS, Facts, Rate, RetryPolicy, read_notify
from slotsched.model.limits import (
    LARGEST_CONCURRENCY,
    LARGEST_COUNT,
    LARGEST_RATE,
    LARGEST_SECONDS,
    LARGEST_SIZE,
    PRIORITIES,
    is_priority,
)
from slotsched.model.needs import resource_variable
from slotsched.quantities import parse_duration, parse_size
from slotsched.recurrence import find_zone, parse_cron, parse_every, parse_once

MAX_TIME_SECONDS = 366 * 86400.0
MAX_GRACE_SECONDS = 86400.0
MAX_RETRIES = 1000
MAX_MEMORY_FACTOR = 100
RETRY_CAUSES = RetryPolicy().on

Problem = tuple[tuple[str, ...], str]
_T = TypeVar("_T")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _bad(value: Any, wanted: str) -> ValueError:
    return ValueError(f"{shown(value)} is not {wanted}")


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _bad(value, f"a whole number from {low} to {high}")
        return value

    return read


def _priority(value: Any) -> float:
    if not is_priority(value):
        raise _bad(value, PRIORITIES)
    return value


def _duration(high: float, *, positive: bool = False) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if not isinstance(value, (str, int, float)):
            raise _bad(value, "a duration such as 90, 10m or 1h30m")
        seconds = parse_duration(value)
        if seconds > high:
            raise ValueError(f"{shown(value)} is more than {high / 86400:g} days")
        if positive and seconds == 0:
            raise ValueError("must be more than 0")
        return seconds

    return read


def _size(value: Any) -> int:
    if not isinstance(value, (str, int)):
        raise _bad(value, "a size such as 512M or 2G")
    size = parse_size(value)
    if size > LARGEST_SIZE:
        raise ValueError(f"{shown(value)} is more than {LARGEST_SIZE >> 40}T")
    return size


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _bad(value, "true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _bad(value, "a text")
    return value


def _filled(value: Any) -> str:
    text = _text(value)
    if not text.strip():
        raise ValueError("is empty")
    return text


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
        raise _bad(value, "a list of texts")
    return tuple(value)


def _words(value: Any) -> tuple[str, ...]:
    for word in (words := _texts(value)):
        if not _TAG.fullmatch(word):
            raise _bad(word, "a tag (letters, digits and _ . : -)")
    return tuple(dict.fromkeys(words))


def _factor(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 < value <= MAX_MEMORY_FACTOR:
        raise _bad(value, f"a number of more than 1, up to {MAX_MEMORY_FACTOR}")
    return value


def _rate(value: Any) -> Rate:
    starts, slash, per = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not slash or not starts.strip().isdecimal():
        raise _bad(value, "starts per time, such as 10/m, 100/h or 1/90s")
    unit = per.strip()
    return Rate(
        starts=_whole(1, LARGEST_RATE)(int(starts)),
        seconds=_duration(MAX_TIME_SECONDS, positive=True)(unit if unit[:1].isdigit() else f"1{unit}"),
    )


def _command(value: Any) -> tuple[str, ...]:
    words = _texts(value)
    if not words or not words[0]:
        raise ValueError("is empty")
    return words


def _folder(value: Any) -> str:
    path = _text(value)
    if not path.startswith(("/", "~/")):
        raise _bad(value, "an absolute path")
    return path


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in allowed:
            hint = suggestion(value, allowed) if isinstance(value, str) else ""
            raise _bad(value, f"one of {', '.join(allowed)}{hint}")
        return str(value)

    return read


def _backoff(value: Any) -> bool:
    """Whether the delay doubles."""
    return _one_of("fixed", "exponential")(value) == "exponential"


def _retry_on(value: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_one_of(*RETRY_CAUSES)(cause) for cause in _texts(value)))


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _bad(value, "a table")
    return value


def _resources(value: Any) -> dict[str, int]:
    table = _table(value)
    for name in table:
        if not _NAME.fullmatch(name):
            raise _bad(name, "a name (letters, digits, _ and -)")
    if len({resource_variable(name) for name in table}) < len(table):
        raise ValueError(f"two of {', '.join(table)} have the same variable for their units")
    return {name: _whole(1, LARGEST_COUNT)(units) for name, units in table.items()}


def _environment(value: Any) -> dict[str, str]:
    table = _table(value)
    for name in table:
        if not _VARIABLE.fullmatch(name):
            raise _bad(name, "a variable's name")
        if name.startswith(contract.TASK_PREFIX):
            raise ValueError(f"{name} is set by slotsched")
    return {name: _variable(name, item) for name, item in table.items()}


def _variable(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{name} = {shown(value)} is not a text")
    return value


def _zone(value: Any) -> str:
    return _recurring(find_zone, _text(value)).name


def _crons(value: Any) -> Any:
    for line in [value] if isinstance(value, str) else _texts(value):
        _recurring(parse_cron, line)
    return value


def _every(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _bad(value, "a duration such as 90, 10m or 1h30m")
    return _recurring(parse_every, value).period.total_seconds()


def _moment(value: Any) -> str:
    text = value.isoformat() if isinstance(value, (dt.datetime, dt.date)) else _filled(value)
    _recurring(parse_once, text)
    return text


def _recurring(parse: Callable[[Any], _T], value: Any) -> _T:
    """What `slotsched.recurrence` reads; its words without the name of the fact, which the caller puts before them."""
    try:
        return parse(value)
    except InvalidRecurrence as error:
        raise ValueError(str(error).removeprefix("every: ").removeprefix("every ")) from None


def _names(value: Any) -> Any:
    return [_filled(item) for item in _texts(value)] if isinstance(value, list) else _filled(value)


def _notify(value: Any) -> dict[str, Any]:
    notify = read_notify(value)
    try:
        refuse_unstorable(notify, "it", InvalidArguments)
    except InvalidArguments as error:
        raise ValueError(f"cannot be stored: {error}") from None
    return notify


_FACTS: dict[str, Callable[[Any], Any]] = {
    "slots": _whole(1, LARGEST_COUNT),
    "max_time": _duration(MAX_TIME_SECONDS, positive=True),
    "grace": _duration(MAX_GRACE_SECONDS),
    "priority": _priority,
    "retries": _whole(0, MAX_RETRIES),
    "retry_delay": _duration(MAX_TIME_SECONDS),
    "retry_backoff": _backoff,
    "retry_cap": _duration(MAX_TIME_SECONDS),
    "retry_on": _retry_on,
    "memory": _size,
    "resources": _resources,
    "requires": _words,
    "exclusive": _flag,
    "memory_retry_factor": _factor,
    "concurrency": _whole(1, LARGEST_CONCURRENCY),
    "concurrency_key": _filled,
    "rate": _rate,
    "env": _environment,
    "user": _filled,
    "workdir": _folder,
    "python": _filled,
    "command": _command,
    "keep": _duration(LARGEST_SECONDS, positive=True),
    "enabled": _flag,
    "description": _text,
    "tags": _words,
    "unique": _one_of(*UNIQUES),
    "user_namespace": _flag,
}
_SCHEDULE: dict[str, Callable[[Any], Any]] = {
    "cron": _crons,
    "every": _every,
    "at": _moment,
    "after": _names,
    "on_event": _names,
    "when": _one_of(*WHENS),
    "timezone": _zone,
    "overlap": _one_of("skip", "buffer_one", "buffer_all", "cancel_other", "allow_all"),
    "catch_up": _one_of("once", "all", "none"),
    "notify": _notify,
}
TRIGGERS = ("cron", "every", "at", "after", "on_event")
_RETRY_FIELDS = {
    "retries": "limit",
    "retry_delay": "delay",
    "retry_backoff": "exponential",
    "retry_cap": "cap",
    "retry_on": "on",
}
SCHEDULE_NAMES = tuple(_SCHEDULE)
NAMES = (*_FACTS, *SCHEDULE_NAMES)


def read_facts(table: Mapping[str, Any]) -> tuple[Facts, list[Problem]]:
    """The facts of a `[tool.slotsched]` table, and what is wrong with it: (path of the key, message).

    `args` is left to its own reader. Bad facts are left at their defaults, so that all problems show at once.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in table.items():
        if name == "args":
            continue
        try:
            read = _FACTS.get(name) or _SCHEDULE.get(name)
            if read is None:
                problems.append(((name,), f'unknown key "{name}"{suggestion(name, (*NAMES, "args"))}'))
                continue
            values[name] = read(value)
        except ValueError as error:
            problems.append(((name,), f"{name}: {error}"))
    problems += _contradictions(table)
    retry = {field: values.pop(name) for name, field in _RETRY_FIELDS.items() if name in values}
    schedule = {name: values.pop(name) for name in _SCHEDULE if name in values}
    return Facts(**values, retry=RetryPolicy(**retry), schedule=schedule), problems


def _contradictions(table: Mapping[str, Any]) -> Iterator[Problem]:
    triggers = [name for name in TRIGGERS if name in table]
    if len(triggers) > 1:
        yield (triggers[1],), f"{triggers[1]}: only one of {', '.join(TRIGGERS)}, and {triggers[0]} is there already"
    if "when" in table and "after" not in table:
        yield ("when",), "when: only together with after"
    if "concurrency_key" in table and "concurrency" not in table:
        yield ("concurrency_key",), "concurrency_key: only together with concurrency"
    if "memory_retry_factor" in table and "memory" not in table:
        yield ("memory_retry_factor",), "memory_retry_factor: only together with memory"
