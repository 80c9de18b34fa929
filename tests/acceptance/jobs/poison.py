# /// script
# [tool.slotsched]
# max_time = "60s"
# grace = "1s"
# retries = 50
# retry_delay = "0.1s"
# ///
"""May run very often, but never gets to its end: the test takes its machine away."""

import time

from _witness import tell


def main() -> None:
    tell("start")
    time.sleep(50)
    tell("end")
