# /// script
# [tool.slotsched]
# max_time = "60s"
# grace = "1s"
# ///
"""Ignores SIGTERM, and has children that do too: one of its own, and a daemon in a session and an environment of its
own that no longer says whose it is.
"""

import os
import signal
import subprocess
import sys

from _witness import tell

IGNORE_AND_SLEEP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)"


def main(mark: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: tell("term"))
    command = [sys.executable, "-I", "-S", "-c", IGNORE_AND_SLEEP, mark]
    child = subprocess.Popen(command)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve(command[0], command, {})
        os._exit(0)
    tell("start")
    while child.wait() is not None:
        signal.pause()
