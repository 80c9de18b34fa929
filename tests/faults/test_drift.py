"""F32: many tasks through one instance leave it as it was. A hundred thousand: `tests/benchmarks/bench_drift.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from figures import Figures

from slotsched.embedded import Mongod

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from bench_drift import SLOTS, Run, drift_fleet

FEW = 1_000
FEW_RSS_GOAL = 0.35  # a run this short ends before every cache has filled


@pytest.mark.timeout(170)
def test_a_thousand_tasks_leave_no_descriptor_thread_or_zombie_behind(
    mongod: Mongod, tmp_path: Path, figure: Figures
) -> None:
    with drift_fleet(tmp_path, mongod.uri) as fleet:
        instance = fleet.start("drifting", slots=SLOTS)
        found = Run(fleet, instance, print).measure(FEW)
    assert found.completed == FEW
    assert not found.left
    for drift in found.drifts:
        kept, grown = f"{drift.program}: fds, threads, zombies kept", f"{drift.program}: memory drift"
        figure("F32", f"{kept} by {FEW:,} tasks", drift.held, "", at_most=0)
        figure("F32", f"{grown} over {FEW:,} tasks", drift.rss * 100, "%", at_most=FEW_RSS_GOAL * 100)
    figure("F32", f"attempts a second, of {FEW:,}", found.per_second, "/s")
