"""Simulated machines that share one queue, each deciding for itself: what a claim policy does to wide tasks.

    python tests/benchmarks/slot_sim.py [hours]

prints, for each stream of tasks and each policy, how well the machines were used and how long tasks waited. A policy
has the interface of `slotsched.choose.choose`; beside the product's own there are the two it stands between: `greedy`
(whatever fits) and `in_order` (nobody passes a task that does not fit).

Time goes in steps of one second. A machine looks at the queue when something has changed that could concern it. Plans
come from the product's own estimate of the runs completed so far. Reservations live on the tasks and expire.
"""

from __future__ import annotations

import heapq
import random
import sys
import zlib
from bisect import insort
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[2]))

from slotsched.choose import STEAL_SECONDS, Candidate, Choice, Hold, Running, choose
from slotsched.estimate import HISTORY_RUNS, planned, replanned
from slotsched.model import Capacity, Needs

Policy = Callable[[float, Capacity, Capacity, Sequence[Running], Sequence[Candidate], str], Choice]

FITTING_WINDOW = 100
BLOCKED_WINDOW = 16
LEASE_SECONDS = 30


def without_promise(*, stop: bool) -> Policy:
    """Claim in rank order; at the first task that does not fit, stop or go on."""

    def decide(
        _now: float, free: Capacity, _all: Capacity, _run: Sequence[Running], queue: Sequence[Candidate], _me: str
    ) -> Choice:
        claims = []
        for candidate in queue:
            if free.fits(candidate.needs):
                claims.append(candidate.id)
                free = free.less(candidate.needs)
            elif stop:
                break
        return Choice(claims, None)

    return decide


