# /// script
# [tool.slotsched]
# max_time = "20s"
# grace = "1s"
# ///
"""Notes each SIGTERM, and goes on; ends itself after half a minute, whatever becomes of slotsched."""

import signal
import time

from _witness import tell


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: tell("term"))
    signal.alarm(30)
    tell("start")
    while True:
        time.sleep(0.05)
