"""The update pipelines of every write that two machines could race for, as pure values.

Each is total: whatever type a field has, the expression yields something, so that one malformed document cannot
make an update of many stop half way. Values that come from people or scripts are wrapped in `$literal`: a text
that begins with `$` is data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slotsched.model import Cancel, InstanceRef, Lane, LogRef, Outcome, Reason, Status
from slotsched.store.connection import Document, Pipeline
from slotsched.store.documents import log_to_document, needs_to_document, outcome_status, progress_to_document
from slotsched.store.expressions import (
    array,
    cancel_asked,
    clamped,
    is_status,
    literal,
    milliseconds,
    number,
    or_remove,
    plus_one,
    rank,
    unique_until_start,
)

MOST_ATTEMPTS = 100  # records kept per task; a task retried more often keeps its newest
MOST_LOSSES = 3  # a task that was lost this often is taken to kill its instances
_TERMINAL = [Status.COMPLETED.value, Status.FAILED.value, Status.CANCELED.value]
_ENDING_FIELDS = ("reason", "message", "exit_code", "signal")


def claim(instance: InstanceRef, token: str, permits: Sequence[str] = ()) -> Pipeline:
    """pending -> running under `token`, holding `permits`; the attempt's record opens."""
    owner = {"id": instance.id, "name": instance.name}
    record = {
        "number": plus_one("$attempt"),
        "fence": plus_one("$fence"),
        "instance": literal(owner),
        "started_at": "$$NOW",
    }
    return [
        {
            "$set": {
                "status": Status.RUNNING.value,
                "claim": literal({"instance": instance.id, "token": token}),
                "instance": literal(owner),
                "attempt": plus_one("$attempt"),
                "fence": plus_one("$fence"),
                "started_at": "$$NOW",
                "attempts": {"$slice": [{"$concatArrays": [array("$attempts"), [record]]}, -MOST_ATTEMPTS]},
                "unique_key": {"$cond": [unique_until_start(), "$$REMOVE", "$unique_key"]},
                "permits": or_remove(list(permits) or None),
            }
        },
        {"$unset": [*_ENDING_FIELDS, "ended_at", "progress", "result", "reserved"]},
    ]


def release(*, alone: bool = True) -> Pipeline:
    """running -> pending as if never claimed (the fence stays), or canceled if that was asked.

    alone: it keeps its like out again, where its job says so; a unique index refuses that if one has come since.
    """
    again = {"$and": [alone, is_status(Status.PENDING), unique_until_start()]}
    return [
        {
            "$set": {
                "status": {"$cond": [cancel_asked(), Status.CANCELED.value, Status.PENDING.value]},
                "attempt": {"$max": [0, {"$subtract": [number("$attempt"), 1]}]},
                "attempts": {
                    "$filter": {
                        "input": array("$attempts"),
                        "as": "record",
                        "cond": {"$ne": ["$$record.fence", "$fence"]},
                    }
                },
            }
        },
        {"$set": {"unique_key": {"$cond": [again, "$unique.hash", "$unique_key"]}}},
        {"$unset": ["claim", "permits", "instance", "started_at"]},
        *_canceled_if_so(),
        *close(),
    ]


def cancel(request: Cancel) -> Pipeline:
    """running: the wish is noted for the owner, a kill outlasts a milder wish; anything before it: canceled."""
    wish = {
        "by": literal(request.by),
        "kill": {"$or": [request.kill, {"$eq": ["$cancel.kill", True]}]},
        "at": "$$NOW",
    }
    return [
        {
            "$set": {
                "cancel": wish,
                "cancels": plus_one("$cancels"),  # a second wish changes only parts of `cancel`; this makes an event
                "status": {"$cond": [is_status(Status.RUNNING), Status.RUNNING.value, Status.CANCELED.value]},
            }
        },
        *_canceled_if_so(),
        *close(),
    ]


