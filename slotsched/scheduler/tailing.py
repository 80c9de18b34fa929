"""The tail thread: ships what running tasks newly logged, and their progress, so that any machine can follow them.

Shipping is bounded twice: a log that grows faster than it can be shipped is skipped forward (the whole log still goes
to the log store), and of each attempt only the newest part is kept in the store.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from slotsched import contract, loglines
from slotsched.errors import StoreError
from slotsched.execution import read_progress
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.run import Phase, Run

PAUSE_SECONDS = 0.5
CHUNK_BYTES = 256 << 10
KEPT_BYTES = 4 << 20  # of one attempt in the store
CHUNKS_PER_PASS = 4
# More than any line in a log. A log over its cap has a hole, zeros by the gigabyte, and a flood can outrun the reader.
LONGEST_LINE_BYTES = 1 << 20


@dataclass
class _Tail:
    run: Run
    offset: int | None = None  # of the next byte to ship; None: not known yet
    size: int = 0  # of the log, at the last look
    marked: bool = False  # the last line shipped says that output is left out there
    unsent: bytes = b""  # sent without an answer: it is sent again unchanged, since the first may have arrived
    progress_seen: int = 0  # mtime in ns of the progress file last shipped

    @property
    def log(self) -> Path:
        return self.run.directory / contract.RUN_LOG


class Tailer(threading.Thread):
    """Follows every run handed to it until it has ended and all of its log is shipped, or its directory is gone."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(name="tail", daemon=True)
        self._engine = engine
        self._tails: dict[str, _Tail] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def track(self, run: Run) -> None:
        with self._lock:
            self._tails.setdefault(run.id, _Tail(run))

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.wait(PAUSE_SECONDS):
            if self._engine.health.up:  # else the lease thread asks the store for all of us
                self.run_once()

    def run_once(self) -> int:
        """One pass over all tails; returns how many bytes were shipped. A store that is away ends the pass quietly."""
        with self._lock:
            tails = list(self._tails.values())
        shipped = 0
        for tail in tails:
            ended = tail.run.phase is Phase.ENDED  # before the look: what it wrote is all there
            try:
                sent = self._ship(tail)
                shipped += sent
                if ended and not sent:
                    self._forget(tail)
            except StoreError as error:
                self._engine.log.debug("log lines not shipped", why=str(error))
                break
            except FileNotFoundError:
                if not tail.run.directory.exists():
                    self._forget(tail)
            except Exception:  # one odd log must not end the thread that follows the others
                self._engine.log.exception("log lines cannot be shipped", task=tail.run.record.task_id)
                self._forget(tail)
        return shipped

    def _forget(self, tail: _Tail) -> None:
        with self._lock:
            self._tails.pop(tail.run.id, None)

    def _ship(self, tail: _Tail) -> int:
        self._ship_progress(tail)
        record, tails = tail.run.record, self._engine.store.tails
        begun = self._begin(tail)
        offset = begun
        for _ in range(CHUNKS_PER_PASS):
            tail.unsent = tail.unsent or _whole_lines(tail.log, offset)
            behind = None if tail.unsent else behind_hole(tail.log, offset)
            if behind is not None and not tail.marked:
                tail.unsent = _left_out(behind - offset)
            if tail.unsent:
                tails.ship(record.task_id, record.attempt, offset, tail.unsent)
                tail.marked = loglines.stands_for_lost(tail.unsent)
                offset += len(tail.unsent)
            elif behind is None:
                break
            offset = behind or offset
            tail.offset, tail.unsent = offset, b""
        if offset > max(begun, KEPT_BYTES):
            tails.trim(record.task_id, record.attempt, offset - KEPT_BYTES)
        return offset - begun

    def _begin(self, tail: _Tail) -> int:
        """Where to go on: where this or an earlier scheduler stopped, or further ahead if that is too far behind."""
        record, size = tail.run.record, tail.log.stat().st_size
        if tail.offset is None:
            adopted = tail.run.adopted
            tail.offset = self._engine.store.tails.end(record.task_id, record.attempt) if adopted else 0
        if size < tail.size:  # its tail was moved down over the hole: no offset means what it meant before
            tail.offset, tail.unsent = size, b""
        elif size - tail.offset > KEPT_BYTES and not tail.unsent:
            tail.offset, tail.marked = _line_start(tail.log, size - KEPT_BYTES), False
        tail.size = size
        return tail.offset

    def _ship_progress(self, tail: _Tail) -> None:
        io = tail.run.directory / contract.RUN_IO
        try:
            changed = (io / contract.IO_PROGRESS).stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed == tail.progress_seen:
            return
        progress = read_progress(io)
        if progress is not None:
            self._engine.store.queue.progress(tail.run.record.task_id, tail.run.record.token, progress)
        tail.progress_seen = changed


def _whole_lines(path: Path, offset: int) -> bytes:
    """The complete lines from `offset` on, at most one chunk (a single longer line whole); none inside a hole."""
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read(CHUNK_BYTES)
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) == CHUNK_BYTES:
            data += stream.readline(LONGEST_LINE_BYTES)
            end = len(data) if data.endswith(b"\n") else 0
    return data[:end].partition(b"\0")[0]


def behind_hole(path: Path, offset: int) -> int | None:
    """Where the log goes on behind the hole that `offset` lies in; None where it lies in none, or all is hole.

    A log over its cap loses its middle under whoever reads slower than the script writes. Its tail begins with a line.
    """
    with path.open("rb", buffering=0) as stream:
        stream.seek(offset)
        if stream.read(1) != b"\0":
            return None
        try:
            start = stream.seek(offset, os.SEEK_DATA)
        except OSError:  # ENXIO: a hole up to the end
            return None
        while block := stream.read(CHUNK_BYTES):
            if rest := block.lstrip(b"\0"):
                return start + len(block) - len(rest)
            start += len(block)
    return None


def _left_out(size: int) -> bytes:
    """The line that stands for a hole of `size` bytes in what followers see; none where it would not fit in."""
    message = f"{size} bytes left out here: the log is over its limit"
    line = {"level": contract.LEVEL_WARN, "time": int(time.time() * 1000), "truncated": size, "msg": message}
    text = json.dumps(line, separators=(",", ":")).encode() + b"\n"
    return text if len(text) <= size else b""


def _line_start(path: Path, offset: int) -> int:
    """The beginning of the first line at or after `offset`."""
    with path.open("rb") as stream:
        stream.seek(offset - 1)
        stream.readline(LONGEST_LINE_BYTES)
        return stream.tell()
