"""Random streams of many characters on random machines: `choose` beside greedy claiming and plain EASY.

    python tests/benchmarks/slot_traces.py [COUNT [HOURS [SEED]]]

Plain EASY is what a single machine's batch system does, on each machine by itself: first come, first served, and
behind the first task that does not fit whatever does not delay it, in order; nobody knows what others keep room for.
One stream proves little: a task of an hour that a plan of minutes lets in decides over a whole run. So the goals are
for all of them together: machines as busy as with it, within 2 points, and wide tasks that wait no longer, within a
tenth; and for each that no wide task waits twice as long as with it, a task's length to spare. Ends with 1 where one is
missed.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from slot_sim import POLICIES, Policy, Report, Simulation, Work

from slotsched.choose import Candidate, Choice, Running, choose
from slotsched.model import Capacity, Needs

LONGEST_RUN_SECONDS = 3600.0
USE_GOAL = 0.02
WAIT_GOAL = 0.1
SIZES = (2, 4, 6, 8, 12, 16, 24, 32)


def plain_easy(
    now: float, free: Capacity, _all: Capacity, running: Sequence[Running], queue: Sequence[Candidate], _me: str
) -> Choice:
    """Written for slots alone, and without a line of the product's own."""
    left, claims = free.slots, []
    ends = [(task.planned_end if task.planned_end > now else task.kill_at, task.needs.slots) for task in running]
    shadow, extra = float("inf"), 0
    for candidate in queue:
        slots = candidate.needs.slots
        if shadow < float("inf"):
            fits_beside = slots <= extra
            if slots > left or not (fits_beside or now + candidate.planned <= shadow):
                continue
            extra -= slots if now + candidate.planned > shadow else 0
        elif slots > left:
            there = left
            for end, back in sorted(ends):
                there += back
                if there >= slots:
                    shadow, extra = max(end, now + 1), there - slots
                    break
            continue
        claims.append(candidate.id)
        ends.append((now + candidate.planned, slots))
        left -= slots
    return Choice(claims, None)


CONTENDERS: dict[str, Policy] = {"greedy": POLICIES["greedy"], "easy": plain_easy, "choose": choose}


# --- streams ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    title: str
    machines: Sequence[int]
    stream: Sequence[Work]


