"""The update pipelines of every write that two machines could race for, as pure values.

Each is total: whatever type a field has, the expression yields something, so that one malformed document cannot
make an update of many stop half way. Values that come from people or scripts are wrapped in `$literal`: a text
that begins with `$` is data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from slotsched.model import Cancel, InstanceRef, LogRef, Outcome, Reason, Status
from slotsched.store.connection import Document, Pipeline
from slotsched.store.documents import AGING_SECONDS, log_to_document, outcome_status, progress_to_document

MOST_ATTEMPTS = 100  # records kept per task; a task retried more often keeps its newest
MOST_LOSSES = 3  # a task that was lost this often is taken to kill its instances
_LARGEST_DELAY_MS = 10 * 366 * 86_400_000  # keeps sums with dates valid
_TERMINAL = [Status.COMPLETED.value, Status.FAILED.value, Status.CANCELED.value]
_ENDING_FIELDS = ("reason", "message", "exit_code", "signal")


def claim(instance: InstanceRef, token: str) -> Pipeline:
    """pending -> running under `token`; the attempt's record opens."""
    owner = {"id": instance.id, "name": instance.name}
    record = {
        "number": _plus_one("$attempt"),
        "fence": _plus_one("$fence"),
        "instance": _literal(owner),
        "started_at": "$$NOW",
    }
    return [
        {
            "$set": {
                "status": Status.RUNNING.value,
                "claim": _literal({"instance": instance.id, "token": token}),
                "instance": _literal(owner),
                "attempt": _plus_one("$attempt"),
                "fence": _plus_one("$fence"),
                "started_at": "$$NOW",
                "attempts": {"$slice": [{"$concatArrays": [_array("$attempts"), [record]]}, -MOST_ATTEMPTS]},
                "unique_key": {"$cond": [_unique_until_start(), "$$REMOVE", "$unique_key"]},
            }
        },
        {"$unset": [*_ENDING_FIELDS, "ended_at", "progress", "result", "reserved"]},
    ]


def release(*, alone: bool = True) -> Pipeline:
    """running -> pending as if never claimed (the fence stays), or canceled if that was asked.

    alone: it keeps its like out again, where its job says so; a unique index refuses that if one has come since.
    """
    again = {"$and": [alone, _is(Status.PENDING), _unique_until_start()]}
    return [
        {
            "$set": {
                "status": {"$cond": [_cancel_asked(), Status.CANCELED.value, Status.PENDING.value]},
                "attempt": {"$max": [0, {"$subtract": [_number("$attempt"), 1]}]},
                "attempts": {
                    "$filter": {
                        "input": _array("$attempts"),
                        "as": "record",
                        "cond": {"$ne": ["$$record.fence", "$fence"]},
                    }
                },
            }
        },
        {"$set": {"unique_key": {"$cond": [again, "$unique.hash", "$unique_key"]}}},
        {"$unset": ["claim", "permits", "instance", "started_at"]},
        *_canceled_if_so(),
        *_close(),
    ]


def cancel(request: Cancel) -> Pipeline:
    """running: the wish is noted for the owner, a kill outlasts a milder wish; anything before it: canceled."""
    wish = {
        "by": _literal(request.by),
        "kill": {"$or": [request.kill, {"$eq": ["$cancel.kill", True]}]},
        "at": "$$NOW",
    }
    return [
        {
            "$set": {
                "cancel": wish,
                "cancels": _plus_one("$cancels"),  # a second wish changes only parts of `cancel`; this makes an event
                "status": {"$cond": [_is(Status.RUNNING), Status.RUNNING.value, Status.CANCELED.value]},
            }
        },
        *_canceled_if_so(),
        *_close(),
    ]


def finish(
    token: str,
    outcome: Outcome,
    *,
    hash: str | None,
    log: LogRef | None,
    retry_in: float | None,
) -> Pipeline:
    """running -> completed, canceled, scheduled (a retry is left) or failed; the attempt's record closes.

    hash: of the job's content that ran. retry_in: seconds until the retry, None without one.
    """
    lost = outcome.reason == Reason.LOST
    ended_at = {"$max": ["$started_at", {"$subtract": ["$$NOW", _milliseconds(outcome.ago)]}]}
    record = {
        name: _literal(value)
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
        "exit_code": _or_remove(outcome.exit_code),
        "signal": _or_remove(outcome.signal),
        "message": _or_remove(outcome.message),
        "result": _or_remove(outcome.result),
    }
    if outcome.progress is not None:
        fields["progress"] = _literal(progress_to_document(outcome.progress))
    counted: Pipeline = [{"$set": {"losses": _plus_one("$losses")}}] if lost else []
    own_cancel = outcome_status(outcome) == Status.CANCELED
    return [
        *counted,
        {"$set": fields},
        {"$unset": ["claim", "permits"]},
        *([] if own_cancel else _canceled_if_so()),
        *_reschedule(0.0 if retry_in is None else _milliseconds(retry_in)),
        *_close(),
    ]


