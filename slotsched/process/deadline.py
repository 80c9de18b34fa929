"""The lease deadline file: how the scheduler tells its supervisors until when they may go on.

One small file per instance, `<deadline, tick, lease>` as native doubles. The scheduler maps it and stores eight bytes
at a time: no system call, no allocation, so a renewal is passed on even on a full disk. Supervisors read it with
pread, which cannot fault as a mapping of a truncated file would.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_LAYOUT = struct.Struct("=ddd")
_DEADLINE, _TICK, _LEASE = 0, 1, 2
_TORN_READS = 3
_RECHECK_SECONDS = 0.05  # a moment that has passed is never armed again at once


class DeadlineFile:
    """The scheduler's side: it extends the deadline after an acknowledged renewal and ticks while its loop turns."""

    def __init__(self, path: Path, lease: float | None) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CLOEXEC | (0 if lease is None else os.O_CREAT)
        fd = os.open(path, flags, 0o600)
        try:
            if lease is not None:
                os.posix_fallocate(fd, 0, _LAYOUT.size)  # a sparse mapping on a full disk would be a SIGBUS
            elif os.fstat(fd).st_size < _LAYOUT.size:
                raise ValueError(f"{path} is too short for a deadline file")
            self._map = mmap.mmap(fd, _LAYOUT.size)
        finally:
            os.close(fd)
        self._view = memoryview(self._map).cast("d")
        if lease is not None:
            self._view[_LEASE] = lease

    @classmethod
    def create(cls, path: Path, lease: float) -> DeadlineFile:
        """A new file (deadline and tick 0), or the existing one with a new lease, in seconds."""
        return cls(path, lease)

    @classmethod
    def open(cls, path: Path) -> DeadlineFile:
        """An existing file, left as it is. Raises FileNotFoundError, or ValueError when it is too short."""
        return cls(path, None)

    def extend(self, deadline: float) -> None:
        """Let the supervisors go on until `deadline` (CLOCK_BOOTTIME); never shortens what was promised before.

        A value that lies further ahead than any promise could is a leftover of another boot and is replaced.
        """
        present = self._view[_DEADLINE]
        believable = present <= deadline + self._view[_LEASE]
        self._view[_DEADLINE] = max(present, deadline) if believable else deadline

    def tick(self, now: float) -> None:
        """The control loop turned at `now` (CLOCK_BOOTTIME)."""
        self._view[_TICK] = now

    def read(self) -> tuple[float, float, float]:
        """(deadline, tick, lease)."""
        return self._view[_DEADLINE], self._view[_TICK], self._view[_LEASE]

    def close(self) -> None:
        """Let go of the mapping; the file stays for the supervisors."""
        self._view.release()
        self._map.close()


class DeadlineReader:
    """A supervisor's side. Its descriptor outlives a removal of the file."""

    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> tuple[float, float, float]:
        """(deadline, tick, lease); zeros, which nobody trusts, when the file cannot be read or is too short."""
        data = b""
        for _ in range(_TORN_READS):
            before = data
            try:
                data = os.pread(self._fd, _LAYOUT.size, 0)
            except OSError:
                return 0.0, 0.0, 0.0
            if data == before:
                break
        if len(data) < _LAYOUT.size:
            return 0.0, 0.0, 0.0
        deadline, tick, lease = _LAYOUT.unpack(data)
        return deadline, tick, lease


def next_check(now: float, deadline: float, tick: float, lease: float, *, die_at_deadline: bool) -> float | None:
    """When to look at the deadline again; None: the attempt is lost and has to die now.

    Values further ahead than a whole lease, and ticks from the future, are distrusted: no scheduler writes them. Past
    the deadline an attempt that nobody may follow goes on for as long as its scheduler's loop turns, so that a store
    that is away for long kills nobody; one that could be started again elsewhere dies at once.
    """
    if not deadline <= now + lease:
        deadline = 0.0
    if now < deadline:
        return deadline
    fresh_until = tick + lease / 3
    if die_at_deadline or not tick <= now + _RECHECK_SECONDS or not now < fresh_until:
        return None
    return max(fresh_until, now + _RECHECK_SECONDS)
