"""Errors as answers: which HTTP status an error of ours has, and the form it is told in."""

from __future__ import annotations

import json

from starlette.exceptions import HTTPException
from starlette.responses import Response

from slotsched import errors, logs

PROBLEM_TYPE = "application/problem+json"  # RFC 9457
_LATER = {"Retry-After": "5"}  # seconds

_STATUSES: tuple[tuple[type[errors.SlotschedError], int], ...] = (
    (errors.UsageError, 400),
    (errors.InvalidDocument, 400),
    (errors.NotFound, 404),
    (errors.InvalidJob, 409),
    (errors.Refused, 409),
    (errors.ArchiveError, 502),
)

_ROUTING = {404: "there is nothing at this address", 405: "this address does not take that method"}


class Problem(HTTPException):
    """Raised when a call is refused before it reaches slotsched: its form, its origin, its credentials."""


def told(error: Exception) -> Problem:
    """The answer to an error. What is none of ours is logged, and says nothing of itself to the outside."""
    log = logs.get_logger("web")
    if isinstance(error, HTTPException):
        detail = _ROUTING.get(error.status_code, error.detail) if type(error) is HTTPException else error.detail
        return Problem(error.status_code, detail, dict(error.headers or {}))
    if isinstance(error, errors.StoreError) and not isinstance(error, errors.InvalidDocument):
        # Without a store nobody can show who they are, and what is in the message is not for everybody.
        log.warning("the store cannot be used", why=str(error))
        return Problem(503, "the database cannot be used now; the server's log says why", _LATER)
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return Problem(status, str(error))
    log.error("a call failed", exc_info=error)
    return Problem(500, "this is a defect of slotsched; the server's log says more")


def as_json(problem: Problem) -> Response:
    """`{"status": 404, "detail": "no task ..."}`, as RFC 9457 has it."""
    body = json.dumps({"status": problem.status_code, "detail": problem.detail})
    return Response(body, problem.status_code, dict(problem.headers or {}), PROBLEM_TYPE)
