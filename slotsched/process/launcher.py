"""The scheduler's side of the spawner: start it, ask for launches, hear what became of them. Never blocks."""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from slotsched.errors import SlotschedError
from slotsched.process.containment import AUTO, Containment
from slotsched.process.files import PRIVATE

SPAWNER_LOG = "spawner.log"
_LOG_BYTES = 1024 * 1024
_READY_SECONDS = 20.0  # the spawner tries its rungs first; a machine under load takes its time
_PACKET_BYTES = 65536
_OPTIONS = ("-I", "-S", "-X", "utf8", "-c")  # no site-packages, no PYTHON* variables
_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from slotsched.process.spawner import main; main()"
_PACKAGES = str(Path(__file__).resolve().parents[2])


class SpawnerGone(SlotschedError):
    """Raised when the spawner has ended; `start` gets another one. Supervisors live on."""


class ContainmentUnavailable(SlotschedError):
    """Raised when the containment that was asked for does not work on this machine."""


@dataclass(frozen=True)
class Launched:
    """A supervisor was forked. Its pidfd, now the receiver's to close, becomes readable when it ends.

    If it ends without a status: `find_supervisor` tells whether another one had the run directory before it,
    `forbid_start` whether the script never started, else `sweep_tree` and `abandoned_ending` close the attempt.
    """

    run_dir: Path
    pid: int
    pidfd: int


@dataclass(frozen=True)
class LaunchFailed:
    """No supervisor was forked; the script has not started. errno: what the system refused, where it was that."""

    run_dir: Path
    message: str
    errno: int | None = None


@dataclass(frozen=True)
class Gone:
    """The spawner has ended. `unanswered` were launched without an answer: after `start` they can be launched again,
    because a run directory has one supervisor and one start right.
    """

    unanswered: tuple[Path, ...]


class Launcher:
    """One spawner at a time. Not for use by several threads."""

    def __init__(self, state_dir: Path, containment: str = AUTO, *, open_files: int | None = None) -> None:
        """`open_files`: the soft limit scripts get; by default this process's at this moment, so make the launcher
        before raising it.
        """
        self._state_dir = state_dir
        self._asked = containment
        self._open_files = open_files or resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._unsent: deque[Path] = deque()
        self._unanswered: dict[Path, None] = {}
        self._containment: Containment | None = None

    @property
    def containment(self) -> Containment:
        """What attempts get by default; known after `start`."""
        if self._containment is None:
            raise RuntimeError("the launcher has not been started")
        return self._containment

    @property
    def pid(self) -> int | None:
        """The spawner's pid, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Exec a spawner and wait until it has found out how to contain attempts (about 0.1 s).

        Raises:
            ContainmentUnavailable: the containment asked for does not work here.
            SpawnerGone: it did not come up; the state directory's spawner.log says why.
        """
        self.close()
        try:
            ours = self._exec()
        except OSError as error:
            raise SpawnerGone(f"the spawner cannot be started: {error}") from error
        self._socket = ours
        ready = self._first_answer(ours)
        if "unavailable" in ready:
            self.close()
            raise ContainmentUnavailable(ready["unavailable"])
        self._containment = Containment(**ready["ready"])
        ours.setblocking(False)

    def _exec(self) -> socket.socket:
        """The program itself. Returns our end of its socket. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, _open_log(self._state_dir / SPAWNER_LOG) as log:
                self._process = subprocess.Popen(
                    [sys.executable, *_OPTIONS, _PROGRAM, _PACKAGES, self._asked, str(self._open_files)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    env={},  # whatever secrets this process's environment holds
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise
        return ours

    def _first_answer(self, ours: socket.socket) -> dict[str, Any]:
        ours.settimeout(_READY_SECONDS)
        try:
            packet = ours.recv(_PACKET_BYTES)
        except OSError:
            packet = b""
        if not packet:
            self.close()
            raise SpawnerGone(f"the spawner did not start; see {self._state_dir / SPAWNER_LOG}")
        answer: dict[str, Any] = json.loads(packet)
        return answer

    def fileno(self) -> int:
        """For a selector: readable when `receive` has something; -1 while there is no spawner."""
        return -1 if self._socket is None else self._socket.fileno()

    def launch(self, run_dir: Path) -> None:
        """Ask for a supervisor for `run_dir`, whose spec is written.

        A spawner that has just ended is reported by `receive`, with this run directory among its unanswered ones.
        Raises SpawnerGone when there is none at all.
        """
        if self._socket is None:
            raise SpawnerGone("there is no spawner")
        run_dir = run_dir.absolute()
        self._unsent.append(run_dir)
        self._unanswered[run_dir] = None
        self._send()

    def receive(self) -> list[Launched | LaunchFailed | Gone]:
        """What has happened since the last call; `Gone` comes last, and once."""
        events: list[Launched | LaunchFailed | Gone] = []
        while self._socket is not None:
            try:
                packet, pidfds, _, _ = socket.recv_fds(self._socket, _PACKET_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                break
            except OSError:
                packet, pidfds = b"", []
            if not packet:
                events.append(Gone(tuple(self._unanswered)))
                self.close()
                break
            events.append(self._event(json.loads(packet), pidfds))
        self._send()
        return events

    def _event(self, answer: dict[str, Any], pidfds: list[int]) -> Launched | LaunchFailed:
        if "launched" in answer:
            run_dir = Path(answer["launched"])
            self._unanswered.pop(run_dir, None)
            return Launched(run_dir, answer["pid"], pidfds[0])
        run_dir = Path(answer["failed"])
        self._unanswered.pop(run_dir, None)
        return LaunchFailed(run_dir, answer["message"], answer.get("errno"))

    def _send(self) -> None:
        """Send what the spawner's socket takes; the rest goes when its answers make room."""
        while self._unsent and self._socket is not None:
            packet = json.dumps({"run_dir": str(self._unsent[0])}).encode()
            try:
                self._socket.send(packet, socket.MSG_DONTWAIT)
            except OSError:  # full: its next answer makes room; gone: the next read says so
                return
            self._unsent.popleft()

    def kill(self) -> None:
        """SIGKILL to a spawner that does not answer: `receive` reports it as gone. Supervisors live on."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Let the spawner go: it ends when its socket closes. Supervisors live on."""
        self._unsent.clear()
        self._unanswered.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            _await_end(self._process)
            self._process = None


def _open_log(path: Path) -> BinaryIO:
    """Where the spawner and its supervisors report what should not happen; begun anew when it has grown.

    A disk without room for it must not cost the spawner.
    """
    try:
        path.touch(mode=PRIVATE)
        grown = path.stat().st_size > _LOG_BYTES
        return path.open("wb" if grown else "ab")
    except OSError:
        return Path(os.devnull).open("wb")


def _await_end(process: subprocess.Popen[bytes]) -> None:
    """Collect a spawner whose socket is closed; one that does not end (stopped) is killed."""
    if process.poll() is not None:  # collected already: its pid may be anybody's
        return
    pidfd = os.pidfd_open(process.pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(1000):
            process.kill()
        process.wait()
    finally:
        os.close(pidfd)


def try_containment(asked: str) -> Containment:
    """What attempts would get on this machine, by a spawner of its own in a passing folder. Raises as `start` does."""
    with tempfile.TemporaryDirectory(prefix="slotsched-try-") as folder:
        launcher = Launcher(Path(folder), asked)
        launcher.start()
        try:
            return launcher.containment
        finally:
            launcher.close()
