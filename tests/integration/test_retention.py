"""What is forgotten and what is kept, with a real store and a folder of logs: one pass of an instance's thread."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bson import ObjectId
from stand_ins import FakeClock, engine_of

from slotsched.archive import Archive, log_key, open_archive
from slotsched.model import InstanceRef, LogRef, Outcome, Reason, TaskRequest
from slotsched.retention import prune
from slotsched.scheduler.pruning import Pruner
from slotsched.store import Store

DAY_SECONDS = 86400.0
KEEP_SECONDS = 30 * DAY_SECONDS
DONE = Outcome(reason=Reason.EXIT, exit_code=0)
NO_TASK = "0" * 24


@dataclass
class Kept:
    """A store with a log store, and what one pass with a `keep` of 30 days leaves there."""

    store: Store
    archive: Archive
    folder: Path
    raw: Any

    def ended(
        self, *, began: float, ended: float, keep: float | None = None, attempts: int = 1, uploaded: bool = True
    ) -> str:
        """A task that began and ended so many days ago, with the logs of its attempts in the log store."""
        task = self.store.tasks.enqueue(TaskRequest(job="j", keep=keep)).id
        key = self.log(task, began)
        for attempt in range(2, attempts + 1):
            self.log(task, ended, attempt)
        self.store.queue.claim([task], "token", InstanceRef(id="i", name="big-1"))
        log = LogRef(store=self.archive.url, key=key, bytes=1, uploaded=uploaded)
        self.store.queue.finish(task, "token", DONE, log=log)
        end = self.ago(ended)
        expiry = {} if keep is None else {"expire_at": end + dt.timedelta(seconds=keep)}
        self.raw.tasks.update_one({"_id": ObjectId(task)}, {"$set": {"ended_at": end, **expiry}})
        return task

    def log(self, task: str, began: float, attempt: int = 1) -> str:
        key = log_key(task, attempt, self.ago(began))
        source = self.folder / "log"
        source.write_bytes(b"x")
        self.archive.put(key, source)
        return key

    def ago(self, days: float) -> dt.datetime:
        return self.store.now() - dt.timedelta(days=days)

    def run_pass(self) -> None:
        settings = SimpleNamespace(keep=KEEP_SECONDS)
        engine = engine_of(FakeClock(), settings=settings, store=self.store, archive=self.archive)
        Pruner(engine).run_once()

    def logs(self) -> list[str]:
        """The names of tasks that have logs, one for each."""
        return sorted(path.parent.name for path in (self.folder / "logs").rglob("*.ndjson.gz"))


@pytest.fixture
def kept(store: Store, tmp_path: Path, mongo_client: Any, database: Any) -> Kept:
    return Kept(store, open_archive(str(tmp_path / "logs")), tmp_path, mongo_client[database.name])


@pytest.mark.parametrize(
    "task",
    [
        pytest.param({"began": 40, "ended": 40, "keep": 365 * DAY_SECONDS}, id="its job keeps tasks for a year"),
        pytest.param({"began": 40, "ended": 0.01}, id="it ran for longer than keep"),
        pytest.param({"began": 40, "ended": 0.01, "attempts": 3}, id="its first attempt was before that"),
        pytest.param({"began": 40, "ended": 40, "uploaded": False}, id="the store does not know of the upload yet"),
    ],
)
def test_a_log_is_kept_as_long_as_its_task(kept: Kept, task: Mapping[str, Any]) -> None:
    task_id = kept.ended(**task)
    kept.run_pass()
    assert kept.store.tasks.missing([task_id]) == set()
    assert kept.logs() == [task_id] * task.get("attempts", 1)


def test_logs_go_with_their_task_once_their_day_is_old(kept: Kept) -> None:
    gone = kept.ended(began=40, ended=40, attempts=2)
    short = kept.ended(began=40, ended=2, keep=DAY_SECONDS)
    young = kept.ended(began=2, ended=2, keep=DAY_SECONDS)
    kept.run_pass()
    assert kept.store.tasks.missing([gone, short, young]) == {gone, short, young}
    assert kept.logs() == [young]


def test_what_no_task_can_have_named_stays(kept: Kept) -> None:
    for task in ("notes", "0" * 23, "0" * 23 + "A"):
        kept.log(task, 40)
    kept.log(NO_TASK, 40)
    kept.run_pass()
    assert kept.logs() == sorted(("notes", "0" * 23, "0" * 23 + "A"))


def test_a_log_store_of_any_size_is_looked_through_page_by_page(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotsched.archive.directory.PAGE_KEYS", 2)
    tasks = [kept.ended(began=40, ended=1) for _ in range(3)]
    for number in range(4):
        kept.log(f"{number:024x}", 40 + number)
    asked: list[int] = []
    missing = kept.store.tasks.missing

    def ask(ids: Any) -> set[str]:
        wanted = list(ids)
        asked.append(len(wanted))
        return missing(wanted)

    monkeypatch.setattr(kept.store.tasks, "missing", ask)
    assert prune(kept.store, kept.archive, KEEP_SECONDS).logs == 4
    assert kept.logs() == sorted(tasks)
    assert asked == [2, 2, 2, 1]


def test_a_pass_that_leaves_old_tasks_leaves_the_logs_to_the_next(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotsched.store.upkeep.PRUNE_BATCH", 1)
    tasks = [kept.ended(began=40, ended=40) for _ in range(2)]
    whole = kept.store.upkeep.prune
    monkeypatch.setattr(kept.store.upkeep, "prune", lambda keep: whole(keep, batches=1))
    passes = [prune(kept.store, kept.archive, KEEP_SECONDS) for _ in range(3)]
    assert [(one.tasks, one.logs, one.more) for one in passes] == [(1, 0, True), (1, 0, True), (0, 2, False)]
    assert kept.store.tasks.missing(tasks) == set(tasks)


def test_an_age_beyond_all_dates_ends_the_pass_before_anything_is_deleted(kept: Kept) -> None:
    task = kept.ended(began=40, ended=40)
    kept.raw.tasks.update_one({"_id": ObjectId(task)}, {"$set": {"ended_at": dt.datetime(1980, 1, 1, tzinfo=dt.UTC)}})
    with pytest.raises(OverflowError):
        prune(kept.store, kept.archive, 800_000 * DAY_SECONDS)
    assert kept.store.tasks.missing([task]) == set()
