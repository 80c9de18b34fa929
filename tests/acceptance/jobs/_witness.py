"""What the Python tasks under test tell the independent file."""

import json
import os
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
