"""The spawner: a small process that forks one supervisor per attempt.

The scheduler execs it, so that it inherits no lock and no memory of the scheduler's, and it stays single-threaded
because user namespaces and forks want that. It holds no truth: when it is killed, supervisors live on, and the
scheduler starts another one. When the scheduler is gone it goes too.

Messages are JSON packets on one SEQPACKET socket, descriptor 0 of this program:

    scheduler -> spawner   {"run_dir": ...}
    spawner -> scheduler   {"ready": {name, full, detail}} or {"unavailable": why}, once
                           {"launched": run_dir, "pid": ...} with a pidfd, or
                           {"failed": run_dir, "message": ..., "errno": ...}
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slotsched.process import containment, linux, procfs, supervisor
from slotsched.process.spec import read_spec
from slotsched.process.tree import reap

SPAWNER_SOCKET = 0  # stdin, so that an attempt's pipes never get a number below 4
_PACKET_BYTES = 65536
_ANSWERS_KEPT = 10_000  # while the scheduler does not read; then the oldest goes, for the truth is in the files


class Spawner:
    """Serves launches until the scheduler closes its end."""

    def __init__(self, asked: str) -> None:
        self._asked = asked
        self._socket = socket.socket(fileno=SPAWNER_SOCKET)
        self._socket.setblocking(False)
        self._ladder = containment.Ladder()
        self._answers: deque[tuple[bytes, int | None]] = deque()
        self._supervisors: set[int] = set()
        self._orphans = False  # a supervisor was killed: what is ours and no supervisor has to go
        self._signals = linux.Signals([signal.SIGCHLD])

    def serve(self) -> None:
        """Announce the containment, then launch what is asked for."""
        try:
            self._answer({"ready": asdict(self._ladder.describe(self._asked))})
        except containment.Unavailable as error:
            self._answer({"unavailable": str(error)})
        gc.collect()
        gc.freeze()  # what is loaded now stays shared with every supervisor
        poller = select.poll()
        poller.register(self._signals, select.POLLIN)
        while True:
            poller.register(self._socket, select.POLLIN | (select.POLLOUT if self._answers else 0))
            for fd, events in poller.poll():
                if fd == self._signals.fileno():
                    self._reap()
                elif events & ~select.POLLOUT and not self._receive():
                    return
            self._send()

    def _receive(self) -> bool:
        """Take one request; False when the scheduler is gone."""
        try:
            packet = self._socket.recv(_PACKET_BYTES)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        if not packet:
            return False
        self._launch(Path(json.loads(packet)["run_dir"]))
        return True

    def _launch(self, run_dir: Path) -> None:
        try:
            spec = read_spec(run_dir)
            asked = self._asked if spec.containment == containment.AUTO else spec.containment
            rung = self._ladder.choose(asked, user_namespace=spec.user_namespace)
            pid = containment.fork_into(rung, lambda: supervisor.run(run_dir, spec, rung))
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError, containment.Unavailable) as error:
            number = error.errno if isinstance(error, OSError) else None
            self._answer({"failed": str(run_dir), "message": str(error), "errno": number})
            return
        self._supervisors.add(pid)
        self._answer({"launched": str(run_dir), "pid": pid}, pidfd)
        self._send()

    def _answer(self, message: dict[str, Any], pidfd: int | None = None) -> None:
        self._answers.append((json.dumps(message).encode(), pidfd))
        if len(self._answers) > _ANSWERS_KEPT:
            self._drop_answer()

    def _send(self) -> None:
        """Send what the socket takes; the rest waits for room."""
        while self._answers:
            data, pidfd = self._answers[0]
            try:
                socket.send_fds(self._socket, [data], [] if pidfd is None else [pidfd], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                pass  # the scheduler is gone: the next read says so
            self._drop_answer()

    def _drop_answer(self) -> None:
        _, pidfd = self._answers.popleft()
        if pidfd is not None:
            os.close(pidfd)

    def _reap(self) -> None:
        """Collect ended children; sweep up when a supervisor did not end as it should."""
        self._signals.take()
        for pid, status in reap()[0]:
            if pid in self._supervisors:
                self._supervisors.discard(pid)
                self._orphans = self._orphans or status != 0
        if self._orphans:
            self._end_orphans()

    def _end_orphans(self) -> None:
        """Kill what a killed supervisor left. This process is a subreaper, so that is every child it did not fork.

        The supervisor's death has made its children ours; the end of those, told by SIGCHLD, brings theirs.
        """
        orphans = set(procfs.children()) - self._supervisors
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)  # a child that nobody else waits for: the pid cannot be reused
        self._orphans = bool(orphans)


def main() -> None:
    """The program: its arguments are the containment asked for and the open files a script may have."""
    asked, open_files = sys.argv[1], int(sys.argv[2])
    linux.set_name("slotsched-spawn")
    os.chdir("/")
    os.umask(0o077)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, hard))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it were ignored, children would vanish without a trace
    # Supervisors inherit the mask: an order that comes before one can read it waits, and is not lost or deadly.
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    linux.become_subreaper()
    Spawner(asked).serve()
