"""The chaos run: a fleet at work while schedulers, whole machines and the store's primary are killed all the time.

    python tests/faults/chaos.py [--tasks 10000] [--seconds 900] [--seed 1] [--instances 4]

On average every 2 s one scheduler gets SIGKILL and is started again at once, every 30 s one machine loses everything
that runs on it and is started again, every 10 s the primary of the three-node replica set gets SIGKILL and comes back a
few seconds later. Faults go on until nearly all tasks have ended. Then everything has to end within a minute, and the
independent checker judges what the tasks wrote, what was seen in /proc and what is in the log store. Prints a report;
exits 1 when anything was lost, doubled, overcommitted, missing in a log, or has not ended.
"""

from __future__ import annotations

import argparse
import random
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from checker import Verdict, gather, judge
from fault_lab import leftovers, let_them_say, make_jobs, power_cut
from fleet import Fleet, InstanceProcess, boottime
from proc_sampler import ProcSampler
from replica_set import Member, ReplicaSet

from slotsched.errors import StoreError
from slotsched.model import OPEN, Overlap, Schedule, Status

LEASE_SECONDS = 10.0
GRACE_SECONDS = 2.0
ELECTION_SECONDS = 2.0
SCHEDULER_EVERY = 2.0
MACHINE_EVERY = 30.0
PRIMARY_EVERY = 10.0
PRIMARY_AWAY = 3.0  # until the killed member is started again
CALM_SHARE = 0.02  # of the tasks may still be open when the faults stop
END_SECONDS = 60.0  # after the last fault, by then everything has ended
BATCH = 100
MOST_OPEN = 300  # of the tasks are in the queue at once: more than can run, and soon done once it is calm
SLOTS = (16, 12, 8, 6)
RETRY = ('retry_delay = "1s"', 'retry_backoff = "fixed"', 'retry_on = ["lost", "exit", "signal"]')
JOBS = {
    "plain": (),
    "again": ("retries = 4", *RETRY),
    "wide": ("slots = 3", "retries = 2", *RETRY),
    "limited": ("concurrency = 3", "retries = 2", *RETRY),
}
SHARES = (("plain", 60), ("again", 25), ("wide", 8), ("limited", 7))


@dataclass
class Report:
    """What happened, and the verdict."""

    verdict: Verdict
    faults: Counter[str]
    statuses: Counter[str]
    seconds: float
    ended_after: float
    left: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return self.verdict.violations == 0 and self.ended_after <= END_SECONDS and not self.left

    def __str__(self) -> str:
        faults = ", ".join(f"{count} x {what}" for what, count in sorted(self.faults.items()))
        statuses = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        lines = [
            f"faults: {faults}, in {self.seconds:.0f} s",
            f"tasks: {statuses}",
            f"all ended {self.ended_after:.1f} s after the last fault (at most {END_SECONDS:.0f})",
            self.verdict.report(),
            *(f"left over: {one}" for one in self.left),
        ]
        return "\n".join(lines)


