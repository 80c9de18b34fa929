"""`run`: a job here and now, without a database."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import subprocess
import termios
from pathlib import Path

import pytest
from cli_user import Terminal, User
from fleet import SLOTSCHED, Fleet, until

from slotsched import contract

NOWHERE = {"mongodb_uri": "mongodb://127.0.0.1:9"}


@pytest.fixture
def user(tmp_path: Path) -> User:
    """Somebody without a database, in a folder with jobs/."""
    (tmp_path / "jobs").mkdir()
    return User(Fleet(tmp_path, NOWHERE, tmp_path / "jobs"))


def script(user: User, name: str, body: str, facts: str = "") -> None:
    header = f"# /// script\n# [tool.slotsched]\n{facts}# ///\n"
    file = user.fleet.folder / "jobs" / name
    file.write_text(header + body if name.endswith(".py") else f"#!/bin/sh\n{header}{body}")
    file.chmod(0o755)


def test_output_passes_through_and_the_result_is_said_beside_it(user: User) -> None:
    script(user, "hello.py", 'def main(name: str = "world"):\n    print("hello", name)\n    return {"n": 1}\n')
    done = user.run("run", "hello", "name=you")
    assert (done.code, done.out) == (contract.EXIT_OK, "hello you\n")
    assert re.fullmatch(r'completed in \S+  result \{"n": 1\}\n', done.err)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("exit 0", contract.EXIT_OK, r"completed in \S+"),
        ("exit 100", contract.EXIT_CANCELED, r"canceled in \S+"),
        ("exit 7", contract.EXIT_FAILED, r"failed in \S+: exit code 7"),
        ("kill -9 $$", contract.EXIT_FAILED, r"failed in \S+: signal SIGKILL"),
        ("kill -TERM $$", contract.EXIT_FAILED, r"failed in \S+: signal SIGTERM"),
    ],
)
def test_it_ends_as_the_script_did(user: User, body: str, code: int, said: str) -> None:
    script(user, "job.sh", f"{body}\n")
    done = user.run("run", "job")
    assert done.code == code
    assert re.fullmatch(f"{said}\n", done.err)


def test_the_callers_folder_is_kept(user: User) -> None:
    script(user, "where.sh", "pwd\n")
    assert user.run("run", "where").out == f"{user.fleet.folder}\n"


def test_max_time_ends_a_script_that_ignores_it_with_its_children(user: User) -> None:
    script(
        user, "deaf.sh", "trap '' TERM\nsleep 60 &\necho $!\nwhile true; do sleep 0.1; done\n", '# grace = "300ms"\n'
    )
    done = user.run("run", "deaf", "--max-time", "500ms", seconds=20)
    assert done.code == contract.EXIT_FAILED
    assert re.fullmatch(r"failed in (0\.[89]|1\.\d)s: max time reached\n", done.err)
    child = Path("/proc") / done.out.strip()
    until(lambda: not child.exists() or " Z " in (child / "stat").read_text(), what="the child's end")


def test_max_time_may_be_short_but_not_nothing(user: User) -> None:
    script(user, "sleepy.sh", "echo up\nsleep 60\n")
    short = user.run("run", "sleepy", "--max-time", "20ms", seconds=20)
    assert (short.code, "max time reached" in short.err) == (contract.EXIT_FAILED, True)
    nothing = user.run("run", "sleepy", "--max-time", "0", seconds=20)
    assert (nothing.code, nothing.out) == (contract.EXIT_USAGE, "")
    assert "--max-time: must be more than 0" in nothing.err
    endless = user.run("run", "sleepy", "--max-time", "9999999d", seconds=20)
    assert (endless.code, endless.out) == (contract.EXIT_USAGE, "")
    assert endless.err == "--max-time: 9999999d is more than 366 days\n"


def test_ctrl_c_gives_the_script_its_grace(user: User) -> None:
    script(user, "tidy.sh", "trap 'echo tidied; exit 0' TERM\necho ready\nwhile true; do sleep 0.1; done\n")
    with user.start("run", "tidy") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "tidied\n"
        process.wait(20)
    assert process.returncode == contract.EXIT_INTERRUPTED


TIDY = """\
trap 'echo tidied > witness; exit 0' TERM
echo "$SLOTSCHED_TASK_PROGRESS"
n=0
while [ $n -lt 300 ]; do [ -e go ] && exit 0; sleep 0.1; n=$((n + 1)); done
"""  # ends by itself, should nobody end it


def test_a_terminal_that_is_closed_ends_the_script_and_leaves_nothing(user: User) -> None:
    """The kernel sends SIGHUP to us, not to the script's own group, and what we show goes nowhere."""
    script(user, "tidy.sh", TIDY)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*SLOTSCHED, "run", "tidy"],
        env=user.environment(TERM="xterm-256color"),
        cwd=user.fleet.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        terminal = Terminal(process, ours)
        shown = terminal.until("/progress\n")
        io = Path(shown.partition("/progress\n")[0].rpartition("\n")[2])
        assert io.is_dir()
        os.close(ours)
        assert process.wait(20) == contract.EXIT_CANCELED
    finally:
        process.kill()
    assert (user.fleet.folder / "witness").read_text() == "tidied\n"
    assert not io.exists()


