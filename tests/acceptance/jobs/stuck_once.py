# /// script
# [tool.slotsched]
# max_time = "600s"
# grace = "1s"
# retries = 1
# retry_delay = "0.5s"
# ///
"""Its first attempt goes on until somebody ends it, the second is over at once."""

import os
import time

from _witness import tell


def main() -> None:
    tell("start")
    if os.environ["SLOTSCHED_TASK_ATTEMPT"] == "1":
        time.sleep(600)
    tell("end")
