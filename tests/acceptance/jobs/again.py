# /// script
# [tool.slotsched]
# max_time = "60s"
# grace = "1s"
# retries = 1
# retry_delay = "0.5s"
# ///
"""A task that may run twice, whatever ended it the first time."""

import time

from _witness import tell


def main(seconds: float) -> None:
    tell("start")
    time.sleep(seconds)
    tell("end")
