# /// script
# [tool.slotsched]
# max_time = "60s"
# grace = "1s"
# retries = 4
# retry_delay = "0.4s"
# retry_backoff = "exponential"
# retry_cap = "1s"
# ///
"""Fails until a given attempt, and says which one it is."""

import os
import sys

from _witness import tell


def main(good: int) -> None:
    attempt = int(os.environ["SLOTSCHED_TASK_ATTEMPT"])
    tell("start")
    print(f"this is attempt {attempt}", flush=True)
    tell("end")
    if attempt < good:
        sys.exit(10 + attempt)
