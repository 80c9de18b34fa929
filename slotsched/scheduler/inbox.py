"""How the threads and signals talk to the loop: one queue, and a descriptor that wakes its selector."""

from __future__ import annotations

import contextlib
import os
import queue
from dataclasses import dataclass

from slotsched.model import Instance


@dataclass(frozen=True)
class Work:
    """A task of this lane became pending; lane None: look at everything (the stream was just opened)."""

    lane: str | None


@dataclass(frozen=True)
class Scheduled:
    """A task with a due time in the future was inserted."""


@dataclass(frozen=True)
class Touched:
    """Somebody changed a running task: canceled, deleted, or taken away."""

    task_id: str


@dataclass(frozen=True)
class Freed:
    """A task ended that held a permit of a limit."""


@dataclass(frozen=True)
class Followers:
    """A task ended that others wait for, or something began to wait for one."""


@dataclass(frozen=True)
class StreamDown:
    """The change stream broke; polling carries on alone."""


@dataclass(frozen=True)
class Renewed:
    """The store acknowledged a lease renewal that was sent at `sent` (CLOCK_BOOTTIME)."""

    instance: Instance
    sent: float


@dataclass(frozen=True)
class Fenced:
    """The store no longer knows this instance as alive."""

    instance_id: str


@dataclass(frozen=True)
class SpoolEmpty:
    """Every log that waited for its upload is in the log store."""


@dataclass(frozen=True)
class Signaled:
    number: int


Message = Work | Scheduled | Touched | Freed | Followers | StreamDown | Renewed | Fenced | SpoolEmpty | Signaled


class Inbox:
    """`post` from any thread or signal handler; `drain` in the loop. `fileno` is readable while something waits."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._event

    def post(self, message: Message) -> None:
        self._queue.put(message)
        with contextlib.suppress(BlockingIOError):  # the counter is full: it is readable, which is all it is for
            os.eventfd_write(self._event, 1)

    def drain(self) -> list[Message]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        messages: list[Message] = []
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._queue.get_nowait())
        return messages

    def close(self) -> None:
        os.close(self._event)
