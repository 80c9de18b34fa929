"""What people and programs do with tasks: put them in, look at them, cancel, retry, remove."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import bson
from bson import ObjectId
from pymongo import ReturnDocument

from slotsched import errors
from slotsched.model import OPEN, TERMINAL, Cancel, Reason, Status, Task, TaskRequest
from slotsched.quantities import format_duration
from slotsched.store import pipelines
from slotsched.store.connection import Connection, Document
from slotsched.store.documents import ID_LENGTH, read_task, short, show_task, to_object_id
from slotsched.store.enqueue import BATCH_TASKS, Enqueued, Enqueuer
from slotsched.store.reading import Unreadable

LEAST_ID_TEXT = 4  # characters of an id that may stand for it
COUNT_CAP = 10_000  # counts stop here; a page that counted a million would not come
PAGE_TASKS = 500  # of a listing; each page has the timeout of one call for itself
_SHOWN_CANDIDATES = 5
_ID_SLACK_SECONDS = 2
_LAST_ID_SECOND = 2**32 - 1

Order = Literal["newest", "oldest", "ended"]
_SORTS: Mapping[Order, tuple[str, int]] = {"newest": ("_id", -1), "oldest": ("_id", 1), "ended": ("ended_at", -1)}


@dataclass(frozen=True, kw_only=True)
class TaskFilter:
    """What a listing asks for; None and empty mean any. Several values of one field are alternatives, fields add up.

    instance: name or id. since (inclusive) and until (exclusive) are about the end where every status asked for is
    terminal, else about the creation. order: by creation (`newest`, `oldest`) or by end, the latest first (`ended`).
    """

    status: frozenset[Status] | None = None
    jobs: tuple[str, ...] = ()
    owner: str | None = None
    tags: tuple[str, ...] = ()
    reason: Reason | None = None
    instance: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    order: Order = "newest"


class Tasks:
    """The tasks, from outside. Everything here may run on any machine."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tasks = connection.collection("tasks")
        self._certain = connection.certain("tasks")
        self._enqueuer = Enqueuer(connection)

    def enqueue(self, request: TaskRequest) -> Enqueued:
        """Inserts one task, or finds the one its key stands for. Raises KeyConflict, UsageError, InvalidArguments."""
        return self._enqueuer.enqueue(request)

    def enqueue_many(
        self, requests: Iterable[TaskRequest], on_batch: Callable[[int], None] | None = None
    ) -> list[Enqueued]:
        """Inserts in batches of 1000; `on_batch` hears how many are in. What is refused is refused before the first,
        except what others do in that moment: see `Enqueuer.enqueue_many`.
        """
        return self._enqueuer.enqueue_many(requests, on_batch)

    # --- looking ----------------------------------------------------------------------------------
    def get(self, task_id: str) -> Task:
        """One task by its full id; one whose document cannot be read is shown as failed(invalid). Raises NotFound."""
        return show_task(self._document(task_id))

    def get_many(self, ids: Iterable[str]) -> dict[str, Task]:
        """Those of the tasks that exist. Index `_id`, batches of 1000."""
        found: dict[str, Task] = {}
        for batch in _batches(ids):
            wanted = {"_id": {"$in": [to_object_id(task_id) for task_id in batch]}}
            with self._connection.guard():
                documents = list(self._certain.find(wanted, batch_size=BATCH_TASKS + 1))
            found |= {str(document["_id"]): show_task(document) for document in documents}
        return found

    def missing(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that name no task. Index `_id`, covered; batches of 1000, none where nothing is asked."""
        gone: set[str] = set()
        for batch in _batches(ids):
            wanted = {"_id": {"$in": [to_object_id(task_id) for task_id in batch]}}
            with self._connection.guard():
                there = {str(document["_id"]) for document in self._certain.find(wanted, {"_id": 1})}
            gone |= set(batch) - there
        return gone

    def _document(self, task_id: str) -> Document:
        with self._connection.guard():
            document = self._certain.find_one({"_id": to_object_id(task_id)})
        if document is None:
            raise errors.NotFound(f'no task "{task_id}"')
        return document

    def look_up(self, text: str) -> str:
        """The full id that begins or ends with `text` (4 characters at least). Indexes `_id`, `endings`.

        Raises NotFound, and Ambiguous with the tasks it could be.
        """
        wanted = text.strip().lower()
        if len(wanted) < LEAST_ID_TEXT:
            raise errors.NotFound(f'"{text}" is too short for a task\'s id; give at least {LEAST_ID_TEXT} characters')
        if len(wanted) > ID_LENGTH or not re.fullmatch(r"[0-9a-f]+", wanted):
            raise errors.NotFound(f'no task "{text}"')
        lowest, highest = ObjectId(wanted.ljust(ID_LENGTH, "0")), ObjectId(wanted.ljust(ID_LENGTH, "f"))
        backwards = wanted[::-1]
        ways: list[Document] = [
            {"_id": {"$gte": lowest, "$lte": highest}},
            {"rid": {"$gte": backwards, "$lte": backwards.ljust(ID_LENGTH, "f")}},
        ]
        found: dict[str, Any] = {}
        with self._connection.guard():
            for way in ways:
                for document in self._tasks.find(way, {"job": 1}).limit(_SHOWN_CANDIDATES + 1):
                    found[str(document["_id"])] = document.get("job", "?")
        if not found:
            raise errors.NotFound(f'no task "{text}"')
        if len(found) > 1:
            raise errors.Ambiguous(f'"{text}" is ambiguous: {_candidates(found)}')
        return next(iter(found))

    def find(self, wanted: TaskFilter, limit: int = 50, *, after: str | None = None) -> list[Task]:
        """At most `limit` tasks (0: all); `after` is the last id of the page before. See `each`."""
        return list(self.each(wanted, limit, after=after))

    def each(self, wanted: TaskFilter, limit: int = 0, *, after: str | None = None) -> Iterator[Task]:
        """The same one by one, as they are read. Documents that cannot be read are shown as such.

        after: not with `ended`, which does not tell two apart that ended at once. Reads pages of 500.
        Indexes `by_status`, `by_job`, `by_owner` or `by_tag`, each merged over the statuses; with `ended`, `by_end`.
        """
        return map(show_task, self._listed(wanted, limit, after=after))

    def retried(self, jobs: tuple[str, ...] = (), *, since: dt.datetime) -> set[str]:
        """The full ids of those that were run again since then, as a task of one of these jobs (none: of any).

        Reads all that was made since then, page by page: the indexes of `find`; there is none of `retry_of`.
        """
        found = self._listed(TaskFilter(jobs=jobs, since=since), fields=("retry_of",))
        return {document["retry_of"] for document in found if isinstance(document.get("retry_of"), str)}

    def _listed(
        self, wanted: TaskFilter, limit: int = 0, *, after: str | None = None, fields: Iterable[str] | None = None
    ) -> Iterator[Document]:
        assert after is None or wanted.order != "ended"
        query, (field, direction) = _query(wanted), _SORTS[wanted.order]
        place = None if after is None else _Place(value=to_object_id(after), given=(to_object_id(after),))
        left = limit or math.inf
        while left:
            size = int(min(left, PAGE_TASKS))
            asked = query if place is None else {"$and": [query, place.beyond(field, direction)]}
            with self._connection.guard():
                page = list(self._tasks.find(asked, fields, limit=size, batch_size=size + 1).sort(field, direction))
            yield from page
            if len(page) < size:
                return
            left -= size
            place = _behind(page, field, place)

    def counts(self) -> dict[Status, int]:
        """How many tasks are in each status, each capped at 10,000. Index `by_status`, counted in the index."""
        with self._connection.guard():
            return {
                status: self._tasks.count_documents({"status": status.value}, limit=COUNT_CAP, hint="by_status")
                for status in Status
            }

    def ahead(self, task_id: str) -> int:
        """How many tasks of its lane a pending task has in front of it, at most 10,000. Index `queue`, keys only."""
        wanted = {"_id": to_object_id(task_id), "status": Status.PENDING.value}
        with self._connection.guard():
            task = self._tasks.find_one(wanted, {"lane": 1, "rank": 1})
            if task is None:
                return 0
            lane = {"status": Status.PENDING.value, "lane": task.get("lane")}
            before = ({"rank": {"$lt": task.get("rank")}}, {"rank": task.get("rank"), "_id": {"$lt": task["_id"]}})
            counts = (self._tasks.count_documents(lane | place, limit=COUNT_CAP, hint="queue") for place in before)
            return min(COUNT_CAP, sum(counts))

    # --- changing ---------------------------------------------------------------------------------
    def cancel(self, task_id: str, by: str, kill: bool = False) -> Task:
        """Cancels what has not started; asks the owner of what runs to end it (`kill`: without grace). Index `_id`.

        Raises NotFound, and Refused for a task that has ended.
        """
        wanted = {"_id": to_object_id(task_id), "status": {"$in": sorted(OPEN)}}
        with self._connection.guard():
            changed = self._tasks.find_one_and_update(
                wanted, pipelines.cancel(Cancel(by=by, kill=kill)), return_document=ReturnDocument.AFTER
            )
        if changed is not None:
            return show_task(changed)
        task = self.get(task_id)
        raise errors.Refused(
            f"{short(task.id)} already {task.status}{self._ago(task)}; nothing to cancel. "
            f"To run it again: slotsched retry {short(task.id)}"
        )

    def retry(self, task_id: str, owner: str | None = None) -> Enqueued:
        """A new task with the same job, arguments and needs, and `retry_of`. Raises NotFound and Refused."""
        try:
            task = read_task(self._document(task_id))
        except Unreadable as why:
            raise errors.Refused(f"{short(task_id)} cannot be run again, its document cannot be read: {why}") from why
        if task.status not in TERMINAL:
            raise errors.Refused(f"{short(task.id)} is {task.status}; only a task that has ended can be run again")
        return self.enqueue(_again(task, owner))

    def retry_many(self, ids: Iterable[str], owner: str | None = None) -> dict[str, Enqueued]:
        """Like `retry` for many, by the ids of the old ones, in their order.

        Those that are gone, have not ended or cannot be read are left out. Index `_id`, batches of 1000.
        """
        again: dict[str, Enqueued] = {}
        for batch in _batches(ids):
            tasks = self._readable(batch)
            stored = self.enqueue_many(_again(task, owner) for task in tasks)
            again |= {task.id: one for task, one in zip(tasks, stored, strict=True)}
        return again

    def _readable(self, ids: list[str]) -> list[Task]:
        """Those of the tasks that have ended and can be read, in the order asked."""
        with self._connection.guard():
            documents = list(self._certain.find({"_id": {"$in": [to_object_id(task_id) for task_id in ids]}}))
        found: dict[str, Task] = {}
        for document in documents:
            with suppress(Unreadable):
                found[str(document["_id"])] = read_task(document)
        return [found[task_id] for task_id in ids if task_id in found and found[task_id].status in TERMINAL]

    def remove(self, ids: Iterable[str]) -> int:
        """Deletes those of the tasks that have ended, readable or not; how many. Index `_id`.

        One whose followers have not been told yet stays: they would wait for ever.
        """
        known = frozenset(Status) - TERMINAL
        wanted = {
            "_id": {"$in": [to_object_id(i) for i in ids]},
            "status": {"$nin": sorted(known)},
            "$or": [{"resolve": {"$ne": True}}, {"pokes": {"$exists": False}}],
        }
        with self._connection.guard():
            return self._tasks.delete_many(wanted).deleted_count

    def _ago(self, task: Task) -> str:
        if task.ended_at is None:
            return ""
        return f" {format_duration((self._connection.now() - task.ended_at).total_seconds())} ago"


@dataclass(frozen=True, kw_only=True)
class _Place:
    """How far a listing has come: to a value of what it is sorted by, and to these ids among its equals."""

    value: Any
    given: tuple[Any, ...]

    def beyond(self, field: str, direction: int) -> Document:
        """What comes next. An expression compares across types, as the sort does: nothing is left out or repeated."""
        comparison = "$gte" if direction > 0 else "$lte"
        return {"$expr": {comparison: [f"${field}", {"$literal": self.value}]}, "_id": {"$nin": list(self.given)}}


def _behind(page: Sequence[Document], field: str, before: _Place | None) -> _Place:
    """The place behind a page that was read from `before` on."""
    value = page[-1].get(field)
    equals = tuple(document["_id"] for document in page if _are_equal(document.get(field), value))
    if before is not None and _are_equal(before.value, value):
        equals = before.given + equals
    return _Place(value=value, given=equals)


def _are_equal(one: Any, other: Any) -> bool:
    """As the database has it, for which NaN is equal to itself."""
    return bson.encode({"": one}) == bson.encode({"": other})


def _batches(ids: Iterable[str]) -> Iterator[list[str]]:
    """Each id once, so many at a time as one call asks for."""
    left = iter(dict.fromkeys(ids))
    while batch := list(itertools.islice(left, BATCH_TASKS)):
        yield batch


def _again(task: Task, owner: str | None) -> TaskRequest:
    """The same once more, at once: what it waited for then is over."""
    return TaskRequest(
        job=task.job,
        args=task.args,
        needs=task.needs,
        priority=task.priority,
        retry=task.retry,
        max_time=task.max_time,
        trigger=f"retry:{task.id}",
        owner=owner,
        tags=task.tags,
        retry_of=task.id,
        keep=task.keep,
        unique=task.unique,
        concurrency_key=task.concurrency_key,
    )


def _query(wanted: TaskFilter) -> Document:
    """Names the statuses beside a job, owner or tag, so that their index keeps the order and nothing is sorted."""
    query: Document = {}
    statuses = wanted.status
    if statuses is None and wanted.order == "ended":
        statuses = TERMINAL
    if statuses is None and (wanted.jobs or wanted.owner or wanted.tags):
        statuses = frozenset(Status)
    if statuses is not None:
        query["status"] = {"$in": sorted(statuses)}
    by_end = statuses is not None and statuses <= TERMINAL
    fields: dict[str, Any] = {
        "job": {"$in": list(wanted.jobs)} if wanted.jobs else None,
        "owner": wanted.owner,
        "tags": {"$all": list(wanted.tags)} if wanted.tags else None,
        "reason": wanted.reason,
        "ended_at" if by_end else "created_at": _between(wanted.since, wanted.until),
    }
    query |= {name: value for name, value in fields.items() if value is not None}
    if wanted.order == "ended":
        query.setdefault("ended_at", {"$exists": True})
    if wanted.instance is not None:
        query["$or"] = [{"instance.id": wanted.instance}, {"instance.name": wanted.instance}]
    if not by_end:
        query |= _made_between(wanted.since, wanted.until)
    return query


def _made_between(since: dt.datetime | None, until: dt.datetime | None) -> Document:
    """The same bounds on ids, which begin with the second they were made in: a listing reads no further back."""
    lowest = None if since is None else _first_id(since.timestamp() - _ID_SLACK_SECONDS)
    highest = None if until is None else _first_id(until.timestamp() + _ID_SLACK_SECONDS)
    bounds = {name: bound for name, bound in (("$gte", lowest), ("$lt", highest)) if bound is not None}
    return {"_id": bounds} if bounds else {}


def _first_id(seconds: float) -> ObjectId:
    """Of those made from that second of Unix time on; ids know the years from 1970 to 2106."""
    second = int(min(max(seconds, 0), _LAST_ID_SECOND))
    return ObjectId(f"{second:08x}".ljust(ID_LENGTH, "0"))


def _between(since: dt.datetime | None, until: dt.datetime | None) -> Document | None:
    bounds = {name: bound for name, bound in (("$gte", since), ("$lt", until)) if bound is not None}
    return bounds or None


def _candidates(found: dict[str, Any]) -> str:
    shown = [f"{short(task_id)} {job}" for task_id, job in sorted(found.items())[:_SHOWN_CANDIDATES]]
    return ", ".join(shown) + (", ..." if len(found) > _SHOWN_CANDIDATES else "")
