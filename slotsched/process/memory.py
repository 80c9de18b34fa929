"""How much memory a tree holds, sampled: often where a limit may be reached soon, rarely where nothing asks for it."""

from __future__ import annotations

import resource
import time

from slotsched.process import procfs
from slotsched.process.tree import Tree

_FASTEST_SECONDS, _SLOWEST_SECONDS = 0.025, 1.0  # between samples, with a limit
_IDLE_SECONDS = 0.25  # the longest pause while what is left of the limit could be filled within it
_GROWTH_BYTES_PER_SECOND = 4e9  # no process fills memory faster
_PAUSE_PER_COST = 20  # a large tree takes long to sum up: never more than a twentieth of the time
_STEADY_BYTES = 1 << 20  # a change below this is none
_UNLIMITED_SECONDS = (0.1, 30.0)  # first and longest pause without a limit; each is twice the one before


class MemoryGauge:
    """Sums the resident memory of `tree` (shared pages count once per process) and says when to look again."""

    def __init__(self, tree: Tree, limit: int | None) -> None:
        self._tree = tree
        self._limit = limit
        self._pause = _FASTEST_SECONDS if limit else _UNLIMITED_SECONDS[0]
        self._own_size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.now = 0  # bytes, at the last sample
        self._peak = 0

    def sample(self) -> float:
        """Look. Returns the seconds until the next look is worth it."""
        began = time.monotonic()
        before, self.now = self.now, procfs.resident_bytes(self._tree.members())
        self._peak = max(self._peak, self.now)
        return max(self._next_pause(before), _PAUSE_PER_COST * (time.monotonic() - began))

    def _next_pause(self, before: int) -> float:
        if self._limit is None:
            pause, self._pause = self._pause, min(2 * self._pause, _UNLIMITED_SECONDS[1])
            return pause
        steady = abs(self.now - before) < _STEADY_BYTES
        self._pause = min(2 * self._pause, _IDLE_SECONDS) if steady else _FASTEST_SECONDS
        out_of_reach = (self._limit - self.now) / _GROWTH_BYTES_PER_SECOND
        return min(max(self._pause, out_of_reach), _SLOWEST_SECONDS)

    def exceeded(self) -> bool:
        """The last sample was above the limit."""
        return self._limit is not None and self.now > self._limit

    def peak(self) -> int:
        """Bytes: the largest sample, no less than the largest single process that has ended.

        A process inherits the size of what forked it, so what is no larger than this supervisor is only an upper
        bound; it serves when the script was too short to be sampled.
        """
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        return max(self._peak, largest if largest > self._own_size else 0) or largest
