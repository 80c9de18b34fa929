"""What /proc tells about processes, read so that a reused pid is never mistaken for the process that had it before."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

_GONE = (FileNotFoundError, ProcessLookupError)


class Stat(NamedTuple):
    """The part of /proc/PID/stat that identifies a process."""

    pid: int
    state: str
    parent: int
    start_ticks: int  # since boot; with the boot id and the pid unique


def pids() -> Iterator[int]:
    """Every process this /proc shows."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - no Path per process


def read_bytes(path: str) -> bytes | None:
    """A whole /proc file; None when its process is gone or not ours to read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (*_GONE, PermissionError):
        return None
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
    except (*_GONE, PermissionError):
        return None
    finally:
        os.close(fd)
    return b"".join(chunks)


def stat(pid: int) -> Stat | None:
    """Who `pid` is; None when it is gone."""
    data = read_bytes(f"/proc/{pid}/stat")
    if not data:
        return None
    fields = data[data.rindex(b")") + 2 :].split()  # the command in brackets may hold anything
    return Stat(pid, fields[0].decode(), int(fields[1]), int(fields[19]))


def environment(pid: int) -> set[bytes]:
    """The NAME=VALUE strings `pid` was exec'd with; empty when they cannot be read."""
    return set((read_bytes(f"/proc/{pid}/environ") or b"").split(b"\0"))


def locks_limit(pid: int) -> int | None:
    """The hard limit on file locks of `pid`; None when it has none or cannot be read."""
    for line in (read_bytes(f"/proc/{pid}/limits") or b"").splitlines():
        if line.startswith(b"Max file locks"):
            hard = line.split()[4]
            return int(hard) if hard.isdigit() else None
    return None


def resident_bytes(members: Iterable[int]) -> int:
    """The resident memory of these processes, summed; pages they share count once for each."""
    pages = 0
    for pid in members:
        data = read_bytes(f"/proc/{pid}/statm")
        if data:
            pages += int(data.split()[1])
    return pages * PAGE_BYTES


def descendants(root: int) -> list[Stat]:
    """All living descendants of `root`, parents before children, as one pass over /proc saw them."""
    children: defaultdict[int, list[Stat]] = defaultdict(list)
    for pid in pids():
        seen = stat(pid)
        if seen is not None:
            children[seen.parent].append(seen)
    found: list[Stat] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += [each.pid for each in below]
    return found


def family(root: int) -> list[int]:
    """The descendants of `root` by the kernel's lists of children, each process's threads included.

    Costs as much as the tree is large, not as the machine is full; may miss what is being forked or reparented.
    """
    found: list[int] = []
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(*_GONE, PermissionError):
            for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
                below = [int(word) for word in (read_bytes(f"/proc/{pid}/task/{thread}/children") or b"").split()]
                found += below
                waiting += below
    return found


def children() -> list[int]:
    """The direct children of this single-threaded process, zombies included."""
    data = read_bytes(f"/proc/self/task/{os.getpid()}/children")
    if data is None:  # a kernel without CONFIG_PROC_CHILDREN
        me = os.getpid()
        return [each.pid for each in map(stat, pids()) if each is not None and each.parent == me]
    return [int(word) for word in data.split()]


def send(target: Stat, number: int) -> bool:
    """Signal exactly the process that `target` describes; False when it is gone, whoever has its pid now."""
    try:
        pidfd = os.pidfd_open(target.pid)
    except OSError:
        return False
    try:
        now = stat(target.pid)
        if now is None or now.start_ticks != target.start_ticks:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(pidfd, number)
            return True
        return False
    finally:
        os.close(pidfd)
