"""What an attempt is: its environment, its descriptors, its end, whatever holds its tree."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
from process_lab import ESCAPER, Attempt, boottime, opened, wait_until

from slotsched.process import Supervised, find_supervisor, forbid_start

RUNGS = ["pidns", "userns", "cgroup", "subreaper"]
PYTHON = sys.executable

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module", params=RUNGS)
def lab(request, tmp_path_factory):
    with opened(tmp_path_factory.mktemp(request.param), request.param) as lab:
        yield lab


@pytest.mark.parametrize(
    ("script", "cause", "code", "number"),
    [
        ("exit 0", "exit", 0, None),
        ("exit 1", "exit", 1, None),
        ("exit 100", "exit", 100, None),
        ("exit 7", "exit", 7, None),
        ("kill -SEGV $$", "signal", None, signal.SIGSEGV),
        ("kill -KILL $$", "signal", None, signal.SIGKILL),
    ],
)
def test_the_ending_has_the_exit_code_or_the_signal(lab, script, cause, code, number):
    ending, _ = lab.run("sh", "-c", script)
    assert (ending.cause, ending.exit_code, ending.signal) == (cause, code, number)
    assert ending.started is not None
    assert 0 <= ending.ended - ending.started < 1.5
    assert ending.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_the_environment_is_the_spec_and_what_only_a_supervisor_knows(lab, monkeypatch):
    monkeypatch.setenv("SLOTSCHED_MONGODB_URI", "mongodb://user:secret@example")
    program = "import os, json; print(json.dumps(dict(os.environ)))"
    _, attempt = lab.run("/usr/bin/python3", "-I", "-S", "-c", program, env={"MINE": "ü=1", "LC_CTYPE": "C.UTF-8"})
    seen = json.loads(attempt.text())
    work = str(attempt.run_dir / "work")
    deadline = seen.pop("SLOTSCHED_TASK_DEADLINE")
    assert seen == {
        "PATH": "/usr/bin:/bin",
        "SLOTSCHED_TASK_ID": attempt.mark,
        "SLOTSCHED_TASK_FENCE": "1",
        "MINE": "ü=1",
        "LC_CTYPE": "C.UTF-8",
        "SLOTSCHED_TASK_LOG_FD": "3",
        "TMPDIR": work,
    }
    assert time.strptime(deadline.partition(".")[0], "%Y-%m-%dT%H:%M:%S")


def test_a_script_starts_clean(lab):
    """No descriptor, ignored signal, blocked mask or raised limit of ours is left; stdin is empty."""
    program = """
