# /// script
# [tool.slotsched]
# max_time = "1s"
# grace = "1s"
# retries = 1
# retry_delay = "0.2s"
# retry_backoff = "fixed"
# retry_on = ["timeout"]
# ///
"""Is run again only where it took too long."""

import sys
import time

from _witness import tell


def main(seconds: float = 0.0) -> None:
    tell("start")
    time.sleep(seconds)
    sys.exit(1)
