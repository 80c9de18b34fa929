"""Failpoints: off they are nothing at all; armed they act once, at their edge, and say so."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from slotsched.failpoints import NOTICE, VARIABLE, failpoint
from slotsched.settings import load

PROGRAM = textwrap.dedent(
    """
    from slotsched.failpoints import failpoint

    @failpoint("work")
    def work(n):
        if n < 0:
            raise ValueError(n)
        print("worked", n, flush=True)
        return n + 1

    for n in range(3):
        print("got", work(n), flush=True)
    try:
        work(-1)
    except ValueError:
        print("raised", flush=True)
    """
)


def program(points: str | None) -> subprocess.CompletedProcess[str]:
    """A program of its own: points are armed when the module is loaded."""
    environ = {} if points is None else {VARIABLE: points}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, timeout=30)


def said(points: str) -> list[str]:
    return program(points).stdout.splitlines()


def test_off_the_mark_hands_back_the_very_function() -> None:
    def work() -> None:
        """Never called."""

    assert failpoint("work")(work) is work


def test_without_the_variable_the_program_is_as_if_there_were_no_points() -> None:
    done = program(None)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-3:] == ["worked 2", "got 3", "raised"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("point", "last"),
    [
        ("work.before=kill", []),
        ("work.after=kill", ["worked 0"]),
        ("work.before=kill@2", ["worked 0", "got 1"]),
        ("work.after=kill@3", ["worked 0", "got 1", "worked 1", "got 2", "worked 2"]),
    ],
)
def test_a_kill_comes_at_the_edge_and_the_time_that_were_asked(point: str, last: list[str]) -> None:
    done = program(point)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines() == last
    assert done.stderr == f"{NOTICE} {point.partition('@')[0]}\n"


def test_after_is_reached_too_when_the_function_raises() -> None:
    assert program("work.after=kill@4").returncode == -signal.SIGKILL
    assert said("work.after=kill@4")[-1] == "got 3"


def test_a_stop_freezes_the_process_until_it_is_told_to_go_on() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env={VARIABLE: "work.after=stop"}, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"worked 0\n"
        with Path(f"/proc/{process.pid}/stat").open() as stat:  # it stops before anything else can be read
            while stat.read().rpartition(")")[2].split()[0] != "T":
                stat.seek(0)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read().splitlines()[-1] == b"raised"
    assert process.returncode == 0


def test_a_sleep_passes() -> None:
    assert said("work.before=sleep:0.01")[-1] == "raised"


def test_several_points_can_be_armed_and_each_acts_once() -> None:
    done = program("work.before=sleep:0, work.after=sleep:0@2")
    assert done.stderr.splitlines() == [f"{NOTICE} work.before=sleep:0", f"{NOTICE} work.after=sleep:0"]


@pytest.mark.parametrize(
    "text", ["work=kill", "work.during=kill", "work.before=explode", "work.before", "work.before=kill@x"]
)
def test_what_is_misspelt_is_an_error_at_once(text: str) -> None:
    done = program(text)
    assert done.returncode == 1
    assert "ValueError" in done.stderr
    assert done.stdout == ""


def test_a_point_that_nothing_has_is_told_by_its_silence() -> None:
    """The harness of the crash tests asks for the notice, so a misspelt name cannot pass."""
    assert NOTICE not in program("wrok.before=kill").stderr


def test_the_variable_is_not_taken_for_a_setting(tmp_path: Path) -> None:
    assert load({}, {"HOME": str(tmp_path), VARIABLE: "work.before=kill"}, tmp_path).warnings == ()
