"""What a supervisor has to do at which moment: a handful of named appointments on CLOCK_BOOTTIME."""

from __future__ import annotations

import time
from collections.abc import Callable


def boottime() -> float:
    """Seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Agenda:
    """At most one appointment per name. One that is due is taken out before it is kept: nothing fires in a circle."""

    def __init__(self) -> None:
        self._at: dict[str, tuple[float, Callable[[], None]]] = {}

    def put(self, name: str, at: float, action: Callable[[], None]) -> None:
        """Do `action` at `at`, instead of what had this name."""
        self._at[name] = (at, action)

    def put_earlier(self, name: str, at: float, action: Callable[[], None]) -> None:
        """Like `put`, but never later than what has this name already."""
        if name not in self._at or at < self._at[name][0]:
            self.put(name, at, action)

    def drop(self, name: str) -> None:
        """Forget it, if it is there."""
        self._at.pop(name, None)

    def next(self) -> float | None:
        """The moment of the next appointment."""
        return min((at for at, _ in self._at.values()), default=None)

    def keep(self, now: float) -> None:
        """Do what is due."""
        for name in [name for name, (at, _) in self._at.items() if at <= now]:
            _, action = self._at.pop(name)
            action()
