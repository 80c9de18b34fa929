# /// script
# [tool.slotsched]
# max_time = "60s"
# grace = "1s"
# ///
"""Goes on once a file is there: the test decides when this task ends."""

import time
from pathlib import Path

from _witness import tell


def main(file: Path) -> None:
    tell("start")
    while not file.exists():
        time.sleep(0.01)
    tell("end")
