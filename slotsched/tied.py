"""Child processes that the kernel kills when the thread that started them ends, however it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# 1 is PR_SET_PDEATHSIG. It holds for the parent at that moment, which may be gone already: hence the look at it.
_TIE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def tied(command: Sequence[str]) -> list[str]:
    """The command as a child of this process that does not outlive the calling thread. command[0]: a path."""
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *command]
