"""Limits of how often a job starts: exact in every stretch of time, by the server's clock.

One document per job is the log of its last starts: each entry says until when it counts. A claimer first takes as many
entries as it wants to start, in one update that drops what no longer counts and adds no more than the limit leaves.
Such an entry counts for the rate's time and CLAIM_SECONDS from the moment it was taken, and the claim it was taken for
must land within these CLAIM_SECONDS (the claim's own filter says so). So whenever the claim lands, its start is in the
log for at least the rate's time from then on, and of any `starts` + 1 starts the last is later than the first by at
least that. Afterwards the claimer corrects the entries to the starts it got, only for a better use of the rate.

A claimer that crashes in between leaves entries that count for nothing; they go by themselves within the rate's time.
A claim that is given back before its script began has used its start up. Starts are a claim's `started_at`; what comes
between it and the script's own beginning is not in anybody's hands. A server's clock that jumps ahead lets starts
come early by as much.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import ReturnDocument

from slotsched.model import Rate
from slotsched.store.connection import Connection, Document
from slotsched.store.expressions import array

CLAIM_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many starts a rate leaves now, and after how many seconds there will be more (0 where some are left)."""

    starts: int
    wait: float


@dataclass(frozen=True, kw_only=True)
class Grant:
    """So many starts may be claimed, if the claim lands before `by` (the server's time)."""

    starts: int
    by: dt.datetime


class Rates:
    """The log of starts. Index `_id`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rates = connection.collection("rates")

    def room(self, rates: Mapping[str, Rate]) -> dict[str, Room]:
        """What the rate of each job leaves now, by job. A hint."""
        if not rates:
            return {}
        steps: list[Document] = [
            {"$match": {"_id": {"$in": list(rates)}}},
            {"$project": {"ends": {"$concatArrays": [_counting("$starts"), _ends_of(_counting_claims())]}}},
            {
                "$project": {
                    "used": {"$size": "$ends"},
                    "wait": {"$subtract": [{"$ifNull": [{"$min": "$ends"}, "$$NOW"]}, "$$NOW"]},
                }
            },
        ]
        with self._connection.guard():
            found = {document["_id"]: document for document in self._rates.aggregate(steps)}
        return {job: _room(rate, found.get(job)) for job, rate in rates.items()}

    def take(self, job: str, rate: Rate, wanted: int, token: str) -> Grant:
        """Up to `wanted` starts for the claim with this token. Never more than the rate leaves."""
        used = {"$add": [{"$size": "$starts"}, {"$size": "$claims"}]}
        until = {"$add": ["$$NOW", _milliseconds(rate.seconds + CLAIM_SECONDS)]}
        entry = {"token": {"$literal": token}, "until": until}
        steps: list[Document] = [
            {"$set": {"starts": _counting("$starts"), "claims": _counting_claims()}},
            {"$set": {"granted": {"$max": [0, {"$min": [wanted, {"$subtract": [rate.starts, used]}]}]}}},
            {
                "$set": {
                    "claims": {
                        "$concatArrays": ["$claims", {"$map": {"input": {"$range": [0, "$granted"]}, "in": entry}}]
                    },
                    "by": {"$add": ["$$NOW", _milliseconds(CLAIM_SECONDS)]},
                }
            },
        ]
        with self._connection.guard():
            after = self._rates.find_one_and_update(
                {"_id": job},
                steps,
                projection={"granted": 1, "by": 1},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        assert after is not None, "an upsert returns what it made"
        return Grant(starts=after["granted"], by=after["by"])

    def correct(self, job: str, rate: Rate, token: str, started: Sequence[dt.datetime]) -> None:
        """The claim with this token started these, at these times, and no others."""
        ends = [moment + dt.timedelta(seconds=rate.seconds) for moment in started]
        others = {"$filter": {"input": array("$claims"), "as": "claim", "cond": {"$ne": ["$$claim.token", token]}}}
        steps = [{"$set": {"claims": others, "starts": {"$concatArrays": [array("$starts"), {"$literal": ends}]}}}]
        # Only while the entries are there: sent again after a lost answer it must not add the starts twice.
        with self._connection.guard():
            self._rates.update_one({"_id": job, "claims.token": token}, steps)


def _room(rate: Rate, found: Document | None) -> Room:
    left = rate.starts - (found["used"] if found else 0)
    if left > 0 or found is None:
        return Room(starts=left, wait=0.0)
    return Room(starts=0, wait=max(0.0, found["wait"] / 1000))


def _counting(field: str) -> Document:
    """The times that are not over."""
    return {"$filter": {"input": array(field), "as": "end", "cond": {"$gt": ["$$end", "$$NOW"]}}}


def _counting_claims() -> Document:
    return {"$filter": {"input": array("$claims"), "as": "claim", "cond": {"$gt": ["$$claim.until", "$$NOW"]}}}


def _ends_of(claims: Any) -> Document:
    return {"$map": {"input": claims, "as": "claim", "in": "$$claim.until"}}


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
