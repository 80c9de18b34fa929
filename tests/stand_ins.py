"""Small in-memory stand-ins for what surrounds a scheduler's duty: a clock that only moves when told, an engine of
the few parts a duty uses, and a log that remembers. The store's stand-ins are beside the tests that need them.
"""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

from slotsched.clock import Clock
from slotsched.scheduler.engine import StoreHealth


class FakeClock(Clock):
    """Stands at `now` (CLOCK_BOOTTIME seconds) until it is advanced."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def boottime(self) -> float:
        return self.now

    def utcnow(self) -> dt.datetime:
        return dt.datetime(2026, 11, 21, tzinfo=dt.UTC) + dt.timedelta(seconds=self.now)

    def advance(self, seconds: float) -> None:
        self.now += seconds


class MemoryLog:
    """Remembers (level, message) of what was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda message, **_: self.lines.append((level, message))


def engine_of(clock: FakeClock, **parts: Any) -> Any:
    """As much of an Engine as one duty needs; `ticks` counts how often the loop was shown to turn."""
    engine = SimpleNamespace(clock=clock, now=clock.boottime, log=MemoryLog(), health=StoreHealth(), ticks=0, **parts)

    def tick() -> None:
        engine.ticks += 1

    engine.tick = tick
    return engine