POLICIES: Mapping[str, Policy] = {
    "greedy": without_promise(stop=False),
    "in_order": without_promise(stop=True),
    "choose": choose,
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """A task of a stream. due, run, limit: seconds; job: whose history its planned run time comes from."""

    id: str
    due: int
    job: str
    needs: Needs
    run: float
    limit: float


class _Run(NamedTuple):
    work: Work
    start: float
    plan: float


@dataclass(kw_only=True)
class Machine:
    name: str
    capacity: Capacity
    free: Capacity
    running: dict[str, _Run] = field(default_factory=dict)
    alive: bool = True
    look: bool = True


@dataclass(frozen=True, kw_only=True)
class Report:
    """use: share of all slot-seconds that were busy. Waits are in seconds, unstarted tasks' counted to the end."""

    use: float
    mean_wait: float
    wide: int
    wide_started: int
    wide_mean_wait: float
    wide_longest_wait: float

    def __str__(self) -> str:
        return (
            f"use {self.use:6.1%}  wait {self.mean_wait:7.0f} s  wide started {self.wide_started:3d}/{self.wide:<3d}"
            f" wait mean {self.wide_mean_wait:7.0f} s longest {self.wide_longest_wait:7.0f} s"
        )


class Simulation:
    """One stream on some machines under one policy.

    crash_after: from this second on, the first machine seen to hold a reservation dies, once and for good.
    """

    def __init__(
        self,
        stream: Sequence[Work],
        slots: Sequence[Capacity],
        policy: Policy,
        *,
        seed: int = 1,
        crash_after: int | None = None,
    ) -> None:
        self._policy = policy
        self._random = random.Random(seed)
        self._machines = [
            Machine(name=f"machine-{n}", capacity=capacity, free=capacity) for n, capacity in enumerate(slots)
        ]
        self._crash_after = crash_after
        self._work = {work.id: work for work in stream}
        self._coming = deque(sorted(stream, key=lambda work: (work.due, work.id)))
        self._queue: list[tuple[int, str]] = []  # (due, id): pending tasks in rank order
        self._ends: list[tuple[float, str, Machine]] = []
        self._holds: dict[str, tuple[str, float, float]] = {}  # task id -> machine's name, promised start, expiry
        self._history: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=HISTORY_RUNS))
        self.started: dict[str, float] = {}
        self._busy = self._there = 0  # slot-seconds

    def run(self, until: int) -> Report:
        for now in range(until):
            self._crash_holder(now)
            self._expire_holds(now)
            self._end_tasks(now)
            self._let_in(now)
            for machine in self._random.sample(self._machines, len(self._machines)):
                if machine.alive and machine.look:
                    machine.look = False
                    self._decide(machine, now)
            self._count()
        return self._report(until)

    # --- what happens by itself ----------------------------------------------------------------------

    def _crash_holder(self, now: int) -> None:
        if self._crash_after is None or now < self._crash_after or not self._holds:
            return
        self._crash_after = None
        holder, _, _ = next(iter(self._holds.values()))
        machine = self._named(holder)
        machine.alive = False

    def _expire_holds(self, now: int) -> None:
        for task, (holder, _, until) in list(self._holds.items()):
            if until <= now and not self._named(holder).alive:  # a live holder renews in time
                del self._holds[task]
                self._wake()

    def _end_tasks(self, now: int) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, task, machine = heapq.heappop(self._ends)
            if machine.alive:
                work = self._work[task]
                del machine.running[task]
                machine.free = _given_back(machine)
                machine.look = True
                self._history[work.job].append(min(work.run, work.limit))

    def _let_in(self, now: int) -> None:
        while self._coming and self._coming[0].due <= now:
            work = self._coming.popleft()
            insort(self._queue, (work.due, work.id))
            self._wake()

    def _named(self, name: str) -> Machine:
        return next(machine for machine in self._machines if machine.name == name)

    def _wake(self, but: Machine | None = None) -> None:
        for machine in self._machines:
            if machine is not but:
                machine.look = True

    # --- what machines decide ------------------------------------------------------------------------

    def _decide(self, machine: Machine, now: int) -> None:
        candidates = list(self._candidates(machine, now))
        running = [_plan_rest(run, now) for run in machine.running.values()]
        choice = self._policy(now, machine.free, machine.capacity, running, candidates, machine.name)
        for task in choice.claims:
            self._start(machine, self._work[task], now)
        self._reserve(machine, choice.reserve, now)

    def _candidates(self, machine: Machine, now: int) -> Iterator[Candidate]:
        fitting, blocked = FITTING_WINDOW, BLOCKED_WINDOW
        for _, task in self._queue:
            work = self._work[task]
            if machine.free.fits(work.needs):
                fitting -= 1
                if fitting < 0:
                    continue
            elif machine.capacity.fits(work.needs):
                blocked -= 1
                if blocked < 0:
                    continue
            else:
                continue
            holder, start, _ = self._holds.get(task, (None, None, None))
            yield Candidate(task, work.needs, self._plan(work), work.limit, work.due, holder, start)
            if blocked <= 0 and (fitting <= 0 or machine.free.slots <= 0):
                return

    def _plan(self, work: Work) -> float:
        return planned(list(self._history[work.job]), work.limit)

    def _start(self, machine: Machine, work: Work, now: int) -> None:
        assert machine.free.fits(work.needs), f"{work.id} does not fit {machine.name}"
        self._queue.remove((work.due, work.id))
        self.started[work.id] = now
        machine.free = machine.free.less(work.needs)
        machine.running[work.id] = _Run(work, now, self._plan(work))
        heapq.heappush(self._ends, (now + min(work.run, work.limit), work.id, machine))
        if self._holds.pop(work.id, None) is not None or work.needs.slots > 1:
            self._wake(but=machine)  # whoever kept or wanted to keep room for it need not any more

    def _reserve(self, machine: Machine, hold: Hold | None, now: int) -> None:
        for task, (holder, _, _) in list(self._holds.items()):
            if holder == machine.name and (hold is None or hold.id != task):
                del self._holds[task]
                self._wake(but=machine)
        if hold is None:
            return
        holder, start, _ = self._holds.get(hold.id, (machine.name, hold.start, 0.0))
        if holder == machine.name or start > hold.start + STEAL_SECONDS:
            if holder != machine.name:
                self._wake(but=machine)
            self._holds[hold.id] = (machine.name, hold.start, now + LEASE_SECONDS)

    # --- what came of it -----------------------------------------------------------------------------

    def _count(self) -> None:
        for machine in self._machines:
            if machine.alive:
                self._there += machine.capacity.slots
                self._busy += machine.capacity.slots - machine.free.slots

    def _report(self, until: int) -> Report:
        widest = max(machine.capacity.slots for machine in self._machines)
        due = [work for work in self._work.values() if work.due < until]
        waits = {work.id: self.started.get(work.id, until) - work.due for work in due}
        wide = [work.id for work in due if work.needs.slots * 2 > widest]
        return Report(
            use=self._busy / self._there,
            mean_wait=sum(waits.values()) / len(waits),
            wide=len(wide),
            wide_started=sum(task in self.started for task in wide),
            wide_mean_wait=sum(waits[task] for task in wide) / max(1, len(wide)),
            wide_longest_wait=max((waits[task] for task in wide), default=0.0),
        )


def _plan_rest(run: _Run, now: float) -> Running:
    plan = replanned(run.plan, now - run.start, run.work.limit)
    return Running(run.work.needs, run.start + plan, run.start + run.work.limit)


def _given_back(machine: Machine) -> Capacity:
    free = machine.capacity
    for run in machine.running.values():
        free = free.less(run.work.needs)
    return free


# --- streams -----------------------------------------------------------------------------------------


def narrow(seconds: int, *, slots: int, load: float, seed: int = 11) -> list[Work]:
    """One-slot tasks of 20 to 60 s that come for `seconds` and offer `load` of `slots`."""
    source = random.Random(seed)
    one = Needs(slots=1)
    lengths = (source.uniform(20, 60) for _ in iter(int, 1))
    return _arrivals(source, seconds, load * slots / 40, "n", lambda: ("narrow", one, next(lengths), 90.0))


