"""Closing an attempt whose supervisor was killed: end what it may have left, and say how it ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from slotsched import contract
from slotsched.process import cgroups, procfs
from slotsched.process.agenda import boottime
from slotsched.process.containment import NAMESPACES
from slotsched.process.files import boot_id
from slotsched.process.logfile import repair
from slotsched.process.rundir import lock_holder, start_facts
from slotsched.process.spec import read_spec
from slotsched.process.status import Ending

_PAUSE_SECONDS = 0.01
_CLEAN_PASSES = 3  # a process that re-forks can slip through one


class StillSupervised(Exception):
    """Raised when the attempt to be swept has a living supervisor."""


def sweep_tree(run_dir: Path, within: float = 2.0) -> bool:
    """End what a killed supervisor left of the attempt in `run_dir`, within about so many seconds.

    In a PID namespace the kernel kills everything with its supervisor. In a cgroup the group is killed. Everywhere each
    process of this boot, not older than the attempt, that bears its tag, or its task id and fence in the environment
    it was exec'd with, is killed by pidfd, again and again until none is found; without a namespace or a cgroup one
    that took off both is missed. Returns False when something is still alive after that time; call again then.

    Raises:
        StillSupervised: a supervisor holds the run directory.
    """
    if lock_holder(run_dir) is not None:
        raise StillSupervised(f"{run_dir} has a living supervisor")
    facts = start_facts(run_dir)
    if facts.get("boot_id") not in (None, boot_id()):
        return True
    end = boottime() + within
    wanted = 1 if facts.get("containment") in NAMESPACES else _CLEAN_PASSES
    clean = 0
    while True:
        clean = 0 if _sweep_once(run_dir, facts) else clean + 1
        if clean == wanted:
            return True
        if clean == 0 and boottime() >= end:
            return False
        time.sleep(_PAUSE_SECONDS)


def _sweep_once(run_dir: Path, facts: dict[str, object]) -> bool:
    """One pass; True when there was something to kill."""
    found = False
    for group in (facts.get("cgroup"), facts.get("memory_cgroup")):
        if isinstance(group, str):
            found |= _kill_group(Path(group))
    started = facts.get("started")
    oldest = int(started * procfs.TICKS_PER_SECOND) - 1 if isinstance(started, float) else 0
    tag = facts.get("tag")
    for process in _marked(_marks(run_dir), tag if isinstance(tag, int) else 0, oldest):
        found = True
        procfs.send(process, signal.SIGKILL)
    return found


def _kill_group(group: Path) -> bool:
    """True when there was something in it; an empty one is removed."""
    populated = cgroups.is_populated(group)
    cgroups.kill(group)
    if not populated:
        cgroups.remove(group)
    return populated


def _marks(run_dir: Path) -> set[bytes]:
    """The environment strings that only this attempt's processes have; empty when it has none.

    A script may have removed its own run directory; then the directory's name still says whose it was.
    """
    try:
        env = read_spec(run_dir).env
        marks = env.get(contract.ENV_ID), env.get(contract.ENV_FENCE)
    except (OSError, ValueError):
        task_id, _, fence = run_dir.name.rpartition("-")
        marks = task_id, fence
    if not all(marks):
        return set()
    names = contract.ENV_ID, contract.ENV_FENCE
    return {os.fsencode(f"{name}={mark}") for name, mark in zip(names, marks, strict=True)}


def _marked(marks: set[bytes], tag: int, oldest: int) -> Iterator[procfs.Stat]:
    """Living processes with all `marks`, or the tag, that started at tick `oldest` or later; the newest first and
    each as soon as it is found, for what re-forks is gone again in milliseconds.
    """
    for pid in sorted(procfs.pids(), reverse=True) if marks or tag else ():
        process = procfs.stat(pid)
        if process is None or process.state in "ZX" or process.start_ticks < oldest or pid == os.getpid():
            continue
        # The start ticks go with the process to the kill: they are read before the marks, so a pid that is reused in
        # between is told apart there.
        if (marks and marks <= procfs.environment(pid)) or (tag and procfs.locks_limit(pid) == tag):
            yield process


def abandoned_ending(run_dir: Path) -> Ending:
    """How an attempt ended whose supervisor was killed: "lost". Call it once `sweep_tree` has returned True.

    The log is finished as far as it goes: no torn last line, no hole. A supervisor that could not write its status
    leaves the same.
    """
    message = "its supervisor was killed" if run_dir.is_dir() else "its run directory was removed"
    facts = start_facts(run_dir)
    started = facts.get("started")
    log = repair(run_dir / contract.RUN_LOG)
    return Ending(
        cause="lost",
        exit_code=None,
        signal=None,
        message=message,
        cpu_seconds=0.0,
        peak_memory=0,
        started=started if isinstance(started, float) else None,
        ended=boottime(),
        boot_id=boot_id(),
        log_bytes=log.size,
        log_truncated=log.truncated,
    )
