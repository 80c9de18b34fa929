"""The loop's side of spawners and supervisors that are stopped, killed again and again, or refused by the system."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import FakeClock, engine_of

from slotsched.process import Gone, LaunchFailed, SpawnerGone
from slotsched.process.rundir import take_start_right
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.run import Phase, Roster, Run
from slotsched.scheduler.supervision import (
    LONGEST_PAUSE_SECONDS,
    OBEY_SECONDS,
    OVERDUE_SECONDS,
    SPAWNER_AGE_SECONDS,
    STRANDED_SECONDS,
    UNSEEN_SECONDS,
    Supervision,
)

MAX_TIME, GRACE = 100.0, 10.0


class Spawners:
    """A launcher whose spawners die when told, and answer what they are told to."""

    def __init__(self) -> None:
        self.started = self.killed = 0
        self.alive = self.startable = True
        self.answers: list[Any] = []
        self.launched: list[str] = []

    def start(self) -> None:
        self.started += 1
        self.alive = self.startable
        if not self.startable:
            raise SpawnerGone("the spawner cannot be started: Cannot allocate memory")

    def fileno(self) -> int:
        return 9 if self.alive else -1

    def kill(self) -> None:
        self.killed += 1

    def receive(self) -> list[Any]:
        answers, self.answers = self.answers, []
        return answers

    def die(self) -> None:
        self.alive = False
        self.answers.append(Gone(()))


class Supervisor:
    """A supervisor that remembers its orders, and obeys none."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, float | None]] = []
        self.killed = 0

    def order(self, run_dir: Path, cause: str, grace: float | None, by: str = "") -> None:
        self.orders.append((cause, grace))

    def kill(self) -> None:
        self.killed += 1


class Scene:
    """A supervision with the given runs, all launching."""

    def __init__(self, folder: Path, runs: Sequence[str] = ()) -> None:
        self.clock, self.spawners = FakeClock(), Spawners()
        self.collected: list[str] = []
        self.freed: list[str] = []
        self.refused: list[str] = []
        self.engine = engine_of(
            self.clock,
            launcher=self.spawners,
            roster=Roster(),
            ledger=SimpleNamespace(give_back=self.freed.append),
            fitness=SimpleNamespace(refused=self.refused.append),
        )
        self.engine.order_end = lambda *args, **options: Engine.order_end(self.engine, *args, **options)
        selector: Any = SimpleNamespace(register=lambda *_: None, unregister=lambda _: None)
        starter: Any = SimpleNamespace(relaunch=lambda run: self.spawners.launched.append(run.id))
        finisher: Any = SimpleNamespace(collect=self._collect)
        self.supervision = Supervision(
            self.engine, selector, starter, finisher, on_running=lambda _: None, on_ended=lambda: None
        )
        self.supervision.start_spawner()
        for name in runs:
            directory = folder / f"{name}-1"
            directory.mkdir()
            record: Any = SimpleNamespace(run_id=f"{name}-1", task_id=name, max_time=MAX_TIME, grace=GRACE)
            self.engine.roster.add(Run(record=record, directory=directory, launched=self.clock.now))

    def _collect(self, run: Run) -> None:
        if run.id == "odd-1":
            raise IsADirectoryError("status.json is a directory")
        run.phase = Phase.ENDED
        self.collected.append(run.id)

    def run(self, name: str) -> Run:
        found = self.engine.roster.get(f"{name}-1")
        assert found is not None
        return found  # type: ignore[no-any-return]

    def pass_time(self, seconds: float) -> None:
        """The loop's pulse over so many seconds."""
        for _ in range(round(seconds)):
            self.clock.advance(1.0)
            self.supervision.run_once()


# --- supervisors that are stopped -------------------------------------------------------------------


def test_a_run_beyond_its_max_time_is_told_to_end_without_a_store_and_its_supervisor_killed_if_it_does_not(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, ["frozen"])
    run, supervisor = scene.run("frozen"), Supervisor()
    run.phase, run.supervised = Phase.RUNNING, supervisor  # type: ignore[assignment]
    scene.clock.advance(MAX_TIME + GRACE + OVERDUE_SECONDS)
    assert scene.supervision.run_once() == 0
    scene.clock.advance(0.1)
    assert scene.supervision.run_once() == 1
    assert supervisor.orders == [("timeout", 0.0)]
    scene.clock.advance(OBEY_SECONDS)
    assert scene.supervision.run_once() == 0
    scene.clock.advance(0.1)
    assert scene.supervision.run_once() == 1
    assert (len(supervisor.orders), supervisor.killed) == (1, 1)


def test_a_script_that_a_busy_machine_started_late_has_its_whole_max_time(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["late"])
    run, supervisor = scene.run("late"), Supervisor()
    run.phase, run.supervised = Phase.RUNNING, supervisor  # type: ignore[assignment]
    take_start_right(run.directory, {"started": scene.clock.now + 30.0})
    scene.clock.advance(30.0 + MAX_TIME + GRACE + OVERDUE_SECONDS)
    assert scene.supervision.run_once() == 0
    scene.clock.advance(0.1)
    assert scene.supervision.run_once() == 1


# --- run directories that cannot be read ------------------------------------------------------------


def test_a_run_that_cannot_be_settled_keeps_no_other_from_being_settled(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["odd", "plain"])
    for name in ("odd", "plain"):
        scene.run(name).phase = Phase.RUNNING  # its supervisor was seen, and is gone
    scene.supervision.run_once()
    assert scene.collected == ["plain-1"]
    assert ("exception", "a run cannot be settled; trying again") in scene.engine.log.lines


# --- spawners ---------------------------------------------------------------------------------------