def uneven(seconds: int, *, slots: int, load: float, limit: float = 3600.0, seed: int = 12) -> list[Work]:
    """Tasks of 1, 2 or 4 slots from eight jobs with heavy-tailed runs, all with the same limit: only history tells."""
    source = random.Random(seed)
    widths = [Needs(slots=1), Needs(slots=1), Needs(slots=2), Needs(slots=4)]
    typical = [15.0 * 1.8**job for job in range(8)]

    def one() -> tuple[str, Needs, float, float]:
        job = source.randrange(8)
        run = min(limit, typical[job] * source.lognormvariate(0, 0.7))
        return f"uneven-{job}", source.choice(widths), run, limit

    mean_slots = sum(needs.slots for needs in widths) / len(widths)
    mean_run = sum(typical) / len(typical) * 1.28  # the mean of the lognormal factor
    return _arrivals(source, seconds, load * slots / (mean_slots * mean_run), "u", one)


def wide(count: int, *, slots: int, first: int, every: int, run: float = 120.0) -> list[Work]:
    """`count` tasks that need `slots` slots, one each `every` seconds (0: all at once)."""
    needs = Needs(slots=slots)
    return [
        Work(id=f"wide-{n}", due=first + n * every, job="wide", needs=needs, run=run, limit=3 * run)
        for n in range(count)
    ]


def hungry(seconds: int, *, memory: int, load: float, seed: int = 13) -> list[Work]:
    """One-slot tasks that hold an eighth of `memory` bytes for 20 to 60 s."""
    source = random.Random(seed)
    needs = Needs(slots=1, memory=memory // 8)
    return _arrivals(source, seconds, load * 8 / 40, "h", lambda: ("hungry", needs, source.uniform(20, 60), 90.0))


def _arrivals(
    source: random.Random, seconds: int, rate: float, prefix: str, make: Callable[[], tuple[str, Needs, float, float]]
) -> list[Work]:
    out: list[Work] = []
    due = source.expovariate(rate)
    while due < seconds:
        job, needs, run, limit = make()
        out.append(Work(id=f"{prefix}{len(out):06d}", due=int(due), job=job, needs=needs, run=run, limit=limit))
        due += source.expovariate(rate)
    return out


@dataclass(frozen=True, kw_only=True)
class Scenario:
    title: str
    stream: Sequence[Work]
    slots: Sequence[Capacity]
    crash_after: int | None = None


def scenarios(seconds: int) -> list[Scenario]:
    """What the benchmark runs for `seconds` simulated seconds."""
    three, two = _park(16, 8, 4), _park(12, 12)
    six = _park(16, 16, 8, 8, 4, 4)
    gigabyte = 1 << 30
    memory = [Capacity(slots=16, memory=8 * gigabyte), Capacity(slots=4, memory=2 * gigabyte)]
    feast = Work(
        id="wide-memory", due=300, job="wide", needs=Needs(slots=9, memory=8 * gigabyte), run=120.0, limit=360.0
    )
    return [
        Scenario(
            title="narrow stream, one 16-wide task; machines 16 + 8 + 4",
            stream=narrow(seconds, slots=28, load=1.1) + wide(1, slots=16, first=300, every=0),
            slots=three,
        ),
        Scenario(
            title="uneven runs, a 12-wide task every 20 min; machines 12 + 12",
            stream=uneven(seconds, slots=24, load=1.0) + wide(seconds // 1200, slots=12, first=300, every=1200),
            slots=two,
        ),
        Scenario(
            title="uneven runs, five 16-wide tasks at once; machines 16 + 16 + 8 + 8 + 4 + 4",
            stream=uneven(seconds, slots=56, load=1.0) + wide(5, slots=16, first=seconds // 4, every=0),
            slots=six,
        ),
        Scenario(
            title="narrow stream, one 12-wide task, who reserves for it (only choose does) dies; machines 12 + 12",
            stream=narrow(seconds, slots=24, load=1.05) + wide(1, slots=12, first=300, every=0),
            slots=two,
            crash_after=300,
        ),
        Scenario(
            title="a stream that needs memory, one task that needs all of a machine's; machines 8 GiB + 2 GiB",
            stream=[*hungry(seconds, memory=8 * gigabyte, load=1.4), feast],
            slots=memory,
        ),
    ]


def _park(*slots: int) -> list[Capacity]:
    return [Capacity(slots=count) for count in slots]


def _offered(scenario: Scenario, seconds: int) -> float:
    asked = sum(work.needs.slots * work.run for work in scenario.stream)
    return asked / (seconds * sum(capacity.slots for capacity in scenario.slots))


def main() -> None:
    hours = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    seconds = int(hours * 3600)
    for scenario in scenarios(seconds):
        print(f"{scenario.title} (offered {_offered(scenario, seconds):.0%})")
        for name, policy in POLICIES.items():
            seed = zlib.crc32(scenario.title.encode())
            report = Simulation(
                scenario.stream, scenario.slots, policy, seed=seed, crash_after=scenario.crash_after
            ).run(seconds)
            print(f"  {name:9s} {report}", flush=True)


if __name__ == "__main__":
    main()
