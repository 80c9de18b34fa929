"""A fleet of real instances on this machine, used as a user would: the command line, the bucket, /proc.

What happened is judged from an independent file that the tasks themselves write (`Witness`), never from the
scheduler's records alone. Everything started here is ended here, by pid.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from slotsched.client import Client
from slotsched.model import Task

T = TypeVar("T")
JOBS = Path(__file__).parent / "acceptance" / "jobs"
SLOTSCHED = [sys.executable, "-m", "slotsched"]


def until(probe: Callable[[], T], *, seconds: float = 20.0, what: str = "") -> T:
    """The first true value of `probe`; an AssertionError that says what was waited for otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what or probe}")
        time.sleep(0.02)


def boottime() -> float:
    """The clock that the tasks under test write down."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def processes_of(task: str) -> set[int]:
    """The living processes of a task's script, daemons and all: whoever has its id in the environment."""
    wanted = f"SLOTSCHED_TASK_ID={task}\0".encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes():
                found.add(int(path.parent.name))
    return found


@dataclass(frozen=True)
class Mark:
    """One line of the independent file: a task's script began or ended. at: CLOCK_BOOTTIME seconds."""

    event: str
    task: str
    attempt: int
    fence: int
    pid: int
    slots: int
    instance: str
    at: float
    note: str = ""


class Witness:
    """The file that the tasks under test append to, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def write(self, mark: Mark) -> None:
        """What a task would have written: to see a checker go red."""
        with self.path.open("a") as stream:
            stream.write(json.dumps(asdict(mark)) + "\n")

    def marks(self, event: str | None = None) -> list[Mark]:
        lines = self.path.read_text().splitlines()
        return [mark for line in lines if (mark := Mark(**json.loads(line))) and event in (None, mark.event)]

    def starts(self, task: str) -> list[Mark]:
        return [mark for mark in self.marks("start") if mark.task == task]

    def wait_for(self, event: str, task: str, *, seconds: float = 20.0) -> Mark:
        return until(
            lambda: next((m for m in self.marks(event) if m.task == task), None),
            seconds=seconds,
            what=f"{event} of {task}",
        )

    def most_slots_at_once(self, instance: str | None = None) -> int:
        """The largest sum of slots whose scripts ran at the same moment, by the tasks' own clocks."""
        changes: list[tuple[float, int]] = []
        ends = {(m.task, m.fence): m.at for m in self.marks("end")}
        for mark in self.marks("start"):
            if instance in (None, mark.instance):
                changes += [(mark.at, mark.slots), (ends.get((mark.task, mark.fence), float("inf")), -mark.slots)]
        now = most = 0
        for _, change in sorted(changes):
            now += change
            most = max(most, now)
        return most

    def busy(self, begin: float, end: float) -> float:
        """The slot-seconds between two moments in which scripts ran, by the tasks' own clocks."""
        ends = {(m.task, m.fence): m.at for m in self.marks("end")}
        return sum(
            mark.slots * max(0.0, min(end, ends.get((mark.task, mark.fence), end)) - max(begin, mark.at))
            for mark in self.marks("start")
        )


@dataclass
class InstanceProcess:
    """One `slotsched scheduler run` of the test."""

    name: str
    state_dir: Path
    process: subprocess.Popen[bytes]
    output: Path
    known: list[psutil.Process] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> list[dict[str, Any]]:
        """The scheduler's own log so far."""
        found = []
        for line in self.output.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def tree(self) -> list[psutil.Process]:
        """The scheduler's living descendants; supervisors of a killed spawner are found by the run directories."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children(recursive=True):
                if child not in self.known:
                    self.known.append(child)
        return [process for process in self.known if process.is_running()]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill_all(self) -> None:
        """What a power cut does: the scheduler and everything below it are gone at once."""
        doomed = self.tree()
        self.process.kill()
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(10)

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM and wait; the exit code."""
        self.tree()
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(seconds)

    def clean_up(self) -> None:
        self.tree()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        for process in self.known:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