import os, resource, signal, sys
fds = sorted(int(n) for n in os.listdir('/proc/self/fd'))
listing = fds[-1]
status = open('/proc/self/status').read()
print(fds, os.readlink('/proc/self/fd/0'), sys.stdin.read() == '')
print([l.split()[1] for l in status.splitlines() if l.startswith(('SigBlk', 'ShdPnd', 'SigPnd'))])
print([n for n in (1, 2, 3, 10, 12, 15, 17, 18, 20) if signal.getsignal(n) is signal.SIG_IGN])
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], oct(os.umask(0)), os.getsid(0) == os.getpid())
print(os.getcwd() == os.environ['TMPDIR'], os.listdir('.'))
"""
    _, attempt = lab.run("/usr/bin/python3", "-I", "-S", "-c", program)
    lines = attempt.text().splitlines()
    assert lines[0] == "[0, 1, 2, 3, 4] /dev/null True"
    assert lines[1] == str(["0" * 16] * 3)
    assert lines[2] == "[]"
    assert lines[3] == f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} 0o22 True"
    assert lines[4] == "True []"


def test_the_private_folder_is_gone_at_the_end_whatever_is_in_it(lab):
    script = 'touch a; mkdir -p b/c; touch b/c/d; chmod 0 b/c; ln -s /etc/passwd link; pwd; echo "$TMPDIR"'
    _, attempt = lab.run("sh", "-c", script)
    work = attempt.run_dir / "work"
    assert attempt.text() == f"{work}\n{work}\n"
    assert not work.exists()
    assert Path("/etc/passwd").exists()


def test_a_script_may_work_in_a_folder_of_its_own_choice(lab, tmp_path):
    _, attempt = lab.run("pwd", cwd=str(tmp_path))
    assert attempt.text() == f"{tmp_path}\n"
    assert tmp_path.exists()


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (None, 0o755, "there is no such file"),
        ("#!/bin/sh\n", 0o644, "permission denied (is it executable?"),
        ("echo no first line\n", 0o755, "not a program"),
        ("#!/no/such/interpreter\n", 0o755, "the interpreter named in its first line does not exist"),
    ],
)
def test_a_script_that_cannot_be_executed_says_why(lab, tmp_path, content, mode, says):
    script = tmp_path / "script"
    if content is not None:
        script.write_text(content)
        script.chmod(mode)
    ending, attempt = lab.run(str(script))
    assert (ending.cause, ending.started, ending.exit_code, ending.signal) == ("not_started", None, None, None)
    assert says in ending.message
    assert attempt.lines() == []


def test_other_reasons_not_to_start_are_told_apart(lab):
    ending, _ = lab.run("no-such-program")
    assert "no such program in PATH" in ending.message
    ending, _ = lab.run("true", "x" * 131_072)
    assert "too long" in ending.message
    ending, _ = lab.run("true", cwd="/no/such/folder")
    assert ending.message == "cannot enter its folder /no/such/folder: No such file or directory"
    ending, _ = lab.run("true", user="no-such-user")
    assert ending.message == 'there is no user "no-such-user" on this machine'
    assert ending.cause == "not_started"


def test_max_time_is_sigterm_then_sigkill_to_the_whole_tree(lab):
    attempt = lab.sh(
        "trap '' TERM; (setsid sleep 30 &) ; echo ready; while :; do sleep 0.1; done", max_time=0.5, grace=0.6
    )
    ending = attempt.wait()
    assert (ending.cause, ending.signal) == ("timeout", signal.SIGKILL)
    assert "max time of 0.5 s" in ending.message
    assert 1.1 <= ending.ended - ending.started < 2.1
    assert attempt.alive() == []


def test_a_script_that_ends_well_after_max_time_has_timed_out_all_the_same(lab):
    program = "trap 'echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    ending, attempt = lab.run("sh", "-c", program, max_time=0.5, grace=5)
    assert (ending.cause, ending.exit_code) == ("timeout", 0)
    assert ending.ended - ending.started < 2
    assert attempt.text() == "ready\ncleaned\n"


def test_nothing_is_waited_for_when_max_time_is_longer_than_the_script(lab):
    ending, _ = lab.run("sleep", "0.3", max_time=3)
    assert (ending.cause, ending.exit_code) == ("exit", 0)
    assert ending.ended - ending.started < 1.5


def test_cancel_lets_the_script_clean_up_and_names_who_asked(lab):
    attempt = lab.sh("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    attempt.wait_text("ready")
    attempt.order("canceled", by="ada")
    ending = attempt.wait()
    assert (ending.cause, ending.exit_code, ending.message) == ("canceled", 0, "canceled by ada")
    assert attempt.text() == "ready\nbye\n"


def test_kill_is_an_order_without_grace(lab):
    attempt = lab.sh("trap '' TERM; echo ready; while :; do sleep 0.05; done", grace=30)
    attempt.wait_text("ready")
    asked = boottime()
    attempt.order("canceled", 0)
    ending = attempt.wait()
    assert (ending.cause, ending.signal) == ("canceled", signal.SIGKILL)
    assert ending.ended - asked < 1


def obeyed(pid: int) -> bool:
    """No order's signal waits to be taken, and the supervisor has gone back to waiting."""
    words = Path(f"/proc/{pid}/status").read_text().split()
    pending = int(words[words.index("SigPnd:") + 1], 16) | int(words[words.index("ShdPnd:") + 1], 16)
    return not pending & 1 << (signal.SIGUSR1 - 1) and words[words.index("State:") + 1] == "S"


def test_a_later_order_shortens_an_earlier_one_and_never_lengthens_it(lab):
    attempt = lab.sh("trap '' TERM; echo ready; while :; do sleep 0.05; done", grace=30)
    attempt.wait_text("ready")
    attempt.order("canceled")
    wait_until(lambda: obeyed(attempt.pid))  # the next one replaces its file
    attempt.order("shutdown", 2)
    wait_until(lambda: obeyed(attempt.pid))
    attempt.order("shutdown", 20)
    ending = attempt.wait(10)
    assert ending.cause == "canceled"


def test_an_order_may_come_before_the_supervisor_is_up(lab):
    for _ in range(5):
        attempt = lab.sh("sleep 10")
        Supervised(attempt.pid, attempt.pidfd).order(attempt.run_dir, "canceled", 0)
        assert attempt.wait(5).cause == "canceled"


def test_lost_outranks_a_cancel(lab):
    attempt = lab.sh("trap '' TERM; echo ready; while :; do sleep 0.05; done", grace=30)
    attempt.wait_text("ready")
    attempt.order("canceled")
    wait_until(lambda: obeyed(attempt.pid))
    attempt.order("lost", 0)
    assert attempt.wait(5).cause == "lost"