class Chaos:
    """One run against a fleet; `machine` names are those of its instances, with their slots."""

    def __init__(self, fleet: Fleet, replica_set: ReplicaSet | None, *, tasks: int, instances: int, seed: int) -> None:
        self._fleet = fleet
        self._set = replica_set
        self._tasks = tasks
        self._random = random.Random(seed)  # of the faults
        self._wishes = random.Random(seed)  # of the tasks, which another thread makes
        self._slots = {f"machine-{n}": SLOTS[n % len(SLOTS)] for n in range(instances)}
        self._running: dict[str, InstanceProcess] = {}
        self._acknowledged: list[str] = []
        self._enqueued = threading.Event()
        self._stopping = threading.Event()
        self._away: tuple[float, Member] | None = None
        self.faults: Counter[str] = Counter()

    # --- the run ------------------------------------------------------------------------------------

    def run(self, seconds: float, tell: Callable[[str], None]) -> Report:
        """At most `seconds` of faults. tell: is given a line of progress every few seconds."""
        let_them_say(self._fleet)
        begun = boottime()
        with ProcSampler(self._fleet.witness.path) as sampler:
            for name in self._slots:
                self._start(name)
            enqueuer = threading.Thread(target=self._enqueue, name="enqueue", daemon=True)
            enqueuer.start()
            try:
                self._faults(begun + seconds, tell)
            finally:
                self._stopping.set()
                enqueuer.join(60)
            ended_after = self._wait_ended(tell)
            left = self._wait_clean()
        evidence = gather(self._fleet, self._acknowledged, sampler.sightings, self._slots)
        statuses = Counter(f"{task.status} ({task.reason})" for task in evidence.tasks.values())
        return Report(judge(evidence), self.faults, statuses, boottime() - begun, ended_after, left)

    def _start(self, name: str) -> None:
        self._running[name] = self._fleet.start(name, slots=self._slots[name], wait=False)

    # --- work ---------------------------------------------------------------------------------------

    def _enqueue(self) -> None:
        """All tasks, in batches through the whole first part of the run; each is acknowledged, whatever it takes."""
        left = [self._item(number) for number in range(self._tasks)]
        self._series()
        while left and not self._stopping.is_set():
            with suppress(StoreError):  # the same again: their keys make it one task each
                self._acknowledged += [handle.id for handle in self._fleet.client.enqueue_many(left[:BATCH])]
                del left[:BATCH]
                while self._open() > MOST_OPEN and not self._stopping.wait(0.5):
                    pass
        self._enqueued.set()

    def _item(self, number: int) -> dict[str, Any]:
        [job] = self._wishes.choices([name for name, _ in SHARES], [share for _, share in SHARES])
        args = {"lines": self._wishes.randint(1, 20), "pause": self._wishes.choice([0.0, 0.02, 0.05, 0.1, 0.3])}
        item: dict[str, Any] = {"job": job, "args": args, "key": f"chaos-{number}"}
        if job == "again":
            item["slots"] = self._wishes.randint(1, 3)
        if self._wishes.random() < 0.1:
            item["in"] = round(self._wishes.uniform(0.1, 5.0), 2)
        return item

    def _series(self) -> None:
        """A schedule that fires all the time: its rounds are tasks like all others."""
        every = Schedule(name="every-second", job="plain", every=1.0, overlap=Overlap.ALLOW_ALL, args={"lines": 2})
        while not self._stopping.is_set():
            with suppress(StoreError):
                self._fleet.client.store.schedules.create(every)
                return

    def _open(self) -> int:
        counts = self._fleet.client.store.tasks.counts()
        return sum(counts.get(status, 0) for status in OPEN)

    def _done(self) -> bool:
        return self._enqueued.is_set() and self._open() <= CALM_SHARE * self._tasks

    # --- faults -------------------------------------------------------------------------------------

    def _faults(self, deadline: float, tell: Callable[[str], None]) -> None:
        begun = boottime()
        plan: list[tuple[float, float, Callable[[], None]]] = [
            (begun + every * self._random.uniform(0.3, 1.0), every, fault)
            for every, fault in (
                (SCHEDULER_EVERY, self._kill_scheduler),
                (MACHINE_EVERY, self._cut_power),
                (PRIMARY_EVERY, self._kill_primary),
                (PRIMARY_EVERY, self._progress(tell)),
            )
        ]
        while boottime() < deadline:
            plan.sort(key=lambda entry: entry[0])
            at, every, fault = plan.pop(0)
            time.sleep(max(0.0, at - boottime()))
            fault()
            self._bring_back()
            # At random, so that one kind of fault does not always come in the wake of another.
            plan.append((max(at + every * self._random.uniform(0.5, 1.5), boottime()), every, fault))
            with suppress(StoreError):
                if self._done():
                    break
        self._calm()

    def _kill_scheduler(self) -> None:
        name = self._random.choice(list(self._slots))
        self._running[name].process.kill()
        self._running[name].process.wait(10)
        self._start(name)
        self.faults["kill -9 of a scheduler"] += 1

    def _cut_power(self) -> None:
        """Of the machine that has most to lose."""
        name = max(self._running, key=lambda name: len(list((self._running[name].state_dir / "runs").iterdir())))
        power_cut(self._running[name])
        self._start(name)
        self.faults["power cut of a machine"] += 1

    def _kill_primary(self) -> None:
        if self._set is None or self._away is not None:
            return
        primary = self._set.find_primary()
        if primary is not None:
            primary.kill()
            self._away = boottime() + PRIMARY_AWAY, primary
            self.faults["kill -9 of the primary"] += 1

    def _bring_back(self) -> None:
        if self._away is not None and boottime() >= self._away[0]:
            self._away[1].restart(wait=False)
            self._away = None

    def _calm(self) -> None:
        """No more faults: the series ends, the store is whole."""
        if self._set is not None:
            self._set.heal()
            self._away = None
        while True:
            with suppress(StoreError):
                self._fleet.client.schedules.pause("every-second")
                return

    # --- the end ------------------------------------------------------------------------------------

    def _wait_ended(self, tell: Callable[[str], None]) -> float:
        """Seconds until nothing was open any more."""
        calm = boottime()
        while boottime() - calm < 2 * END_SECONDS:
            with suppress(StoreError):
                left = self._open()
                if not left:
                    break
                tell(f"{left} tasks are still open")
            time.sleep(0.5)
        return boottime() - calm

    def _wait_clean(self) -> list[str]:
        left = leftovers(self._fleet, self._slots)
        deadline = boottime() + END_SECONDS
        while left and boottime() < deadline:
            time.sleep(0.5)
            left = leftovers(self._fleet, self._slots)
        for name, instance in self._running.items():
            if instance.process.poll() is not None:
                left.append(f"{name} ended by itself: {instance.output.read_text(errors='replace')[-2000:]}")
        return left

    def _progress(self, tell: Callable[[str], None]) -> Callable[[], None]:
        begun = boottime()

        def line() -> None:
            with suppress(StoreError):
                counts = self._fleet.client.store.tasks.counts()
                done = sum(count for status, count in counts.items() if status not in OPEN)
                running = counts.get(Status.RUNNING, 0)
                bar = "#" * min(20, 20 * done // self._tasks)
                so_far = f"{done:>6} of {self._tasks} tasks, {running} running"
                tell(f"[{bar:<20}] {so_far}, {self.faults.total()} faults, {boottime() - begun:.0f} s")

        return line


@contextmanager
def chaos_fleet(folder: Path, uri: str) -> Iterator[Fleet]:
    """A fleet of its own database and log folder."""
    made = Fleet(
        folder,
        {
            "mongodb_uri": uri,
            "database": f"chaos_{secrets.token_hex(4)}",
            "jobs_dir": str(make_jobs(folder / "jobs", JOBS)),
            "log_store": str(folder / "logs"),
            "lease": f"{LEASE_SECONDS}s",
            "grace": f"{GRACE_SECONDS}s",
        },
        folder / "jobs",
    )
    try:
        yield made
    finally:
        made.clean_up()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=1800.0, help="of faults, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--single", action="store_true", help="one mongod that is never killed, instead of three")
    asked = parser.parse_args(words)
    print(f"seed {asked.seed}: {asked.tasks} tasks, {asked.instances} instances", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="slotsched-chaos-"))
    with ExitStack() as stack:
        replica_set = stack.enter_context(ReplicaSet(folder / "set", election_seconds=ELECTION_SECONDS))
        fleet = stack.enter_context(chaos_fleet(folder, replica_set.uri))
        run = Chaos(
            fleet,
            None if asked.single else replica_set,
            tasks=asked.tasks,
            instances=asked.instances,
            seed=asked.seed,
        )
        report = run.run(asked.seconds, lambda line: print(line, flush=True))
    print(report)
    if report.sound:
        shutil.rmtree(folder)
    else:
        print(f"what there is to look at is in {folder}")
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
