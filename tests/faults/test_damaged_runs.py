"""Run directories that a script has cleared, or that another version has written, when the scheduler comes back.

Whatever is left of a run that may have started, it never starts again under the same claim.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import Figures
from fleet import Fleet, FleetMaker, InstanceProcess, processes_of, until

from slotsched import contract
from slotsched.model import Task

LEASE_SECONDS = 20.0  # long enough to come back within it, whatever else this machine does


@pytest.fixture
def patient(make_fleet: FleetMaker) -> Iterator[Fleet]:
    with make_fleet(lease=f"{LEASE_SECONDS}s") as made:
        yield made


def ups(instance: InstanceProcess) -> int:
    return sum(line["msg"] == "up" for line in instance.log())


def come_back(fleet: Fleet, instance: InstanceProcess, how: str) -> InstanceProcess:
    """Another scheduler on the same state directory: in place, or after kill -9."""
    before = ups(instance)
    if how == "kill":
        instance.process.kill()
        instance.process.wait(10)
        return fleet.start(instance.name)
    instance.signal(signal.SIGHUP)
    until(lambda: ups(instance) > before or instance.process.poll() is not None, seconds=30, what="up again")
    assert instance.process.poll() is None, instance.output.read_text()[-2000:]
    return instance


def records(instance: InstanceProcess, task: str) -> list[Path]:
    """Every file in which the scheduler has written down whose claim the run is."""
    return [path for path in instance.state_dir.rglob("*.json") if task in str(path) and '"token"' in path.read_text()]


def judge(fleet: Fleet, instance: InstanceProcess, task: str, figure: Figures, *, what: str) -> Task:
    """Wait for the task's end; it was started once, and nothing of it is left."""
    (ended,) = fleet.ended(task)
    figure("F02", f"{what}: starts too many", len(fleet.witness.starts(task)) - 1, "", exactly=0)
    assert len(ended.attempts) == 1
    assert processes_of(task) == set()
    left = [instance.state_dir / "runs", instance.state_dir / "claims"]
    until(lambda: not any(list(folder.iterdir()) for folder in left), what="nothing left of it")
    return ended


@pytest.mark.parametrize("how", ["SIGHUP", "kill"])
@pytest.mark.parametrize("folder_too", [True, False], ids=["folder", "content"])
def test_a_task_that_cleared_its_run_directory_and_runs_on_is_lost_and_does_not_start_again(
    patient: Fleet, figure: Figures, folder_too: bool, how: str
) -> None:
    instance = patient.start("a")
    task = patient.client.enqueue("clearer", {"folder_too": folder_too, "seconds": 50}).id
    patient.witness.wait_for("cleared", task)
    instance = come_back(patient, instance, how)
    ended = judge(patient, instance, task, figure, what=f"run directory cleared, {how}")
    assert (ended.status, ended.reason) == ("failed", "lost")


@pytest.mark.parametrize("folder_too", [True, False], ids=["folder", "content"])
def test_a_task_that_cleared_its_run_directory_and_ended_while_nobody_looked_does_not_start_again(
    patient: Fleet, figure: Figures, folder_too: bool
) -> None:
    instance = patient.start("a")
    task = patient.client.enqueue("clearer", {"folder_too": folder_too, "seconds": 1}).id
    patient.witness.wait_for("cleared", task)
    instance.process.kill()
    instance.process.wait(10)
    patient.witness.wait_for("end", task)
    until(lambda: not processes_of(task), what="the end of its processes")
    again = patient.start("a")
    ended = judge(patient, again, task, figure, what="run directory cleared, scheduler away")
    # The supervisor's last word is kept where there is a folder to keep it in.
    assert ended.reason in (("lost",) if folder_too else ("lost", "exit"))


@pytest.mark.parametrize("how", ["SIGHUP", "kill"])
def test_a_task_whose_record_was_written_by_a_newer_version_goes_on(patient: Fleet, figure: Figures, how: str) -> None:
    """As after an upgrade that is taken back."""
    instance = patient.start("a")
    go = patient.folder / "go"
    task = patient.client.enqueue("gate", {"file": str(go)}).id
    patient.witness.wait_for("start", task)
    for path in records(instance, task):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"field_of_a_newer_version": 1}))
    instance = come_back(patient, instance, how)
    go.touch()
    ended = judge(patient, instance, task, figure, what=f"record of a newer version, {how}")
    assert ended.status == "completed"


def test_a_task_whose_records_cannot_be_read_is_lost_and_does_not_start_again(patient: Fleet, figure: Figures) -> None:
    instance = patient.start("a")
    task = patient.client.enqueue("talker", {"lines": 3000, "pause": 0.02}).id
    (run,) = until(lambda: [path.parent for path in (instance.state_dir / "runs").glob(f"{task}-*/log.ndjson")])
    patient.witness.wait_for("start", task)
    until(lambda: b"out 5 " in (run / contract.RUN_LOG).read_bytes(), what="some lines")
    for path in records(instance, task):
        path.write_text("{}")
    instance = come_back(patient, instance, "SIGHUP")
    ended = judge(patient, instance, task, figure, what="no readable record")
    assert (ended.status, ended.reason) == ("failed", "lost")
    log = patient.client.get(task).attempts[0].log
    assert log is not None
    assert log.uploaded
    assert "out 5 " in patient.cli("logs", task, "--raw").stdout


def test_an_instance_starts_on_a_spool_that_another_version_has_left(make_fleet: FleetMaker, tmp_path: Path) -> None:
    """A cause of an end that this one does not know, in a run that was settled before."""
    (tmp_path / "no folder").touch()
    with make_fleet(lease=f"{LEASE_SECONDS}s", log_store=str(tmp_path / "no folder" / "logs")) as fleet:
        instance = fleet.start("a")
        task = fleet.client.enqueue("work").id
        assert fleet.ended(task)[0].status == "completed"
        (status,) = (instance.state_dir / "runs").glob(f"{task}-*/{contract.RUN_STATUS}")
        until((status.parent / "settled").exists, what="the run to be settled")
        status.write_text(json.dumps(json.loads(status.read_text()) | {"cause": "pids"}))
        come_back(fleet, instance, "kill")
        assert fleet.ended(fleet.client.enqueue("work").id)[0].status == "completed"
        assert fleet.client.get(task).status == "completed", "what the store knows stays"
