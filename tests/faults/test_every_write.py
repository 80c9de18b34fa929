"""F08: every kind of write that the store can send, with its answer lost once and twice, late, never, or after all.

The rows are in `write_cases` and `write_cases_series`, what happens to them in `write_lab`. A method that writes and
has no row is found by `write_scan`. Five seconds of delay at a timeout of five are scaled to a timeout of 0.5 s.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pymongo
import pytest
from bson import ObjectId
from figures import Figures
from write_cases import INSTANCES, LIMITS, QUEUE, TASKS
from write_cases_series import CATALOGS, FIRING, RESOLVE, SCHEDULES, TOKENS, UPKEEP
from write_lab import DONE, SHORT_SECONDS, Case, Fault, Run, Studio, impatience
from write_scan import store_trees, writing_methods

from slotsched import errors
from slotsched.embedded import Mongod
from slotsched.model import Schedule, TaskRequest
from slotsched.store import Store, Tasks

CASES = [*TASKS, *QUEUE, *LIMITS, *INSTANCES, *RESOLVE, *SCHEDULES, *FIRING, *CATALOGS, *TOKENS, *UPKEEP]
RUNS = [(case, fault) for case in CASES for fault in case.faults()]
AT_ONCE = 16  # nearly all of the time is spent waiting for answers


@pytest.fixture(scope="module")
def studio(mongod: Mongod, mongo_client: pymongo.MongoClient[Any]) -> Iterator[Studio]:
    with impatience():
        made = Studio(mongod, mongo_client)
        yield made
        made.close()


@pytest.fixture(scope="module")
def runs(studio: Studio, request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Future[Run]]]:
    """What was asked for, all under way."""
    mine = [item for item in request.session.items if item.path == request.path]
    wanted = [item.callspec.params for item in mine if "fault" in getattr(item, "fixturenames", ())]
    with ThreadPoolExecutor(AT_ONCE, "writes") as pool:
        yield {
            (one["case"].name, str(one["fault"])): pool.submit(studio.run, one["case"], one["fault"]) for one in wanted
        }


@pytest.mark.parametrize(("case", "fault"), RUNS, ids=[f"{case.name} - {fault}" for case, fault in RUNS])
def test_a_write_ends_as_without_a_fault(case: Case, fault: Fault, runs: dict[Any, Future[Run]]) -> None:
    assert runs[case.name, str(fault)].result(120).wrong == []


def test_what_all_of_them_came_to(runs: dict[Any, Future[Run]], figure: Figures) -> None:
    done = [run.result(120) for run in runs.values()]
    figure("F08", "kinds of writes", len({name for name, _ in runs}), "")
    figure("F08", "faults of a single message", len(done), "")
    figure("F08", "of them told as 'cannot reach', with what to do", sum(run.unreachable > 0 for run in done), "")
    figure("F08", "documents other than without the fault", sum(bool(run.wrong) for run in done), "", exactly=0)


# --- the table is whole -----------------------------------------------------------------------------
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_row_sends_what_it_says(case: Case, studio: Studio) -> None:
    assert tuple(studio.twin(case).writes) == case.sends


def without_a_row(trees: dict[str, ast.Module]) -> set[str]:
    return writing_methods(trees) - {case.method for case in CASES}


def test_every_method_that_writes_has_a_row() -> None:
    assert without_a_row(store_trees()) == set()


def test_the_search_for_writes_sees_all_that_were_seen_on_the_wire(store: Store) -> None:
    found = writing_methods(store_trees())
    assert {case.method for case in CASES} <= found
    parts = {
        name for name, part in vars(store).items() if not name.startswith("_") and type(part).__module__ != "builtins"
    }
    assert {method.split(".")[0] for method in found if "." in method} <= parts
    assert parts - {method.split(".")[0] for method in found} == set(), "every part writes something"


@pytest.mark.parametrize(
    "sneaky",
    [
        "def sneak(self):\n    self._tasks.update_one({}, {})",
        "def sneak(self):\n    return self._enqueuer.enqueue(1)",
        "def sneak(self):\n    def work(session):\n        indexes.ensure(self._connection)\n    work(1)",
    ],
    ids=["itself", "by another class", "by a function"],
)
def test_a_new_method_that_writes_is_missed_in_the_table(sneaky: str) -> None:
    trees = store_trees()
    [tasks] = [node for node in trees["tasks"].body if isinstance(node, ast.ClassDef) and node.name == Tasks.__name__]
    tasks.body += ast.parse(sneaky).body
    assert without_a_row(trees) == {"tasks.sneak"}


def test_a_document_that_differs_is_seen(studio: Studio) -> None:
    """The checks can fail: a write that is not sent again, and an enqueue that is sent again as a new one."""
    [promote] = [case for case in CASES if case.name == "queue.promote"]
    assert studio.run(replace(promote, name="forgetful", call=_promote_unless_silent), Fault("silence")).wrong
    doubling = Case("doubling", ("insert",), lambda s: None, lambda store, _: store.tasks.enqueue(TaskRequest(job="a")))
    assert "2 documents instead of 1" in studio.run(doubling, Fault("slow", 0)).wrong[0]


def _promote_unless_silent(store: Store, _: object) -> None:
    with suppress(errors.StoreUnreachable):
        store.queue.promote()


# --- what a transaction leaves ----------------------------------------------------------------------
@pytest.mark.parametrize("command", ["insert", "update", "commitTransaction"])
def test_a_transaction_that_was_given_up_locks_nobody_out(studio: Studio, command: str, figure: Figures) -> None:
    """Else a parent could not end, and a schedule not fire, until the server gives the transaction up by itself."""
    with studio.scene() as scene:
        scene.clear()
        [parent] = scene.running(scene.task(), token="token-0")
        scene.proxy.slow(command, 8 * SHORT_SECONDS)
        began = time.monotonic()
        child = scene.hasty.tasks.enqueue(TaskRequest(job="child", parents=(parent,)))  # sent again, beside its first
        assert scene.store.queue.finish(parent, "token-0", DONE) == "completed"
        took = time.monotonic() - began
        figure("F08", "a transaction given up and sent again, and its parent's end", took, at_most=4 * SHORT_SECONDS)
        assert [task.id for task in scene.store.tasks.get_many([child.id]).values()] == [child.id]


def test_a_transaction_that_nobody_goes_on_with_is_ended_by_the_one_it_keeps_waiting(studio: Studio) -> None:
    """Its client died, or it began by a message that came after its client had given it up."""
    with studio.scene() as scene:
        scene.clear()
        [parent] = scene.running(scene.task(), token="token-0")
        store = scene.store._connection
        with store._client.start_session() as session:
            session.start_transaction()
            store.collection("tasks").update_one({"_id": ObjectId(parent)}, {"$set": {"pokes": 7}}, session=session)
            child = scene.hasty.tasks.enqueue(TaskRequest(job="child", parents=(parent,)))
        assert child.status == "waiting"
        assert scene.raw.tasks.find_one({"_id": ObjectId(parent)})["pokes"] == 1


@pytest.mark.parametrize("command", ["update", "insert", "commitTransaction"])
def test_a_schedule_whose_fire_was_given_up_can_be_changed_at_once(studio: Studio, command: str) -> None:
    with studio.scene() as scene:
        scene.clear()
        scene.store.schedules.create(Schedule(name="s", job="j", every=3600.0))
        scene.proxy.slow(command, 8 * SHORT_SECONDS)
        with pytest.raises(errors.StoreUnreachable, match="cannot reach"):
            scene.hasty.firing.run_now("s")
        began = time.monotonic()
        assert scene.store.schedules.set("s", {"label": "new"}).label == "new"
        assert time.monotonic() - began < 2 * SHORT_SECONDS
