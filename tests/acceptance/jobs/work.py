# /// script
# [tool.slotsched]
# max_time = "60s"
# grace = "1s"
# ///
"""The task under test: tells the witness when it begins and ends, and ends as it is asked to."""

import os
import sys
import time

from _witness import tell


def main(seconds: float = 0.0, code: int = 0, signal: int = 0, out: str = "", err: str = "") -> dict:
    tell("start")
    try:
        print(out or "hello from work", flush=True)
        if err:
            print(err, file=sys.stderr, flush=True)
        time.sleep(seconds)
    finally:
        tell("end")
    if signal:
        os.kill(os.getpid(), signal)
    if code:
        sys.exit(code)
    return {"slept": seconds}
