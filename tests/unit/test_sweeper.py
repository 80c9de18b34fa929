"""The sweep: what runs here and what the store says runs here are made the same."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import FakeClock, engine_of

from slotsched.ledger import Ledger
from slotsched.model import Cancel, Capacity, InstanceRef, Needs, RetryPolicy, Status, Task
from slotsched.process.rundir import _ORDER_CAUSES, take_start_right
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.run import Phase, Roster, Run, RunRecord
from slotsched.scheduler.statedir import StateDirectory
from slotsched.scheduler.supervision import OBEY_SECONDS, Supervision
from slotsched.scheduler.sweeping import Sweeper
from slotsched.store import Held

MAX_TIME, GRACE = 100.0, 10.0


class Supervisor:
    """A supervisor that remembers its orders, and obeys none."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, float | None]] = []
        self.killed = 0

    def order(self, run_dir: Path, cause: str, grace: float | None, by: str = "") -> None:
        assert cause in _ORDER_CAUSES, "a real one refuses any other"
        self.orders.append((cause, grace))

    def kill(self) -> None:
        self.killed += 1


EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ME = InstanceRef(id="me", name="me")
LATE = Task(
    id="late",
    job="job",
    args={},
    status=Status.RUNNING,
    needs=Needs(slots=2),
    due_at=EPOCH,
    created_at=EPOCH,
    started_at=EPOCH,
    attempt=1,
    fence=1,
    retry=RetryPolicy(limit=1, on=("lost",)),
)


