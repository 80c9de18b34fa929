"""Whole trees that have to die: F11 (SIGTERM ignored), F12 (what a script left behind), F16 (fork bomb, memory hog),
F33 (pid reuse), and how long the last process of the nastiest task lives after the reason to end, on every rung of
containment this machine has. The floods of F13 are in `acceptance/test_nasty_tasks.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import Figures
from fleet import Fleet, FleetMaker, boottime, processes_of, until
from kill_lab import (
    CAUSES,
    MOST_PROCESSES,
    Death,
    dead_at,
    die,
    living,
    nobody_left_to_kill,
    percentiles,
    table,
)
from process_lab import Lab, opened

TESTS = Path(__file__).resolve().parents[1]
RUNGS = ("pidns", "userns", "cgroup", "subreaper")
DEAD_WITHIN_SECONDS = 1.0
RUNS, ALL_RUNS = 8, 200

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED HERE: needs root")


@pytest.fixture(params=RUNGS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    with opened(tmp_path, request.param) as lab:
        yield lab


# --- the nastiest task ------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_the_nastiest_task_is_dead_within_a_second_of_whatever_ends_it(lab: Lab, figure: Figures) -> None:
    runs = RUNS if lab.launcher.containment.name == "pidns" else len(CAUSES)
    _record([die(lab, CAUSES[number % len(CAUSES)]) for number in range(runs)], lab.launcher.containment.name, figure)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_two_hundred_of_the_nastiest_tasks_are_dead_within_a_second_each(lab: Lab, figure: Figures) -> None:
    deaths = [die(lab, CAUSES[number % len(CAUSES)]) for number in range(ALL_RUNS)]
    _record(deaths, lab.launcher.containment.name, figure)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@needs_root
@pytest.mark.parametrize("rung", ["userns", "subreaper"])
def test_two_hundred_of_an_ordinary_users_are_dead_within_a_second_each(rung: str, figure: Figures) -> None:
    _record(_as_nobody(rung, ALL_RUNS), f"{rung}, ordinary user", figure)


def _record(deaths: list[Death], where: str, figure: Figures) -> None:
    print(f"\n{where}\n{table(deaths)}")
    assert max(death.most for death in deaths) <= MOST_PROCESSES, "the task itself is out of bounds"
    for cause in CAUSES:
        p50, p99, p100 = percentiles([death.seconds for death in deaths if death.cause == cause])
        runs = sum(death.cause == cause for death in deaths)
        if runs >= 10:
            figure("kill", f"{where}: {cause}, p50 of {runs} runs", p50 * 1000, "ms")
            figure("kill", f"{where}: {cause}, p99 of {runs} runs", p99 * 1000, "ms")
        figure("kill", f"{where}: {cause}, slowest of {runs} runs", p100, at_most=DEAD_WITHIN_SECONDS)


def _as_nobody(rung: str, runs: int) -> list[Death]:
    """The same by the system's Python, as a user without any privilege; the package is copied to where it can read."""
    python = "/usr/bin/python3"
    if not shutil.which("setpriv") or not Path(python).exists():
        pytest.skip("NOT TESTED HERE: needs setpriv and a Python that everybody can run")
    here = Path(tempfile.mkdtemp(prefix="slotsched-nobody-"))
    try:
        (here / "tests" / "benchmarks").mkdir(parents=True)
        shutil.copytree(TESTS.parent / "slotsched", here / "slotsched", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("kill_lab.py", "process_lab.py", "benchmarks/bench_kill.py"):
            shutil.copy(TESTS / name, here / "tests" / name)
        subprocess.run(["chmod", "-R", "a+rX", here], check=True)
        (here / "state").mkdir()
        os.chown(here / "state", 65534, 65534)
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--inh-caps=-all"]
        bench = [here / "tests" / "benchmarks" / "bench_kill.py", "--json", "--rung", rung, "--runs", str(runs)]
        done = subprocess.run(
            [*user, python, "-B", *bench, "--state", here / "state"],
            capture_output=True,
            timeout=1100,
            check=False,
            cwd=here,
            env={"PATH": "/usr/bin:/bin"},
        )
    finally:
        shutil.rmtree(here)
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout)
    assert (seen["rung"], seen["full"]) == (rung, rung == "userns")
    return [Death(**one) for one in seen["deaths"]]


