"""How long the command takes to answer, beside bare Python and `import typer` in the same run.

    python tests/benchmarks/bench_cli.py [ROUNDS]

Each round runs every command once, so that a busy moment of the machine falls on all of them alike; the figure is the
fastest and the median of the rounds. Budgets: `--help` 250 ms, a completion 200 ms. Ends with 1 when the fastest
round of one is over its budget.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SLOTSCHED = [sys.executable, "-m", "slotsched"]
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "import typer": ([sys.executable, "-c", "import typer"], None),
    "slotsched --help": ([*SLOTSCHED, "--help"], 0.25),
    "slotsched enqueue --help": ([*SLOTSCHED, "enqueue", "--help"], 0.25),
    "completion of a command": ([*SLOTSCHED, "enq"], 0.2),
    "completion of a job": ([*SLOTSCHED, "enqueue", "job-1"], 0.2),
    "completion of an argument": ([*SLOTSCHED, "enqueue", "job-1", "wi"], 0.2),
}
HEAVY = ("pymongo", "boto3", "rich", "structlog", "croniter", "psutil", "pydantic")


def measure(rounds: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of every round by command. Output goes nowhere, as for a shell that completes."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, (command, _) in COMMANDS.items():
            env = os.environ | ({"_SLOTSCHED_COMPLETE": "values"} if name.startswith("completion") else {})
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, env=env)
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def loaded_by(words: list[str], folder: Path) -> list[str]:
    """Which of the heavy packages a command loads that asks nobody; none is allowed."""
    code = (
        f"import sys; from slotsched.cli.app import run; run({words}); print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=folder)
    found: list[str] = eval(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "jobs").mkdir()
        for n in range(100):
            (folder / "jobs" / f"job-{n}.py").write_text("def main(folder: str, width: int = 1280) -> None: ...\n")
        seconds = measure(rounds, folder)
        heavy = {*loaded_by(["--help"], folder), *loaded_by(["enqueue", "--help"], folder)}
        heavy |= {*loaded_by(["config", "path"], folder)}
    over = [name for name, (_, budget) in COMMANDS.items() if budget is not None and min(seconds[name]) > budget]
    for name, found in seconds.items():
        budget = COMMANDS[name][1]
        limit = "" if budget is None else f"  budget {budget * 1000:3.0f} ms"
        print(f"{name:<26} {min(found) * 1000:5.0f} ms  median {statistics.median(found) * 1000:5.0f} ms{limit}")
    print(f"heavy packages loaded without need: {', '.join(sorted(heavy)) or 'none'}")
    for name in over:
        print(f"over budget: {name}")
    return 1 if over or heavy else 0


if __name__ == "__main__":
    sys.exit(main())
