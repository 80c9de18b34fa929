"""What a killed supervisor leaves, and who ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_lab import ESCAPER, Attempt, boottime, marked, opened, wait_until

from slotsched.process import (
    abandoned_ending,
    find_supervisor,
    procfs,
    read_ending,
    sweep_tree,
)
from slotsched.process.rundir import start_facts
from slotsched.process.sweep import StillSupervised

PYTHON = sys.executable
NAMESPACES = ["pidns", "userns"]
DEGRADED = ["cgroup", "subreaper"]


pytestmark = pytest.mark.timeout(60)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("rung", NAMESPACES)
def test_a_killed_supervisor_takes_its_tree_with_it(tmp_path, rung):
    with opened(tmp_path, rung) as lab:
        attempt = lab.start(PYTHON, "-I", "-S", "-c", ESCAPER, "5")
        attempt.wait_text("loose")
        supervised = find_supervisor(attempt.run_dir)
        supervised.kill()
        supervised.close()
        wait_until(lambda: not attempt.alive(), 1)
        attempt.wait_gone()
        assert read_ending(attempt.run_dir) is None
        assert find_supervisor(attempt.run_dir) is None
        assert sweep_tree(attempt.run_dir) is True
        ending = abandoned_ending(attempt.run_dir)
        assert (ending.cause, ending.message) == ("lost", "its supervisor was killed")
        assert ending.log_bytes == (attempt.run_dir / "log.ndjson").stat().st_size > 0


@pytest.mark.parametrize("rung", DEGRADED)
def test_the_spawner_ends_what_a_killed_supervisor_left(tmp_path, rung):
    with opened(tmp_path, rung) as lab:
        neighbour = lab.sh("sleep 3; exit 6")
        attempt = lab.start(PYTHON, "-I", "-S", "-c", ESCAPER, "5")
        attempt.wait_text("loose")
        kill(attempt.pid)
        wait_until(lambda: not attempt.alive(), 2)
        attempt.wait_gone()
        assert sweep_tree(attempt.run_dir) is True
        assert not Path(start_facts(attempt.run_dir).get("cgroup", "/none")).exists()
        assert neighbour.alive()
        neighbour.order("canceled", 0)
        assert neighbour.wait().cause == "canceled"


@pytest.mark.parametrize("rung", DEGRADED)
def test_the_sweep_ends_what_a_killed_supervisor_and_spawner_left(tmp_path, rung):
    with opened(tmp_path, rung) as lab:
        neighbour = lab.sh("sleep 3")
        attempt = lab.start(PYTHON, "-I", "-S", "-c", ESCAPER, "5")
        attempt.wait_text("loose")
        with pytest.raises(StillSupervised):
            sweep_tree(attempt.run_dir)
        kill(lab.launcher.pid)
        kill(attempt.pid)
        attempt.wait_gone()
        began = boottime()
        assert sweep_tree(attempt.run_dir) is True
        assert boottime() - began < 2
        assert attempt.alive() == []
        assert neighbour.alive()
        neighbour.order("canceled", 0)
        assert neighbour.wait().cause == "canceled"


def test_the_sweep_leaves_strangers_alone(tmp_path):
    """One has the task's id but another fence, one is older than the attempt, one has a pid that was reused."""
    with opened(tmp_path, "subreaper") as lab:
        run_dir, mark = lab.prepare(["sleep", "5"])
        both = {"SLOTSCHED_TASK_ID": mark, "SLOTSCHED_TASK_FENCE": "1"}
        older = subprocess.Popen(["sleep", "5"], env=both)
        other = subprocess.Popen(["sleep", "5"], env={**both, "SLOTSCHED_TASK_FENCE": "2"})
        try:
            time.sleep(0.05)  # five ticks: what starts now is younger than both
            lab.launcher.launch(run_dir)
            (event,) = lab.events()
            attempt = Attempt(run_dir, mark, event.pid, event.pidfd, 0)
            wait_until(lambda: len(marked(mark)) == 3)
            kill(lab.launcher.pid)
            kill(attempt.pid)
            attempt.wait_gone()
            assert sweep_tree(run_dir) is True
            assert sorted(marked(mark)) == sorted([older.pid, other.pid])
            seen = procfs.stat(older.pid)
            assert procfs.send(seen._replace(start_ticks=seen.start_ticks - 1), signal.SIGKILL) is False
            assert older.poll() is None
            os.close(attempt.pidfd)
        finally:
            for process in (older, other):
                process.kill()
                process.wait()
