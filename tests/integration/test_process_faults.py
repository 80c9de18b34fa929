"""Attempts when something around them dies, hangs or fills up."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_lab import ESCAPER, Attempt, Lab, boottime, marked, readable, wait_until

from slotsched.process import (
    ContainmentUnavailable,
    DeadlineFile,
    Gone,
    Launched,
    Launcher,
    LaunchFailed,
    SpawnerGone,
    abandoned_ending,
    find_supervisor,
    procfs,
    read_ending,
    sweep_tree,
)
from slotsched.process.sweep import StillSupervised

PYTHON = sys.executable
NAMESPACES = ["pidns", "userns"]
DEGRADED = ["cgroup", "subreaper"]

pytestmark = pytest.mark.timeout(60)


@contextlib.contextmanager
def opened(*args):
    try:
        lab = Lab(*args)
    except ContainmentUnavailable as error:
        pytest.skip(f"NOT TESTED HERE: {error}")
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def lab(tmp_path):
    with opened(tmp_path) as lab:
        yield lab


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


# --- the spawner --------------------------------------------------------------------------------------


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
    dirs = [lab.prepare(["true"])[0] for _ in range(60)]
    os.kill(lab.launcher.pid, signal.SIGSTOP)
    began = time.monotonic()
    for _ in range(50):  # 3,000 requests: far more than a socket holds
        for run_dir in dirs:
            lab.launcher._unsent.append(run_dir) if _ else lab.launcher.launch(run_dir)
    lab.launcher._send()
    assert time.monotonic() - began < 2
    while len(lab.launcher._unsent) > 0 and lab.launcher._unsent[-1] in dirs and len(lab.launcher._unsent) > 100:
        lab.launcher._unsent.pop()
    os.kill(lab.launcher.pid, signal.SIGCONT)
    wait_until(lambda: read_ending(dirs[0]))  # nobody has read an answer yet
    wait_until(lambda: all(read_ending(run_dir) for run_dir in dirs))
    for event in lab.events(60):
        os.close(event.pidfd)


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


def test_containment_describes_itself(tmp_path):
    with opened(tmp_path / "", "subreaper") as lab:
        assert (lab.launcher.containment.name, lab.launcher.containment.full) == ("subreaper", False)
        assert lab.launcher.containment.detail


def test_a_job_can_do_without_a_user_namespace(tmp_path):
    with opened(tmp_path, "auto") as lab:
        attempt = lab.start("sh", "-c", "readlink /proc/self/ns/user", user_namespace=False)
        attempt.wait()
        assert attempt.text().strip() == os.readlink("/proc/self/ns/user")


# --- the supervisor -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rung", NAMESPACES)
def test_a_killed_supervisor_takes_its_tree_with_it(tmp_path, rung):
    with opened(tmp_path, rung) as lab:
        attempt = lab.start(PYTHON, "-I", "-S", "-c", ESCAPER, "5")
        attempt.wait_text("loose")
        kill(attempt.pid)
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


# --- the lease ----------------------------------------------------------------------------------------


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
    from slotsched.process import script, spec, supervisor

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


# --- the log ------------------------------------------------------------------------------------------


def test_a_prompt_without_a_newline_shows_soon(lab):
    attempt = lab.sh("printf 'password: '; sleep 10")
    began = time.monotonic()
    attempt.wait_text('"msg":"password: ","part":true')
    assert time.monotonic() - began < 1.5
    attempt.order("canceled", 0)
    attempt.wait()


def test_a_gigabyte_without_a_newline_is_capped_in_little_memory(lab):
    attempt = lab.sh("head -c 1000000000 /dev/zero | tr '\\0' x", max_time=50)
    most = 0
    while not readable(attempt.pidfd, 0.2):
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{attempt.pid}/status").read_text().splitlines()
            most = max(most, int(next(line for line in status if line.startswith("VmHWM")).split()[1]))
    ending = attempt.wait(50)
    assert ending.exit_code == 0
    assert ending.log_truncated
    assert 0 < most < 50 * 1024
    size, left_out, kept = 0, 0, 0
    with (attempt.run_dir / "log.ndjson").open("rb") as log:
        for line in log:
            size += len(line)
            value = json.loads(line)
            left_out += value.get("truncated", 0)
            kept += len(value["msg"]) if "stream" in value else 0
    assert size == ending.log_bytes < 120 << 20
    assert left_out + kept == 1_000_000_000
    assert 99 << 20 < kept <= 100 << 20
    print(f"1 GB in {ending.ended - ending.started:.1f} s, supervisor {most} KiB")


def test_random_bytes_come_back_identical(lab, tmp_path):
    import base64

    data = os.urandom(10 << 20)
    source = tmp_path / "data"
    source.write_bytes(data)
    ending, attempt = lab.run("cat", str(source))
    assert not ending.log_truncated
    back = b""
    for value in attempt.lines():
        back += base64.b64decode(value["bytes"]) if "bytes" in value else value["msg"].encode()
        back += b"" if value.get("part") or value.get("eol") is False else b"\n"
    assert back == data
    assert ending.log_bytes < 2 * len(data)


def test_the_log_pipe_is_a_stream_of_its_own(lab):
    line = '{"level":50,"time":5,"msg":"from the logger"}'
    script = f"printf 'half a '; echo '{line}' >&3; echo 'plain' >&3; echo line; echo '{line}' >&2"
    _, attempt = lab.run("sh", "-c", script)
    log = (attempt.run_dir / "log.ndjson").read_bytes().splitlines()
    assert f"{line} ".encode() in log
    assert f"{line}\t".encode() in log
    assert attempt.text("log") == "plain\n"
    assert attempt.text("stdout") == "half a line\n"


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False
    ).returncode:
        pytest.skip("NOT TESTED HERE: mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_no_script_and_hides_no_end(tiny_disk):
    with opened(tiny_disk) as lab:
        ending, attempt = lab.run("sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' '\\n'; exit 3")
        assert (ending.cause, ending.exit_code, ending.log_truncated) == ("exit", 3, True)
        assert all("msg" in line for line in attempt.lines())
        assert ending.log_bytes == (attempt.run_dir / "log.ndjson").stat().st_size


def test_a_kill_works_on_a_full_disk(tiny_disk):
    with opened(tiny_disk) as lab:
        attempt = lab.sh("head -c 2000000 /dev/zero > fill; echo full; sleep 20")
        wait_until(lambda: os.statvfs(tiny_disk).f_bavail == 0)
        attempt.order("canceled", 0)
        assert attempt.wait(5).cause == "shutdown"  # the order could not be written


# --- users --------------------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED HERE: needs root")


@needs_root
def test_a_job_runs_as_its_user(tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/") and str(folder).startswith("/tmp/pytest"):
            folder.chmod(folder.stat().st_mode | 0o011)
    with opened(tmp_path) as lab:
        script = (
            'id -un; id -gn; id -Gn | tr " " "\\n" | grep -c root; touch mine "$TMPDIR/too" ../io/result.json; '
            "echo again > /dev/stdout; echo error > /dev/stderr; cat ../spec.json; kill -0 $PPID"
        )
        ending, attempt = lab.run("sh", "-c", script, user="nobody", env={"LANG": "C"})
        assert attempt.text().splitlines() == ["nobody", "nogroup", "0", "again"]
        assert "error" in attempt.text("stderr")
        assert attempt.text("stderr").count("ermi") >= 2  # neither the spec nor the supervisor is its own
        assert (attempt.run_dir / "io" / "result.json").stat().st_uid == 65534
        assert ending.exit_code == 1


@needs_root
def test_an_unprivileged_scheduler_contains_its_attempts_too():
    """The whole package, copied to where everybody can read, run by the system's Python as `nobody`."""
    import shutil
    import tempfile

    python = "/usr/bin/python3"
    if not shutil.which("setpriv") or not Path(python).exists():
        pytest.skip("NOT TESTED HERE: needs setpriv and a Python that everybody can run")
    here = Path(tempfile.mkdtemp(prefix="slotsched-nobody-"))
    try:
        here.chmod(0o755)
        tests = Path(__file__).resolve().parents[1]
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(tests.parent / "slotsched", here / "slotsched", ignore=ignore)
        for name in ("process_lab.py", "process_unprivileged.py"):
            shutil.copy(tests / name, here)
        subprocess.run(["chmod", "-R", "a+rX", here], check=True)
        (here / "state").mkdir()
        os.chown(here / "state", 65534, 65534)
        answer = subprocess.run(
            ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs", "--inh-caps=-all"]
            + [python, "-B", here / "process_unprivileged.py", here / "state"],
            capture_output=True,
            timeout=50,
            check=False,
            cwd=here,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(here)},
        )
        assert answer.returncode == 0, answer.stderr.decode()
        seen = json.loads(answer.stdout)
    finally:
        shutil.rmtree(here)
    assert seen["containment"] == ["userns", True]
    assert seen["exit"] == ["exit", 3]
    assert seen["uid"] == "65534\n"
    assert seen["escaped after exit"] == seen["escaped after kill"] == seen["escaped the sweep"] == 0
    assert seen["killed supervisor: left after 1 s"] == 0
    assert seen["timeout"] == ["timeout", 9]
    assert seen["confused"] == ["exit", 5]
    assert "only a scheduler that runs as root" in seen["other user"]
    assert seen["without a user namespace"] == "exit"
