# /// script
# [tool.slotsched]
# max_time = "60s"
# grace = "1s"
# ///
"""Fills the disk of its private folder with a file (MOST_MEGABYTES at most), says so, and waits to be told on."""

import os
import time
from pathlib import Path

from _witness import tell

MOST_MEGABYTES = 4
LIFE_SECONDS = 40


def main(go: str, lines: int = 0, hold: bool = True) -> None:
    tell("start")
    if hold:
        with Path("ballast").open("wb", buffering=0) as file:
            try:
                for _ in range(MOST_MEGABYTES * 1024):
                    file.write(bytes(1024))
            except OSError as error:
                tell("full", str(error))
    end = time.monotonic() + LIFE_SECONDS
    while not os.path.exists(go) and time.monotonic() < end:  # noqa: PTH110 - no Path per look
        time.sleep(0.02)
    for number in range(lines):
        print(f"line {number} " + "x" * 100)
    tell("end")
