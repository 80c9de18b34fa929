"""Tasks as documents and back.

Field names are the object shape's. Beside them a document holds what only the store needs: `lane` and `rank` (the
queue's order), `rid` (the id backwards, so that an ending is found by an index), `claim` {instance, token}, `ended`
(the token of the last finish), `losses`, `cancels`, `key_until` and `key_hash`, `unique_key` (while it keeps its
like out), `expire_at`, `resolve` (others are to be told how it ended) and `pokes` (how often that was asked for).
Values that are None are not stored.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import bson
from bson import ObjectId
from bson.errors import BSONError

from slotsched import errors
from slotsched.model import (
    UNIQUES,
    WHENS,
    Attempt,
    Cancel,
    InstanceRef,
    Lane,
    LogRef,
    Needs,
    Outcome,
    Progress,
    Reason,
    Reservation,
    RetryPolicy,
    Status,
    Task,
    TaskRequest,
)
from slotsched.model.limits import LARGEST_COUNT, LARGEST_PRIORITY, LARGEST_SECONDS, LARGEST_SIZE
from slotsched.store.connection import Document
from slotsched.store.errors import refusal
from slotsched.store.reading import Reader, Unreadable

AGING_SECONDS = 600.0  # one point of priority counts as much as ten minutes of waiting
LARGEST_DOCUMENT = 15 * 1024 * 1024  # leaves room for attempts and a result under the server's 16 MB
ID_LENGTH = 24
_EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)


# --- ids ------------------------------------------------------------------------------------------
def to_object_id(text: str) -> ObjectId:
    """Raises NotFound for what cannot be an id."""
    if not ObjectId.is_valid(text):
        raise errors.NotFound(f'no task "{text}"')
    return ObjectId(text)


def short(task_id: str) -> str:
    """The id as people see it: its last 8 characters (the beginning is only the second it was made in)."""
    return task_id[-8:]


def new_id(now: dt.datetime) -> ObjectId:
    """An id whose beginning is the server's time, so that ids made on machines with other clocks still sort by it."""
    return ObjectId(int(now.timestamp()).to_bytes(4, "big") + ObjectId().binary[4:])


# --- requests to documents ------------------------------------------------------------------------
def new_document(request: TaskRequest, now: dt.datetime) -> Document:
    """The document to insert. Raises UsageError or InvalidArguments for what cannot be stored or never be claimed."""
    _check_request(request)
    due_at = _due_at(request, now)
    task_id = new_id(now)
    document: Document = {
        "_id": task_id,
        "rid": str(task_id)[::-1],
        "job": request.job,
        "args": dict(request.args),
        "status": _first_status(request, due_at, now).value,
        "needs": needs_to_document(request.needs),
        "lane": str(request.lane),
        "rank": due_at - dt.timedelta(seconds=request.priority * AGING_SECONDS),
        "priority": request.priority,
        "due_at": due_at,
        "created_at": now,
        "attempt": 0,
        "fence": 0,
        "attempts": [],
        "trigger": request.trigger,
        "retry": retry_to_document(request.retry),
        "resolve": False,
    }
    optional = {
        "owner": request.owner,
        "tags": list(request.tags) or None,
        "retry_of": request.retry_of,
        "max_time": request.max_time,
        "keep": request.keep,
        "parents": list(request.parents) or None,
        "after": list(request.parents) or None,
        "when": request.when if request.parents else None,
        "concurrency_key": request.concurrency_key,
    }
    document |= {name: value for name, value in optional.items() if value is not None}
    if request.key is not None:
        document |= {
            "key": request.key,
            "key_until": now + dt.timedelta(seconds=request.key_window),
            "key_hash": request_hash(request),
        }
    if request.unique is not None:
        hashed = request_hash(request)
        document |= {"unique": {"until": request.unique, "hash": hashed}, "unique_key": hashed}
    _check_encodable(document)
    return document


