"""A checked request for a task out of a job, its arguments and the options of `enqueue`: pure.

Programs, the command line and JSON lines all come through here, so that all are refused in the same words.
"""

from __future__ import annotations

import datetime as dt
import difflib
import getpass
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slotsched.errors import UsageError
from slotsched.model import WHENS, Job, TaskRequest, key_text
from slotsched.model.limits import LARGEST_COUNT, PRIORITIES, is_priority
from slotsched.quantities import parse_duration, parse_size

OPTIONS = frozenset(
    {
        *("at", "in_", "slots", "memory", "max_time", "priority", "retries", "key", "tags", "owner", "trigger"),
        *("after", "when"),
    }
)
MOST_TEXT = 500  # characters of a key or a tag
MOST_PARENTS = 10_000  # a task's document stays far below the store's limit
_ID = re.compile(r"[0-9a-f]{24}")


def user_name() -> str:
    """This user's name; the number where the machine has no name for it (containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def refuse_unknown(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, n=1)
            hint = f', did you mean "{near[0]}"?' if near else f" (known: {', '.join(sorted(OPTIONS))})"
            raise UsageError(f'unknown key "{name}"{hint}')


def build_request(
    job: Job,
    args: Mapping[str, Any],
    *,
    at: dt.datetime | str | None = None,
    in_: float | str | dt.timedelta | None = None,
    slots: int | None = None,
    memory: int | str | None = None,
    max_time: float | str | None = None,
    priority: float | None = None,
    retries: int | None = None,
    key: str | None = None,
    tags: Sequence[str] = (),
    owner: str | None = None,
    trigger: str = "manual",
    after: Sequence[str] = (),
    when: str | None = None,
) -> TaskRequest:
    if at is not None and in_ is not None:
        raise UsageError("at and in exclude each other")
    facts = job.facts
    needs = facts.needs
    if slots is not None:
        needs = replace(needs, slots=_whole("slots", slots, least=1))
    if memory is not None:
        needs = replace(needs, memory=_parsed("memory", parse_size, memory))
    policy = facts.retry
    if retries is not None:
        policy = replace(policy, limit=_whole("retries", retries, least=0))
    parents = _parents(after)
    if when is not None and not parents:
        raise UsageError("when: only together with after")
    return TaskRequest(
        job=job.name,
        args=args,
        needs=needs,
        priority=facts.priority if priority is None else _priority(priority),
        due_at=None if at is None else _moment(at),
        due_in=None if in_ is None else _seconds("in", in_),
        retry=policy,
        max_time=None if max_time is None else _positive("max_time", _seconds("max_time", max_time)),
        trigger=f"after:{parents[0]}" if parents and trigger == "manual" else trigger,
        owner=owner or user_name(),
        tags=tuple(dict.fromkeys([*facts.tags, *_tags(tags)])),
        key=None if key is None else _key(key),
        keep=facts.keep,
        parents=parents,
        when=WHENS[0] if when is None else _when(when),
        unique=facts.unique,
        concurrency_key=_concurrency_key(job, args),
    )


def _concurrency_key(job: Job, args: Mapping[str, Any]) -> str | None:
    """What the task's limit of concurrency is shared by; an argument that is not given counts with its default."""
    name = job.facts.concurrency_key
    if name is None:
        return None
    default = next((item.default for item in job.parameters or () if item.name == name), None)
    return key_text(name, args.get(name, default))


def _whole(name: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST_COUNT:
        raise UsageError(f"{name}: {value!r} is not a whole number of at least {least}")
    return value


def _priority(value: Any) -> float:
    if not is_priority(value):
        raise UsageError(f"priority: {value!r} is not {PRIORITIES}")
    return value


def _positive(name: str, seconds: float) -> float:
    if seconds <= 0:
        raise UsageError(f"{name}: must be more than 0; no task runs without limit")
    return seconds


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, dt.timedelta):
        value = value.total_seconds()
    seconds: float = _parsed(name, parse_duration, value)
    return seconds


def _parsed(name: str, parse: Callable[[Any], Any], value: Any) -> Any:
    try:
        return parse(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{name}: {error}") from None


def _moment(value: Any) -> dt.datetime:
    if isinstance(value, str):
        value = _parsed("at", dt.datetime.fromisoformat, value)
    if not isinstance(value, dt.datetime) or value.tzinfo is None:
        raise UsageError(f'at: "{value}" is no time with a zone, such as 2026-11-21T03:15:00Z')
    return value


def _tags(tags: Any) -> tuple[str, ...]:
    items = [tags] if isinstance(tags, str) else tags
    if not isinstance(items, (list, tuple, set, frozenset)) or not all(isinstance(tag, str) and tag for tag in items):
        raise UsageError(f"tags: {tags!r} is not a list of words")
    for tag in items:
        if len(tag) > MOST_TEXT or "\0" in tag:
            raise UsageError(f"tags: must be texts of 1 to {MOST_TEXT} characters")
    return tuple(items)


def _parents(after: Any) -> tuple[str, ...]:
    """Full ids, each once, in order; one may come without its list."""
    ids = [after] if isinstance(after, str) else after
    if not isinstance(ids, (list, tuple)) or not all(isinstance(one, str) and _ID.fullmatch(one) for one in ids):
        raise UsageError(f"after: {after!r} is not a list of tasks' full ids")
    unique = tuple(dict.fromkeys(ids))
    if len(unique) > MOST_PARENTS:
        raise UsageError(f"after: {len(unique)} tasks are more than {MOST_PARENTS}")
    return unique


def _when(when: Any) -> str:
    if when not in WHENS:
        near = difflib.get_close_matches(str(when), WHENS, n=1)
        hint = f', did you mean "{near[0]}"?' if near else ""
        raise UsageError(f"when: {when!r} is none of {', '.join(WHENS)}{hint}")
    return str(when)


def _key(key: Any) -> str:
    if not isinstance(key, str) or not key or len(key) > MOST_TEXT or "\0" in key:
        raise UsageError(f"key: must be a text of 1 to {MOST_TEXT} characters")
    return key
