"""What an instance holds on to over many tasks: descriptors, threads, zombies, memory of its scheduler and spawner.

    python tests/benchmarks/bench_drift.py [TASKS]

A mongod of its own, one real instance, TASKS (100,000) of the cheapest shell script there is. Each line is one look.
Goals (F32): between a tenth of the run and its end, descriptors, threads and zombies as before and memory at most a
tenth more. Exits 1 when a goal is missed. A task costs about 10 ms of CPU: on two cores 100,000 take 15 to 30 minutes.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

import psutil
import pymongo

sys.path.append(str(Path(__file__).resolve().parents[1]))

from fleet import Fleet, InstanceProcess, fleet, until

from slotsched.embedded import Mongod
from slotsched.model import OPEN

TASKS = 100_000
SLOTS = 8
BATCH = 1_000
AHEAD = 3 * BATCH  # in the queue at most
LOOKS = 10  # while nothing runs
LOOK_SECONDS = 0.2
LINE_SECONDS = 15.0
SETTLED_SHARE = 0.1  # of the run, until which caches and pools have filled
RSS_GOAL = 0.10
IDLE_SECONDS = 120.0
SCRIPT = """#!/bin/sh
# /// script
# [tool.slotsched]
# max_time = "60s"
# ///
echo "$SLOTSCHED_TASK_ID"
"""


@dataclass(frozen=True)
class Look:
    """One program at one moment. fds: without `connections`, those to the store, of which each thread may come to have
    its own. rss: bytes.
    """

    fds: int
    connections: int
    threads: int
    zombies: int
    rss: int

    def __str__(self) -> str:
        counts = f"{self.fds} + {self.connections} fds, {self.threads} threads, {self.zombies} zombies"
        return f"{counts}, {self.rss / (1 << 20):.1f} MiB"


@dataclass(frozen=True)
class Drift:
    """One program while nothing runs: after the first tenth, and at the end."""

    program: str
    before: Look
    after: Look

    @property
    def rss(self) -> float:
        """As a share of what it was."""
        return self.after.rss / self.before.rss - 1

    @property
    def held(self) -> int:
        """Descriptors, threads and zombies more than before; connections more than there are threads."""
        parts = ("fds", "threads", "zombies")
        more = sum(max(0, getattr(self.after, part) - getattr(self.before, part)) for part in parts)
        return more + max(0, self.after.connections - 2 * self.after.threads)

    def __str__(self) -> str:
        return f"{self.program:<9} {self.before}  ->  {self.after}  ({self.rss:+.1%})"


@dataclass(frozen=True)
class Outcome:
    """completed: by the store's account. left: run directories that should be gone."""

    drifts: list[Drift]
    completed: int
    per_second: float
    left: list[str]


class Run:
    """That many tasks through one instance, which is looked at all the while."""

    def __init__(self, made: Fleet, instance: InstanceProcess, tell: Callable[[str], None]) -> None:
        self._fleet = made
        self._instance = instance
        self._tell = tell
        scheduler = psutil.Process(instance.pid)
        spawner = next(child for child in scheduler.children() if child.name() == "slotsched-spawn")
        self._programs = {"scheduler": scheduler, "spawner": spawner}
        self._enqueued = 0
        self._begun = time.monotonic()

    def measure(self, tasks: int) -> Outcome:
        self._until_done(max(1, int(tasks * SETTLED_SHARE)))
        before = self._look()
        begun, already = time.monotonic(), self._enqueued
        self._until_done(tasks)
        per_second = (tasks - already) / (time.monotonic() - begun)
        after = self._look()
        return Outcome(
            [Drift(name, before[name], after[name]) for name in self._programs],
            self._completed(),
            per_second,
            [path.name for path in (self._instance.state_dir / "runs").iterdir()],
        )

    def _until_done(self, tasks: int) -> None:
        """Enqueue until there were so many, and wait until all have ended and nothing runs."""
        next_line = time.monotonic()
        while self._enqueued < tasks or self._open():
            if self._enqueued < tasks and self._open() <= AHEAD - BATCH:
                batch = [{"job": "least"}] * min(BATCH, tasks - self._enqueued)
                self._enqueued += len(self._fleet.client.enqueue_many(batch))
            if time.monotonic() >= next_line:
                self._tell(self._line())
                next_line = time.monotonic() + LINE_SECONDS
            time.sleep(0.2)
        until(self._is_idle, seconds=IDLE_SECONDS, what="an empty spool")

    def _is_idle(self) -> bool:
        """Nothing runs, nothing is to be uploaded."""
        return not list((self._instance.state_dir / "runs").iterdir()) and not self._programs["spawner"].children()

    def _open(self) -> int:
        counts = self._fleet.client.store.tasks.counts()
        return sum(counts.get(status, 0) for status in OPEN)

    def _completed(self) -> int:
        with pymongo.MongoClient(self._fleet.settings["mongodb_uri"]) as client:
            return client[self._fleet.settings["database"]]["tasks"].count_documents({"status": "completed"})

    def _look(self) -> dict[str, Look]:
        """Where pools come and go, what there is in between counts: the least of some looks."""
        looks: dict[str, list[Look]] = {name: [] for name in self._programs}
        for _ in range(LOOKS):
            for name, found in self._now().items():
                looks[name].append(found)
            time.sleep(LOOK_SECONDS)
        return {
            name: Look(*(min(getattr(one, part.name) for one in seen) for part in fields(Look)))
            for name, seen in looks.items()
        }

    def _now(self) -> dict[str, Look]:
        found = {}
        for name, program in self._programs.items():
            zombies = sum(child.status() == psutil.STATUS_ZOMBIE for child in program.children())
            fds, connections = program.num_fds(), len(program.net_connections("tcp"))
            rss = program.memory_info().rss
            found[name] = Look(fds - connections, connections, program.num_threads(), zombies, rss)
        return found

    def _line(self) -> str:
        done = self._enqueued - self._open()
        seconds = time.monotonic() - self._begun
        with suppress(psutil.NoSuchProcess):  # a child that has just ended
            looks = "; ".join(f"{name} {look}" for name, look in self._now().items())
            return f"{done:>7} tasks, {seconds:>5.0f} s: {looks}"
        return f"{done:>7} tasks, {seconds:>5.0f} s"


@contextmanager
def drift_fleet(folder: Path, uri: str) -> Iterator[Fleet]:
    """A fleet whose only job is the cheapest there is."""
    jobs = folder / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "least.sh").write_text(SCRIPT)
    (jobs / "least.sh").chmod(0o755)
    settings = {
        "mongodb_uri": uri,
        "database": f"drift_{secrets.token_hex(4)}",
        "jobs_dir": str(jobs),
        "log_store": str(folder / "logs"),
    }
    with fleet(folder, settings, jobs) as made:
        yield made


def main(words: Sequence[str]) -> int:
    tasks = int(words[0]) if words else TASKS
    with tempfile.TemporaryDirectory(prefix="slotsched-drift-") as folder, ExitStack() as stack:
        mongod = Mongod(Path(folder) / "mongod", tied=True)
        stack.callback(mongod.kill)
        made = stack.enter_context(drift_fleet(Path(folder) / "fleet", mongod.start()))
        instance = made.start("drifting", slots=SLOTS)
        found = Run(made, instance, lambda line: print(line, flush=True)).measure(tasks)
    for drift in found.drifts:
        print(drift)
    print(f"{found.completed} of {tasks} completed, {found.per_second:.1f} attempts/s, {len(found.left)} left in runs/")
    sound = found.completed == tasks and not found.left
    return 0 if sound and all(one.held == 0 and one.rss <= RSS_GOAL for one in found.drifts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