def request_hash(request: TaskRequest) -> str:
    """What two requests of one key must share: the job and the arguments."""
    content = json.dumps([request.job, request.args], sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def needs_to_document(needs: Needs) -> Document:
    document: Document = {"slots": needs.slots, "resources": dict(needs.resources), "tags": list(needs.tags)}
    optional = {"memory": needs.memory, "exclusive": needs.exclusive or None}
    return document | {name: value for name, value in optional.items() if value is not None}


def retry_to_document(retry: RetryPolicy) -> Document:
    return {
        "limit": retry.limit,
        "delay": retry.delay,
        "exponential": retry.exponential,
        "cap": retry.cap,
        "on": list(retry.on),
    }


def log_to_document(log: LogRef) -> Document:
    return {
        "store": log.store,
        "key": log.key,
        "bytes": log.bytes,
        "uploaded": log.uploaded,
        "truncated": log.truncated,
    }


def progress_to_document(progress: Progress) -> Document:
    return {"fraction": progress.fraction, "message": progress.message}


def _first_status(request: TaskRequest, due_at: dt.datetime, now: dt.datetime) -> Status:
    if request.parents:
        return Status.WAITING
    return Status.PENDING if due_at <= now else Status.SCHEDULED


def _due_at(request: TaskRequest, now: dt.datetime) -> dt.datetime:
    try:
        due_at = now + dt.timedelta(seconds=request.due_in or 0) if request.due_at is None else request.due_at
        due_at = due_at.astimezone(dt.UTC)  # the calendar's last day may be beyond it there
        due_at - dt.timedelta(seconds=request.priority * AGING_SECONDS)
    except (OverflowError, ValueError) as error:
        raise errors.UsageError("the due time is out of range") from error
    return due_at


def _check_request(request: TaskRequest) -> None:
    needs = request.needs
    _check(request.due_at is None or request.due_in is None, "due_at and due_in exclude each other")
    _check(request.due_at is None or request.due_at.tzinfo is not None, "due_at needs a time zone")
    _check(request.due_in is None or 0 <= request.due_in < math.inf, f"due_in: {request.due_in} is not a time to wait")
    _check(_is_count(needs.slots, 1), f"slots: {needs.slots!r} is not a positive whole number")
    _check(
        needs.memory is None or _is_count(needs.memory, 1, LARGEST_SIZE),
        f"memory: {needs.memory!r} is not a positive number of bytes",
    )
    for name, units in needs.resources.items():
        _check(_is_count(units, 1), f"resources: {name} = {units!r} is not a positive whole number")
    _check(abs(request.priority) <= LARGEST_PRIORITY, f"priority: {request.priority} is beyond ±{LARGEST_PRIORITY}")
    _check(_is_count(request.retry.limit, 0), f"retries: {request.retry.limit!r} is not a whole number")
    for label, seconds in (("retry_delay", request.retry.delay), ("retry cap", request.retry.cap)):
        _check(0 <= seconds <= LARGEST_SECONDS, f"{label}: {seconds} is not a duration")
    for label, duration in (("max_time", request.max_time), ("keep", request.keep)):
        _check(duration is None or 0 < duration <= LARGEST_SECONDS, f"{label}: {duration} is not a positive duration")
    _check(0 <= request.key_window < 1e9, f"key window: {request.key_window} is not a duration")
    _check(request.when in WHENS, f"when: {request.when!r} is none of {', '.join(WHENS)}")
    _check(request.unique in (None, *UNIQUES), f"unique: {request.unique!r} is none of {', '.join(UNIQUES)}")
    for parent in request.parents:
        _check(ObjectId.is_valid(parent) and str(ObjectId(parent)) == parent, f"after: {parent!r} is no task's full id")
    _check(_survives_lane(request), f"the names of job {request.job!r}, its resources and tags must not hold | , =")


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise errors.UsageError(message)


def _is_count(value: Any, least: int, largest: int = LARGEST_COUNT) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= largest


def _survives_lane(request: TaskRequest) -> bool:
    """A lane that does not read back the same would put the task where nobody looks for it."""
    lane = request.lane
    try:
        read = Lane.parse(str(lane))
        return bool(request.job) and (str(read), read.job, read.key) == (str(lane), lane.job, lane.key)
    except ValueError:
        return False


def _check_encodable(document: Document) -> None:
    """Refuses in one sentence what BSON refuses in five ways, before anything is sent."""
    try:
        size = len(bson.encode(document))
    except (BSONError, OverflowError, UnicodeError, RecursionError) as error:
        raise errors.InvalidArguments(f"the arguments cannot be stored: {refusal(error)}") from error
    if size > LARGEST_DOCUMENT:
        raise errors.InvalidArguments(f"the arguments cannot be stored: {size} bytes are more than {LARGEST_DOCUMENT}")


# --- documents to tasks ---------------------------------------------------------------------------
def read_task(document: Mapping[str, Any]) -> Task:
    """The task of a document. Raises Unreadable."""
    task = Reader(document)
    return Task(
        id=_read_id(document),
        job=task.text("job"),
        args=task.mapping("args"),
        status=_read_status(task),
        reason=read_reason(task),
        message=task.maybe_text("message"),
        exit_code=task.maybe_count("exit_code", least=-LARGEST_COUNT),
        signal=task.maybe_count("signal"),
        needs=read_needs(task.inner("needs")),
        priority=task.maybe_number("priority") or 0,
        due_at=task.date("due_at"),
        created_at=task.date("created_at"),
        started_at=task.maybe_date("started_at"),
        ended_at=task.maybe_date("ended_at"),
        attempt=task.count("attempt"),
        attempts=tuple(_read_attempt(attempt) for attempt in task.items("attempts")),
        instance=_read_instance_ref(task.inner("instance")) if task.has("instance") else None,
        fence=task.count("fence"),
        trigger=task.maybe_text("trigger") or "manual",
        schedule=task.maybe_text("schedule"),
        nominal_at=task.maybe_date("nominal_at"),
        parents=task.texts("parents"),
        after=task.texts("after"),
        when=task.maybe_text("when"),
        result=document.get("result"),
        progress=_read_progress(task.inner("progress")) if task.has("progress") else None,
        owner=task.maybe_text("owner"),
        tags=task.texts("tags"),
        key=task.maybe_text("key"),
        retry_of=task.maybe_text("retry_of"),
        max_time=task.maybe_seconds("max_time"),
        retry=read_retry(task.inner("retry")) if task.has("retry") else RetryPolicy(),
        keep=task.maybe_seconds("keep"),
        cancel=read_cancel(task.inner("cancel")) if task.has("cancel") else None,
        reserved=read_reservation(task.inner("reserved")) if task.has("reserved") else None,
        unique=task.inner("unique").maybe_text("until") if task.has("unique") else None,
        concurrency_key=task.maybe_text("concurrency_key"),
    )


def show_task(document: Mapping[str, Any]) -> Task:
    """The task of a document; for one that cannot be read, a stand-in that says why."""
    try:
        return read_task(document)
    except Unreadable as why:
        return _stand_in(document, str(why))


def _stand_in(document: Mapping[str, Any], why: str) -> Task:
    """Keeps what is certain about an unreadable document, so that a listing shows it and people can remove it.

    Its status stays what it is: it may be one that the claim mends. One that is none is shown as failed(invalid).
    """
    kept: dict[str, Any] = {
        name: document[name] for name in ("due_at", "created_at") if isinstance(document.get(name), dt.datetime)
    }
    status = Status(document["status"]) if document.get("status") in list(Status) else Status.FAILED
    return Task(
        id=str(document.get("_id")),
        job=document["job"] if isinstance(document.get("job"), str) else "?",
        args={},
        status=status,
        reason=Reason.INVALID if status is Status.FAILED else None,
        message=f"this document cannot be read: {why}",
        **{"due_at": _EPOCH, "created_at": _EPOCH, **kept},
    )


def _read_id(document: Mapping[str, Any]) -> str:
    if not isinstance(document.get("_id"), ObjectId):
        raise Unreadable(f"_id: {document.get('_id')!r} is not an ObjectId")
    return str(document["_id"])


def _read_status(task: Reader) -> Status:
    text = task.text("status")
    if text not in set(Status):
        raise Unreadable(f"status: {text!r} is none of {', '.join(Status)}")
    return Status(text)


def read_status(document: Mapping[str, Any]) -> Status:
    """The status a document shows; failed for one that slotsched does not know, as in a listing."""
    text = document.get("status")
    return Status(text) if isinstance(text, str) and text in set(Status) else Status.FAILED


def read_reason(document: Reader) -> Reason | None:
    text = document.maybe_text("reason")
    if text is not None and text not in set(Reason):
        raise Unreadable(f"reason: {text!r} is none of {', '.join(Reason)}")
    return None if text is None else Reason(text)


def read_needs(needs: Reader) -> Needs:
    return Needs(
        slots=needs.count("slots", least=1),
        memory=needs.maybe_count("memory", least=1, largest=LARGEST_SIZE),
        resources=needs.counts("resources"),
        tags=needs.texts("tags"),
        exclusive=needs.flag("exclusive"),
    )


def read_retry(retry: Reader) -> RetryPolicy:
    return RetryPolicy(
        limit=retry.count("limit"),
        delay=retry.seconds("delay"),
        exponential=retry.flag("exponential"),
        cap=retry.seconds("cap"),
        on=retry.texts("on"),
    )


def read_cancel(cancel: Reader) -> Cancel:
    return Cancel(by=cancel.maybe_text("by") or "?", kill=cancel.flag("kill"))


def read_reservation(reserved: Reader) -> Reservation:
    return Reservation(by=reserved.text("by"), start=reserved.date("start"), until=reserved.date("until"))


def _read_attempt(attempt: Reader) -> Attempt:
    return Attempt(
        number=attempt.count("number"),
        fence=attempt.count("fence"),
        instance=_read_instance_ref(attempt.inner("instance")),
        started_at=attempt.date("started_at"),
        ended_at=attempt.maybe_date("ended_at"),
        reason=read_reason(attempt),
        exit_code=attempt.maybe_count("exit_code", least=-LARGEST_COUNT),
        signal=attempt.maybe_count("signal"),
        message=attempt.maybe_text("message"),
        cpu_seconds=attempt.maybe_number("cpu_seconds"),
        peak_memory=attempt.maybe_count("peak_memory", largest=LARGEST_SIZE),
        hash=attempt.maybe_text("hash"),
        log=_read_log(attempt.inner("log")) if attempt.has("log") else None,
    )


def _read_instance_ref(instance: Reader) -> InstanceRef:
    return InstanceRef(id=instance.text("id"), name=instance.text("name"))


def _read_log(log: Reader) -> LogRef:
    return LogRef(
        store=log.text("store"),
        key=log.text("key"),
        bytes=log.count("bytes", largest=LARGEST_SIZE),
        uploaded=log.flag("uploaded"),
        truncated=log.flag("truncated"),
    )


def _read_progress(progress: Reader) -> Progress:
    return Progress(fraction=progress.maybe_number("fraction"), message=progress.maybe_text("message") or "")


# --- how an attempt ended -------------------------------------------------------------------------
def outcome_status(outcome: Outcome) -> Status:
    """The status an outcome leads to when nobody asked for a cancel and no retry is left."""
    if outcome.reason == Reason.EXIT and outcome.exit_code == 0:
        return Status.COMPLETED
    if outcome.reason in (Reason.CANCELED, Reason.CANCELED_BY_JOB, Reason.UPSTREAM):
        return Status.CANCELED
    return Status.FAILED
