"""cgroup v2 groups for attempts: killing at once where it is delegated, memory limits where the controller is."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from slotsched.process.files import write_kernel

PREFIX = "slotsched-"


def base() -> Path:
    """The cgroup v2 group this process is in. Raises FileNotFoundError when the machine has no cgroup v2."""
    mounted = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            mounted = before.split()[4]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if mounted is not None and line.startswith("0::"):
            return Path(mounted) / line[3:].lstrip("/")
    raise FileNotFoundError("no cgroup v2 is mounted")


def group_for(run_dir: Path, parent: Path) -> Path:
    """The group of the attempt in `run_dir`."""
    return parent / f"{PREFIX}{run_dir.name}"


def enter(group: Path) -> None:
    """Move the calling process into `group`."""
    write_kernel(group / "cgroup.procs", str(os.getpid()))


def members(group: Path) -> list[int]:
    """The pids in `group` itself and in groups a script made below it."""
    found: list[int] = []
    for folder in _with_children(group):
        with contextlib.suppress(OSError):
            found += map(int, (folder / "cgroup.procs").read_text().split())
    return found


def kill(group: Path) -> None:
    """SIGKILL to everything in `group` and below, forks included."""
    with contextlib.suppress(FileNotFoundError):
        write_kernel(group / "cgroup.kill", "1")


def is_populated(group: Path) -> bool:
    """Whether a process is left in `group` or below."""
    try:
        return "populated 1" in (group / "cgroup.events").read_text()
    except OSError:
        return False


def remove(group: Path) -> None:
    """Remove an empty group and what a script made below it; one that is still busy stays."""
    for folder in reversed(_with_children(group)):
        with contextlib.suppress(OSError):
            folder.rmdir()


def memory_parent() -> Path | None:
    """The group under which new groups have a memory limit; None where there is none.

    The controller has to be handed down to the children of our own group. That can be asked for only while the group
    itself holds no process, so a service manager that delegates has to start us in a sub-group: then it is our
    parent that has handed it down.
    """
    try:
        own = base()
    except (FileNotFoundError, ValueError):
        return None
    for parent in (own, own.parent):
        with contextlib.suppress(OSError):
            if "memory" in (parent / "cgroup.subtree_control").read_text().split() and os.access(parent, os.W_OK):
                return parent
    return None


def limit_memory(group: Path, limit: int) -> None:
    """Let the kernel keep `limit` bytes for the whole group: all of it dies together, and swap does not help."""
    write_kernel(group / "memory.max", str(limit))
    for name, value in (("memory.oom.group", "1"), ("memory.swap.max", "0")):
        with contextlib.suppress(OSError):
            write_kernel(group / name, value)


def out_of_memory(group: Path) -> bool:
    """The kernel killed a process of the group for its memory."""
    try:
        lines = (group / "memory.events").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines)


def _with_children(group: Path) -> list[Path]:
    return [Path(folder) for folder, _, _ in os.walk(group)]
