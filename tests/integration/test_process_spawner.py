"""The spawner and its scheduler: neither's death or silence harms an attempt."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_lab import boottime, opened, readable, wait_until

from slotsched.process import (
    ContainmentUnavailable,
    Gone,
    Launched,
    Launcher,
    LaunchFailed,
    SpawnerGone,
    find_supervisor,
    procfs,
    read_ending,
)

PYTHON = sys.executable


pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def lab(tmp_path):
    with opened(tmp_path) as lab:
        yield lab


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_killed_spawner_takes_nothing_with_it_and_is_replaced(lab):
    attempt = lab.sh("echo ready; sleep 1; exit 7")
    attempt.wait_text("ready")
    kill(lab.launcher.pid)
    assert lab.events() == [Gone(())]
    assert lab.launcher.receive() == []
    with pytest.raises(SpawnerGone):
        lab.launcher.launch(attempt.run_dir)
    lab.launcher.start()
    assert lab.run("true")[0].exit_code == 0
    assert attempt.wait().exit_code == 7


def test_a_stopped_spawner_that_was_killed_twice_is_replaced(lab):
    """The second kill collects it: whoever has its pid after that is none of ours."""
    os.kill(lab.launcher.pid, signal.SIGSTOP)
    lab.launcher.kill()
    assert readable(lab.launcher, 10)
    pidfd = os.pidfd_open(lab.launcher.pid)
    assert readable(pidfd, 10)
    os.close(pidfd)
    lab.launcher.kill()
    assert lab.launcher.receive() == [Gone(())]
    lab.launcher.start()
    assert lab.run("true")[0].exit_code == 0


def test_what_a_killed_spawner_did_not_answer_can_be_launched_again_and_runs_once(lab, tmp_path):
    witness = tmp_path / "witness"
    dirs = [lab.prepare(["sh", "-c", f"echo $SLOTSCHED_TASK_ID >> {witness}"])[0] for _ in range(8)]
    for run_dir in dirs:
        lab.launcher.launch(run_dir)
    time.sleep(0.01)  # somewhere in the middle of it
    kill(lab.launcher.pid)
    events = wait_for_gone(lab)
    unanswered = events[-1].unanswered
    assert {event.run_dir for event in events[:-1]} | set(unanswered) == set(dirs)
    lab.launcher.start()
    for run_dir in unanswered:
        lab.launcher.launch(run_dir)
    events += lab.events(len(unanswered)) if unanswered else []
    wait_until(lambda: all(read_ending(run_dir) for run_dir in dirs))
    for event in events:
        if isinstance(event, Launched):
            assert readable(event.pidfd, 5)
            os.close(event.pidfd)
    assert sorted(witness.read_text().split()) == sorted(run_dir.name[:24] for run_dir in dirs)


def wait_for_gone(lab):
    events = []
    while not (events and isinstance(events[-1], Gone)):
        events += lab.events()
    return events


def test_the_spawner_ends_with_its_scheduler_and_leaves_the_attempts_alone(tmp_path):
    with opened(tmp_path) as lab:
        attempt = lab.sh("echo ready; sleep 0.5; exit 9")
        attempt.wait_text("ready")
        spawner = os.pidfd_open(lab.launcher.pid)
        lab.launcher._socket.close()  # as the scheduler's death does
        assert readable(spawner, 5)
        os.close(spawner)
        lab.launcher._socket = None
        assert attempt.wait().exit_code == 9


def test_neither_side_blocks_while_the_other_is_frozen(lab):
    first, _ = lab.prepare(["true"])
    os.kill(lab.launcher.pid, signal.SIGSTOP)
    began = time.monotonic()
    lab.launcher.launch(first)
    for number in range(1500):  # far more than the socket holds
        lab.launcher.launch(lab.state_dir / f"no-such-run-{number}")
    assert time.monotonic() - began < 2
    os.kill(lab.launcher.pid, signal.SIGCONT)
    wait_until(lambda: lab.launcher._send() or not lab.launcher._unsent)  # it goes on although no answer is read
    wait_until(lambda: read_ending(first))
    launched, *failed = lab.events(1501)
    assert launched.run_dir == first
    assert {type(event) for event in failed} == {LaunchFailed}
    os.close(launched.pidfd)


def test_the_spawner_inherits_no_lock_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTSCHED_MONGODB_URI", "mongodb://user:secret@example")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    held = os.open(tmp_path / "state.lock", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(held, True)
    fcntl.flock(held, fcntl.LOCK_EX)
    with opened(tmp_path) as lab:
        attempt = lab.sh("cat /proc/self/environ | tr '\\0' '\\n'; echo ready; sleep 5")
        attempt.wait_text("ready")
        assert "secret" not in attempt.text()
        assert not procfs.environment(lab.launcher.pid) - {b""}
        assert not any(b"secret" in each for each in procfs.environment(attempt.pid))
        os.close(held)
        mine = os.open(tmp_path / "state.lock", os.O_RDWR)
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(mine)
        attempt.order("canceled", 0)
        attempt.wait()


def test_a_run_directory_without_a_usable_spec_fails_to_launch_and_harms_nobody(lab, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    lab.launcher.launch(empty)
    broken, _ = lab.prepare(["true"])
    (broken / "spec.json").write_text("{}")
    lab.launcher.launch(broken)
    nowhere, _ = lab.prepare(["true"], containment="a jail")
    lab.launcher.launch(nowhere)
    events = lab.events(3)
    assert all(isinstance(event, LaunchFailed) for event in events)
    assert "No such file" in events[0].message
    assert "spec.json" in events[1].message
    assert events[2].message.startswith('there is no containment "a jail"')
    assert lab.run("true")[0].exit_code == 0


def test_a_containment_that_does_not_exist_is_refused_at_start(tmp_path):
    launcher = Launcher(tmp_path, "a jail")
    with pytest.raises(ContainmentUnavailable, match='no containment "a jail"'):
        launcher.start()
    with pytest.raises(RuntimeError):
        _ = launcher.containment


def test_a_spawner_that_cannot_start_says_where_to_look(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SpawnerGone, match=r"spawner\.log"):
        Launcher(tmp_path).start()


def test_a_run_directory_that_has_had_its_attempt_is_not_touched_by_another_launch(lab):
    ending, attempt = lab.run("sh", "-c", "echo once; exit 3")
    before = {each.name: each.read_bytes() for each in attempt.run_dir.iterdir() if each.is_file()}
    lab.launcher.launch(attempt.run_dir)
    (event,) = lab.events()
    assert readable(event.pidfd, 10)
    os.close(event.pidfd)
    assert {each.name: each.read_bytes() for each in attempt.run_dir.iterdir() if each.is_file()} == before
    assert read_ending(attempt.run_dir) == ending


def test_scripts_get_the_open_files_limit_the_scheduler_had_before_it_raised_its_own(tmp_path):
    with opened(tmp_path) as lab:
        lab.launcher.close()
        lab.launcher = Launcher(tmp_path, open_files=300)
        lab.launcher.start()
        attempt = lab.sh("ulimit -n")
        attempt.wait()
        assert attempt.text() == "300\n"


def test_containment_describes_itself(tmp_path):
    with opened(tmp_path / "", "subreaper") as lab:
        assert (lab.launcher.containment.name, lab.launcher.containment.full) == ("subreaper", False)
        assert lab.launcher.containment.detail


def test_a_job_can_do_without_a_user_namespace(tmp_path):
    with opened(tmp_path, "auto") as lab:
        attempt = lab.start("sh", "-c", "readlink /proc/self/ns/user", user_namespace=False)
        attempt.wait()
        assert attempt.text().strip() == str(Path("/proc/self/ns/user").readlink())


def test_attempts_outlive_a_killed_scheduler_and_obey_the_one_after_it(tmp_path):
    program = """