def finish(
    token: str,
    outcome: Outcome,
    *,
    hash: str | None,
    log: LogRef | None,
    retry_in: float | None,
    lane: Lane | None = None,
) -> Pipeline:
    """running -> completed, canceled, scheduled (a retry is left) or failed; the attempt's record closes.

    hash: of the job's content that ran. retry_in: seconds until the retry, None without one. lane: where the retry
    waits, when its needs are others.
    """
    lost = outcome.reason == Reason.LOST
    ended_at = {"$max": ["$started_at", {"$subtract": ["$$NOW", milliseconds(outcome.ago)]}]}
    record = {
        name: literal(value)
        for name, value in {
            "reason": outcome.reason.value,
            "exit_code": outcome.exit_code,
            "signal": outcome.signal,
            "message": outcome.message,
            "cpu_seconds": outcome.cpu_seconds,
            "peak_memory": outcome.peak_memory,
            "hash": hash,
            "log": None if log is None else log_to_document(log),
        }.items()
        if value is not None
    }
    fields: Document = {
        "status": _finished_status(outcome, retry_in),
        "attempts": _with_last_attempt(record | {"ended_at": ended_at}),
        "ended_at": ended_at,
        "ended": token,
        "reason": outcome.reason.value,
        "exit_code": or_remove(outcome.exit_code),
        "signal": or_remove(outcome.signal),
        "message": or_remove(outcome.message),
        "result": or_remove(outcome.result),
    }
    if outcome.state is not None and outcome_status(outcome) == Status.COMPLETED:
        # for the series to take over; a task outside one has nobody to leave it to
        of_series = {"$eq": [{"$type": "$schedule"}, "string"]}
        fields["state"] = {"$cond": [of_series, literal(outcome.state), "$$REMOVE"]}
    if outcome.progress is not None:
        fields["progress"] = literal(progress_to_document(outcome.progress))
    counted: Pipeline = [{"$set": {"losses": plus_one("$losses")}}] if lost else []
    own_cancel = outcome_status(outcome) == Status.CANCELED
    return [
        *counted,
        {"$set": fields},
        {"$unset": ["claim", "permits"]},
        *([] if own_cancel else _canceled_if_so()),
        *_reschedule(0.0 if retry_in is None else milliseconds(retry_in)),
        *_change_lane(lane),
        *close(),
    ]


def take(message: str) -> Pipeline:
    """running on an instance that is dead -> canceled, scheduled (`lost` is retried and a retry is left) or failed."""
    retried = {
        "$and": [
            {"$in": [Reason.LOST.value, array("$retry.on")]},
            {"$lte": [number("$attempt"), number("$retry.limit")]},
            {"$lt": ["$losses", MOST_LOSSES]},
        ]
    }
    record = {"reason": Reason.LOST.value, "ended_at": "$$NOW", "message": literal(message)}
    return [
        {"$set": {"losses": plus_one("$losses")}},
        {
            "$set": {
                "status": {
                    "$switch": {
                        "branches": [
                            {"case": cancel_asked(), "then": Status.CANCELED.value},
                            {"case": retried, "then": Status.SCHEDULED.value},
                        ],
                        "default": Status.FAILED.value,
                    }
                },
                "attempts": _with_last_attempt(record),
                "ended_at": "$$NOW",
                "reason": Reason.LOST.value,
                "message": literal(message),
            }
        },
        {"$unset": ["claim", "permits"]},
        *_canceled_if_so(),
        *_reschedule(_backoff()),
        *close(),
    ]