class Sweep:
    """A sweeper with one running task, and the store's view of it. unsettled: the view of a primary just elected."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.held: dict[str, Held] = {"task": Held(token="ours", fence=1, cancel=None)}
        self.unsettled: dict[str, Held] | None = None
        self.released: list[tuple[str, str]] = []
        self.tasks = {"late": LATE}
        queue = SimpleNamespace(held=self._held, release=lambda *claim: self.released.append(claim))
        self.state = StateDirectory(folder)
        self.state.runs.mkdir()
        self.engine = engine_of(
            self.clock,
            store=SimpleNamespace(queue=queue, tasks=SimpleNamespace(get=self.tasks.__getitem__)),
            identity=SimpleNamespace(id="me"),
            ref=ME,
            archive=SimpleNamespace(url="file:///logs"),
            state=self.state,
            ledger=Ledger(Capacity(slots=4)),
            roster=Roster(),
            unsettled={},
        )
        self.engine.order_end = lambda *args, **options: Engine.order_end(self.engine, *args, **options)
        self.supervisor = Supervisor()
        record: Any = SimpleNamespace(run_id="task-1", task_id="task", token="ours", max_time=MAX_TIME, grace=GRACE)
        self.run = Run(record=record, directory=Path("task-1"), phase=Phase.RUNNING, launched=self.clock.now)
        self.run.supervised = self.supervisor  # type: ignore[assignment]
        self.engine.roster.add(self.run)
        self.sweeper = Sweeper(self.engine)

    def _held(self, _: str, *, settled: bool = False) -> dict[str, Held]:
        return self.held if settled or self.unsettled is None else self.unsettled

    def launched(self) -> Path:
        """The run directory of the task `late`, whose script has the start right."""
        directory = self.state.run_directory("late-1")
        directory.mkdir()
        RunRecord.of(LATE, "too late", ME, "file:///logs").write(directory)
        take_start_right(directory, {"by": "supervisor"})
        return directory

    def damage_records(self, content: str = "{}") -> None:
        for record in self.state.path.rglob("*.json"):
            record.write_text(content)

    @property
    def late(self) -> Run | None:
        found: Run | None = self.engine.roster.get("late-1")
        return found


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def test_a_run_that_the_store_shows_as_ours_is_left_alone(sweep: Sweep) -> None:
    assert sweep.sweeper.run_once() == 0
    assert sweep.supervisor.orders == []


@pytest.mark.parametrize("held", [{}, {"task": Held(token="another's", fence=2, cancel=None)}])
def test_a_run_that_the_store_does_not_show_as_ours_is_killed(sweep: Sweep, held: dict[str, Held]) -> None:
    sweep.held = held
    sweep.sweeper.run_once()
    assert sweep.supervisor.orders == [("lost", 0.0)]
    assert sweep.run.disowned


def test_what_a_new_primary_does_not_show_yet_is_asked_for_again_before_anything_is_killed(sweep: Sweep) -> None:
    sweep.unsettled = {}
    assert sweep.sweeper.run_once() == 0
    assert sweep.supervisor.orders == []
    assert not sweep.run.disowned


def test_what_a_new_primary_still_shows_is_asked_for_again_before_it_is_given_back(sweep: Sweep) -> None:
    sweep.unsettled = {**sweep.held, "ended": Held(token="ended since", fence=1, cancel=None)}
    assert sweep.sweeper.run_once() == 0
    assert sweep.released == []


@pytest.mark.parametrize(("kill", "order"), [(False, ("canceled", None)), (True, ("canceled", 0.0))])
def test_a_cancel_is_handed_on_once_and_a_kill_at_once(
    kill: bool, order: tuple[str, float | None], sweep: Sweep
) -> None:
    sweep.held["task"] = Held(token="ours", fence=1, cancel=Cancel(by="ann", kill=kill))
    sweep.sweeper.run_once()
    sweep.sweeper.run_once()
    assert sweep.supervisor.orders == [order]


def test_a_kill_follows_a_cancel(sweep: Sweep) -> None:
    sweep.held["task"] = Held(token="ours", fence=1, cancel=Cancel(by="ann", kill=False))
    sweep.sweeper.run_once()
    sweep.held["task"] = Held(token="ours", fence=1, cancel=Cancel(by="ann", kill=True))
    sweep.sweeper.run_once()
    assert sweep.supervisor.orders == [("canceled", None), ("canceled", 0.0)]


def test_a_claim_that_nobody_here_holds_is_given_back(sweep: Sweep) -> None:
    sweep.held["late"] = Held(token="too late", fence=1, cancel=None)
    assert sweep.sweeper.run_once() == 1
    assert sweep.released == [("late", "too late")]


@pytest.mark.parametrize("left", ["all of it", "its folder", "nothing"])
def test_a_claim_whose_script_had_been_launched_is_not_given_back_whatever_the_script_has_removed(
    sweep: Sweep, left: str
) -> None:
    """`rm -rf "$TMPDIR"/../*` leaves an empty folder, in which the start right can be had once more."""
    directory = sweep.launched()
    if left != "all of it":
        shutil.rmtree(directory)
    if left == "its folder":
        directory.mkdir()
    sweep.held["late"] = Held(token="too late", fence=1, cancel=None)
    assert sweep.sweeper.run_once() == 1
    assert sweep.released == []
    assert sweep.late is not None
    assert sweep.late.phase is Phase.RUNNING, "the supervision looks for its processes, and settles it"
    assert sweep.engine.ledger.free.slots == 2
    assert sweep.late.ordered is None, "its record says how long it may go on"


@pytest.mark.parametrize("content", ["{}", "[]", "torn", "[" * 100_000], ids=["empty", "list", "torn", "deep"])
def test_a_run_without_a_readable_record_is_lost_and_told_as_the_store_knows_it(sweep: Sweep, content: str) -> None:
    directory = sweep.launched()
    sweep.damage_records(content)
    sweep.held["late"] = Held(token="too late", fence=1, cancel=None)
    sweep.sweeper.run_once()
    assert sweep.late is not None
    assert sweep.late.ordered == ("lost", True)
    record = sweep.late.record
    assert (record.token, record.attempt, record.retry.limit, record.needs) == ("too late", 1, 1, Needs(slots=2))
    assert sweep.late.directory == directory


def test_a_run_that_changed_hands_while_it_was_looked_at_is_left_to_the_next_sweep(sweep: Sweep) -> None:
    sweep.launched()
    sweep.damage_records()
    sweep.tasks["late"] = replace(LATE, fence=2)
    sweep.held["late"] = Held(token="too late", fence=1, cancel=None)
    sweep.sweeper.run_once()
    assert (sweep.late, sweep.released) == (None, [])


def test_a_claim_whose_processes_live_is_not_given_back_though_nothing_else_tells_of_it(sweep: Sweep) -> None:
    """A version before this one kept nothing out of reach of a script that removes its run directory."""
    marks = {"SLOTSCHED_TASK_ID": "late", "SLOTSCHED_TASK_FENCE": "1"}
    script = subprocess.Popen(["sleep", "60"], env={**os.environ, **marks})
    try:
        sweep.held["late"] = Held(token="too late", fence=1, cancel=None)
        assert sweep.sweeper.run_once() == 1
        assert sweep.released == []
        assert script.wait(10) == -signal.SIGKILL
        assert sweep.late is not None
        assert sweep.late.ordered == ("lost", True)
    finally:
        script.kill()
        script.wait()


def test_a_claim_that_was_never_launched_is_given_back_with_what_was_prepared_for_it(sweep: Sweep) -> None:
    directory = sweep.state.run_directory("late-1")
    directory.mkdir()
    sweep.held["late"] = Held(token="too late", fence=1, cancel=None)
    assert sweep.sweeper.run_once() == 1
    assert sweep.released == [("late", "too late")]
    assert not directory.exists()


def test_a_claim_that_cannot_be_settled_keeps_no_other_from_being_settled(sweep: Sweep) -> None:
    odd = sweep.state.run_directory("odd-1")
    odd.mkdir()
    take_start_right(odd, {"by": "supervisor"})  # a task that the store does not find
    sweep.held |= {name: Held(token=f"of {name}", fence=1, cancel=None) for name in ("odd", "plain")}
    sweep.sweeper.run_once()
    assert sweep.released == [("plain", "of plain")]
    assert ("exception", "a claim cannot be settled; trying again") in sweep.engine.log.lines


def test_a_claim_in_doubt_is_not_given_back(sweep: Sweep) -> None:
    sweep.held["doubt"] = Held(token="in doubt", fence=1, cancel=None)
    sweep.engine.unsettled["in doubt"] = ["in doubt/doubt"]
    assert sweep.sweeper.run_once() == 0
    assert sweep.released == []


@pytest.mark.parametrize(("kill", "patience"), [(True, OBEY_SECONDS), (False, GRACE + OBEY_SECONDS)])
def test_a_supervisor_that_does_not_obey_is_killed_once_its_time_is_up(
    kill: bool, patience: float, sweep: Sweep
) -> None:
    supervision = Supervision(
        sweep.engine,
        None,
        None,
        None,
        on_running=lambda _: None,
        on_ended=lambda: None,  # type: ignore[arg-type]
    )
    supervision._spawner_fd = 0
    sweep.engine.order_end(sweep.run, "canceled", kill=kill)
    sweep.clock.advance(patience)
    assert supervision.run_once() == 0
    sweep.clock.advance(0.1)
    assert supervision.run_once() == 1
    assert sweep.supervisor.killed == 1
