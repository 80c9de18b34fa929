"""Retention: on a thread of its own, so that a log store that does not answer holds up nothing but itself."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from stand_ins import FakeClock, engine_of

from slotsched.errors import ArchiveError, StoreUnreachable
from slotsched.scheduler.pruning import MORE_SECONDS, PRUNE_SECONDS, Pruner
from slotsched.store.upkeep import Pruned

KEEP_SECONDS = 30 * 86400.0
NOW = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)


def pruned(*, more: bool = False) -> Pruned:
    return Pruned(tasks=3, more=more)


def an_engine(logs_before: Any, prune_tasks: Any = lambda _: pruned()) -> Any:
    """No log that is found has a task."""
    tasks = SimpleNamespace(missing=set)
    store = SimpleNamespace(upkeep=SimpleNamespace(prune=prune_tasks), tasks=tasks, now=lambda: NOW)
    archive = SimpleNamespace(logs_before=logs_before, delete=len)
    return engine_of(FakeClock(), settings=SimpleNamespace(keep=KEEP_SECONDS), store=store, archive=archive)


def pauses_of(engine: Any, ended: Callable[[], bool]) -> list[float]:
    """How long a pruner waits before each of its passes, until it has ended."""
    waits: list[float] = []

    class Turns(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return ended()

    pruner = Pruner(engine, first=0)
    pruner._stopping = Turns()
    pruner.run()
    return waits


def test_tasks_and_the_logs_of_days_before_go_by_the_stores_clock() -> None:
    asked: list[Any] = []

    def prune_tasks(seconds: float) -> Pruned:
        asked.append(seconds)
        return pruned()

    def logs_before(day: dt.date) -> Iterator[dict[str, str]]:
        asked.append(day)
        yield {"one": "a"}
        yield {"two": "b", "three": "b"}

    engine = an_engine(logs_before, prune_tasks)
    removed = Pruner(engine).run_once()
    assert (removed.tasks, removed.logs, removed.more) == (3, 3, False)
    assert asked == [KEEP_SECONDS, dt.date(2026, 10, 29)]
    assert engine.log.lines == [("info", "pruned")]


def test_after_a_pass_that_left_old_tasks_the_next_comes_soon() -> None:
    """More than a pass removes may end in an hour; then tasks piled up without end."""
    passes = [pruned(), pruned(more=True), pruned(more=True)]
    engine = an_engine(lambda _: iter(()), lambda _: passes.pop())
    assert pauses_of(engine, lambda: not passes) == [0.0, MORE_SECONDS, MORE_SECONDS, PRUNE_SECONDS]


def test_whoever_starts_it_does_not_wait_for_a_log_store_that_does_not_answer() -> None:
    listing, answered = threading.Event(), threading.Event()

    def never(_: dt.date) -> Iterator[dict[str, str]]:
        listing.set()
        answered.wait(30)
        return iter(())

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

    def fail(_: dt.date) -> Iterator[dict[str, str]]:
        raise tries.pop()

    engine = an_engine(fail)
    assert pauses_of(engine, lambda: not tries) == [0.0, PRUNE_SECONDS, PRUNE_SECONDS, PRUNE_SECONDS]
    assert [level for level, _ in engine.log.lines] == ["exception", "warning", "warning"]


def test_pruners_that_start_together_do_not_prune_together() -> None:
    pauses = {Pruner(an_engine(lambda _: iter(())))._pause for _ in range(50)}
    assert len(pauses) > 40
    assert all(0 <= pause <= PRUNE_SECONDS for pause in pauses)
