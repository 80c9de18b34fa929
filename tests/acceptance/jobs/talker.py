# /// script
# [tool.slotsched]
# max_time = "120s"
# grace = "1s"
# ///
"""Says a numbered line every so often, on stdout, on stderr and through the logger, each with its own clock."""

import sys
import time

from _witness import tell

from slotsched import log


def main(lines: int = 100, pause: float = 0.0, code: int = 0) -> None:
    tell("start")
    for number in range(1, lines + 1):
        at = time.clock_gettime(time.CLOCK_BOOTTIME)
        print(f"out {number} {at:.6f}", flush=True)
        if number % 10 == 0:
            print(f"err {number} {at:.6f}", file=sys.stderr, flush=True)
            log.info(f"log {number} {at:.6f}", number=number)
        time.sleep(pause)
    tell("end")
    sys.exit(code)
