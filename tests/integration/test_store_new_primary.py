"""A new primary has every acknowledged write, but its first majority reads may not show the last of them.

For how long is up to chance and the machine, so its collections are stood in for by ones that show nothing until a
write of this client has been acknowledged.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from slotsched import errors
from slotsched.model import Capacity, Instance, InstanceRef, Status, TaskRequest
from slotsched.store import Store

NOW = dt.datetime.now(dt.UTC)
ME = InstanceRef(id="instance-1", name="big-1")
FACTS = Instance(
    id=ME.id,
    name=ME.name,
    host="here",
    pid=7,
    boot_id="b",
    incarnation=1,
    nonce="first",
    live=True,
    draining=False,
    capacity=Capacity(slots=4),
    used=0,
    lease=30.0,
    grace=5.0,
    started_at=NOW,
    renewed_at=NOW,
    version="1",
)


class Lagging:
    """A collection whose majority reads show nothing until `barriers` was written to."""

    def __init__(self, certain: Any, barriers: Any) -> None:
        self._certain, self._barriers = certain, barriers

    def find(self, wanted: dict[str, Any], *more: Any) -> Any:
        nothing = {"$and": [wanted, {"_id": "none"}]}
        return self._certain.find(wanted if self._has_caught_up() else nothing, *more)

    def find_one(self, wanted: dict[str, Any], *more: Any) -> Any:
        return self._certain.find_one(wanted, *more) if self._has_caught_up() else None

    def _has_caught_up(self) -> bool:
        return self._barriers.find_one({}) is not None


@pytest.fixture
def failed_over(store: Store) -> Store:
    """A store with one live instance that runs one task, right after an election."""
    store.instances.register(FACTS)
    [task] = store.queue.claim([store.tasks.enqueue(TaskRequest(job="a")).id], "token", ME)
    assert task.status is Status.RUNNING
    barriers = store._connection.collection("barriers")
    for part in (store.queue, store.instances, store.rescue):
        part._certain = Lagging(part._certain, barriers)  # type: ignore[assignment]
    return store


def test_what_an_instance_holds_is_all_shown_behind_a_write(failed_over: Store) -> None:
    assert failed_over.queue.held(ME.id) == {}
    assert [held.token for held in failed_over.queue.held(ME.id, settled=True).values()] == ["token"]


def test_an_instance_that_is_not_shown_yet_is_not_taken_for_one_that_is_not_there(failed_over: Store) -> None:
    with pytest.raises(errors.Refused, match="is live"):
        failed_over.rescue.take(ME.id)
    assert failed_over.rescue.take("nobody") == 0


def test_an_instance_that_is_not_shown_yet_is_not_taken_for_one_that_was_declared_dead(failed_over: Store) -> None:
    resumed = failed_over.instances.resume(FACTS)
    assert resumed is not None
    assert resumed.id == ME.id
