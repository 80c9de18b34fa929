"""The spool's timetable: how often a log store that is away is asked, and how soon it is noticed to be back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import FakeClock, engine_of

from slotsched.errors import ArchiveError
from slotsched.scheduler.inbox import SpoolEmpty
from slotsched.scheduler.uploading import LONGEST_PAUSE_SECONDS, WORKERS, Uploader

OUTAGE_SECONDS = 600.0
LOGS = 1000


class Spool:
    """An uploader whose threads are played by the test: `round` is what they do at one moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.posted: list[Any] = []
        self.down = True
        self.tries: list[float] = []
        inbox = SimpleNamespace(post=self.posted.append)
        self.uploader = Uploader(engine_of(self.clock, inbox=inbox))
        monkeypatch.setattr(self.uploader, "upload", self._upload)
        for number in range(LOGS):
            record = SimpleNamespace(task_id=str(number))
            self.uploader.add(SimpleNamespace(directory=SimpleNamespace(is_dir=lambda: True), record=record))  # type: ignore[arg-type]

    def _upload(self, run: Any) -> None:
        self.tries.append(self.clock.now)
        if self.down:
            raise ArchiveError("away")

    def round(self) -> int:
        """All threads take what is due, then all of it ends; how many there were."""
        taken = []
        while len(taken) < WORKERS and (pause := self.uploader._pause()) is not None and pause <= 0:
            taken.append(self.uploader._next())
        for item in taken:
            self.uploader.attempt(item)
        return len(taken)


def test_a_log_store_that_is_away_is_asked_a_few_times_a_minute_and_all_is_sent_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spool = Spool(monkeypatch)
    begun = spool.clock.now
    while spool.clock.now < begun + OUTAGE_SECONDS:
        spool.round()
        spool.clock.advance(0.1)
    last_minute = [at for at in spool.tries if at > begun + OUTAGE_SECONDS - 60]
    assert 0 < len(last_minute) <= 5 * WORKERS

    spool.down, back = False, spool.clock.now
    spool.tries.clear()
    while spool.uploader.pending:
        if not spool.round():
            spool.clock.advance(0.1)
    assert spool.tries[0] - back <= LONGEST_PAUSE_SECONDS / 2
    assert spool.tries[-1] == spool.tries[0], "with the first success every log is tried at once"
    assert len(spool.tries) == LOGS
    assert spool.posted == [SpoolEmpty()]


def test_a_short_trouble_costs_little_however_many_tries_it_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(monkeypatch)
    assert spool.round() == WORKERS
    spool.down, back = False, spool.clock.now
    while not spool.round():
        spool.clock.advance(0.1)
    assert spool.clock.now - back < 1.0


def test_one_odd_log_keeps_its_own_pauses_and_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(monkeypatch)
    spool.down = False

    def upload(run: Any) -> None:
        spool.tries.append(spool.clock.now)
        if run.record.task_id == "7":
            raise ArchiveError("odd")

    monkeypatch.setattr(spool.uploader, "upload", upload)
    begun = spool.clock.now
    while spool.clock.now < begun + OUTAGE_SECONDS:
        if not spool.round():
            spool.clock.advance(0.1)
    assert spool.uploader.pending == 1
    others = sorted(spool.tries)[: LOGS - 1]
    assert others[-1] - begun < 2.0
    assert LOGS < len(spool.tries) < LOGS + OUTAGE_SECONDS / LONGEST_PAUSE_SECONDS + 10
