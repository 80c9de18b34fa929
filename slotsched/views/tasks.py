"""Lists of tasks as people ask for them: what they want in words, and a page of it with what its columns need."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from slotsched.errors import UsageError
from slotsched.model import Reason, Status, Task
from slotsched.views.explain import Fleet
from slotsched.views.fleet import fleet_of
from slotsched.views.text import parse_since

if TYPE_CHECKING:
    from slotsched.store import Store, TaskFilter

Word = TypeVar("Word", Status, Reason)


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some tasks in the order asked for. fleet: who could run those that wait. more: there are others behind them.

    now: the store's, up to which waits and runs that go on are counted.
    """

    tasks: list[Task]
    fleet: Fleet
    now: dt.datetime
    more: bool


def read_filter(
    *,
    status: Iterable[str] = (),
    jobs: Iterable[str] = (),
    owner: str | None = None,
    tags: Iterable[str] = (),
    reason: str | None = None,
    instance: str | None = None,
    since: str | None = None,
    until: str | None = None,
    now: dt.datetime,
    option: str = "",
) -> TaskFilter:
    """The filter of words that somebody typed: statuses may be joined (`failed,canceled`), times are `1h` or ISO.

    option: what stands before the names in messages: `--` on a command line. Raises UsageError.
    """
    from slotsched.store import TaskFilter

    words = [word for text in status for word in text.split(",") if word]
    return TaskFilter(
        status=frozenset(_one_of(Status, f"{option}status", word) for word in words) or None,
        jobs=tuple(jobs),
        owner=owner,
        tags=tuple(tags),
        reason=None if reason is None else _one_of(Reason, f"{option}reason", reason),
        instance=instance,
        since=_moment(f"{option}since", since, now),
        until=_moment(f"{option}until", until, now),
    )


def page(
    store: Store, wanted: TaskFilter, limit: int, *, after: str | None = None, now: dt.datetime | None = None
) -> Page:
    """At most `limit` tasks (0: all), behind the one whose full id is `after`. Raises StoreError.

    now: the store's time, for a caller who has just asked.
    """
    now = now or store.now()  # before the rest: it refuses a store that cannot be used, which would show an empty list
    found = store.tasks.find(wanted, limit=limit + 1 if limit else 0, after=after)
    tasks = found[:limit] if limit else found
    pending = [task for task in tasks if task.status is Status.PENDING]
    fleet = fleet_of(store, pending=pending) if pending else Fleet()
    return Page(tasks=tasks, fleet=fleet, now=now, more=len(found) > len(tasks))


def each(store: Store, wanted: TaskFilter, limit: int) -> Iterator[Task]:
    """At most `limit` tasks (0: all) one by one, as they are read. Raises StoreError."""
    store.now()  # as above
    return store.tasks.each(wanted, limit)


def _one_of(kind: type[Word], name: str, word: str) -> Word:
    try:
        return kind(word)
    except ValueError:
        raise UsageError(f'{name}: "{word}" is none of {", ".join(known.value for known in kind)}') from None


def _moment(name: str, text: str | None, now: dt.datetime) -> dt.datetime | None:
    try:
        return None if text is None else parse_since(text, now)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
