"""Errors as answers: which HTTP status an error of ours has, and the form it is told in."""

from __future__ import annotations

import json

from starlette.exceptions import HTTPException
from starlette.responses import Response

from slotsched import errors, logs

PROBLEM_TYPE = "application/problem+json"  # RFC 9457
RETRY_SECONDS = "5"

# The first that fits counts: subclasses before their base.
_STATUSES: tuple[tuple[type[errors.SlotschedError], int], ...] = (
    (errors.UsageError, 400),
    (errors.InvalidDocument, 400),
    (errors.NotFound, 404),
    (errors.InvalidJob, 409),
    (errors.Refused, 409),
    (errors.StoreError, 503),
    (errors.ArchiveError, 502),
)

_ROUTING = {404: "there is nothing at this address", 405: "this address does not take that method"}


class Problem(HTTPException):
    """Raised when a call is refused before it reaches slotsched: its form, its origin, its credentials."""


def told(error: Exception) -> Problem:
    """The answer to an error. What is none of ours is logged, and says nothing of itself to the outside."""
    if isinstance(error, HTTPException):
        detail = _ROUTING.get(error.status_code, error.detail) if type(error) is HTTPException else error.detail
        return Problem(error.status_code, detail, dict(error.headers or {}))
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return Problem(status, str(error), {"Retry-After": RETRY_SECONDS} if status == 503 else {})
    logs.get_logger("web").error("a call failed", exc_info=error)
    return Problem(500, "this is a defect of slotsched; the server's log says more")


def as_json(problem: Problem) -> Response:
    """`{"status": 404, "detail": "no task ..."}`, as RFC 9457 has it."""
    body = json.dumps({"status": problem.status_code, "detail": problem.detail})
    return Response(body, problem.status_code, dict(problem.headers or {}), PROBLEM_TYPE)
