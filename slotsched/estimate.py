"""How long a task is expected to run, and when expectations are no longer good enough. Pure.

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
HARD_AFTER_SECONDS = 86400.0  # a day: by then plans have failed this task often enough
HARD_AFTER_LIMITS = 2.0  # a task that may run for most of a day has not waited long after one


def planned(runs: Sequence[float], max_time: float) -> float:
    """Seconds a run is planned with: 1.2 x the 0.9 quantile of `runs`, never more than max_time.

    runs: seconds of the job's completed runs, newest first; the first 20 count, in whatever order. None: max_time.
    """
    recent = sorted(runs[:HISTORY_RUNS])
    if not recent:
        return max_time
    return min(max_time, MARGIN * recent[min(len(recent) - 1, int(QUANTILE * len(recent)))])


def is_hard(waited: float, max_time: float, hard_after: float = HARD_AFTER_SECONDS) -> bool:
    """Whether a task due `waited` seconds ago is owed a start that broken plans cannot delay (hard limits only).

    That start costs a drained machine, so it is for those who waited long in absolute terms and for their own length.
    """
    return waited >= max(hard_after, HARD_AFTER_LIMITS * max_time)
