"""The two clocks slotsched reads on this machine. Neither decides anything in the store: that is `$$NOW`'s.

`boottime` is for durations: it goes on during suspend and never steps. `utcnow` is for what people read.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Protocol


class Clock(Protocol):
    """What is injected where time matters, so that tests need not wait."""

    def boottime(self) -> float:
        """Seconds since boot, suspend included."""
        ...

    def utcnow(self) -> dt.datetime:
        """The wall clock, aware, UTC."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def utcnow(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)