def test_a_death_that_does_not_come_is_seen(tmp_path: Path) -> None:
    """The judge itself: a process of the task that nobody kills."""
    mark = "nasty-that-nobody-kills"
    idle = "import time; time.sleep(30)"
    survivor = subprocess.Popen([sys.executable, "-I", "-S", "-c", idle, mark], env={}, start_new_session=True)
    try:
        until(lambda: living(mark) == [survivor.pid])
        with pytest.raises(AssertionError, match=rf"alive 0.2 s later: \[{survivor.pid}\]"):
            dead_at(mark, within=0.2)
    finally:
        survivor.kill()
        survivor.wait()
    assert dead_at(mark, within=1) > 0


def test_a_supervisor_and_the_spawner_killed_together_leave_nothing_after_the_sweep(lab: Lab, figure: Figures) -> None:
    """A namespace falls with its supervisor; elsewhere the sweep finds them, without their environment, too."""
    name = lab.launcher.containment.name
    swept, before, after = nobody_left_to_kill(lab)
    assert swept
    figure("F04", f"processes left after the sweep ({name})", len(after), "", exactly=0)
    assert (before == []) == lab.launcher.containment.full, "a degraded rung leaves them to the sweep, and says so"


# --- what a user sees: one fleet --------------------------------------------------------------------


@pytest.fixture(scope="module")
def grove(make_fleet: FleetMaker) -> Iterator[Fleet]:
    """An instance for tasks of the shell and of Python that misbehave in one way each."""
    with make_fleet() as made:
        made.start("grove", slots=4)
        yield made


def test_a_task_that_ignores_sigterm_is_killed_at_its_max_time_and_grace(grove: Fleet, figure: Figures) -> None:
    task = grove.client.enqueue("ignorant", max_time="2s").id  # its grace is 1 s
    started = grove.witness.wait_for("start", task).at
    dead = until(lambda: not processes_of(task) and boottime(), what="the end of it")
    figure("F11", "SIGKILL off max time + grace", abs(dead - started - 3.0), at_most=1.0)
    (ended,) = grove.ended(task)
    assert (ended.status, ended.reason, ended.signal) == ("failed", "timeout", signal.SIGKILL)
    assert [mark.event for mark in grove.witness.marks() if mark.task == task] == ["start", "term"]


def test_a_fork_bomb_and_a_memory_hog_fail_with_their_reasons_and_harm_no_neighbour(
    grove: Fleet, figure: Figures
) -> None:
    neighbour = grove.client.enqueue("talker", {"lines": 40, "pause": 0.05}).id
    grove.witness.wait_for("start", neighbour)
    bomb = grove.client.enqueue("bomb", {"processes": 150}, max_time="2s").id
    hog = grove.client.enqueue("hog", memory="64MiB").id
    grove.witness.wait_for("lit", bomb)
    most = len(processes_of(bomb))
    ended = {task.id: task for task in grove.ended(neighbour, bomb, hog)}

    assert most > 100, "the bomb never went off, so the test proves nothing"
    assert (ended[bomb].status, ended[bomb].reason) == ("failed", "timeout")
    assert (ended[hog].status, ended[hog].reason) == ("failed", "memory")
    assert "64.0 MiB" in (ended[hog].message or "")
    assert (ended[neighbour].status, ended[neighbour].reason) == ("completed", "exit")
    said = grove.cli("logs", neighbour, "--raw", "--stream", "stdout").stdout.splitlines()
    assert [line.split()[1] for line in said] == [str(number) for number in range(1, 41)]
    figure("F16", "processes left by a fork bomb of 150", len(processes_of(bomb)), "", exactly=0)
    assert grove.ended(grove.client.enqueue("talker").id)[0].status == "completed"


def test_a_task_that_removes_its_own_run_directory_ends_and_frees_its_slots(grove: Fleet) -> None:
    """Whatever a script of our own user does to its folder, its end is recorded and the loop goes on."""
    task = grove.client.enqueue("vandal").id
    (ended,) = grove.ended(task)
    assert (ended.status, ended.reason) == ("failed", "lost")
    assert ended.message == "its run directory was removed"
    assert processes_of(task) == set()
    after = [grove.client.enqueue("talker").id for _ in range(4)]
    assert {one.status for one in grove.ended(*after)} == {"completed"}
    until(lambda: grove.instance("grove")["used"] == 0, what="all slots to be free")


# --- what cannot be killed --------------------------------------------------------------------------


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A cgroup v1 freezer: what is in it and frozen survives SIGKILL until it is thawed, like a dead disk's reader."""
    group = Path(f"/sys/fs/cgroup/freezer/slotsched-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"NOT TESTED HERE: no freezer: {error}")
    yield group
    (group / "freezer.state").write_text("THAWED")
    for pid in (group / "tasks").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: not (group / "tasks").read_text(), what="an empty freezer")
    group.rmdir()


