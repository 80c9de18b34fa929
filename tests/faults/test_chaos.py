"""The chaos run: a tenth of it by default, the whole of it with `-m chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import END_SECONDS, Chaos, Report, chaos_fleet
from figures import Figures
from replica_set import ReplicaSet

TASKS = 10_000
SEEDS = (1, 2, 3)


def figures_of(report: Report, figure: Figures, label: str) -> None:
    what = f"{label}: {report.statuses.total():,} tasks, {report.faults.total()} faults"
    for kind, found in report.verdict.kinds().items():
        figure("chaos", f"{what}: {kind}", len(found), "", exactly=0)
    figure("chaos", f"{what}: all ended after the last fault", report.ended_after, at_most=END_SECONDS)


def run(replica_set: ReplicaSet, folder: Path, *, tasks: int, seconds: float, seed: int) -> Report:
    with chaos_fleet(folder, replica_set.uri) as fleet:
        report = Chaos(fleet, replica_set, tasks=tasks, instances=4, seed=seed).run(seconds, print)
    print(report)
    return report


@pytest.mark.timeout(360)
def test_a_tenth_of_the_chaos_run_loses_doubles_and_overcommits_nothing(
    replica_set: ReplicaSet, tmp_path: Path, figure: Figures
) -> None:
    report = run(replica_set, tmp_path, tasks=TASKS // 10, seconds=60, seed=1)
    figures_of(report, figure, "a tenth")
    assert report.faults["kill -9 of a scheduler"] > 10
    assert report.faults["power cut of a machine"] > 0
    assert report.faults["kill -9 of the primary"] > 2
    assert not report.left, report


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_chaos_run_loses_doubles_and_overcommits_nothing(
    replica_set: ReplicaSet, tmp_path: Path, figure: Figures, seed: int
) -> None:
    report = run(replica_set, tmp_path, tasks=TASKS, seconds=2400, seed=seed)
    figures_of(report, figure, f"seed {seed}")
    assert not report.left, report
