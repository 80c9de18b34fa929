# /// script
# [tool.slotsched]
# max_time = "20s"
# grace = "1s"
# ///
"""Takes memory until somebody stops it; MOST_MEGABYTES at most, whatever becomes of slotsched."""

import time

from _witness import tell

MOST_MEGABYTES = 300


def main() -> None:
    tell("start")
    held = []
    for _ in range(MOST_MEGABYTES // 10):
        held.append(b"x" * (10 << 20))
        time.sleep(0.02)
    time.sleep(5)
    tell("end")
