"""How long a run is planned to take, from how long its job's last completed runs took."""

from __future__ import annotations

from collections.abc import Sequence


def planned(runs: Sequence[float], max_time: float) -> float:
    """min(max_time, 1.2 * p90 of the runs); max_time without history. Seconds."""
    if not runs:
        return max_time
    ordered = sorted(runs)
    return min(max_time, 1.2 * ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))])
