# /// script
# [tool.slotsched]
# max_time = "20s"
# grace = "1s"
# ///
"""Leaves daemons behind that do not want to die: own sessions, no SIGTERM, and a new pid every few milliseconds.

Bounded by itself, whatever becomes of slotsched: DAEMONS chains, each one process at a time (the parent ends before
its successor forks on), each at most STEPS long, and every process ends by SIGALRM after LIFE_SECONDS.
"""

import ctypes
import os
import signal
import time

from _witness import tell

DAEMONS = 4
STEPS = 2000
STEP_SECONDS = 0.005
LIFE_SECONDS = 25
PR_SET_PDEATHSIG = 1


def daemon() -> None:
    """A double fork, a session of its own, and then a chain of forks."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
    end = time.monotonic() + LIFE_SECONDS
    for _ in range(STEPS):
        if time.monotonic() > end:
            break
        if os.fork():
            os._exit(0)
        signal.alarm(LIFE_SECONDS)  # a child does not inherit its parent's alarm
        time.sleep(STEP_SECONDS)
    os._exit(0)


def main(stay: bool = False) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(DAEMONS):
        daemon()
    tell("start")
    if stay:
        signal.alarm(LIFE_SECONDS)
        while True:
            time.sleep(0.1)
    time.sleep(0.3)  # long enough for the daemons to be many generations on
    tell("end")
