"""Everything about one task as names and texts, for `task show` and the task's page."""

from __future__ import annotations

import datetime as dt
from typing import Any

from slotsched.model import Attempt, Task
from slotsched.quantities import format_duration, format_size
from slotsched.views.explain import MOST_NAMED
from slotsched.views.text import ago, compact, moment, plain, short, slot_count, span
from slotsched.views.words import made_words, ran, waited


def facts(task: Task, why: str, now: dt.datetime) -> list[tuple[str, str]]:
    """(name, text) in the order of reading; several lines where there are several, empty where there is nothing.

    why: the sentence of `explain`. now: aware, for what is still going on.
    """
    return [
        ("Id", task.id),
        ("Job", task.job),
        ("Status", task.status.value),
        ("Why", plain(why) if why != task.status.value else ""),
        ("Arguments", "\n".join(f"{name}={plain(_shown(value))}" for name, value in task.args.items())),
        ("Needs", _needs(task)),
        ("Max time", span(task.max_time) if task.max_time else ""),
        ("Priority", f"{task.priority:g}" if task.priority else ""),
        ("Enqueued", f"{moment(task.created_at)} ({ago(task.created_at, now)}) by {task.owner or '-'}"),
        ("Due", moment(task.due_at)),
        ("Started", moment(task.started_at) + f", waited {waited(task, now)}" if task.started_at else ""),
        ("Ended", moment(task.ended_at) + f", ran {ran(task, now)}" if task.ended_at else ""),
        ("Instance", task.instance.name if task.instance else ""),
        ("Progress", plain(made_words(task.progress)) if task.progress else ""),
        ("Result", compact(task.result) if task.result is not None else ""),
        ("Parents", _parents(task)),
        ("Trigger", task.trigger if task.trigger != "manual" else ""),
        ("Tags", ", ".join(task.tags)),
        ("Key", plain(task.key or "")),
        ("Retry of", short(task.retry_of) if task.retry_of else ""),
        ("Retries", f"{task.retry.limit}, on {', '.join(task.retry.on)}" if task.retry.limit else ""),
        ("Attempts", "\n".join(_attempt(attempt) for attempt in task.attempts)),
    ]


def _needs(task: Task) -> str:
    needs = task.needs
    resources = ", ".join(f"{units} {name}" for name, units in sorted(needs.resources.items()))
    alone = "alone on its machine" if needs.exclusive else ""
    memory = format_size(needs.memory) if needs.memory else ""
    return ", ".join(part for part in (slot_count(needs.slots), memory, resources, *needs.tags, alone) if part)


def _parents(task: Task) -> str:
    """The tasks it waits for or waited for, and how they had to end."""
    if not task.parents:
        return ""
    named = ", ".join(short(parent) for parent in task.parents[:MOST_NAMED])
    more = f" and {len(task.parents) - MOST_NAMED} more" if len(task.parents) > MOST_NAMED else ""
    return f"{named}{more} ({task.when or 'success'})"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else compact(value)


def _attempt(attempt: Attempt) -> str:
    parts = [f"{attempt.number}  {attempt.instance.name}  {moment(attempt.started_at)}"]
    if attempt.ended_at is not None:
        ran = format_duration((attempt.ended_at - attempt.started_at).total_seconds())
        code = f" {attempt.exit_code}" if attempt.exit_code is not None else ""
        parts.append(f"{ran}  {attempt.reason or '-'}{code}")
    if attempt.cpu_seconds is not None:
        parts.append(f"cpu {format_duration(attempt.cpu_seconds)}")
    if attempt.peak_memory:
        parts.append(f"peak {format_size(attempt.peak_memory)}")
    if attempt.log is not None:
        kept = f"{attempt.log.store.rstrip('/')}/{attempt.log.key}" if attempt.log.uploaded else "not uploaded yet"
        parts.append(f"log {format_size(attempt.log.bytes)}, {kept}" if attempt.log.uploaded else f"log {kept}")
    if attempt.message:
        parts.append(plain(attempt.message))
    return "  ".join(parts)
