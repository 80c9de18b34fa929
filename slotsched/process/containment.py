"""How a supervisor holds its tree: the ladder of rungs, from what cannot be escaped down to what usually works.

    pidns      the supervisor is process 1 of a PID namespace of its own; needs root
    userns     the same through a user namespace; needs no privileges, but setuid programs do not work inside
    cgroup     a cgroup v2 group that is killed at once; a killed supervisor leaves its tree to the sweep
    subreaper  orphans come back to the supervisor, which kills what it finds until nothing is left; the same gap

Which rung works is found by trying, never from the user id: containers, kernels and service managers each take some
of it away.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from slotsched.process import cgroups, linux
from slotsched.process.files import write_kernel

AUTO = "auto"
PIDNS, USERNS, CGROUP, SUBREAPER = "pidns", "userns", "cgroup", "subreaper"
LADDER = (PIDNS, USERNS, CGROUP, SUBREAPER)
NAMESPACES = (PIDNS, USERNS)

_CHILD_FAILED = 70  # EX_SOFTWARE


@dataclass(frozen=True)
class Containment:
    """The rung in use. Full: whatever kills the supervisor kills the tree. `detail` says why it is not better."""

    name: str
    full: bool
    detail: str


class Unavailable(Exception):
    """Raised when a rung that was asked for does not work here."""


def fork_into(rung: str, child: Callable[[], None]) -> int:
    """Fork a process that runs `child` and exits, inside what the rung provides. Returns its pid.

    For a namespace rung the child is process 1 of its PID namespace, with a mount namespace of its own; it mounts
    its /proc itself (`mount_proc`). The caller must be single-threaded and, for `userns`, a subreaper. Raises
    OSError.
    """
    if rung == PIDNS:
        return _fork_into_pid_namespace(child)
    if rung == USERNS:
        return _fork_into_user_namespace(child)
    return _fork(child)


def _fork(child: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            child()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - nothing may ever return into the parent's code
            traceback.print_exc()
        finally:
            os._exit(_CHILD_FAILED)
    return pid


def _fork_into_pid_namespace(child: Callable[[], None]) -> int:
    """The namespace is made for the next child only, then left: a second one would be refused otherwise."""

    def inside() -> None:
        linux.unshare(linux.CLONE_NEWNS)
        child()

    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.unshare(linux.CLONE_NEWPID)
        try:
            return _fork(inside)
        finally:
            _return_to(home)
    finally:
        os.close(home)


def _return_to(home: int) -> None:
    try:
        linux.setns(home, linux.CLONE_NEWPID)
    except OSError as error:  # every later fork would fail: a fresh spawner is the way out
        raise SystemExit(f"cannot leave an attempt's PID namespace: {error}") from error


def _fork_into_user_namespace(child: Callable[[], None]) -> int:
    """A user namespace cannot be left again, so a process in between enters it, forks the child and goes away.

    The child is then an orphan and comes to the caller, who is a subreaper: its pid cannot be reused before the
    caller has waited for it.
    """
    answer, tell = os.pipe()

    def between() -> None:
        os.close(answer)
        try:
            uid, gid = os.geteuid(), os.getegid()
            linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWPID | linux.CLONE_NEWNS)
            write_kernel("/proc/self/setgroups", "deny")
            write_kernel("/proc/self/uid_map", f"{uid} {uid} 1")
            write_kernel("/proc/self/gid_map", f"{gid} {gid} 1")
            os.write(tell, f"pid {_fork(child)}".encode())
        except OSError as error:
            os.write(tell, f"errno {error.errno} {error.strerror}".encode())

    try:
        helper = _fork(between)
    except OSError:
        os.close(tell)
        os.close(answer)
        raise
    os.close(tell)
    try:
        word, _, rest = os.read(answer, 512).decode().partition(" ")
    finally:
        os.close(answer)
        os.waitpid(helper, 0)
    if word == "pid":
        return int(rest)
    number, _, text = rest.partition(" ")
    raise OSError(int(number or 0), text or "the user namespace's first process died")


def mount_proc() -> None:
    """Give a fresh mount namespace the /proc of a fresh PID namespace. Nothing propagates out of it."""
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)


class Ladder:
    """The rungs of this machine, each tried at most once."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def reason_against(self, rung: str) -> str:
        """Why `rung` does not work here; empty when it does."""
        if rung not in self._reasons:
            self._reasons[rung] = _try(rung)
        return self._reasons[rung]

    def choose(self, asked: str = AUTO, *, user_namespace: bool = True) -> str:
        """The best rung that works, or the one asked for; never `userns` for a job that opts out of it.

        Raises Unavailable.
        """
        if asked not in (AUTO, *LADDER):
            raise Unavailable(f'there is no containment "{asked}" ({", ".join((AUTO, *LADDER))})')
        if asked != AUTO and (user_namespace or asked != USERNS):
            if reason := self.reason_against(asked):
                raise Unavailable(f'containment "{asked}" does not work here: {reason}')
            return asked
        candidates = (rung for rung in LADDER if user_namespace or rung != USERNS)
        return next(rung for rung in candidates if not self.reason_against(rung))

    def describe(self, asked: str = AUTO) -> Containment:
        """What attempts get by default, for people."""
        rung = self.choose(asked)
        if rung in NAMESPACES:
            return Containment(rung, full=True, detail="")
        better = LADDER[: LADDER.index(rung)]
        if asked == AUTO:
            detail = "; ".join(f"{each}: {self.reason_against(each)}" for each in better)
        else:
            detail = "asked for in the settings"
        return Containment(rung, full=False, detail=detail)


def _try(rung: str) -> str:
    try:
        if rung in NAMESPACES:
            return _try_namespace(rung)
        if rung == CGROUP:
            return _try_cgroup()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _try_namespace(rung: str) -> str:
    answer, tell = os.pipe()

    def child() -> None:
        try:
            mount_proc()
        except OSError as error:
            os.write(tell, str(error.strerror).encode())

    try:
        pid = fork_into(rung, child)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(tell)
        reason = os.read(answer, 512).decode()
        os.close(answer)
    return reason or ("" if status == 0 else "the namespace's first process failed")


def _try_cgroup() -> str:
    parent = cgroups.base()
    group = parent / f"{cgroups.PREFIX}probe-{os.getpid()}"
    group.mkdir()
    try:
        if not (group / "cgroup.kill").exists():
            return "the kernel is older than 5.14"
        pid = _fork(lambda: cgroups.enter(group))
        _, status = os.waitpid(pid, 0)
        return "" if status == 0 else f"no process may be moved into {parent}"
    finally:
        cgroups.remove(group)
