"""How long a task is expected to run: what backfill plans with. Pure.

Most jobs run far shorter than they may. Planned with max_time for all, backfill finds no gaps and machines just drain
for every wide task; planned with the mean of a few runs, half of the plans are broken. A high quantile of the recent
runs with a margin is the usual middle: see D. Tsafrir, Y. Etsion and D. G. Feitelson, "Backfilling using
system-generated predictions rather than user runtime estimates" (IEEE TPDS 18(6), 2007), for predictions from history
and for keeping the kill limit out of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence

HISTORY_RUNS = 20  # enough for a 0.9 quantile to mean something, few enough to follow a job that changes
QUANTILE = 0.9
MARGIN = 1.2
SHORTEST_SECONDS = 0.1  # of a plan that was outrun: less could be doubled for ever


def planned(runs: Sequence[float], max_time: float) -> float:
    """Seconds a run is planned with: 1.2 x the 0.9 quantile of `runs`, never more than max_time.

    runs: seconds of the job's completed runs, newest first; the first 20 count, in whatever order. None: max_time.
    """
    recent = sorted(runs[:HISTORY_RUNS])
    if not recent:
        return max_time
    return min(max_time, MARGIN * recent[min(len(recent) - 1, int(QUANTILE * len(recent)))])


def replanned(plan: float, elapsed: float, max_time: float) -> float:
    """Seconds a run planned with `plan` is planned with after it has run for `elapsed`: doubled until it is more again.

    Jumping to max_time at the first overrun would promise a waiting wide task a start far away, and let everything
    short pass it meanwhile. (The correction of broken predictions in steps is from the same paper.)
    """
    while plan <= elapsed and plan < max_time:
        plan = max(2 * plan, SHORTEST_SECONDS)
    return min(plan, max_time)


def starts_in(ahead: int, at_once: int, runs: Sequence[float]) -> float | None:
    """Seconds until the turn of a task with `ahead` others of its lane in front of it; None where nothing tells.

    at_once: how many of them the fleet runs beside each other. Those that run now are taken to be half way; what other
    lanes take is not foreseen.
    """
    recent = runs[:HISTORY_RUNS]
    if not recent or at_once < 1:
        return None
    return sum(recent) / len(recent) * (ahead / at_once + 0.5)
