"""What slotsched adds to a job process, beside bare Python in the same run: `python tests/benchmarks/bench_import.py`.

Prints the fastest of alternating runs: what else the machine does only ever adds. Ratios and differences count.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 40
IMPORT_LIMIT_MS = 10.0
HARNESS = Path(__file__).resolve().parents[2] / "slotsched" / "process" / "harness.py"


def seconds(argv: list[str], environ: dict[str, str]) -> float:
    begun = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, environ)
    _, status = os.waitpid(pid, 0)  # not subprocess: waiting with a timeout is polling, in steps of milliseconds
    took = time.perf_counter() - begun
    if status != 0:
        raise SystemExit(f"{argv} ended with status {status}")
    return took


def measure(rounds: int = ROUNDS) -> dict[str, float]:
    """Milliseconds of each program, at its fastest."""
    environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(HARNESS.parents[2])}
    with tempfile.TemporaryDirectory() as folder:
        empty, main = Path(folder, "empty.py"), Path(folder, "empty_main.py")
        empty.write_text("")
        main.write_text("def main():\n    pass\n")
        programs = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import json": [sys.executable, "-c", "import json"],
            "import json, slotsched.job": [
                sys.executable,
                "-c",
                "import json; from slotsched import Cancel, log, task",
            ],
            "an empty file": [sys.executable, str(empty)],
            "harness, an empty main": [sys.executable, str(HARNESS), str(main), "main"],
        }
        times: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(rounds):
            for name, argv in programs.items():
                times[name].append(seconds(argv, environ) * 1000)
    return {name: min(values) for name, values in times.items()}


def main() -> int:
    found = measure()
    for name, value in found.items():
        print(f"{name:28} {value:7.1f} ms   x {value / found['python -c pass']:.2f}")
    script_side = found["import json, slotsched.job"] - found["import json"]
    print(f"script side over a bare json import: {script_side:+.1f} ms (limit {IMPORT_LIMIT_MS:.0f})")
    print(f"harness over bare Python:            {found['harness, an empty main'] - found['an empty file']:+.1f} ms")
    return 0 if script_side < IMPORT_LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())
