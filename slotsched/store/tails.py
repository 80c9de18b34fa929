"""Live tails: the newest lines of running attempts, so that any machine can follow them.

A chunk's `_id` is `task/attempt/offset` with leading zeros, so that its own order is the log's, and sending one
twice is harmless. A TTL index removes what nobody wrote to for a day.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bson import Binary
from pymongo import errors as driver

from slotsched.store.connection import Connection, Document

CHUNKS_PER_READ = 64
_OFFSET_DIGITS = 15
_ATTEMPT_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Bytes of an attempt's log, from `offset` on."""

    offset: int
    data: bytes


class Tails:
    """The collection `log_tail`, by ranges of `_id`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tail = connection.collection("log_tail")

    def ship(self, task_id: str, attempt: int, offset: int, data: bytes) -> None:
        """Adds a chunk; one that is there already stays as it is."""
        chunk: Document = {
            "_id": _key(task_id, attempt, offset),
            "offset": offset,
            "end": offset + len(data),
            "data": Binary(data),
            "at": self._connection.now(),
        }
        with self._connection.guard():
            try:
                self._tail.insert_one(chunk)
            except driver.DuplicateKeyError:
                return  # an earlier send's success

    def read(self, task_id: str, attempt: int, offset: int, *, limit: int = CHUNKS_PER_READ) -> list[Chunk]:
        """What is known from `offset` on, in order and without overlap; a gap shows in the offsets."""
        lowest, highest = _key(task_id, attempt, 0), _end_key(task_id, attempt)
        here = _key(task_id, attempt, offset)
        with self._connection.guard():
            before = self._tail.find({"_id": {"$gte": lowest, "$lt": here}}).sort("_id", -1).limit(1)
            following = self._tail.find({"_id": {"$gte": here, "$lt": highest}}).sort("_id", 1).limit(limit)
            found = [*before, *following]
        return _without_overlap(found, offset)

    def end(self, task_id: str, attempt: int) -> int:
        """The offset behind the newest chunk; 0 where there is none."""
        lowest, highest = _key(task_id, attempt, 0), _end_key(task_id, attempt)
        with self._connection.guard():
            newest = self._tail.find({"_id": {"$gte": lowest, "$lt": highest}}, {"end": 1}).sort("_id", -1).limit(1)
            return next((document["end"] for document in newest if isinstance(document.get("end"), int)), 0)

    def trim(self, task_id: str, attempt: int, below: int) -> None:
        """Removes the chunks that end at or before an offset."""
        beginning = {"$gte": _key(task_id, attempt, 0), "$lt": _key(task_id, attempt, below)}
        with self._connection.guard():
            self._tail.delete_many({"_id": beginning, "end": {"$lte": below}})


def _without_overlap(found: list[dict[str, Any]], offset: int) -> list[Chunk]:
    """Chunks cut to what was not read before; a scheduler that resumed may have cut them differently."""
    chunks = []
    for document in found:
        start, data = document.get("offset"), document.get("data")
        if not isinstance(start, int) or not isinstance(data, bytes):
            continue
        fresh = data[max(0, offset - start) :]
        if fresh:
            chunks.append(Chunk(offset=max(start, offset), data=fresh))
            offset = max(start, offset) + len(fresh)
    return chunks


def _key(task_id: str, attempt: int, offset: int) -> str:
    return f"{task_id}/{attempt:0{_ATTEMPT_DIGITS}d}/{offset:0{_OFFSET_DIGITS}d}"


def _end_key(task_id: str, attempt: int) -> str:
    return f"{task_id}/{attempt:0{_ATTEMPT_DIGITS}d}0"  # "0" follows "/"
