"""Replacing the program in place: the same command again under the same pid, with no signal lost over it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import NoReturn

from slotsched.failpoints import failpoint
from slotsched.scheduler.inbox import Inbox, Signaled

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def listen(inbox: Inbox) -> None:
    """Have the signals posted to the inbox, those that waited through a replacement among them."""
    for number in SIGNALS:
        signal.signal(number, lambda received, _frame: inbox.post(Signaled(received)))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


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
    os.execv(sys.executable, [sys.executable, "-m", "slotsched", *sys.argv[1:]])  # noqa: S606  no shell is wanted