def trace_of(number: int, seconds: int, seed: int) -> Trace:
    """One of endlessly many: each choice is made by chance, but every character comes in turn."""
    source = random.Random(seed * 1000 + number)
    machines = sorted(source.choices(SIZES, k=1 + number % 5), reverse=True)
    arrive = (_steady, _bursty, _on_and_off)[number % 3]
    lengths_name = sorted(_LENGTHS)[number % len(_LENGTHS)]
    widths_name = sorted(_WIDTHS)[(number // 2) % len(_WIDTHS)]
    limits_name = sorted(_LIMITS)[(number // 3) % len(_LIMITS)]
    load = source.uniform(0.75, 1.1)
    length, width = _LENGTHS[lengths_name](source), _WIDTHS[widths_name](source, machines[0])
    limit = _LIMITS[limits_name](source)
    works: list[Work] = []
    asked, wanted = 0.0, load * sum(machines) * seconds
    while asked < wanted:
        job, run = length(asked / wanted)
        slots = width()
        works.append(
            Work(id=f"t{len(works):06d}", due=0, job=job, needs=Needs(slots=slots), run=run, limit=max(run, limit(run)))
        )
        asked += slots * run
    source.shuffle(works)
    due = sorted(arrive(source, len(works), seconds))
    stream = [
        Work(id=one.id, due=int(at), job=one.job, needs=one.needs, run=one.run, limit=one.limit)
        for one, at in zip(works, due, strict=True)
    ]
    title = f"{arrive.__name__[1:]}, {lengths_name}, {widths_name}, {limits_name}, load {load:.2f}"
    return Trace(title, machines, stream)


def _steady(source: random.Random, count: int, seconds: int) -> list[float]:
    return [source.uniform(0, seconds) for _ in range(count)]


def _bursty(source: random.Random, count: int, seconds: int) -> list[float]:
    """Forty tasks at a time."""
    bursts = [source.uniform(0, seconds) for _ in range(max(1, count // 40))]
    return [source.choice(bursts) for _ in range(count)]


def _on_and_off(source: random.Random, count: int, seconds: int) -> list[float]:
    """Twice the load in every other half hour, nothing between."""
    on = [source.uniform(0, seconds / 2) for _ in range(count)]
    return [at + 1800 * (at // 1800) for at in on]


_Lengths = Callable[[float], tuple[str, float]]


def _alike(source: random.Random) -> _Lengths:
    return lambda _share: ("alike", source.uniform(20, 90))


def _heavy_tailed(source: random.Random) -> _Lengths:
    return lambda _share: ("tailed", min(LONGEST_RUN_SECONDS, max(2.0, source.lognormvariate(3.6, 1.4))))


def _two_jobs_that_change(source: random.Random) -> _Lengths:
    """Half way through the short one takes as long as the long one did, and the other way round."""

    def length(share: float) -> tuple[str, float]:
        job = source.randrange(2)
        short = (job == 0) == (share < 0.5)
        return f"changing-{job}", source.uniform(10, 30) if short else source.uniform(300, 600)

    return length


def _many_jobs(source: random.Random) -> _Lengths:
    typical = [8.0 * 1.7**job for job in range(10)]

    def length(_share: float) -> tuple[str, float]:
        job = source.randrange(10)
        return f"many-{job}", min(LONGEST_RUN_SECONDS, typical[job] * source.lognormvariate(0, 0.5))

    return length


_LENGTHS: dict[str, Callable[[random.Random], _Lengths]] = {
    "runs alike": _alike,
    "heavy tail": _heavy_tailed,
    "two jobs that change": _two_jobs_that_change,
    "ten jobs": _many_jobs,
}
_WIDTHS: dict[str, Callable[[random.Random, int], Callable[[], int]]] = {
    "1 in 60 as wide as the largest": lambda source, most: lambda: most if source.random() < 1 / 60 else 1,
    "widths 1 to largest": lambda source, most: lambda: min(most, 1 + int(source.expovariate(4 / most))),
    "powers of two": lambda source, most: lambda: min(most, 2 ** source.randrange(6)),
}
_LIMITS: dict[str, Callable[[random.Random], Callable[[float], float]]] = {
    "one limit for all": lambda _source: lambda _run: LONGEST_RUN_SECONDS,
    "limits up to tenfold": lambda source: lambda run: run * source.uniform(1, 10),
    "exact limits": lambda _source: lambda run: run,
}


# --- the comparison -----------------------------------------------------------------------------------


def compare(trace: Trace, seconds: int) -> dict[str, Report]:
    machines = [Capacity(slots=slots) for slots in trace.machines]
    return {name: Simulation(trace.stream, machines, policy).run(seconds) for name, policy in CONTENDERS.items()}


def starved(reports: dict[str, Report], trace: Trace) -> bool:
    longest = max(min(work.run, work.limit) for work in trace.stream)
    return reports["choose"].wide_longest_wait > 2 * reports["easy"].wide_longest_wait + longest


def verdict(all_reports: Sequence[dict[str, Report]]) -> bool:
    """Print what `choose` did compared with plain EASY, over all streams; whether the goals are met."""
    use = fmean(reports["choose"].use - reports["easy"].use for reports in all_reports)
    waits = [fmean(reports[name].wide_mean_wait for reports in all_reports) for name in ("choose", "easy")]
    print(f"{len(all_reports)} streams: use {use:+.1%} of plain EASY's, wide tasks wait {waits[0] / waits[1] - 1:+.0%}")
    return use >= -USE_GOAL and waits[0] <= (1 + WAIT_GOAL) * waits[1]


def main() -> int:
    numbers = [float(word) for word in sys.argv[1:]]
    count, hours, seed = [*numbers, *(20, 4, 1)[len(numbers) :]]
    seconds, bad = int(hours * 3600), 0
    all_reports = []
    for number in range(int(count)):
        trace = trace_of(number, seconds, int(seed))
        reports = compare(trace, seconds)
        all_reports.append(reports)
        print(f"{'+'.join(map(str, trace.machines))}: {trace.title} ({len(trace.stream)} tasks)")
        for name, report in reports.items():
            print(f"  {name:7s} {report}", flush=True)
        if starved(reports, trace):
            bad += 1
            print("  !! a wide task waited too long")
    met = verdict(all_reports) and not bad
    print(f"goals met: {met}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