def resolve(ended: Mapping[str, Status], *, gone: bool = False) -> Pipeline:
    """waiting -> pending (scheduled, if its own time has not come) once nothing is left to wait for; canceled as soon
    as one of `ended` (ids and how they ended) is not what it waits for; else waiting for fewer. Of those it is only
    to be `behind` (the round before it in a series) any end will do. gone: somebody deleted them, nobody knows how
    they ended.
    """
    ids, waited = literal(list(ended)), array("$after")
    accepted = {
        "$switch": {
            "branches": [
                {"case": {"$eq": ["$when", "any"]}, "then": ids},
                {"case": {"$eq": ["$when", "failure"]}, "then": literal(_ids_of(ended, Status.FAILED))},
            ],
            "default": literal(_ids_of(ended, Status.COMPLETED)),
        }
    }
    of_these = {"$setIntersection": [waited, ids]}
    is_date = {"$eq": [{"$type": "$due_at"}, "date"]}
    found = {
        "unmet": {"$setDifference": [of_these, {"$setUnion": [accepted, array("$behind")]}]},
        "due_at": {"$cond": [is_date, {"$max": ["$due_at", "$$NOW"]}, "$$NOW"]},
    }
    # What was due at once has its creation's time as due time, which may be ahead of the server's by some milliseconds.
    early = {"$and": [{"$gt": ["$found.due_at", "$$NOW"]}, {"$gt": ["$due_at", "$created_at"]}]}
    released = {"$cond": [early, Status.SCHEDULED.value, Status.PENDING.value]}
    left = {"$cond": [{"$eq": ["$after", []]}, released, Status.WAITING.value]}
    upstream = is_status(Status.CANCELED)
    return [
        {"$set": {"found": found, "after": {"$setDifference": [waited, ids]}}},
        {"$set": {"status": {"$cond": [{"$eq": ["$found.unmet", []]}, left, Status.CANCELED.value]}}},
        {
            "$set": {
                "reason": {"$cond": [upstream, Reason.UPSTREAM.value, "$reason"]},
                "message": {"$cond": [upstream, _how_ended({"$first": "$found.unmet"}, ended, gone), "$message"]},
                "due_at": {"$cond": [is_status(Status.PENDING), "$found.due_at", "$due_at"]},
            }
        },
        {"$set": {"rank": {"$cond": [is_status(Status.PENDING), rank(), "$rank"]}}},
        {"$unset": ["found"]},
        *close(),
    ]


def _ids_of(ended: Mapping[str, Status], status: Status) -> list[str]:
    return [task_id for task_id, how in ended.items() if how == status]


def _how_ended(task_id: Any, ended: Mapping[str, Status], gone: bool) -> Document:
    """`8c1d2e3f failed`."""
    cases = [
        {"case": {"$in": [task_id, literal(_ids_of(ended, status))]}, "then": f" {status.value}"}
        for status in (Status.FAILED, Status.COMPLETED)
    ]
    how = {"$switch": {"branches": cases, "default": " is gone" if gone else f" {Status.CANCELED.value}"}}
    return {"$concat": [{"$substrCP": [{"$toString": task_id}, 16, 8]}, how]}


def invalid(message: str, token: str | None = None) -> Document:
    """The smallest write that ends a task whose document or result is at fault; it reads none of its fields."""
    fields: Document = {
        "status": Status.FAILED.value,
        "reason": Reason.INVALID.value,
        "message": message,
        "resolve": True,
    }
    if token is not None:
        fields["ended"] = token
    return {
        "$set": fields,
        "$currentDate": {"ended_at": True},
        "$unset": {"claim": "", "permits": "", "reserved": "", "after": "", "unique_key": ""},
    }


# --- shared stages --------------------------------------------------------------------------------
def _canceled_if_so() -> Pipeline:
    """What a task that just became canceled by a person shows as its reason."""
    by = {"$concat": ["canceled by ", {"$cond": [{"$eq": [{"$type": "$cancel.by"}, "string"]}, "$cancel.by", "?"]}]}
    canceled = is_status(Status.CANCELED)
    return [
        {
            "$set": {
                "reason": {"$cond": [canceled, Reason.CANCELED.value, "$reason"]},
                "message": {"$cond": [canceled, by, "$message"]},
            }
        }
    ]