@needs_root
@pytest.mark.parametrize("containment", [pytest.param("pidns", marks=pytest.mark.chaos), "subreaper"])
def test_what_cannot_be_killed_keeps_its_slots_and_is_reported(
    make_fleet: FleetMaker, freezer: Path, containment: str
) -> None:
    """A degraded instance says what it is; none says that what is alive were dead."""
    with make_fleet(containment=containment) as fleet:
        instance = fleet.start("haunted", slots=1)
        if containment == "subreaper":
            checks = {one["name"]: one for one in json.loads(fleet.cli("doctor", "-o", "json").stdout)}
            assert (checks["containment"]["level"], checks["containment"]["text"][:14]) == ("warn", "subreaper only")
            assert "subreaper (degraded)" in fleet.cli("instance", "ls").stdout
        task = fleet.client.enqueue("talker", {"lines": 10_000, "pause": 0.05}).id
        fleet.witness.wait_for("start", task)
        for pid in processes_of(task):
            (freezer / "tasks").write_text(str(pid))
        (freezer / "freezer.state").write_text("FROZEN")
        until(lambda: (freezer / "freezer.state").read_text().strip() == "FROZEN")
        following = fleet.client.enqueue("talker").id
        for one in instance.tree():
            if one.name() == "slotsched-sup":
                one.kill()
        if containment == "subreaper":
            said = "a killed supervisor's processes live on; their slots stay taken"
            until(lambda: any(line["msg"] == said for line in instance.log()), what="a report")
        until(lambda: fleet.instance("haunted")["used"] == 1)
        held = boottime()
        until(lambda: boottime() - held > 1.5, what="some turns of the loop")
        assert processes_of(task), "it is alive still"
        assert fleet.client.get(task).status == "running"
        assert fleet.client.get(following).status == "pending", "its slot is not given to another"

        (freezer / "freezer.state").write_text("THAWED")
        ended, after = fleet.ended(task, following)
        assert (ended.status, ended.reason, ended.message) == ("failed", "lost", "its supervisor was killed")
        assert after.status == "completed"
        assert processes_of(task) == set()


# --- pids that are used again -----------------------------------------------------------------------

REUSE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from process_lab import Lab, wait_until
from slotsched.process import Supervised, find_supervisor, sweep_tree
lab = Lab(Path(sys.argv[1]), sys.argv[2])
attempt = lab.sh("echo ready; sleep 20")
attempt.wait_text("ready")
before = attempt.alive()
kept = find_supervisor(attempt.run_dir)
os.kill(lab.launcher.pid, signal.SIGKILL)
os.kill(attempt.pid, signal.SIGKILL)
attempt.wait_gone()
def collected():  # by its spawner with its last breath or, once that is dead, by us, as process 1: no other has its pid
    try:
        os.waitpid(attempt.pid, os.WNOHANG)
    except ChildProcessError:
        pass  # a dying spawner's still
    return not Path(f"/proc/{attempt.pid}").exists()
wait_until(collected, what="a pid that is free")
Path("/proc/sys/kernel/ns_last_pid").write_text(str(attempt.pid - 1))
stranger = subprocess.Popen(["sleep", "20"])
obeyed = kept.order(attempt.run_dir, "lost", 0)
kept.kill()
found = find_supervisor(attempt.run_dir)
swept = sweep_tree(attempt.run_dir)
time.sleep(0.1)
print(json.dumps({"reused": stranger.pid == attempt.pid, "stranger": stranger.poll(), "obeyed": obeyed,
                  "found": found is not None, "swept": swept, "left": attempt.alive(), "were": len(before)}))
stranger.kill()
lab.close()
"""


@needs_root
@pytest.mark.parametrize("rung", ["pidns", "subreaper"])
def test_a_stranger_with_the_pid_of_a_dead_supervisor_is_untouched(tmp_path: Path, figure: Figures, rung: str) -> None:
    """In a PID namespace of the test's own, where the next pid can be chosen."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*unshare, sys.executable, "-c", REUSE, tmp_path, rung],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
    )
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout)
    assert seen["reused"], "the pid was not used again, so the test proves nothing"
    assert seen["were"] > 0
    figure("F33", f"strangers harmed ({rung})", int(seen["stranger"] is not None), "", exactly=0)
    assert (seen["obeyed"], seen["found"], seen["swept"], seen["left"]) == (False, False, True, [])