def test_what_nohup_started_goes_on_when_the_terminal_is_closed(user: User) -> None:
    script(user, "tidy.sh", TIDY)
    process = subprocess.Popen(
        ["nohup", *SLOTSCHED, "run", "tidy"],
        env=user.environment(),
        cwd=user.fleet.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().endswith("/progress\n")
        process.send_signal(signal.SIGHUP)
        (user.fleet.folder / "go").touch()
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == contract.EXIT_OK
    assert err.startswith("completed in ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_to_be_asked_to_end_is_to_cancel_the_script(user: User, number: signal.Signals) -> None:
    script(user, "tidy.sh", TIDY)
    with user.start("run", "tidy") as process:
        assert process.stdout is not None
        io = Path(process.stdout.readline().strip()).parent
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == contract.EXIT_CANCELED
    assert "canceled in " in err
    assert (user.fleet.folder / "witness").exists()
    assert not io.exists()


def test_a_second_ctrl_c_does_not_wait_for_the_grace(user: User) -> None:
    script(user, "deaf.sh", "trap '' TERM\necho ready\nwhile true; do sleep 0.1; done\n", '# grace = "1h"\n')
    with user.start("run", "deaf") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        until(lambda: process.poll() is not None or process.send_signal(signal.SIGINT), what="its end")
    assert process.returncode == contract.EXIT_INTERRUPTED


def test_what_cannot_be_started_is_said(user: User) -> None:
    script(user, "broken.sh", "")
    (user.fleet.folder / "jobs" / "broken.sh").write_text("#!/nowhere/sh\n# /// script\n# [tool.slotsched]\n# ///\n")
    done = user.run("run", "broken")
    assert done.code == contract.EXIT_FAILED
    assert "broken.sh cannot be started: No such file or directory" in done.err


def test_a_result_that_is_no_json_is_said_and_left_out(user: User) -> None:
    script(user, "bad.sh", 'echo nonsense > "$SLOTSCHED_TASK_RESULT"\n')
    done = user.run("run", "bad")
    assert done.code == contract.EXIT_OK
    assert "the result is not JSON" in done.err


def test_a_python_in_a_home_that_nobody_knows_is_said(user: User) -> None:
    script(user, "far.py", "print(1)\n", '# python = "~nosuchuser/bin/python"\n')
    done = user.run("run", "far")
    assert (done.code, done.out) == (contract.EXIT_FAILED, "")
    assert done.err == "nobody knows the home folder that ~nosuchuser stands for in ~nosuchuser/bin/python\n"


def test_a_new_job_runs_as_it_is(user: User) -> None:
    for words in (["first"], ["second", "--shell"], ["reports/third"]):
        path = Path(user.ok("job", "new", *words))
        assert path.is_file()
        done = user.run("run", words[0])
        assert done.code == contract.EXIT_OK, done.err
        assert '"greetings"' in done.err
    user.ok("job", "new", "disks", "--command")
    assert "%" in user.ok("run", "disks")
