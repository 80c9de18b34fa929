"""The run directory as the contract between a scheduler, the scheduler after it, and a supervisor.

`lock` says whether a supervisor lives and who it is, `start` who got the start right, `order.json` why to end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotsched import contract
from slotsched.process.files import PRIVATE, insist, read_object, write_all, write_whole

ORDER_SIGNAL = signal.SIGUSR1  # read `order.json`
END_SIGNAL = signal.SIGTERM  # end as a shutdown, without an order file
KILL_SIGNAL = signal.SIGUSR2  # the same, at once

_FLOCK = struct.Struct("@hhqqi4x")  # struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid


def take_lock(run_dir: Path) -> int | None:
    """Become the run directory's supervisor; None when it has one.

    The lock is POSIX, not flock: it belongs to this process alone, not to what it forks. The returned descriptor
    must stay the only one of that file in this process, because closing any of them drops the lock.
    """
    fd = _open(run_dir, contract.RUN_LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return None
        raise
    return fd


def lock_holder(run_dir: Path) -> int | None:
    """The pid, as this process's PID namespace numbers it, of the living supervisor; None when there is none.

    Never called inside a supervisor: see `take_lock`.
    """
    try:
        fd = _open(run_dir, contract.RUN_LOCK, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, question))
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else int(pid)


def take_start_right(run_dir: Path, facts: dict[str, Any]) -> bool:
    """Create `start`; False when somebody has. Whoever creates it decides whether the script ever starts."""
    try:
        fd = _open(run_dir, contract.RUN_START, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    try:
        # The right is the file, not its content: on a full disk the facts are missing and nothing else.
        with contextlib.suppress(OSError):
            write_all(fd, json.dumps(facts).encode())
    finally:
        os.close(fd)
    return True


def _open(run_dir: Path, name: str, flags: int) -> int:
    return insist(lambda: os.open(run_dir / name, flags | os.O_CLOEXEC, PRIVATE), run_dir, name)


def start_facts(run_dir: Path) -> dict[str, Any]:
    """What the supervisor wrote at its start; empty when unknown.

    `boot_id`, `started`, `containment`, and where there is one `tag`, `cgroup` (holds the tree) and `memory_cgroup`
    (limits its memory).
    """
    return read_object(run_dir / contract.RUN_START) or {}


def forbid_start(run_dir: Path) -> bool:
    """Take the start right for good. True: the script never started and never will. False: it may have.

    A run directory that somebody removed tells nothing, so it may have. Raises OSError where the right can neither be
    taken nor seen taken (no inode is left): ask again.
    """
    try:
        if take_start_right(run_dir, {"by": "scheduler"}):
            return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    return start_facts(run_dir).get("by") == "scheduler"


@dataclass(frozen=True, kw_only=True)
class Order:
    """Why and how to end an attempt: `grace` seconds between SIGTERM and SIGKILL, None for the spec's own."""

    cause: str
    grace: float | None
    by: str


_ORDER_CAUSES = ("canceled", "lost", "shutdown", "timeout")


def read_order(run_dir: Path) -> Order | None:
    """The newest order; None when there is none that makes sense."""
    document = read_object(run_dir / contract.RUN_ORDER)
    if document is None:
        return None
    cause, grace = document.get("cause"), document.get("grace")
    if cause not in _ORDER_CAUSES or not (grace is None or isinstance(grace, int | float)):
        return None
    return Order(cause=cause, grace=grace, by=str(document.get("by", "")))


@dataclass(frozen=True)
class Supervised:
    """A living supervisor. Its `pidfd` becomes readable when it ends and never means another process."""

    pid: int
    pidfd: int

    def fileno(self) -> int:
        """For a selector: readable once the supervisor, and with it the attempt, is over."""
        return self.pidfd

    def order(self, run_dir: Path, cause: str, grace: float | None = None, by: str = "") -> bool:
        """End the attempt: "canceled", "lost", "shutdown" or "timeout".

        grace: seconds between SIGTERM and SIGKILL; None is the spec's own, 0 is SIGKILL at once.
        A later order may shorten an earlier one. Returns False when the supervisor is gone already. When the order
        cannot be written (disk full) the attempt is ended all the same, and its ending says "shutdown". A supervisor
        that somebody stopped (SIGSTOP) is woken: it could not obey.
        """
        if cause not in _ORDER_CAUSES:
            raise ValueError(f"{cause!r} is no cause that can be ordered")
        document = {"cause": cause, "grace": grace, "by": by}
        number = ORDER_SIGNAL
        data = json.dumps(document).encode()
        try:
            insist(lambda: write_whole(run_dir / contract.RUN_ORDER, data), run_dir)
        except OSError:
            number = KILL_SIGNAL if grace == 0 else END_SIGNAL
        try:
            signal.pidfd_send_signal(self.pidfd, number)
            signal.pidfd_send_signal(self.pidfd, signal.SIGCONT)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to the supervisor itself, when it does not obey. In a PID namespace its tree dies with it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Close the pidfd."""
        os.close(self.pidfd)


def find_supervisor(run_dir: Path) -> Supervised | None:
    """The run directory's living supervisor, whoever started it; None when there is none.

    The lock is asked before and after the pidfd is opened: if both name the same pid, the pidfd is the holder's
    and not that of a stranger who got its number.
    """
    while (pid := lock_holder(run_dir)) is not None:
        if pid <= 0:
            raise ProcessLookupError(f"the supervisor of {run_dir} lives in a PID namespace that cannot be seen here")
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        if lock_holder(run_dir) == pid:
            return Supervised(pid, pidfd)
        os.close(pidfd)
    return None
