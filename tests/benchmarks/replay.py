"""Three real instances and a real mongod beside the simulator: one stream of tasks, scaled down, in both.

    python tests/benchmarks/replay.py [SECONDS]

One-slot tasks offer more than the machines of 8, 4 and 2 slots have, and tasks as wide as the largest come among them.
A second of the replay stands for 20 of the stream, so the default of 60 stands for 20 minutes. The tasks sleep; what
the machines did is judged by the tasks' own clocks. Printed in seconds of the stream: how well the machines were used
and how long tasks waited, really, in the simulator, and there under the greedy policy. Ends with 1 where the use is
more than 5 % of the machines away from the simulator's, or a wide task did not start that started there.

What the replay cannot scale: starting a process, a poll and the estimates' noise are 20 times as long in its terms.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from fleet import JOBS, Fleet, boottime, fleet
from slot_sim import POLICIES, Report, Simulation, Work, narrow, wide

from slotsched.embedded import Mongod
from slotsched.model import Capacity

SCALE = 20.0  # seconds of the stream in one of the replay
PARK = {"big": 8, "middle": 4, "small": 2}
LOAD = 1.1
SEEDS = range(1, 6)
WARM_UP_RUNS = 20  # of each job before the replay, so that it begins with plans as good as they get
USE_GOAL = 0.05


def stream_of(seconds: int) -> list[Work]:
    """Narrow tasks all the time, and a task as wide as the largest machine each quarter of it but the first."""
    quarter = seconds // 4
    return narrow(seconds, slots=sum(PARK.values()), load=LOAD) + wide(
        3, slots=PARK["big"], first=quarter, every=quarter
    )


def simulate(stream: Sequence[Work], seconds: int, policy: str, seed: int) -> Report:
    machines = [Capacity(slots=slots) for slots in PARK.values()]
    return Simulation(stream, machines, POLICIES[policy], seed=seed).run(seconds)


def line_of(work: Work, slots: int) -> dict[str, object]:
    """The work as a task that sleeps."""
    return {
        "job": work.job,
        "args": {"seconds": work.run / SCALE},
        "max_time": work.limit / SCALE,
        "slots": slots,
    }


def warm_up(machines: Fleet, stream: Sequence[Work]) -> None:
    """Give the jobs their history, on an instance that is gone before the replay."""
    instance = machines.start("warm-up", slots=2 * WARM_UP_RUNS)
    for job in ("narrow", "wide"):
        past = ([work for work in stream if work.job == job] * WARM_UP_RUNS)[:WARM_UP_RUNS]
        handles = machines.client.enqueue_many([line_of(work, 1) for work in past])
        machines.ended(*[handle.id for handle in handles], seconds=120)
    instance.stop()


def replay(machines: Fleet, stream: Sequence[Work], seconds: int) -> Report:
    """Enqueue each task when it is due; what came of it by the witness, in seconds of the stream."""
    for name, slots in PARK.items():
        machines.start(name, slots=slots)
    coming = deque(sorted(stream, key=lambda work: (work.due, work.id)))
    due: dict[str, Work] = {}
    begin = boottime()
    end = begin + seconds / SCALE
    while (now := boottime()) < end:
        ready = []
        while coming and coming[0].due <= (now - begin) * SCALE:
            ready.append(coming.popleft())
        handles = machines.client.enqueue_many([line_of(work, work.needs.slots) for work in ready]) if ready else []
        due |= {handle.id: work for handle, work in zip(handles, ready, strict=True)}
        time.sleep(0.02)
    starts = {mark.task: (mark.at - begin) * SCALE for mark in machines.witness.marks("start")}
    waits = {task: starts.get(task, seconds) - work.due for task, work in due.items()}
    wides = [task for task, work in due.items() if work.job == "wide"]
    return Report(
        use=machines.witness.busy(begin, end) / (sum(PARK.values()) * (end - begin)),
        mean_wait=statistics.fmean(waits.values()),
        wide=len(wides),
        wide_started=sum(task in starts for task in wides),
        wide_mean_wait=statistics.fmean(waits[task] for task in wides),
        wide_longest_wait=max(waits[task] for task in wides),
    )


def really(stream: Sequence[Work], seconds: int) -> Report:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = folder / "jobs"
        jobs.mkdir()
        for job in ("narrow", "wide"):
            shutil.copy(JOBS / "tick.sh", jobs / f"{job}.sh")
        server = Mongod(folder / "mongod", tied=True)
        server.start()
        settings = {
            "mongodb_uri": server.uri,
            "database": "replay",
            "jobs_dir": str(jobs),
            "log_store": str(folder / "logs"),
        }
        try:
            with fleet(folder, settings, jobs) as machines:
                warm_up(machines, stream)
                return replay(machines, stream, seconds)
        finally:
            server.kill()


def main() -> int:
    seconds = int((float(sys.argv[1]) if len(sys.argv) > 1 else 60.0) * SCALE)
    stream = stream_of(seconds)
    print(f"{len(stream)} tasks in {seconds} s; machines {' + '.join(map(str, PARK.values()))}")
    simulated = [simulate(stream, seconds, "choose", seed) for seed in SEEDS]
    print(f"  greedy, simulated {simulate(stream, seconds, 'greedy', SEEDS[0])}")
    for seed, report in zip(SEEDS, simulated, strict=True):
        print(f"  choose, seed {seed}    {report}", flush=True)
    real = really(stream, seconds)
    away = real.use - statistics.fmean(report.use for report in simulated)
    print(f"  choose, real      {real}")
    met = abs(away) <= USE_GOAL and real.wide_started >= min(report.wide_started for report in simulated)
    print(f"  use {away:+.1%} from the simulator's; goal within {USE_GOAL:.0%} and as many wide tasks started: {met}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
