"""Processes: from a run directory to a supervised process tree, and from its end to a status file.

The scheduler uses `Launcher` to start attempts, `Supervised` to end them, and `read_ending` to learn how they ended.
Everything in this package runs on the standard library alone, because the spawner forks a supervisor per attempt and
must stay small. Names load on first use: a script's harness lives here too and must not pay for the supervisor.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slotsched.process.containment import Containment
    from slotsched.process.deadline import DeadlineFile
    from slotsched.process.launcher import (
        ContainmentUnavailable,
        Gone,
        Launched,
        Launcher,
        LaunchFailed,
        SpawnerGone,
        try_containment,
    )
    from slotsched.process.rundir import Supervised, find_supervisor, forbid_start, start_facts
    from slotsched.process.spec import Spec, read_spec, write_spec
    from slotsched.process.status import Ending, read_ending
    from slotsched.process.sweep import abandoned_ending, sweep_tree

_HOME = {
    "Containment": "containment",
    "ContainmentUnavailable": "launcher",
    "DeadlineFile": "deadline",
    "Ending": "status",
    "Gone": "launcher",
    "LaunchFailed": "launcher",
    "Launched": "launcher",
    "Launcher": "launcher",
    "Spec": "spec",
    "SpawnerGone": "launcher",
    "Supervised": "rundir",
    "abandoned_ending": "sweep",
    "find_supervisor": "rundir",
    "forbid_start": "rundir",
    "read_ending": "status",
    "read_spec": "spec",
    "start_facts": "rundir",
    "sweep_tree": "sweep",
    "try_containment": "launcher",
    "write_spec": "spec",
}

__all__ = [
    "Containment",
    "ContainmentUnavailable",
    "DeadlineFile",
    "Ending",
    "Gone",
    "LaunchFailed",
    "Launched",
    "Launcher",
    "SpawnerGone",
    "Spec",
    "Supervised",
    "abandoned_ending",
    "find_supervisor",
    "forbid_start",
    "read_ending",
    "read_spec",
    "start_facts",
    "sweep_tree",
    "try_containment",
    "write_spec",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
