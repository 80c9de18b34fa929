"""What happens in one turn of a supervisor's loop: ends, deadlines and orders that come together."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from process_lab import Attempt, Lab, boottime, opened, wait_until

from slotsched.process import find_supervisor, procfs, script, supervisor
from slotsched.process.deadline import _LAYOUT
from slotsched.process.logfile import LogFile
from slotsched.process.spec import read_spec

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def lab(tmp_path):
    with opened(tmp_path) as lab:
        yield lab


def zombie(attempt: Attempt) -> bool:
    """The script has ended, and its supervisor does not know."""
    return [each.state for each in procfs.descendants(attempt.pid)] == ["Z"]


def stopped_past_its_end(lab: Lab, **facts: float) -> Attempt:
    """An attempt whose supervisor was stopped while the script ran, and whose script has exited with 0 since."""
    go = lab.state_dir / "go"
    attempt = lab.sh(f"echo ready; while [ ! -e {go} ]; do sleep 0.01; done", **facts)
    attempt.wait_text("ready")
    os.kill(attempt.pid, signal.SIGSTOP)
    wait_until(lambda: procfs.stat(attempt.pid).state == "T")
    go.touch()
    wait_until(lambda: zombie(attempt))
    return attempt


def test_a_script_that_ended_in_the_turn_in_which_its_max_time_was_over_was_in_time(lab: Lab) -> None:
    attempt = stopped_past_its_end(lab, max_time=1.0)
    over = boottime() + 1.0
    wait_until(lambda: boottime() > over)
    os.kill(attempt.pid, signal.SIGCONT)
    ending = attempt.wait()
    assert (ending.cause, ending.exit_code, ending.message) == ("exit", 0, None)


def test_an_order_that_comes_after_the_script_has_ended_changes_nothing(lab: Lab) -> None:
    attempt = stopped_past_its_end(lab)
    supervised = find_supervisor(attempt.run_dir)
    assert supervised is not None
    assert supervised.order(attempt.run_dir, "canceled")  # wakes it too
    supervised.close()
    ending = attempt.wait()
    assert (ending.cause, ending.exit_code) == ("exit", 0)


def test_a_lease_that_ran_out_while_the_user_was_looked_up_starts_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory service may take longer to know a user than the lease is long."""
    run_dir, _ = lab.prepare(["true"])
    path = Path(read_spec(run_dir).deadline_file)

    def slow(name: str | None) -> None:
        path.write_bytes(_LAYOUT.pack(0.0, 0.0, 1.0))

    started: list[object] = []
    monkeypatch.setattr(script, "look_up", slow)
    monkeypatch.setattr(script, "start", lambda *words: started.append(words))
    spec = read_spec(run_dir)
    one = supervisor.Supervisor(run_dir, spec, "subreaper", LogFile(run_dir / "log.ndjson", 1000), "boot", 0, None)
    one._open_lease()
    with pytest.raises(supervisor.LeaseOver):
        one._start_script()
    assert started == []