def take(message: str) -> Pipeline:
    """running on an instance that is dead -> canceled, scheduled (`lost` is retried and a retry is left) or failed."""
    retried = {
        "$and": [
            {"$in": [Reason.LOST.value, _array("$retry.on")]},
            {"$lte": [_number("$attempt"), _number("$retry.limit")]},
            {"$lt": ["$losses", MOST_LOSSES]},
        ]
    }
    record = {"reason": Reason.LOST.value, "ended_at": "$$NOW", "message": _literal(message)}
    return [
        {"$set": {"losses": _plus_one("$losses")}},
        {
            "$set": {
                "status": {
                    "$switch": {
                        "branches": [
                            {"case": _cancel_asked(), "then": Status.CANCELED.value},
                            {"case": retried, "then": Status.SCHEDULED.value},
                        ],
                        "default": Status.FAILED.value,
                    }
                },
                "attempts": _with_last_attempt(record),
                "ended_at": "$$NOW",
                "reason": Reason.LOST.value,
                "message": _literal(message),
            }
        },
        {"$unset": ["claim", "permits"]},
        *_canceled_if_so(),
        *_reschedule(_backoff()),
        *_close(),
    ]


def resolve(ended: Mapping[str, Status]) -> Pipeline:
    """waiting -> pending (scheduled, if its own time has not come) once nothing is left to wait for; canceled as soon
    as one of `ended` (ids and how they ended) is not what it waits for; else waiting for fewer.
    """
    ids, waited = _literal(list(ended)), _array("$after")
    accepted = {
        "$switch": {
            "branches": [
                {"case": {"$eq": ["$when", "any"]}, "then": ids},
                {"case": {"$eq": ["$when", "failure"]}, "then": _literal(_ids_of(ended, Status.FAILED))},
            ],
            "default": _literal(_ids_of(ended, Status.COMPLETED)),
        }
    }
    of_these = {"$setIntersection": [waited, ids]}
    is_date = {"$eq": [{"$type": "$due_at"}, "date"]}
    found = {
        "unmet": {"$setDifference": [of_these, accepted]},
        "due_at": {"$cond": [is_date, {"$max": ["$due_at", "$$NOW"]}, "$$NOW"]},
    }
    released = {"$cond": [{"$gt": ["$found.due_at", "$$NOW"]}, Status.SCHEDULED.value, Status.PENDING.value]}
    left = {"$cond": [{"$eq": ["$after", []]}, released, Status.WAITING.value]}
    upstream = _is(Status.CANCELED)
    return [
        {"$set": {"found": found, "after": {"$setDifference": [waited, ids]}}},
        {"$set": {"status": {"$cond": [{"$eq": ["$found.unmet", []]}, left, Status.CANCELED.value]}}},
        {
            "$set": {
                "reason": {"$cond": [upstream, Reason.UPSTREAM.value, "$reason"]},
                "message": {"$cond": [upstream, _how_ended({"$first": "$found.unmet"}, ended), "$message"]},
                "due_at": {"$cond": [_is(Status.PENDING), "$found.due_at", "$due_at"]},
            }
        },
        {"$set": {"rank": {"$cond": [_is(Status.PENDING), _rank(), "$rank"]}}},
        {"$unset": ["found"]},
        *_close(),
    ]


def _ids_of(ended: Mapping[str, Status], status: Status) -> list[str]:
    return [task_id for task_id, how in ended.items() if how == status]


def _how_ended(task_id: Any, ended: Mapping[str, Status]) -> Document:
    """`8c1d2e3f failed`."""
    cases = [
        {"case": {"$in": [task_id, _literal(_ids_of(ended, status))]}, "then": f" {status.value}"}
        for status in (Status.FAILED, Status.COMPLETED)
    ]
    how = {"$switch": {"branches": cases, "default": f" {Status.CANCELED.value}"}}
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
    canceled = _is(Status.CANCELED)
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
    scheduled = _is(Status.SCHEDULED)
    return [
        {
            "$set": {
                "due_at": {"$cond": [scheduled, {"$add": ["$$NOW", delay]}, "$due_at"]},
                "ended_at": {"$cond": [scheduled, "$$REMOVE", "$ended_at"]},
                "instance": {"$cond": [scheduled, "$$REMOVE", "$instance"]},
            }
        },
        {"$set": {"rank": {"$cond": [scheduled, _rank(), "$rank"]}}},
    ]


