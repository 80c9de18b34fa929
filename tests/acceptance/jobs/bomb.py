# /// script
# [tool.slotsched]
# max_time = "20s"
# grace = "1s"
# ///
"""A fork bomb with a fuse: it forks as fast as it can up to a number of processes, which ignore SIGTERM and end by
SIGALRM after LIFE_SECONDS, whatever becomes of slotsched.
"""

import os
import signal
import time

from _witness import tell

LIFE_SECONDS = 20


def main(processes: int = 100) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(processes):
        if os.fork() == 0:
            os.setsid()
            signal.alarm(LIFE_SECONDS)
            while True:
                time.sleep(1)
    tell("lit")
    signal.alarm(LIFE_SECONDS)
    while True:
        time.sleep(1)
