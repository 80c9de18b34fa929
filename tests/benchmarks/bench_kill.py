"""How long the last process of the nastiest task outlives the reason for its end, by that reason.

    python tests/benchmarks/bench_kill.py [--rung pidns|userns|cgroup|subreaper|auto] [--runs 200] [--json]

Runs with the standard library alone, so that any user can run it. About a second per run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from kill_lab import CAUSES, die, table  # noqa: E402 - found by the path above
from process_lab import Lab  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rung", default="auto")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    state = options.state or Path(tempfile.mkdtemp(prefix="slotsched-bench-kill-"))
    lab = Lab(state, options.rung)
    try:
        deaths = [die(lab, CAUSES[number % len(CAUSES)]) for number in range(options.runs)]
        contained = lab.launcher.containment
    finally:
        lab.close()
        if options.state is None:
            shutil.rmtree(state, ignore_errors=True)
    if options.json:
        print(json.dumps({"rung": contained.name, "full": contained.full, "deaths": [asdict(one) for one in deaths]}))
    else:
        print(f"{contained.name} ({'full' if contained.full else 'degraded'})")
        print(table(deaths))


if __name__ == "__main__":
    main()
