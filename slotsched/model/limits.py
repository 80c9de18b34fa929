"""How many tasks of a job may run at once, and how often they may start: the facts, and the names they are kept by.

And the bounds of what a task may ask for, which hold wherever it is said: in a request, a schedule or a job's header.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, TypeGuard

LARGEST_COUNT = 2**31 - 1  # slots, units, attempts
LARGEST_SECONDS = 1e9  # 31 years; sums with dates stay valid
LARGEST_SIZE = 2**53  # bytes; exact in every language that reads our JSON
LARGEST_PRIORITY = 1_000_000  # times 10 minutes of waiting is 19 years: far enough, and safe as a date
PRIORITIES = f"a number from -{LARGEST_PRIORITY} to {LARGEST_PRIORITY}"  # in messages
LARGEST_CONCURRENCY = 10_000  # a claim may have to look at as many permits
LARGEST_RATE = 10_000  # as many starts are remembered per job
_KEY_CHARACTERS = 200
_DIGEST_CHARACTERS = 16
_UNITS = {1.0: "s", 60.0: "m", 3600.0: "h", 86400.0: "d"}


def is_priority(value: Any) -> TypeGuard[float]:
    """Whether it is one of PRIORITIES."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and abs(value) <= LARGEST_PRIORITY


@dataclass(frozen=True, kw_only=True)
class Rate:
    """At most `starts` starts within any stretch of `seconds`."""

    starts: int
    seconds: float

    def __str__(self) -> str:
        """`10/m`, `3/90s`."""
        return f"{self.starts}/{_UNITS.get(self.seconds) or f'{self.seconds:g}s'}"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """At most `most` tasks that share `scope` run at once: each holds one of the permits numbered below `most`."""

    scope: str
    most: int

    def permit(self, number: int) -> str:
        return f"{self.scope}#{number}"

    @property
    def permits(self) -> list[str]:
        return [self.permit(number) for number in range(self.most)]


def concurrency_limit(job: str, most: int | None, *, per_key: bool, key: str | None) -> Limit | None:
    """The limit that a task of this job comes under; None without one.

    most, per_key: facts of the job. key: the digest in the task's lane; tasks that were enqueued before their job
    asked for a key have none and share one limit.
    """
    if most is None:
        return None
    return Limit(scope=f"key:{job}:{key or ''}" if per_key else f"job:{job}", most=most)


def key_text(argument: str, value: Any) -> str:
    """What the limit of a value is shown by: `customer=acme`. A long value is shown by its digest."""
    text = f"{argument}={value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)}"
    return text if len(text) <= _KEY_CHARACTERS else f"{argument}={_digest(text)}"


def key_digest(text: str | None) -> str | None:
    """What stands for it in a lane and a permit: texts of people may hold anything."""
    return None if text is None else _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARACTERS]