def test_a_stopped_script_still_gets_its_sigterm(lab):
    attempt = lab.sh("trap 'echo woken; exit 3' TERM; echo ready; kill -STOP $$; sleep 10", grace=10)
    attempt.wait_text("ready")
    attempt.order("canceled")
    assert attempt.wait(8).exit_code == 3


@pytest.mark.parametrize("how", ["after a normal exit", "killed"])
def test_what_escapes_its_parents_dies_with_the_attempt(lab, how):
    attempt = lab.start(PYTHON, "-I", "-S", "-c", ESCAPER, "1.5" if how == "after a normal exit" else "5")
    attempt.wait_text("loose")
    wait_until(lambda: len(attempt.alive()) >= 5, 5)
    if how == "killed":
        asked = boottime()
        attempt.order("canceled", 0)
        ending = attempt.wait(5)
        assert ending.cause == "canceled"
        assert ending.ended - asked < 1
    else:
        ending = attempt.wait(5)
        assert (ending.cause, ending.exit_code) == ("exit", 0)
        assert ending.ended - ending.started < 4, "what got loose lives 5 s"
    assert attempt.alive() == []


def test_a_tree_that_outgrows_its_memory_limit_is_ended_for_it(lab):
    program = (
        "import time; hold = []\nfor _ in range(30): hold.append(b'x' * (10 << 20)); time.sleep(0.02)\ntime.sleep(5)"
    )
    ending, attempt = lab.run(PYTHON, "-I", "-S", "-c", program, memory=100 << 20)
    assert (ending.cause, ending.signal) == ("memory", signal.SIGKILL)
    assert "the limit is 100.0 MiB" in ending.message
    assert 100 << 20 < ending.peak_memory < 250 << 20
    assert attempt.alive() == []


def test_cpu_and_peak_memory_count_the_whole_tree(lab):
    burn = "import time\nx = b'x' * (60 << 20)\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    ending, _ = lab.run("sh", "-c", f'({PYTHON} -I -S -c "{burn}" &) ; {PYTHON} -I -S -c "{burn}"; sleep 0.4')
    assert 0.5 < ending.cpu_seconds < 3
    assert ending.peak_memory > 60 << 20


def test_a_script_cannot_end_or_confuse_its_supervisor(lab):
    """It has the orders' signals and the run directory's name, and knows its parent."""
    script = """
kill -USR1 $PPID; kill -TERM $PPID; kill -USR2 $PPID; kill -HUP $PPID; kill -INT $PPID
(kill -TERM $PPID; kill -USR1 $PPID) & wait; sleep 0.2; exit 5"""
    ending, _ = lab.run("sh", "-c", script)
    assert (ending.cause, ending.exit_code) == ("exit", 5)


def test_a_script_that_closes_or_floods_its_pipes_ends_as_usual(lab):
    ending, _ = lab.run("sh", "-c", "exec >&- 2>&- 3>&-; sleep 0.2; exit 4")
    assert ending.exit_code == 4
    attempt = lab.sh("yes", max_time=0.5, grace=0.2)
    ending = attempt.wait()
    assert ending.cause == "timeout"
    assert ending.ended - ending.started < 2


def test_the_attempt_is_found_by_its_run_directory_while_it_lives_and_only_then(lab):
    attempt = lab.sh("echo ready; sleep 10")
    attempt.wait_text("ready")
    supervised = find_supervisor(attempt.run_dir)
    assert supervised is not None
    assert supervised.pid == attempt.pid
    assert forbid_start(attempt.run_dir) is False
    assert supervised.order(attempt.run_dir, "shutdown", 0) is True
    assert attempt.wait().cause == "shutdown"
    assert find_supervisor(attempt.run_dir) is None
    wait_until(lambda: not supervised.order(attempt.run_dir, "shutdown", 0))
    supervised.close()


def test_a_run_directory_whose_start_was_forbidden_never_starts(lab, tmp_path):
    witness = tmp_path / "witness"
    run_dir, _ = lab.prepare(["touch", str(witness)])
    assert forbid_start(run_dir) is True
    assert forbid_start(run_dir) is True
    lab.launcher.launch(run_dir)
    (event,) = lab.events()
    attempt = Attempt(run_dir, "-", event.pid, event.pidfd, 0)
    attempt.wait_gone()
    os.close(event.pidfd)
    assert not witness.exists()
    assert not (run_dir / "status.json").exists()


def test_the_name_in_ps_is_the_supervisors(lab):
    attempt = lab.sh("echo ready; sleep 10")
    attempt.wait_text("ready")
    assert Path(f"/proc/{attempt.pid}/comm").read_text() == "slotsched-sup\n"
    attempt.order("canceled", 0)
    attempt.wait()
