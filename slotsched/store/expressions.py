"""The expressions that update pipelines are made of. Each yields something whatever type a field has."""

from __future__ import annotations

import math
from typing import Any

from slotsched.model import Status
from slotsched.store.connection import Document
from slotsched.store.documents import AGING_SECONDS

LARGEST_DELAY_MS = 10 * 366 * 86_400_000  # keeps sums with dates valid


def clamped(milliseconds: Any) -> Document:
    """A number that can be added to a date, whatever it was (NaN sorts below every number)."""
    bounded = {"$max": [-LARGEST_DELAY_MS, {"$min": [LARGEST_DELAY_MS, milliseconds]}]}
    return {"$toLong": {"$trunc": [bounded]}}


def milliseconds(seconds: float) -> int:
    if math.isnan(seconds):
        return 0
    return int(min(max(seconds * 1000, 0), LARGEST_DELAY_MS))


def number(field: str) -> Document:
    return {"$cond": [{"$isNumber": field}, field, 0]}


def plus_one(field: str) -> Document:
    return {"$add": [number(field), 1]}


def array(field: str) -> Document:
    return {"$cond": [{"$isArray": field}, field, []]}


def rank() -> Document:
    """The place in the queue that due time and priority give; `due_at` must be a date."""
    return {"$subtract": ["$due_at", clamped({"$multiply": [number("$priority"), AGING_SECONDS * 1000]})]}


def unique_until_start() -> Document:
    return {"$eq": ["$unique.until", "pending"]}


def cancel_asked() -> Document:
    return {"$eq": [{"$type": "$cancel"}, "object"]}


def is_status(status: Status) -> Document:
    return {"$eq": ["$status", status.value]}


def literal(value: Any) -> Document:
    return {"$literal": value}


def or_remove(value: Any) -> Any:
    return "$$REMOVE" if value is None else literal(value)
