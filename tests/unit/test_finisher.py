"""Ends: what is told to the store, whatever it had said of the run before, and what is read of how it ended."""

from __future__ import annotations

import datetime as dt
import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import FakeClock, engine_of

from slotsched import contract
from slotsched.machine import boot_id
from slotsched.model import InstanceRef, Outcome, Reason, Status, Task
from slotsched.process import Ending
from slotsched.scheduler.ending import Finisher, outcome_of
from slotsched.scheduler.run import Phase, Roster, Run, RunRecord
from slotsched.scheduler.statedir import StateDirectory

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ME = InstanceRef(id="me", name="me")
TASK = Task(
    id="task",
    job="job",
    args={},
    status=Status.RUNNING,
    due_at=EPOCH,
    created_at=EPOCH,
    started_at=EPOCH,
    attempt=1,
    fence=1,
)


class Scene:
    """One run that is over, in a state directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.finished: list[tuple[str, str, Reason]] = []
        self.settled: list[Run] = []
        self.refusals: list[str] = []
        queue = SimpleNamespace(finish=self._finish)
        tasks = SimpleNamespace(get=lambda _: TASK)
        self.state = StateDirectory(folder)
        self.engine = engine_of(
            self.clock,
            store=SimpleNamespace(queue=queue, tasks=tasks),
            state=self.state,
            roster=Roster(),
            capacities=(),
            ledger=SimpleNamespace(give_back=lambda _: None),
            fitness=SimpleNamespace(refused=self.refusals.append),
        )
        directory = self.state.run_directory("task-1")
        directory.mkdir(parents=True)
        record = RunRecord.of(TASK, "token", ME, "file:///logs")
        record.write(directory)
        self.run = Run(record=record, directory=directory, phase=Phase.RUNNING)
        self.engine.roster.add(self.run)
        self.finisher = Finisher(self.engine, on_settled=self.settled.append)

    def _finish(self, task_id: str, token: str, outcome: Outcome, **_: Any) -> Status:
        self.finished.append((task_id, token, outcome.reason))
        return Status.FAILED

    def ending(self, cause: str) -> Ending:
        numbers: dict[str, Any] = {"exit_code": None, "signal": None, "cpu_seconds": 0.0, "peak_memory": 0}
        return Ending(
            cause=cause,
            message=None,
            started=self.clock.now - 1,
            ended=self.clock.now,
            boot_id=boot_id(),
            log_bytes=0,
            log_truncated=False,
            **numbers,
        )


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_the_end_of_a_run_that_the_store_did_not_show_as_ours_is_told_all_the_same(scene: Scene) -> None:
    """It may have been a new primary that did not show the claim yet; the token tells whether it still is ours."""
    scene.run.disowned = True
    scene.run.end(Outcome(reason=Reason.LOST), scene.clock.now)
    scene.finisher.run_once()
    assert scene.finished == [("task", "token", Reason.LOST)]
    assert len(scene.engine.roster) == 0
    assert scene.settled == [scene.run]


def test_nothing_is_told_of_a_run_whose_end_nobody_here_has_seen(scene: Scene) -> None:
    scene.run.inherited = True
    scene.run.end(Outcome(reason=Reason.LOST), scene.clock.now)
    scene.finisher.run_once()
    assert scene.finished == []


def test_a_cause_that_a_newer_version_has_written_is_lost(scene: Scene) -> None:
    assert outcome_of(scene.run, scene.ending("pids"), scene.clock.now).reason is Reason.LOST


def test_what_a_script_has_cleared_has_started(scene: Scene) -> None:
    """`rm "$TMPDIR"/../*` takes the start right away with the rest, and with it what would tell."""
    for path in scene.run.directory.iterdir():
        path.unlink()
    scene.finisher.collect(scene.run)
    assert scene.run.outcome is not None, "not to be released, as if it had never started"
    assert scene.run.outcome.reason is Reason.LOST


def test_of_a_run_whose_directory_is_gone_nothing_is_left_once_its_end_is_told(scene: Scene) -> None:
    shutil.rmtree(scene.run.directory)
    scene.finisher.collect(scene.run)
    assert scene.state.run_directories() == [scene.run.directory], "a next scheduler would look for its processes"
    scene.finisher.run_once()
    assert scene.state.run_directories() == []


def test_the_status_of_a_run_is_read_as_it_was_written(scene: Scene) -> None:
    path = scene.run.directory / contract.RUN_STATUS
    path.write_text(json.dumps(scene.ending("timeout").__dict__))
    scene.finisher.collect(scene.run)
    assert scene.run.outcome is not None
    assert scene.run.outcome.reason is Reason.TIMEOUT


@pytest.mark.parametrize(("number", "released"), [(errno.ENOSPC, True), (errno.EAGAIN, True), (errno.ENOEXEC, False)])
def test_what_never_started_for_lack_of_room_is_given_back_and_the_machine_rests(
    scene: Scene, number: int, released: bool
) -> None:
    ending = {**scene.ending("not_started").__dict__, "started": None, "errno": number, "message": "no room"}
    (scene.run.directory / contract.RUN_STATUS).write_text(json.dumps(ending))
    scene.finisher.collect(scene.run)
    assert (scene.run.outcome is None) == released
    assert scene.refusals == (["it cannot start a process: no room"] if released else [])