def _reschedule(delay: Any) -> Pipeline:
    """Where the status became scheduled: due after `delay` milliseconds, with a new place in the queue."""
    scheduled = is_status(Status.SCHEDULED)
    return [
        {
            "$set": {
                "due_at": {"$cond": [scheduled, {"$add": ["$$NOW", delay]}, "$due_at"]},
                "ended_at": {"$cond": [scheduled, "$$REMOVE", "$ended_at"]},
                "instance": {"$cond": [scheduled, "$$REMOVE", "$instance"]},
            }
        },
        {"$set": {"rank": {"$cond": [scheduled, rank(), "$rank"]}}},
    ]


def _change_lane(lane: Lane | None) -> Pipeline:
    """Where the status became scheduled: the needs of the next attempt."""
    if lane is None:
        return []
    new = {"lane": str(lane), "needs": needs_to_document(lane.needs)}
    scheduled = is_status(Status.SCHEDULED)
    return [{"$set": {name: {"$cond": [scheduled, literal(value), f"${name}"]} for name, value in new.items()}}]


def close() -> Pipeline:
    """What every terminal status brings: its end, when it may be forgotten, and followers to be told.

    Only where somebody ever waited for it or a series goes by it: all other tasks are spared a second write.
    """
    terminal = {"$in": ["$status", _TERMINAL]}
    is_followed = {"$or": [{"$gt": [number("$pokes"), 0]}, {"$eq": [{"$type": "$schedule"}, "string"]}]}
    followed = {"$and": [terminal, is_followed]}
    return [
        {
            "$set": {
                "ended_at": {"$cond": [terminal, {"$ifNull": ["$ended_at", "$$NOW"]}, "$ended_at"]},
                "resolve": {"$cond": [followed, True, "$resolve"]},
                "pokes": {"$cond": [followed, plus_one("$pokes"), "$pokes"]},  # a change that makes an event
                "after": {"$cond": [terminal, "$$REMOVE", "$after"]},
                "unique_key": {"$cond": [terminal, "$$REMOVE", "$unique_key"]},
            }
        },
        {
            "$set": {
                "expire_at": {
                    "$cond": [
                        {"$and": [terminal, {"$isNumber": "$keep"}]},
                        {"$add": ["$$NOW", clamped({"$multiply": [number("$keep"), 1000]})]},
                        "$$REMOVE",
                    ]
                }
            }
        },
    ]


# --- parts of them ---------------------------------------------------------------------------------
def _finished_status(outcome: Outcome, retry_in: float | None) -> Any:
    own = outcome_status(outcome)
    if own in (Status.COMPLETED, Status.CANCELED):
        return own.value
    otherwise: Any = Status.FAILED.value
    if retry_in is not None and outcome.reason == Reason.LOST:
        otherwise = {"$cond": [{"$lt": ["$losses", MOST_LOSSES]}, Status.SCHEDULED.value, Status.FAILED.value]}
    elif retry_in is not None:
        otherwise = Status.SCHEDULED.value
    return {"$cond": [cancel_asked(), Status.CANCELED.value, otherwise]}


def _with_last_attempt(record: Document) -> Document:
    """The attempts, with these fields merged into the record of the present fence."""
    is_present = {"$and": [{"$eq": [{"$type": "$$record"}, "object"]}, {"$eq": ["$$record.fence", "$fence"]}]}
    return {
        "$map": {
            "input": array("$attempts"),
            "as": "record",
            "in": {"$cond": [is_present, {"$mergeObjects": ["$$record", record]}, "$$record"]},
        }
    }


def _backoff() -> Document:
    """Milliseconds: the policy's delay, doubled per attempt if exponential, capped, times 0.75 to 1.25."""
    delay, cap = number("$retry.delay"), number("$retry.cap")
    doubled = {"$multiply": [delay, {"$pow": [2, {"$min": [{"$subtract": [number("$attempt"), 1]}, 62]}]}]}
    seconds = {"$min": [cap, {"$cond": [{"$eq": ["$retry.exponential", True]}, doubled, delay]}]}
    jitter = {"$add": [0.75, {"$multiply": [{"$rand": {}}, 0.5]}]}
    return clamped({"$multiply": [seconds, jitter, 1000]})
