"""The state directory: who may pass through it, and what of a run is left when it cannot be removed whole."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from slotsched import logs
from slotsched.scheduler.statedir import StateDirectory


@pytest.fixture
def closed_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("closed_umask")
def test_jobs_of_other_users_pass_through_whatever_the_umask(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.lock()
    try:
        assert [stat.S_IMODE(each.stat().st_mode) for each in (state.path, state.runs)] == [0o711, 0o711]
    finally:
        state.unlock()


def test_the_mode_somebody_gave_the_state_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o750)
    state = StateDirectory(tmp_path / "state")
    state.lock()
    state.unlock()
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o750


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An ended run's directory, with folders in it deeper than a stack."""
    directory = tmp_path / "runs" / "task-1"
    (directory / "io").mkdir(parents=True)
    for name in ("claim.json", "settled", "status.json", "start", "log.ndjson", "spec.json", "io/result.json"):
        (directory / name).touch()
    work = directory / "work"
    work.mkdir()
    fd = os.open(work, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("folder", dir_fd=fd)
        below = os.open("folder", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    return directory


def test_a_run_is_removed_however_deep_its_script_has_nested_folders(tmp_path: Path, run: Path) -> None:
    StateDirectory(tmp_path).remove_run(run)
    assert not run.exists()
    StateDirectory(tmp_path).remove_run(run)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED HERE: needs root")
def test_a_run_of_which_something_stays_is_still_known_and_said_to_be_left(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload of its log is over, and not tried again: the log is gone, the record is there."""
    said: list[str] = []
    monkeypatch.setattr(logs.Logger, "warning", lambda _, text, **fields: said.append(f"{text}: {fields}"))
    stays = run / "work" / "stays"
    stays.touch()
    if subprocess.run(["chattr", "+i", stays], check=False, capture_output=True).returncode:
        pytest.skip("NOT TESTED HERE: no file can be made immutable")
    try:
        StateDirectory(tmp_path).remove_run(run)
        assert sorted(each.name for each in run.iterdir()) == ["claim.json", "settled", "start", "status.json", "work"]
        assert said == ["a run cannot be removed; the next start tries again: {'run': 'task-1'}"]
    finally:
        subprocess.run(["chattr", "-i", stays], check=True)
    StateDirectory(tmp_path).remove_run(run)
    assert not run.exists()
    assert len(said) == 1