def _close() -> Pipeline:
    """What every terminal status brings: its end, when it may be forgotten, and followers to be told.

    Only where somebody ever waited for it or a series goes by it: all other tasks are spared a second write.
    """
    terminal = {"$in": ["$status", _TERMINAL]}
    is_followed = {"$or": [{"$gt": [_number("$pokes"), 0]}, {"$eq": [{"$type": "$schedule"}, "string"]}]}
    followed = {"$and": [terminal, is_followed]}
    return [
        {
            "$set": {
                "ended_at": {"$cond": [terminal, {"$ifNull": ["$ended_at", "$$NOW"]}, "$ended_at"]},
                "resolve": {"$cond": [followed, True, "$resolve"]},
                "pokes": {"$cond": [followed, _plus_one("$pokes"), "$pokes"]},  # a change that makes an event
                "after": {"$cond": [terminal, "$$REMOVE", "$after"]},
                "unique_key": {"$cond": [terminal, "$$REMOVE", "$unique_key"]},
            }
        },
        {
            "$set": {
                "expire_at": {
                    "$cond": [
                        {"$and": [terminal, {"$isNumber": "$keep"}]},
                        {"$add": ["$$NOW", _clamped({"$multiply": [_number("$keep"), 1000]})]},
                        "$$REMOVE",
                    ]
                }
            }
        },
    ]


# --- expressions ----------------------------------------------------------------------------------
def _finished_status(outcome: Outcome, retry_in: float | None) -> Any:
    own = outcome_status(outcome)
    if own in (Status.COMPLETED, Status.CANCELED):
        return own.value
    otherwise: Any = Status.FAILED.value
    if retry_in is not None and outcome.reason == Reason.LOST:
        otherwise = {"$cond": [{"$lt": ["$losses", MOST_LOSSES]}, Status.SCHEDULED.value, Status.FAILED.value]}
    elif retry_in is not None:
        otherwise = Status.SCHEDULED.value
    return {"$cond": [_cancel_asked(), Status.CANCELED.value, otherwise]}


def _with_last_attempt(record: Document) -> Document:
    """The attempts, with these fields merged into the record of the present fence."""
    is_present = {"$and": [{"$eq": [{"$type": "$$record"}, "object"]}, {"$eq": ["$$record.fence", "$fence"]}]}
    return {
        "$map": {
            "input": _array("$attempts"),
            "as": "record",
            "in": {"$cond": [is_present, {"$mergeObjects": ["$$record", record]}, "$$record"]},
        }
    }


def _backoff() -> Document:
    """Milliseconds: the policy's delay, doubled per attempt if exponential, capped, times 0.75 to 1.25."""
    delay, cap = _number("$retry.delay"), _number("$retry.cap")
    doubled = {"$multiply": [delay, {"$pow": [2, {"$min": [{"$subtract": [_number("$attempt"), 1]}, 62]}]}]}
    seconds = {"$min": [cap, {"$cond": [{"$eq": ["$retry.exponential", True]}, doubled, delay]}]}
    jitter = {"$add": [0.75, {"$multiply": [{"$rand": {}}, 0.5]}]}
    return _clamped({"$multiply": [seconds, jitter, 1000]})


def _clamped(milliseconds: Any) -> Document:
    """A number that can be added to a date, whatever it was (NaN sorts below every number)."""
    bounded = {"$max": [-_LARGEST_DELAY_MS, {"$min": [_LARGEST_DELAY_MS, milliseconds]}]}
    return {"$toLong": {"$trunc": [bounded]}}


def _milliseconds(seconds: float) -> int:
    if math.isnan(seconds):
        return 0
    return int(min(max(seconds * 1000, 0), _LARGEST_DELAY_MS))


def _number(field: str) -> Document:
    return {"$cond": [{"$isNumber": field}, field, 0]}


def _plus_one(field: str) -> Document:
    return {"$add": [_number(field), 1]}


def _array(field: str) -> Document:
    return {"$cond": [{"$isArray": field}, field, []]}


def _rank() -> Document:
    """The place in the queue that due time and priority give; `due_at` must be a date."""
    return {"$subtract": ["$due_at", _clamped({"$multiply": [_number("$priority"), AGING_SECONDS * 1000]})]}


def _unique_until_start() -> Document:
    return {"$eq": ["$unique.until", "pending"]}


def _cancel_asked() -> Document:
    return {"$eq": [{"$type": "$cancel"}, "object"]}


def _is(status: Status) -> Document:
    return {"$eq": ["$status", status.value]}


def _literal(value: Any) -> Document:
    return {"$literal": value}


def _or_remove(value: Any) -> Any:
    return "$$REMOVE" if value is None else _literal(value)
