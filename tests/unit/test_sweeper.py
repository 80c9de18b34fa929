"""The sweep: what runs here and what the store says runs here are made the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import FakeClock, engine_of

from slotsched.model import Cancel
from slotsched.process.rundir import _ORDER_CAUSES
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.run import Phase, Roster, Run
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


class Sweep:
    """A sweeper with one running task, and the store's view of it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.held: dict[str, Held] = {"task": Held(token="ours", fence=1, cancel=None)}
        self.released: list[tuple[str, str]] = []
        queue = SimpleNamespace(held=lambda _: self.held, release=lambda *claim: self.released.append(claim))
        self.engine = engine_of(
            self.clock,
            store=SimpleNamespace(queue=queue),
            identity=SimpleNamespace(id="me"),
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


@pytest.fixture
def sweep() -> Sweep:
    return Sweep()


def test_a_run_that_the_store_shows_as_ours_is_left_alone(sweep: Sweep) -> None:
    assert sweep.sweeper.run_once() == 0
    assert sweep.supervisor.orders == []


@pytest.mark.parametrize("held", [{}, {"task": Held(token="another's", fence=2, cancel=None)}])
def test_a_run_that_the_store_does_not_show_as_ours_is_killed(sweep: Sweep, held: dict[str, Held]) -> None:
    sweep.held = held
    sweep.sweeper.run_once()
    assert sweep.supervisor.orders == [("lost", 0.0)]
    assert sweep.run.disowned


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
