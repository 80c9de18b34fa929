"""Replacing the program in place: the same command again under the same pid, with no signal lost over it.

Before that the command is tried: what cannot even start, because of a typo in a settings file or half an upgrade, would
cost every running task.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from typing import NoReturn

from slotsched.children import program
from slotsched.failpoints import failpoint
from slotsched.scheduler.inbox import Inbox, Signaled

_MOST_SAID = 4000  # bytes of what a command says that cannot start

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def listen(inbox: Inbox) -> None:
    """Have the signals posted to the inbox, those that waited through a replacement among them."""
    for number in SIGNALS:
        signal.signal(number, lambda received, _frame: inbox.post(Signaled(received)))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class Rehearsal:
    """The command that is to replace this one, run with `--check`. Its `fileno` is readable when it has ended."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - until close
        self._process = subprocess.Popen(
            [*program(), *sys.argv[1:], "--check"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
        )
        self._descriptor = os.pidfd_open(self._process.pid)

    def fileno(self) -> int:
        return self._descriptor

    def problem(self) -> str | None:
        """Why the command cannot start, once it has ended; None where it can. Not to be used afterwards."""
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read(_MOST_SAID).decode("utf-8", "replace").strip()
        self.close()
        return None if code == 0 else f"{said or 'it said nothing'} (exit code {code})"

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        os.close(self._descriptor)
        self._said.close()


@failpoint("replace")
def replace_program(inbox: Inbox) -> NoReturn:
    """Exec the same command again: the code that is installed now, under the same pid.

    Signals that come from now on wait, blocked, until the new program listens; by default they would end it. What
    was posted and not acted on any more is sent again, to this thread: the one that lives through the exec.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for message in inbox.drain():
        if isinstance(message, Signaled):
            signal.pthread_kill(threading.get_ident(), message.number)
    os.execv(sys.executable, [*program(), *sys.argv[1:]])  # noqa: S606  no shell is wanted
