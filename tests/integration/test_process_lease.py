"""An attempt dies by itself when its instance has lost its lease, and not before."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from process_lab import boottime, opened, readable, wait_until

from slotsched.process import (
    DeadlineFile,
    procfs,
    read_ending,
    script,
    spec,
    supervisor,
)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def lab(tmp_path):
    with opened(tmp_path) as lab:
        yield lab


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def lease(tmp_path):
    file = DeadlineFile.create(tmp_path / "short-lease", 1.5)
    yield file
    file.close()


def extend(file: DeadlineFile, seconds: float) -> None:
    file.extend(boottime() + seconds)
    file.tick(boottime())


def test_an_attempt_that_may_be_followed_dies_at_the_local_deadline(lab, lease):
    extend(lease, 1.0)
    deadline = lease.read()[0]
    attempt = lab.sh("trap '' TERM; echo ready; sleep 20", die_at_deadline=True, deadline_file=str(lease.path))
    ending = attempt.wait(5)
    assert (ending.cause, ending.message) == ("lost", "the instance's lease ran out")
    assert deadline <= ending.ended < deadline + 1
    assert attempt.alive() == []


def test_renewals_keep_it_alive(lab, lease):
    extend(lease, 1.0)
    attempt = lab.sh("sleep 2; exit 3", die_at_deadline=True, deadline_file=str(lease.path))
    while not readable(attempt.pidfd, 0.3):
        extend(lease, 1.0)
    assert attempt.wait().exit_code == 3


def test_an_attempt_nobody_may_follow_lives_while_its_scheduler_ticks_and_not_longer(lab, lease):
    extend(lease, 0.3)
    attempt = lab.sh("echo ready; sleep 20", deadline_file=str(lease.path))
    for _ in range(10):
        assert not readable(attempt.pidfd, 0.1)
        lease.tick(boottime())
    frozen = boottime()
    ending = attempt.wait(5)
    assert ending.cause == "lost"
    assert frozen < ending.ended < frozen + 0.5 + 1


@pytest.mark.parametrize("how", ["over", "missing", "cut"])
def test_no_script_starts_without_a_lease(lab, lease, how):
    extend(lease, -0.1)
    lease.tick(boottime() - 10)
    if how == "missing":
        lease.path.unlink()
    elif how == "cut":
        os.truncate(lease.path, 3)
    ending, attempt = lab.run("touch", str(lab.state_dir / "witness"), deadline_file=str(lease.path))
    assert (ending.cause, ending.started) == ("lost", None)
    assert not (lab.state_dir / "witness").exists()
    assert attempt.lines() == []


def test_a_passed_deadline_costs_no_cpu(lab, lease):
    extend(lease, 0.1)
    attempt = lab.sh("echo ready; sleep 20", deadline_file=str(lease.path))
    attempt.wait_text("ready")
    for _ in range(15):
        lease.tick(boottime())
        time.sleep(0.1)
    used = Path(f"/proc/{attempt.pid}/stat").read_text().rpartition(")")[2].split()
    assert (int(used[11]) + int(used[12])) / procfs.TICKS_PER_SECOND < 0.3
    attempt.order("canceled", 0)
    attempt.wait()


def test_a_start_that_hangs_ends_at_max_time(tmp_path, monkeypatch):
    """As a chdir to a dead network file system does: the exec-error pipe must not be waited for."""
    with opened(tmp_path, "subreaper") as lab:
        run_dir, _ = lab.prepare(["true"], max_time=0.3, grace=0.2)
        monkeypatch.setattr(script, "_become", lambda *_: time.sleep(15))
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                supervisor.run(run_dir, spec.read_spec(run_dir), "subreaper")
            os._exit(0)
        try:
            ending = wait_until(lambda: read_ending(run_dir), 10)
            assert ending.cause == "timeout"
            assert ending.ended - ending.started < 2
        finally:
            kill(pid)
            os.waitpid(pid, 0)
