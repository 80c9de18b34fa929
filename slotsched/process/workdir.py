"""Removing an attempt's private folder without following what a script may have put there."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slotsched.process import linux

_ALL = 0o700
# How mountinfo writes what would end a field. Not by a codec: every supervisor would import it anew, for 2 ms of CPU.
_ESCAPES = ((rb"\040", b" "), (rb"\011", b"\t"), (rb"\012", b"\n"), (rb"\134", b"\\"))


def remove(folder: Path) -> None:
    """Remove `folder` with all that is in it; what cannot be removed stays. Never raises OSError.

    A script that runs as root may have mounted something inside: that is detached first, for its content is not ours.
    """
    with contextlib.suppress(OSError):
        for target in _mounts_below(folder):
            linux.unmount(target)
        shutil.rmtree(folder, onerror=_make_removable)


def _mounts_below(folder: Path) -> list[str]:
    """Mount points at or below `folder`, the innermost first."""
    inside = os.fsencode(folder) + b"/"
    targets = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        target = line.split()[4]
        if b"\\" in target:
            for escape, character in _ESCAPES:
                target = target.replace(escape, character)
        if (target + b"/").startswith(inside):
            targets.append(os.fsdecode(target))
    return targets[::-1]


def _make_removable(operation: Callable[..., Any], path: str, _: Any) -> None:
    """A script may take its own folders' permissions away."""
    with contextlib.suppress(OSError):
        parent = Path(path).parent
        parent.chmod(_ALL)
        if operation in (os.scandir, os.open, os.lstat):
            Path(path).chmod(_ALL)
            shutil.rmtree(path, ignore_errors=True)
        else:
            operation(path)
