"""A launcher, a lease and run directories to try attempts in, and an eye on /proc. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slotsched.process import (
    ContainmentUnavailable,
    DeadlineFile,
    Ending,
    Gone,
    Launched,
    Launcher,
    LaunchFailed,
    Spec,
    find_supervisor,
    read_ending,
    write_spec,
)

LEASE_SECONDS = 3600.0  # no test runs into it unless it wants to
PATIENCE_SECONDS = 30.0  # for what should happen at once; a loaded machine takes its time


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def readable(source: Any, seconds: float) -> bool:
    poller = select.poll()
    poller.register(source, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def wait_until(condition, seconds: float = PATIENCE_SECONDS, what: str = "the condition"):
    """What `condition` returns once it is true; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come within {seconds} s"
        time.sleep(0.01)
    return value


def marked(mark: str) -> list[int]:
    """Living processes on the whole machine with SLOTSCHED_TASK_ID=`mark` in their environment."""
    found = []
    wanted = f"SLOTSCHED_TASK_ID={mark}".encode()
    for name in os.listdir("/proc"):  # noqa: PTH208 - the names are what is wanted
        if name.isdigit():
            with contextlib.suppress(OSError):
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX" and wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
    return found


@dataclass
class Attempt:
    run_dir: Path
    mark: str
    pid: int
    pidfd: int
    asked_at: float
    _over: bool = field(default=False)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> Ending:
        self.wait_gone(seconds)
        ending = read_ending(self.run_dir)
        assert ending is not None, f"no status in {self.run_dir}: {sorted(self.run_dir.iterdir())}"
        return ending

    def wait_gone(self, seconds: float = PATIENCE_SECONDS) -> None:
        assert self._over or readable(self.pidfd, seconds), f"the attempt did not end within {seconds} s"
        self._over = True

    def order(self, cause: str, grace: float | None = None, by: str = "") -> None:
        supervised = find_supervisor(self.run_dir)
        assert supervised is not None
        supervised.order(self.run_dir, cause, grace, by)
        supervised.close()

    def alive(self) -> list[int]:
        return marked(self.mark)

    def lines(self) -> list[dict[str, Any]]:
        data = (self.run_dir / "log.ndjson").read_bytes()
        return [json.loads(line) for line in data.splitlines()]

    def text(self, stream: str = "stdout") -> str:
        return "".join(line["msg"] + "\n" for line in self.lines() if line.get("stream") == stream)

    def wait_text(self, text: str) -> None:
        """Until the attempt's log shows `text`."""
        log = self.run_dir / "log.ndjson"
        wait_until(lambda: log.exists() and text.encode() in log.read_bytes(), what=f"{text!r} in the log")


class Lab:
    """One launcher on one state directory; everything it started is dead after `close`."""

    def __init__(self, state_dir: Path | None = None, containment: str = "auto") -> None:
        self.state_dir = state_dir or Path(tempfile.mkdtemp(prefix="slotsched-lab-"))
        self.deadline = DeadlineFile.create(self.state_dir / "deadline", LEASE_SECONDS)
        self.renew()
        self.launcher = Launcher(self.state_dir, containment)
        self.launcher.start()
        self.attempts: list[Attempt] = []

    def renew(self, lead: float = LEASE_SECONDS * 0.8) -> None:
        self.deadline.extend(boottime() + lead)
        self.deadline.tick(boottime())

    def prepare(self, argv: list[str], *, env: dict[str, str] | None = None, **facts: Any) -> tuple[Path, str]:
        mark = uuid.uuid4().hex[:24]
        run_dir = self.state_dir / f"{mark}-1"
        (run_dir / "io").mkdir(parents=True)
        identity = {"SLOTSCHED_TASK_ID": mark, "SLOTSCHED_TASK_FENCE": "1"}
        facts = {"max_time": 20.0, "grace": 1.0, "deadline_file": str(self.deadline.path), **facts}
        write_spec(run_dir, Spec(argv=argv, env={"PATH": "/usr/bin:/bin", **identity, **(env or {})}, **facts))
        return run_dir, mark

    def events(self, count: int = 1) -> list[Launched | LaunchFailed | Gone]:
        found: list[Launched | LaunchFailed | Gone] = []
        while len(found) < count:
            assert readable(self.launcher, PATIENCE_SECONDS), "the spawner says nothing"
            found += self.launcher.receive()
        return found

    def start(self, *argv: str, **facts: Any) -> Attempt:
        run_dir, mark = self.prepare(list(argv), **facts)
        asked_at = boottime()
        self.launcher.launch(run_dir)
        (event,) = self.events()
        assert isinstance(event, Launched), event
        assert event.run_dir == run_dir
        attempt = Attempt(run_dir, mark, event.pid, event.pidfd, asked_at)
        self.attempts.append(attempt)
        return attempt

    def run(self, *argv: str, **facts: Any) -> tuple[Ending, Attempt]:
        attempt = self.start(*argv, **facts)
        return attempt.wait(), attempt

    def sh(self, script: str, **facts: Any) -> Attempt:
        return self.start("sh", "-c", script, **facts)

    def close(self) -> None:
        self.launcher.close()
        for attempt in self.attempts:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(attempt.pidfd, signal.SIGKILL)
            os.close(attempt.pidfd)
            for pid in attempt.alive():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self.deadline.close()


@contextlib.contextmanager
def opened(state_dir: Path | None = None, containment: str = "auto"):
    """A lab for a while; skips the test, loudly, where the containment does not work."""
    try:
        lab = Lab(state_dir, containment)
    except ContainmentUnavailable as error:
        import pytest  # not there when an ordinary user runs this file with the system's Python

        pytest.skip(f"NOT TESTED HERE: {error}")
    try:
        yield lab
    finally:
        lab.close()


# A task that gets away from everything that is not thorough: forks twice, makes sessions, ignores SIGTERM, becomes a
# subreaper and keeps replacing itself. It bounds itself: 20 forks a second, 5 seconds of life.
ESCAPER = """
import ctypes, os, signal, sys, time
end = time.monotonic() + 5
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
main = os.getpid()
def daemon(body):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            body()
        os._exit(0)
    os.wait()
def sleeper():
    while time.monotonic() < end: time.sleep(0.05)
    os._exit(0)
def nest():
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    daemon(sleeper)
    sleeper()
def runner():
    while time.monotonic() < end:
        time.sleep(0.05)
        if os.fork() > 0: os._exit(0)
        os.setsid()
    os._exit(0)
for body in (sleeper, nest, runner): daemon(body)
print("loose", flush=True)
time.sleep(float(sys.argv[1]))
"""
