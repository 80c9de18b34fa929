"""The process tree of one attempt, seen by its supervisor: how to kill all of it and know that it is empty."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from slotsched.process import cgroups, linux, procfs

_PAUSE_SECONDS = (0.0005, 0.05)  # between two kills of a tree that is not empty yet: from, up to

_LOOK_SECONDS = 0.0002
_QUIET_LOOKS = 10  # without a new child: what is left takes its time to die

Reaped = list[tuple[int, int]]  # (pid, wait status)


def reap() -> tuple[Reaped, bool]:
    """Collect the children that have ended. Returns them, and whether any child is left."""
    ended: Reaped = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended.append((pid, status))


def _chase() -> tuple[Reaped, bool]:
    """Kill our own children as they come, for as long as new ones come. Returns like `reap`.

    What re-forks faster than a look through /proc takes is our own child again whenever its parent has ended. The
    list of those costs next to nothing, and their pids cannot be reused before we have waited for them.
    """
    ended: Reaped = []
    killed: set[int] = set()
    quiet = 0
    while True:
        more, left = reap()
        ended += more
        killed.difference_update(pid for pid, _ in more)
        if not left or quiet >= _QUIET_LOOKS:
            return ended, left
        fresh = set(procfs.children()) - killed
        for pid in fresh:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed |= fresh
        quiet = 0 if fresh else quiet + 1
        time.sleep(_LOOK_SECONDS)


class Tree:
    """Descendants of a subreaper: killed from the top down again and again, until no child is left to wait for.

    They bear `tag`, if it is not 0, as a limit that no kernel heeds: a sweep knows them by it, whatever they did to
    their environment.
    """

    def __init__(self, tag: int = 0) -> None:
        self._tag = tag

    def enter(self) -> None:
        """Called in the child before it becomes the script."""
        if self._tag:
            with contextlib.suppress(OSError, ValueError):  # an administrator has set a lower one
                resource.setrlimit(linux.RLIMIT_LOCKS, (self._tag, self._tag))

    def members(self) -> Iterable[int]:
        """The pids in the tree at about this moment, for measuring it."""
        return procfs.family(os.getpid())

    def kill(self) -> None:
        """SIGKILL to everything that is in the tree. A process forked meanwhile may escape this one call."""
        seen = procfs.descendants(os.getpid())
        # Stopped parents fork no more: without this pass a tree that re-forks fast enough could win the race.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for each in seen:
                if each.state != "Z":
                    procfs.send(each, number)

    def end(self) -> Reaped:
        """Kill until empty. Returns what was reaped; when this returns, nothing of the tree is left.

        A process that cannot be killed (uninterruptible I/O) keeps this waiting, and its slots taken: rightly so.
        """
        ended: Reaped = []
        pause, longest = _PAUSE_SECONDS
        while True:
            more, left = reap()
            ended += more
            if not left:
                return ended
            self.kill()
            more, left = _chase()
            ended += more
            if not left:
                return ended
            time.sleep(pause)
            pause = min(2 * pause, longest)

    def out_of_memory(self) -> bool:
        """The kernel killed something of the tree at its memory limit."""
        return False

    def close(self) -> None:
        """Give back what the tree needed from the system."""


class NamespaceTree(Tree):
    """Everything in the PID namespace whose process 1 is the supervisor: one call kills all, forks included."""

    def members(self) -> Iterable[int]:
        return (pid for pid in procfs.pids() if pid != 1)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)


class CgroupTree(Tree):
    """Everything in one cgroup v2 group. Being a subreaper stays the way to see that it is empty.

    `limit` bytes of memory are the kernel's to keep where the group has the memory controller.
    """

    def __init__(self, group: Path, limit: int | None) -> None:
        super().__init__()
        self.group = group
        group.mkdir(exist_ok=True)
        if limit is not None:
            with contextlib.suppress(OSError):
                cgroups.limit_memory(group, limit)

    def enter(self) -> None:
        cgroups.enter(self.group)

    def members(self) -> Iterable[int]:
        return cgroups.members(self.group)

    def kill(self) -> None:
        cgroups.kill(self.group)

    def out_of_memory(self) -> bool:
        return cgroups.out_of_memory(self.group)

    def close(self) -> None:
        cgroups.remove(self.group)


class LimitedTree(Tree):
    """Another tree whose memory the kernel limits too, by a group of the memory controller."""

    def __init__(self, inner: Tree, group: Path, limit: int) -> None:
        super().__init__()
        self._inner = inner
        self._group = group
        group.mkdir(exist_ok=True)
        try:
            cgroups.limit_memory(group, limit)
        except OSError:
            cgroups.remove(group)
            raise

    def enter(self) -> None:
        self._inner.enter()
        cgroups.enter(self._group)

    def members(self) -> Iterable[int]:
        return self._inner.members()

    def kill(self) -> None:
        self._inner.kill()

    def out_of_memory(self) -> bool:
        return cgroups.out_of_memory(self._group)

    def close(self) -> None:
        self._inner.close()
        cgroups.remove(self._group)
