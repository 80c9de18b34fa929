"""Child processes: how to start this program once more, and children that end with us: in order, or by the kernel's
hand where we are killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# 1 is PR_SET_PDEATHSIG. It holds for the parent at that moment, which may be gone already: hence the look at it.
_TIE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def program() -> list[str]:
    """The slotsched command of this installation, to be followed by arguments.

    Not from the working folder, where a `queue.py` of the user's would be taken for the library's; unless that is where
    this program itself comes from.
    """
    root = str(Path(__file__).resolve().parents[1])
    return [sys.executable, *(() if sys.path[:1] == [root] else ("-P",)), "-m", "slotsched"]


def tied(command: Sequence[str]) -> list[str]:
    """The command as a child of this process that does not outlive the calling thread. command[0]: a path."""
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *command]


@contextmanager
def ended_behind(child: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """Behind the block the child gets SIGTERM, and SIGKILL where it has not ended within so many seconds."""
    try:
        yield
    finally:
        child.terminate()
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
