"""Run as an ordinary user: try attempts and print what became of them as JSON. Standard library only."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from process_lab import ESCAPER, Lab

from slotsched.process import sweep_tree


def main() -> None:
    state = Path(sys.argv[1])
    seen: dict[str, object] = {}
    lab = Lab(state)
    try:
        seen["containment"] = [lab.launcher.containment.name, lab.launcher.containment.full]
        ending, attempt = lab.run("sh", "-c", "id -u; exit 3")
        seen["private folder left"] = (attempt.run_dir / "work").exists()
        seen["exit"], seen["uid"] = [ending.cause, ending.exit_code], attempt.text()

        attempt = escaper(lab, "1.5")
        attempt.wait()
        seen["escaped after exit"] = len(attempt.alive())
        attempt = escaper(lab, "5")
        attempt.order("canceled", 0)
        attempt.wait()
        seen["escaped after kill"] = len(attempt.alive())

        attempt = escaper(lab, "5")
        os.kill(attempt.pid, signal.SIGKILL)
        time.sleep(1)
        seen["killed supervisor: left after 1 s"] = len(attempt.alive())

        ending, _ = lab.run("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done", max_time=0.3, grace=0.3)
        seen["timeout"] = [ending.cause, ending.signal]
        ending, _ = lab.run("sh", "-c", "kill -9 1; kill -STOP 1; kill -TERM 1; kill -USR1 1; sleep 0.2; exit 5")
        seen["confused"] = [ending.cause, ending.exit_code]
        seen["other user"] = lab.run("true", user="root")[0].message
        seen["without a user namespace"] = lab.run("true", user_namespace=False)[0].cause
    finally:
        lab.close()

    degraded = Lab(state, "subreaper")
    try:
        attempt = escaper(degraded, "5")
        os.kill(degraded.launcher.pid, signal.SIGKILL)
        os.kill(attempt.pid, signal.SIGKILL)
        attempt.wait_gone()
        assert sweep_tree(attempt.run_dir)
        seen["escaped the sweep"] = len(attempt.alive())
    finally:
        degraded.close()
    print(json.dumps(seen))


def escaper(lab: Lab, seconds: str):
    attempt = lab.start("/usr/bin/python3", "-I", "-S", "-c", ESCAPER, seconds)
    attempt.wait_text("loose")
    assert attempt.alive()
    return attempt


main()