def test_a_spawner_that_is_killed_in_a_loop_is_replaced_at_once_and_then_ever_later(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    births = []
    for _ in range(9):
        scene.spawners.die()
        died, count = scene.clock.now, scene.spawners.started
        scene.supervision.on_spawner()
        while scene.spawners.started == count:
            scene.pass_time(1)
        births.append(scene.clock.now - died)
    assert births == [0, 1, 2, 4, 8, 16, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]
    scene.pass_time(SPAWNER_AGE_SECONDS)
    scene.spawners.die()
    count = scene.spawners.started
    scene.supervision.on_spawner()
    assert scene.spawners.started == count + 1, "one that lived long is replaced at once"


def test_a_spawner_that_cannot_be_started_is_tried_again_ever_later_and_what_waited_is_launched(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["waiting"])
    scene.spawners.startable = False
    scene.spawners.die()
    scene.supervision.on_spawner()
    scene.pass_time(STRANDED_SECONDS - 10)
    assert 4 <= scene.spawners.started <= 8, "bounded retries"
    scene.spawners.startable = True
    scene.spawners.launched.clear()
    scene.pass_time(LONGEST_PAUSE_SECONDS)
    assert scene.spawners.alive
    assert "waiting-1" in scene.spawners.launched


def test_what_no_spawner_can_be_had_for_is_given_back(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["waiting"])
    scene.spawners.startable = False
    scene.spawners.die()
    scene.supervision.on_spawner()
    scene.pass_time(STRANDED_SECONDS + 2)
    assert (scene.run("waiting").phase, scene.run("waiting").outcome) == (Phase.ENDED, None), "released, not failed"
    assert scene.freed == ["waiting-1"]


def test_what_nobody_has_launched_and_is_told_to_end_is_given_back_at_once(tmp_path: Path) -> None:
    """A cancel, and the end of a drain, must not wait for a spawner."""
    scene = Scene(tmp_path, ["waiting"])
    scene.spawners.startable = False
    scene.spawners.die()
    scene.supervision.on_spawner()
    scene.engine.order_end(scene.run("waiting"), "canceled", kill=False)
    scene.pass_time(1)
    assert (scene.run("waiting").phase, scene.run("waiting").outcome) == (Phase.ENDED, None)


def test_what_was_launched_after_all_is_not_given_back(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["running"])
    assert take_start_right(tmp_path / "running-1", {"by": "supervisor"})
    scene.engine.order_end(scene.run("running"), "canceled", kill=False)
    scene.pass_time(1)
    assert scene.freed == []


def test_a_spawner_that_does_not_answer_two_launches_in_a_row_is_killed(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["unheard"])
    scene.pass_time(UNSEEN_SECONDS + 1)
    assert (scene.spawners.launched, scene.spawners.killed) == (["unheard-1"], 0)
    scene.pass_time(UNSEEN_SECONDS + 1)
    assert scene.spawners.killed == 1


def test_a_spawner_that_replaces_another_has_its_time_to_answer(tmp_path: Path) -> None:
    """What was launched before by those that died is no reason to kill the one that has just come up."""
    scene = Scene(tmp_path, ["unlucky"])
    for _ in range(6):
        scene.spawners.die()
        scene.supervision.on_spawner()
        while not scene.spawners.alive:
            scene.pass_time(1)
        assert scene.spawners.launched[-1:] == ["unlucky-1"]
        scene.spawners.launched.clear()
    scene.pass_time(UNSEEN_SECONDS)
    assert scene.spawners.killed == 0
    scene.pass_time(UNSEEN_SECONDS + 2)
    assert scene.spawners.killed == 1, "one that stays silent is"


# --- launches that fail -----------------------------------------------------------------------------


def test_a_launch_without_a_usable_spec_ends_as_not_started(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["broken"])
    run = scene.run("broken")
    scene.spawners.answers = [LaunchFailed(run.directory, "spec.json is not an object")]
    scene.supervision.on_spawner()
    assert run.phase is Phase.ENDED
    assert run.outcome is not None
    assert (run.outcome.reason, run.outcome.message) == ("not_started", "spec.json is not an object")
    assert scene.freed == ["broken-1"]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENOSPC])
def test_what_the_machine_has_no_room_for_is_given_back_and_the_machine_rests(tmp_path: Path, number: int) -> None:
    scene = Scene(tmp_path, ["unlucky"])
    run = scene.run("unlucky")
    scene.spawners.answers = [LaunchFailed(run.directory, "cannot fork", number)]
    scene.supervision.on_spawner()
    assert (run.phase, run.outcome) == (Phase.ENDED, None), "released, for another instance to start"
    assert scene.refused == ["it cannot start a process: cannot fork"]
    assert scene.freed == ["unlucky-1"]


def test_a_launch_whose_run_directory_was_removed_is_settled_and_the_next_answer_read(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["removed", "broken"])
    removed, broken = scene.run("removed"), scene.run("broken")
    removed.directory.rmdir()
    failed = [LaunchFailed(run.directory, "No such file or directory", errno.ENOENT) for run in (removed, broken)]
    scene.spawners.answers = failed
    scene.supervision.on_spawner()
    assert scene.collected == ["removed-1"]
    assert broken.phase is Phase.ENDED


def test_a_failed_launch_says_nothing_about_a_script_that_an_earlier_one_started(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["twice"])
    run = scene.run("twice")
    take_start_right(run.directory, {"by": "supervisor"})
    scene.spawners.answers = [LaunchFailed(run.directory, "cannot fork", errno.EAGAIN)]
    scene.supervision.on_spawner()
    assert (run.phase, scene.freed, scene.refused) == (Phase.LAUNCHING, [], [])
