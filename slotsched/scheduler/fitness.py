"""Whether this machine can take on a task now: a disk with room for it, a spawner to start it.

A machine that cannot must leave the queue to the others: one that claimed all the same would fail task after task as
fast as it can ask for them. What hinders it is published with the lease, for `why` and `instance ls`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from slotsched.process import Launcher
from slotsched.quantities import format_size
from slotsched.scheduler.statedir import StateDirectory

FIRST_REST_SECONDS = 2.0
LONGEST_REST_SECONDS = 60.0
# What a system call answers when it is the machine that lacks something, not the task that asks for the wrong thing.
SHORTAGES = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.EMFILE,
        errno.ENFILE,
    }
)


class Fitness:
    """`hindrance` says why nothing is claimed here now, for people; None when there is nothing in the way."""

    def __init__(self, state: StateDirectory, launcher: Launcher, log: Any, now: Callable[[], float]) -> None:
        self._state = state
        self._launcher = launcher
        self._log = log
        self._now = now
        self._rest = 0.0  # seconds
        self._rest_until = 0.0  # CLOCK_BOOTTIME
        self._refusal = ""
        self.hindrance: str | None = None

    def look(self) -> bool:
        """Look again; True when a task may be claimed."""
        found = self._look()
        if found is not None and self.hindrance is None:
            self._log.warning("claiming nothing", why=found)
        elif found is None and self.hindrance is not None:
            self._log.info("claiming again")
        self.hindrance = found
        return found is None

    def _look(self) -> str | None:
        if self._launcher.fileno() < 0:
            return "its spawner does not start"
        space = self._state.space()
        if space.low:
            left = f"{format_size(space.free)} left" if space.free < space.floor else "no room for more files"
            return f"its state directory is nearly full ({left})"
        return self._refusal if self._now() < self._rest_until else None

    def refused(self, why: str) -> None:
        """A start failed for lack of something the machine should have: rest, longer each time in a row."""
        now = self._now()
        if now < self._rest_until:
            return  # another of the same batch
        in_a_row = now < self._rest_until + self._rest
        self._rest = min(LONGEST_REST_SECONDS, 2 * self._rest) if in_a_row else FIRST_REST_SECONDS
        self._rest_until = now + self._rest
        self._refusal = why
