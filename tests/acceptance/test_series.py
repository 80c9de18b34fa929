"""Series on a real instance: declared in job files, one run told of the one before, one series after another."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, FleetMaker, until

from slotsched.model import Schedule, ScheduleStatus, Status, Task
from slotsched.store import Store, connect

PERIOD = dt.timedelta(seconds=2)

TICK = """# /// script
# [tool.slotsched]
# every = "2s"
# env = { FAIL = "%s" }
# ///
import os
from pathlib import Path

from slotsched import task


def main():
    before = task.state()
    task.state({"run": 1 if before is None else before["run"] + 1})
    if Path(os.environ["FAIL"]).exists():
        raise RuntimeError("as told")
    return {"before": before, "last": os.environ["SLOTSCHED_TASK_LAST_COMPLETED_AT"]}
"""

FOLLOW = """# /// script
# [tool.slotsched]
# after = "tick"
# ///
def main():
    return 1
"""


@pytest.fixture
def ticking(make_fleet: FleetMaker, tmp_path: Path) -> Iterator[tuple[Fleet, Store, Path]]:
    """An instance, its store, and the file whose presence makes `tick` fail."""
    jobs, fail = tmp_path / "jobs", tmp_path / "fail"
    jobs.mkdir()
    (jobs / "tick.py").write_text(TICK % fail)
    (jobs / "follow.py").write_text(FOLLOW)
    with make_fleet(jobs=jobs) as fleet:
        store = connect(fleet.settings["mongodb_uri"], fleet.settings["database"])
        fleet.start("one", slots=4)
        yield fleet, store, fail
        store.close()


def ended(store: Store, name: str, count: int) -> list[Task]:
    """The first `count` tasks of the series, once so many have ended."""

    def probe() -> list[Task]:
        tasks = store.schedules.history(name, 100)[::-1][:count]
        return tasks if len(tasks) == count and all(task.ended_at for task in tasks) else []

    return until(probe, seconds=60, what=f"{count} ended tasks of {name}")


def test_a_declared_series_runs_on_its_grid_and_tells_each_run_of_the_last_success(
    ticking: tuple[Fleet, Store, Path],
) -> None:
    _, store, fail = ticking
    ended(store, "tick", 2)
    fail.touch()
    until(lambda: store.schedules.get("tick").counters.failed, seconds=30)
    fail.unlink()
    done = store.schedules.get("tick").counters.completed
    until(lambda: store.schedules.get("tick").counters.completed >= done + 2, seconds=30)
    tasks = [task for task in store.schedules.history("tick", 100)[::-1] if task.ended_at]
    schedule = store.schedules.get("tick")
    assert schedule.anchor_at is not None
    assert tasks[0].due_at - schedule.anchor_at >= PERIOD
    assert all((task.due_at - schedule.anchor_at) % PERIOD == dt.timedelta(0) for task in tasks)
    assert len({task.due_at for task in tasks}) == len(tasks)
    successes = [task for task in tasks if task.status is Status.COMPLETED]
    assert [task.result["before"] for task in successes] == [
        None,
        *({"run": n} for n in range(1, len(successes))),
    ]
    assert successes[0].result["last"] == ""
    for before, task in itertools.pairwise(successes):
        assert before.ended_at is not None
        assert dt.datetime.fromisoformat(task.result["last"]) == before.ended_at


def test_each_run_of_a_declared_follower_belongs_to_one_round(ticking: tuple[Fleet, Store, Path]) -> None:
    _, store, _ = ticking
    rounds = [task for task in ended(store, "tick", 3) if task.status is Status.COMPLETED]
    follows = ended(store, "follow", len(rounds))
    assert [task.parents[0] for task in follows] == [task.id for task in rounds]
    assert {task.status for task in follows} == {Status.COMPLETED}
    for parent, task in zip(rounds, follows, strict=True):
        assert parent.ended_at is not None
        assert task.started_at is not None
        assert task.started_at >= parent.ended_at


def test_a_file_that_goes_takes_its_schedule_out_of_service(ticking: tuple[Fleet, Store, Path]) -> None:
    fleet, store, _ = ticking
    ended(store, "tick", 1)
    (fleet.jobs / "tick.py").unlink()
    until(lambda: store.schedules.get("tick").status is ScheduleStatus.DISABLED)
    assert store.schedules.get("follow").status is ScheduleStatus.ACTIVE


def test_missed_while_nobody_was_up_it_runs_once_and_goes_on_on_its_grid(ticking: tuple[Fleet, Store, Path]) -> None:
    fleet, store, _ = ticking
    [instance] = fleet.instances
    instance.stop()
    store.schedules.create(Schedule(name="seven", job="follow", every=1.0))
    anchor = store.schedules.get("seven").anchor_at
    assert anchor is not None
    until(lambda: store.now() - anchor > dt.timedelta(seconds=5))
    fleet.start("two", slots=4)
    first, second = ended(store, "seven", 2)
    assert first.nominal_at is not None
    assert second.nominal_at is not None
    assert first.nominal_at - anchor >= dt.timedelta(seconds=5)
    assert (second.nominal_at - anchor) % dt.timedelta(seconds=1) == dt.timedelta(0)
