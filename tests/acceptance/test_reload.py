"""What changes between two lives of a program on one state directory: settings, installation, working folder."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, FleetMaker, InstanceProcess, until

from slotsched import contract


@pytest.fixture
def patient(make_fleet: FleetMaker) -> Iterator[Fleet]:
    """Leases long enough for a scheduler to be started again within one."""
    with make_fleet(lease="6s") as made:
        yield made


def said(instance: InstanceProcess, text: str) -> list[dict[str, object]]:
    return [line for line in instance.log() if text in line["msg"]]


def test_a_reload_that_could_not_start_leaves_everything_as_it_is_and_says_why(patient: Fleet) -> None:
    instance = patient.start("careful")
    task = patient.client.enqueue("work", {"seconds": 4}).id
    patient.witness.wait_for("start", task)
    settings = patient.folder / "slotsched.toml"
    settings.write_text('keeep = "3d"\n')
    instance.signal(signal.SIGHUP)
    [refusal] = until(lambda: said(instance, "not replaced"), what="the refusal")
    assert 'unknown setting "keeep", did you mean "keep"?' in str(refusal["why"])
    assert len(said(instance, "up")) == 1

    settings.write_text('keep = "3d"\n')
    instance.signal(signal.SIGHUP)
    until(lambda: len([line for line in instance.log() if line["msg"] == "up"]) == 2, what="up again")
    [ended] = patient.ended(task)
    assert (ended.status, len(patient.witness.starts(task))) == ("completed", 1)


def test_a_file_in_the_working_folder_is_not_taken_for_a_module_at_a_reload(patient: Fleet) -> None:
    instance = patient.start("surrounded")
    for name in ("queue.py", "secrets.py", "resource.py"):
        (patient.folder / name).write_text("raise SystemExit('not this one')\n")
    instance.signal(signal.SIGHUP)
    until(lambda: len([line for line in instance.log() if line["msg"] == "up"]) == 2, what="up again")


def test_whether_it_could_start_is_told_without_starting(fleet: Fleet, tmp_path: Path) -> None:
    assert fleet.cli("scheduler", "run", "--check").returncode == 0
    refused = fleet.cli("scheduler", "run", "--check", "--tls-ca", str(tmp_path / "missing.pem"), check=False)
    assert refused.returncode == contract.EXIT_STORE_UNREACHABLE
    assert "missing.pem" in refused.stderr
    assert fleet.client.store.instances.live() == []


def test_a_log_that_is_uploaded_after_the_setting_has_changed_is_found_where_it_is(patient: Fleet) -> None:
    first = patient.start("mover", log_store=str(patient.folder / "before"))
    task = patient.client.enqueue("talker", {"lines": 40, "pause": 0.1}).id
    patient.witness.wait_for("start", task)
    first.process.kill()
    first.process.wait(10)
    patient.start("mover", log_store=str(patient.folder / "after"))
    patient.ended(task)
    until(lambda: list((patient.folder / "after").rglob("*.gz")), what="the log in the new store")
    log = until(lambda: (found := patient.client.get(task).attempts[-1].log) and found.uploaded and found, what="a log")
    assert log.store.endswith("/after")
    assert "out 40 " in patient.cli("logs", task).stdout