class Fleet:
    """Starts instances and runs the command line against one database."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str], jobs: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.environ = dict(environ or {})  # beside the settings: credentials of a log store
        self.jobs = jobs
        self.settings = dict(settings)
        self.instances: list[InstanceProcess] = []
        self.commands: list[subprocess.Popen[bytes]] = []
        self.witness = Witness(folder / "witness.ndjson")

    def environment(self, **extra: str) -> dict[str, str]:
        """A clean user: nothing of this machine's configuration, everything of the test's."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "VIRTUAL_ENV")}
        ours = {f"SLOTSCHED_{name.upper()}": value for name, value in self.settings.items()}
        return {**kept, "HOME": str(home), **self.environ, **ours, **extra}

    def start(
        self,
        name: str,
        *,
        slots: int = 4,
        wait: bool = True,
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        **settings: str,
    ) -> InstanceProcess:
        """An instance with its own state directory; returns once it is up. prefix: a command that becomes it."""
        state = self.folder / f"state-{name}"
        output = self.folder / f"{name}.log"
        ours = {f"SLOTSCHED_{key.upper()}": value for key, value in settings.items()}
        environment = self.environment(
            SLOTSCHED_NAME=name,
            SLOTSCHED_SLOTS=str(slots),
            SLOTSCHED_STATE_DIR=str(state),
            SLOTSCHED_PASS_ENV="WITNESS",
            WITNESS=str(self.witness.path),
            **ours,
            **(environ or {}),
        )
        with output.open("ab") as stream:
            begun = stream.tell()
            process = subprocess.Popen(
                [*prefix, *SLOTSCHED, "scheduler", "run"],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        instance = InstanceProcess(name, state, process, output)
        self.instances.append(instance)
        if wait:
            until(
                lambda: self._is_up(instance, begun), seconds=30, what=f"{name} to be up: {output.read_text()[-2000:]}"
            )
        return instance

    def _is_up(self, instance: InstanceProcess, begun: int) -> bool:
        assert instance.process.poll() is None, instance.output.read_text()[-4000:]
        return b'"msg":"up"' in instance.output.read_bytes()[begun:].replace(b'"msg": "up"', b'"msg":"up"')

    def cli(
        self, *words: str, check: bool = True, stdin: str | None = None, seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run the command off a terminal."""
        done = subprocess.run(
            [*SLOTSCHED, *words],
            env=self.environment(SLOTSCHED_STATE_DIR=str(self.folder / "state-cli")),
            cwd=self.folder,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if check:
            assert done.returncode == 0, f"{words} ended with {done.returncode}: {done.stderr}{done.stdout}"
        return done

    def command(self, *words: str) -> subprocess.Popen[bytes]:
        """The command line in a process of its own that is not waited for; ended with the fleet."""
        process = subprocess.Popen(
            [*SLOTSCHED, *words],
            env=self.environment(SLOTSCHED_STATE_DIR=str(self.folder / "state-cli")),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.commands.append(process)
        return process

    @functools.cached_property
    def client(self) -> Client:
        """The same database for a program: where a test looks often, or enqueues many."""
        return Client(
            self.settings["mongodb_uri"],
            database=self.settings["database"],
            jobs_dir=str(self.jobs),
            state_dir=str(self.folder / "state-cli"),
            log_store=self.settings["log_store"],
        )

    def enqueue(self, job: str, *words: str) -> str:
        """The full id of a new task."""
        return self.cli("enqueue", job, *words).stdout.strip()

    def enqueue_many(self, lines: Iterable[Mapping[str, Any]]) -> list[str]:
        """The full ids of new tasks, in the order of the lines (`{"job": ..., "args": {...}, "slots": 2}`)."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        return self.cli("enqueue", "--from-jsonl", "-", stdin=text).stdout.split()

    def ended(self, *ids: str, seconds: float = 30.0) -> list[Task]:
        """The tasks once all have ended, in the order asked."""
        return self.client.wait(ids, timeout=seconds)

    def instance(self, name: str) -> dict[str, Any]:
        """The live instance of that name, as the command line lists it."""
        found = [one for one in json.loads(self.cli("instance", "ls", "-o", "json").stdout) if one["name"] == name]
        assert len(found) == 1, f"{len(found)} live instances named {name}"
        listed: dict[str, Any] = found[0]
        return listed

    def task(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cli("task", "show", task_id, "-o", "json").stdout)
        return found

    def clean_up(self) -> None:
        for instance in self.instances:
            instance.clean_up()
        for process in self.commands:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=10)
        if "client" in self.__dict__:
            self.client.close()


FleetMaker = Callable[..., contextlib.AbstractContextManager[Fleet]]


@contextlib.contextmanager
def fleet(
    folder: Path, settings: Mapping[str, str], jobs: Path = JOBS, environ: Mapping[str, str] | None = None
) -> Iterator[Fleet]:
    made = Fleet(folder, settings, jobs, environ)
    try:
        yield made
    finally:
        made.clean_up()
