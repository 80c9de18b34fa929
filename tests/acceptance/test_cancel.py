"""Ending a task from outside: cancel and kill from any machine, and a task that somebody changed behind our back."""

from __future__ import annotations

from collections.abc import Callable

import pymongo
import pytest
from bson import ObjectId
from fleet import Fleet, boottime, processes_of, until
from proc_sampler import with_command_line

SLOTS = 8  # of the shared instance
Tasks = pymongo.collection.Collection[dict[str, object]]


def a_full_width_task_runs(fleet: Fleet) -> bool:
    """Every slot is free: a task that takes all of them completes."""
    (task,) = fleet.ended(fleet.enqueue("work", "--slots", str(SLOTS)))
    return task.status == "completed"


def test_a_canceled_pending_task_never_starts(shared: Fleet) -> None:
    running, waiting, after = shared.enqueue_many(
        [{"job": "work", "args": {"seconds": 60}, "slots": SLOTS}, {"job": "work", "slots": 1}, {"job": "work"}]
    )
    shared.witness.wait_for("start", running)
    assert shared.client.get(waiting).status == "pending"
    shared.cli("cancel", waiting)
    task = shared.client.get(waiting)
    assert (task.status, task.reason, task.attempt) == ("canceled", "canceled", 0)
    shared.cli("cancel", running)
    shared.ended(after)  # the queue went on past its place
    assert shared.witness.starts(waiting) == []
    again = shared.cli("cancel", waiting, check=False)
    assert again.returncode == 5
    assert "nothing to cancel" in again.stderr


def test_a_canceled_running_task_gets_sigterm_and_may_clean_up(shared: Fleet) -> None:
    task_id = shared.enqueue("work", "seconds=60")
    shared.witness.wait_for("start", task_id)
    shared.cli("cancel", task_id)
    (task,) = shared.ended(task_id)
    assert (task.status, task.reason) == ("canceled", "canceled")
    assert shared.witness.wait_for("end", task_id, seconds=1), "its `finally` ran"
    assert processes_of(task_id) == set()


def test_a_job_that_ignores_sigterm_is_killed_after_its_grace_and_is_canceled_all_the_same(shared: Fleet) -> None:
    mark = f"deaf-{shared.folder.name}-cancel"
    task_id = shared.enqueue("deaf", f"mark={mark}", "--slots", "3")
    shared.witness.wait_for("start", task_id)
    shared.cli("cancel", task_id)
    term = shared.witness.wait_for("term", task_id)
    until(lambda: not processes_of(task_id), what="the tree's death")
    assert 0.9 < boottime() - term.at < 2.0, "grace is 1 s"
    assert with_command_line(mark) == []
    (task,) = shared.ended(task_id)
    assert (task.status, task.reason) == ("canceled", "canceled")
    assert a_full_width_task_runs(shared)


def test_kill_is_sigkill_at_once_from_a_machine_that_has_no_jobs(shared: Fleet) -> None:
    mark = f"deaf-{shared.folder.name}-kill"
    task_id = shared.enqueue("deaf", f"mark={mark}")
    shared.witness.wait_for("start", task_id)
    elsewhere = shared.folder / "elsewhere"
    elsewhere.mkdir()
    before = boottime()
    shared.cli("--jobs-dir", str(elsewhere), "--state-dir", str(elsewhere / "state"), "kill", task_id)
    until(lambda: not processes_of(task_id), what="the tree's death")
    assert boottime() - before < 10.0, "with the time that the command itself takes; its max time is a minute"
    assert with_command_line(mark) == []
    (task,) = shared.ended(task_id)
    assert (task.status, task.reason) == ("canceled", "canceled")
    assert "term" not in {mark.event for mark in shared.witness.marks() if mark.task == task_id}


def mark_canceled(tasks: Tasks, task_id: str) -> None:
    change = {"$set": {"status": "canceled", "reason": "canceled"}, "$unset": {"claim": ""}}
    assert tasks.update_one({"_id": ObjectId(task_id)}, change).modified_count == 1


def give_to_another(tasks: Tasks, task_id: str) -> None:
    change = {"$set": {"claim": {"instance": "somebody-else", "token": "0" * 24}, "fence": 99}}
    assert tasks.update_one({"_id": ObjectId(task_id)}, change).modified_count == 1


def delete(tasks: Tasks, task_id: str) -> None:
    assert tasks.delete_one({"_id": ObjectId(task_id)}).deleted_count == 1


@pytest.mark.parametrize("change", [mark_canceled, delete, give_to_another])
def test_a_running_task_that_somebody_changed_is_killed_and_its_slots_are_freed(
    change: Callable[[Tasks, str], None], shared: Fleet, mongo_client: pymongo.MongoClient[dict[str, object]]
) -> None:
    mark = f"deaf-{shared.folder.name}-{change.__name__}"
    task_id = shared.enqueue("deaf", f"mark={mark}", "--slots", "5")
    shared.witness.wait_for("start", task_id)
    before = boottime()
    change(mongo_client[shared.settings["database"]]["tasks"], task_id)
    until(lambda: not processes_of(task_id), what="the tree's death", seconds=5)
    print(f"dead {boottime() - before:.2f} s after the change")
    assert with_command_line(mark) == []
    assert a_full_width_task_runs(shared)
    assert len(shared.witness.starts(task_id)) == 1, "nobody started it again"
