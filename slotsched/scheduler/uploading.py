"""The spool: logs of ended runs on their way to the log store. An upload never holds a slot, a start or a kill."""

from __future__ import annotations

import heapq
import itertools
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from slotsched.archive import Stored
from slotsched.contract import RUN_LOG
from slotsched.errors import ArchiveError, StoreError
from slotsched.failpoints import failpoint
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.inbox import SpoolEmpty
from slotsched.scheduler.run import Run

WORKERS = 4  # so that one stalled upload does not hold up the others
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0  # the end of an outage is noticed within half of it, and then every log tried at once
OUTAGE_ROUNDS = 3  # so many in a row are the log store's trouble, not one odd log's


@dataclass
class _Item:
    run: Run
    failures: int = 0


class Uploader:
    """Uploads each run's log until it is verified there and known to the store; only then the local copy goes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: list[tuple[float, int, _Item]] = []
        self._order = itertools.count()
        self._unfinished = 0
        self._refused = 0  # rounds of tries in a row without a success: a store that is down is asked seldom
        self._rest_until = 0.0
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name=f"upload-{n}", daemon=True) for n in range(WORKERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def add(self, run: Run) -> None:
        """Take over a settled run's directory."""
        if not run.directory.is_dir():
            return
        with self._changed:
            self._unfinished += 1
            self._push(self._engine.now(), _Item(run))

    @property
    def pending(self) -> int:
        return self._unfinished

    def _push(self, moment: float, item: _Item) -> None:
        heapq.heappush(self._waiting, (moment, next(self._order), item))
        self._changed.notify()

    def _work(self) -> None:
        while True:
            self.attempt(self._next())

    def attempt(self, item: _Item) -> None:
        """Try one upload, and plan the next try where it fails."""
        try:
            self.upload(item.run)
        except (ArchiveError, StoreError) as error:
            self._again(item, str(error))
        except Exception as error:  # one unreadable log must not end the thread that uploads the others
            self._engine.log.exception("upload failed unexpectedly", task=item.run.record.task_id)
            self._again(item, str(error))
        else:
            self._done(item)

    def upload(self, run: Run) -> None:
        """One complete try. Raises ArchiveError or StoreError; every step may be repeated."""
        record, log_path = run.record, run.directory / RUN_LOG
        if log_path.exists():
            stored = self._put(record.log.key, log_path)
            truncated = run.outcome.log_truncated if run.outcome else False
            # The store it is in, which is another than at the claim where the setting has changed meanwhile.
            log = replace(
                record.log, store=self._engine.archive.url, bytes=stored.bytes, uploaded=True, truncated=truncated
            )
            self._engine.store.queue.log_uploaded(record.task_id, record.fence, log)
        self._engine.state.remove_run(run.directory)

    @failpoint("upload")
    def _put(self, key: str, log_path: Path) -> Stored:
        return self._engine.archive.put(key, log_path)

    def _next(self) -> _Item:
        with self._changed:
            while True:
                pause = self._pause()
                if pause is not None and pause <= 0:
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(pause)

    def _pause(self) -> float | None:
        """Seconds until there is something to try; None while there is nothing."""
        if not self._waiting:
            return None
        return max(self._waiting[0][0], self._rest_until) - self._engine.now()

    def _again(self, item: _Item, why: str) -> None:
        item.failures += 1
        pause = _backoff(item.failures)
        level = self._engine.log.warning if item.failures == 1 else self._engine.log.debug
        level("log not uploaded yet", task=item.run.record.task_id, why=why, again_in=pause)
        with self._changed:
            now = self._engine.now()
            if now >= self._rest_until:  # what fails while all rest was tried together with what began the rest
                self._refused += 1
                self._rest_until = now + _backoff(self._refused) / 2
            self._push(now + pause, item)

    def _try_all_now(self) -> None:
        """The outage is over: what failed because of it need not sit out its own pause."""
        now = self._engine.now()
        self._waiting = [(min(moment, now), order, item) for moment, order, item in self._waiting]
        heapq.heapify(self._waiting)

    def _done(self, item: _Item) -> None:
        if item.failures:
            self._engine.log.info("log uploaded after all", task=item.run.record.task_id, failures=item.failures)
        with self._changed:
            if self._refused >= OUTAGE_ROUNDS:
                self._try_all_now()
            self._refused, self._rest_until = 0, 0.0
            self._unfinished -= 1
            empty = self._unfinished == 0
            self._changed.notify_all()
        if empty:
            self._engine.inbox.post(SpoolEmpty())


def _backoff(failures: int) -> float:
    """Seconds to wait after that many failures in a row: doubling up to the longest pause."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 10))
