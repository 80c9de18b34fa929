"""`retry --failed` after a bad night: whatever their number, each is run again once."""

from __future__ import annotations

from collections.abc import Iterator

import pymongo
import pytest
from cli_user import CLI_JOBS, User

from slotsched.model import TaskRequest

MANY = 10_050


@pytest.fixture
def user(make_fleet) -> Iterator[User]:
    """No instance is up: tasks stay where they are."""
    with make_fleet(jobs=CLI_JOBS) as fleet:
        yield User(fleet)


def test_very_many_failed_tasks_are_all_run_again_and_only_once(user: User) -> None:
    tasks = user.fleet.client.store.tasks
    old = [one.id for one in tasks.enqueue_many(TaskRequest(job="backup") for _ in range(MANY))]
    with pymongo.MongoClient(user.fleet.settings["mongodb_uri"]) as client:
        client[user.fleet.settings["database"]].tasks.update_many(
            {}, [{"$set": {"status": "failed", "reason": "exit", "exit_code": 1, "ended_at": "$$NOW"}}]
        )
    words = ["retry", "--failed", "--since", "1h", "--yes"]
    done = user.run(*words)
    assert done.err.startswith(f"{MANY} of {MANY} failed tasks since ")
    new = tasks.get_many(done.out.split())
    assert sorted(task.retry_of or "" for task in new.values()) == sorted(old)
    again = user.run(*words)
    assert (again.code, again.out) == (0, "")
    assert again.err.startswith("no failed task since ")
