"""Somebody who uses the slotsched command: off a terminal, in the background, or on a (pseudo) terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet import SLOTSCHED, Fleet

CLI_JOBS = Path(__file__).parent / "acceptance" / "cli_jobs"
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Done:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str = ""


class User:
    """Runs commands in one place, against one fleet's database."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def environment(self, **extra: str) -> dict[str, str]:
        return self.fleet.environment(SLOTSCHED_STATE_DIR=str(self.fleet.folder / "state-cli"), **extra)

    def run(
        self, *words: str, stdin: str | bytes | None = None, env: Mapping[str, str] | None = None, seconds: float = 60.0
    ) -> Done:
        """A command whose output is not a terminal."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*SLOTSCHED, *words],
            env=self.environment(**(env or {})),
            cwd=self.fleet.folder,
            input=b"" if data is None else data,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode())

    def ok(self, *words: str, **how: Any) -> str:
        """The answer of a command that must succeed, without its last newline."""
        done = self.run(*words, **how)
        assert done.code == 0, f"{words}: {done.code} {done.err}{done.out}"
        return done.out.removesuffix("\n")

    def json(self, *words: str) -> Any:
        return json.loads(self.ok(*words, "-o", "json"))

    @contextlib.contextmanager
    def start(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on; ended with the test whatever happens."""
        process = subprocess.Popen(
            [*SLOTSCHED, *words],
            env=self.environment(PYTHONUNBUFFERED=""),
            cwd=self.fleet.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    @contextlib.contextmanager
    def terminal(self, *words: str, columns: int = 80, env: Mapping[str, str] | None = None) -> Iterator[Terminal]:
        """A command on a terminal of its own."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            [*SLOTSCHED, *words],
            env=self.environment(**{"TERM": "xterm-256color", **(env or {})}),
            cwd=self.fleet.folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        shown = Terminal(process, ours)
        try:
            yield shown
        finally:
            process.kill()
            process.wait()
            os.close(ours)


class Terminal:
    """What a command shows on its terminal. raw: everything it wrote so far."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self.raw = ""

    @property
    def text(self) -> str:
        """Without colours and cursor movements; redrawn lines stand one after another."""
        return _SEQUENCE.sub("", self.raw).replace("\r\n", "\n")

    def until(self, text: str, *, seconds: float = 20.0) -> str:
        """Read until `text` was shown; all that was shown."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            assert self._read(deadline), f"waited for {text!r}, shown was: {self.text!r}"
        return self.text

    def end(self, *, seconds: float = 20.0) -> Done:
        """Read until the command ended."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return Done(self.process.wait(max(0.1, deadline - time.monotonic())), self.text)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # EIO: nobody has the other end open any more
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)
