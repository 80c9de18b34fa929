"""Retention: on a thread of its own, so that a log store that does not answer holds up nothing but itself."""

from __future__ import annotations

import datetime as dt
import threading
from types import SimpleNamespace
from typing import Any

from stand_ins import FakeClock, engine_of

from slotsched.errors import ArchiveError, StoreUnreachable
from slotsched.scheduler.pruning import PRUNE_SECONDS, Pruner

KEEP_SECONDS = 30 * 86400.0
NOW = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)


def an_engine(prune_logs: Any, prune_tasks: Any = lambda _: 3) -> Any:
    store = SimpleNamespace(upkeep=SimpleNamespace(prune=prune_tasks), now=lambda: NOW)
    settings = SimpleNamespace(keep=KEEP_SECONDS)
    return engine_of(FakeClock(), settings=settings, store=store, archive=SimpleNamespace(prune=prune_logs))


def test_tasks_and_the_logs_of_days_before_go_by_the_stores_clock() -> None:
    asked: list[Any] = []
    engine = an_engine(lambda day: asked.append(day) or 7, lambda seconds: asked.append(seconds) or 3)
    assert Pruner(engine).run_once() == 3
    assert asked == [KEEP_SECONDS, dt.date(2026, 10, 29)]
    assert engine.log.lines == [("info", "pruned")]


def test_whoever_starts_it_does_not_wait_for_a_log_store_that_does_not_answer() -> None:
    listing, answered = threading.Event(), threading.Event()

    def never(_: dt.date) -> int:
        listing.set()
        answered.wait(30)
        return 0

    pruner = Pruner(an_engine(never), first=0)
    pruner.start()
    assert listing.wait(10), "it looks for old logs"
    pruner.stop()  # returns at once, and so would everything else on this thread
    assert pruner.is_alive()
    answered.set()
    pruner.join(10)
    assert not pruner.is_alive()


def test_an_outage_is_told_and_the_next_time_comes() -> None:
    tries: list[Exception] = [ArchiveError("away"), StoreUnreachable("away"), ValueError("odd")]
    pruner: Pruner
    waits: list[float] = []

    class Turns(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return not tries

    def fail(_: dt.date) -> int:
        raise tries.pop()

    engine = an_engine(fail)
    pruner = Pruner(engine, first=0)
    pruner._stopping = Turns()
    pruner.run()
    assert waits == [0.0, PRUNE_SECONDS, PRUNE_SECONDS, PRUNE_SECONDS]
    assert [level for level, _ in engine.log.lines] == ["exception", "warning", "warning"]


def test_pruners_that_start_together_do_not_prune_together() -> None:
    pauses = {Pruner(an_engine(lambda _: 0))._pause for _ in range(50)}
    assert len(pauses) > 40
    assert all(0 <= pause <= PRUNE_SECONDS for pause in pauses)
