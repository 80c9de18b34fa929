# /// script
# [tool.slotsched]
# max_time = "60s"
# grace = "1s"
# ///
"""The task under test: tells the witness when it begins and ends, and ends as it is asked to."""

import json
import os
import sys
import time


def tell(event: str, note: str = "") -> None:
    environ = os.environ
    line = {
        "event": event,
        "task": environ["SLOTSCHED_TASK_ID"],
        "attempt": int(environ["SLOTSCHED_TASK_ATTEMPT"]),
        "fence": int(environ["SLOTSCHED_TASK_FENCE"]),
        "pid": os.getpid(),
        "slots": int(environ["SLOTSCHED_TASK_SLOTS"]),
        "instance": environ["SLOTSCHED_TASK_INSTANCE"],
        "at": time.clock_gettime(time.CLOCK_BOOTTIME),
        "note": note,
    }
    descriptor = os.open(environ["WITNESS"], os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, (json.dumps(line) + "\n").encode())
    os.close(descriptor)


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