import os, signal, sys
from pathlib import Path
from process_lab import Lab
lab = Lab(Path(sys.argv[1]))
ends = lab.sh("echo ready; sleep 1; exit 4")
runs = lab.sh("trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
for attempt in (ends, runs):
    attempt.wait_text("ready")
    print(attempt.run_dir, flush=True)
os.kill(lab.launcher.pid, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    killed = subprocess.run([PYTHON, "-c", program, tmp_path], capture_output=True, timeout=30, check=False, env=env)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    ends, runs = map(Path, killed.stdout.decode().split())
    both = [find_supervisor(ends), find_supervisor(runs)]
    assert None not in both
    both[1].order(runs, "canceled", by="the next scheduler")
    for supervised in both:
        assert readable(supervised, 10)
        supervised.close()
    assert read_ending(ends).exit_code == 4
    assert (read_ending(runs).cause, read_ending(runs).message) == ("canceled", "canceled by the next scheduler")


def test_many_attempts_at_once_keep_to_themselves(lab):
    attempts = [lab.sh(f"echo {number}; sleep 0.{number % 5}; exit {number}") for number in range(40)]
    for number, attempt in enumerate(attempts):
        assert attempt.wait().exit_code == number
        assert attempt.text() == f"{number}\n"
        assert len(attempt.lines()) == 1


def test_a_bounded_fork_bomb_is_ended_whole(tmp_path):
    for rung in ("pidns", "subreaper"):
        with opened(tmp_path, rung) as lab:
            bomb = "for i in $(seq 100); do (sleep 6 & sleep 6 &) ; done; echo lit; sleep 6"
            attempt = lab.sh(bomb)
            attempt.wait_text("lit")
            assert len(attempt.alive()) > 150
            asked = boottime()
            attempt.order("canceled", 0)
            ending = attempt.wait(10)
            assert ending.ended - asked < 1.5
            assert attempt.alive() == []
