"""Wide and narrow tasks on four real instances, of which the one that keeps room for a wide task is killed, repeatedly.

    python tests/benchmarks/wide_chaos.py [TASKS [KILLS [SEED]]]

A mongod of its own. Goes on until so many tasks were enqueued and so many holders of a reservation killed: in turn the
scheduler alone and everything of the instance, restarted before the others miss it or long after. Ends with 1 where
something stood still longer than it may: see `reservation_lab`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from fleet import fleet
from reservation_lab import (
    BEYOND_SECONDS,
    GRACE_SECONDS,
    HELD_BACK_SECONDS,
    LEASE_SECONDS,
    MAX_SECONDS,
    PARK,
    HolderKills,
    judge,
    write_wide_and_narrow,
)

from slotsched.embedded import Mongod

LONGEST_SECONDS = 1800.0


def main() -> int:
    numbers = [int(word) for word in sys.argv[1:]]
    tasks, kills, seed = [*numbers, *(10_000, 30, 1)[len(numbers) :]]
    with tempfile.TemporaryDirectory(prefix="slotsched-bench-") as name:
        folder = Path(name)
        server = Mongod(folder / "mongod", tied=True)
        server.start()
        settings = {
            "mongodb_uri": server.uri,
            "database": "wide_chaos",
            "jobs_dir": str(write_wide_and_narrow(folder / "jobs")),
            "log_store": str(folder / "logs"),
            "lease": f"{LEASE_SECONDS}s",
            "grace": f"{GRACE_SECONDS}s",
        }
        try:
            with fleet(folder, settings, folder / "jobs") as machines:
                begun = time.monotonic()
                story = HolderKills(machines, tasks=tasks, kills=kills, seed=seed, most_seconds=LONGEST_SECONDS).run()
                took = time.monotonic() - begun
        finally:
            server.kill()
    verdict = judge(story)
    park = ", ".join(f"{name} {slots}" for name, slots in PARK.items())
    print(f"{story.tasks} tasks ({len(story.wides)} wide) in {took:.0f} s on {park}; tasks run up to {MAX_SECONDS} s")
    print(f"  {len(story.deaths)} holders of a reservation killed; {story.lost} tasks ended with their instance")
    print(f"  a wide task not claimed after its dead holder's reservation: {verdict.beyond:.2f} s at most")
    print(f"    (what runs may go on for max time, and two wake-ups: {BEYOND_SECONDS} s)")
    print(f"  a narrow task that fitted held back where nobody kept room: {verdict.held_back:.2f} s at most,")
    print(f"    while a dead reservation lasted {verdict.held_back_after_death:.2f} s (goal: {HELD_BACK_SECONDS} s)")
    print(f"  a slot free, also where room was kept: {verdict.kept:.2f} s at most")
    print(f"  a wide task's wait: {verdict.wide_wait:.2f} s at most; begun twice: {verdict.twice}; open: {story.open}")
    met = verdict.beyond <= BEYOND_SECONDS and verdict.held_back <= HELD_BACK_SECONDS
    return 0 if met and verdict.twice == story.open == 0 and len(story.deaths) >= kills else 1


if __name__ == "__main__":
    sys.exit(main())
