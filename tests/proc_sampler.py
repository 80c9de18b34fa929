"""What really runs, seen from outside: /proc is read over and over, nothing is asked of the scheduler.

A process belongs to a task when the environment it was exec'd with names the task and the fleet's witness file, so
that several test runs on one machine do not see each other.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PERIOD_SECONDS = 0.02


@dataclass(frozen=True)
class Process:
    """A living process of a task's tree."""

    pid: int
    task: str
    fence: str
    slots: int
    instance: str


@dataclass
class Sighting:
    """One attempt's tree, alive from `first` to `last` at least (CLOCK_BOOTTIME)."""

    instance: str
    slots: int
    first: float
    last: float


def with_command_line(words: str) -> list[int]:
    """Living processes whose command line holds `words`: finds also those that dropped their environment."""
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            if os.fsencode(words) in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "):
                found.append(pid)
    return found


def most_slots_at_once(sightings: Iterable[Sighting]) -> int:
    """The largest sum of slots of trees that were certainly alive at the same moment.

    A tree that was seen twice lived in between. What was seen only once counts for that moment; two trees that a scan
    saw one after the other therefore never count as simultaneous by the scan's own duration.
    """
    changes: list[tuple[float, int, int]] = []
    for seen in sightings:
        changes += [(seen.first, 0, seen.slots), (seen.last, 1, -seen.slots)]
    now = most = 0
    for _, _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


class ProcSampler(threading.Thread):
    """Looks at /proc every 20 ms while in its `with` block. Processes that were there before it are left out."""

    def __init__(self, witness: Path) -> None:
        super().__init__(name="proc-sampler", daemon=True)
        self.sightings: dict[tuple[str, str], Sighting] = {}
        self.samples = 0
        self._first = self._last = 0.0
        self._mark = os.fsencode(f"WITNESS={witness}")
        self._known = set(_pids())
        self._over = threading.Event()

    def __enter__(self) -> ProcSampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(10)

    @property
    def mean_gap(self) -> float:
        """Seconds between two looks, on average."""
        return (self._last - self._first) / max(1, self.samples - 1)

    def run(self) -> None:
        self._first = self._last = time.monotonic()
        while not self._over.wait(max(0.0, self._last + PERIOD_SECONDS - time.monotonic())):
            self._last = time.monotonic()
            self.sample()

    def sample(self) -> None:
        self.samples += 1
        for pid in _pids():
            if pid in self._known:
                continue
            process = _task_process(pid, self._mark)
            if process is not None:
                now = time.clock_gettime(time.CLOCK_BOOTTIME)
                key = (process.task, process.fence)
                seen = self.sightings.setdefault(key, Sighting(process.instance, process.slots, now, now))
                seen.last = now

    def most_slots_at_once(self, instance: str) -> int:
        return most_slots_at_once(seen for seen in self.sightings.values() if seen.instance == instance)


def _pids() -> list[int]:
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit()]


def _task_process(pid: int, mark: bytes) -> Process | None:
    try:
        fd = os.open(f"/proc/{pid}/environ", os.O_RDONLY)
    except OSError:
        return None
    try:
        environment = os.read(fd, 1 << 17)
    except OSError:
        return None
    finally:
        os.close(fd)
    if b"SLOTSCHED_TASK_ID=" not in environment or mark not in environment:
        return None
    pairs = dict(entry.partition(b"=")[::2] for entry in environment.split(b"\0"))
    if b"WITNESS=" + pairs.get(b"WITNESS", b"") != mark or b"SLOTSCHED_TASK_FENCE" not in pairs:
        return None
    return Process(
        pid=pid,
        task=pairs[b"SLOTSCHED_TASK_ID"].decode(),
        fence=pairs[b"SLOTSCHED_TASK_FENCE"].decode(),
        slots=int(pairs[b"SLOTSCHED_TASK_SLOTS"]),
        instance=pairs[b"SLOTSCHED_TASK_INSTANCE"].decode(),
    )
