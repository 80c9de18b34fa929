"""Random sequences of the real store's writes, each compared with what a plain model says must be true after it.

Among them are those that come too late or twice: a finish under a claim that is long over, a release after a rescue,
a claim by an instance that is dead, a renewal with an old nonce, a mark taken back after a new one came. What one
process does after another cannot race; races are in test_store_races.py and, exhaustively, in test_protocol_model.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bson import ObjectId
from figures import Figures
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from store_machine import StoreMachine

from slotsched.model import Instance, Status
from slotsched.store import Store, pipelines
from slotsched.store.instances import Instances
from slotsched.store.queue import Queue
from slotsched.store.rescue import Rescue

QUICK = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# --- runs ------------------------------------------------------------------------------------------
@pytest.fixture
def machine(store: Store, mongo_client: Any, database: Any) -> type[StoreMachine]:
    return type("Machine", (StoreMachine,), {"store": store, "raw": staticmethod(lambda: mongo_client[database.name])})


def test_the_store_does_what_the_model_says(machine: type[StoreMachine], figure: Figures) -> None:
    run_state_machine_as_test(machine, settings=QUICK)
    figure("model", "steps of the real store that were compared with the plain model", machine.steps, "")


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_the_store_does_what_the_model_says_for_long(machine: type[StoreMachine], figure: Figures) -> None:
    run_state_machine_as_test(machine, settings=settings(QUICK, max_examples=250, stateful_step_count=60))
    figure("model", "steps of the real store that were compared with the plain model, long", machine.steps, "")


# --- negative controls: a store with one rule taken out --------------------------------------------
def _without_the_fence(patch: pytest.MonkeyPatch) -> None:
    def change(self: Any, task_id: str, token: str, update: Any) -> Status | None:
        found = self._tasks.find_one_and_update(
            {"_id": ObjectId(task_id), "status": "running"}, update, projection={"status": 1}, return_document=True
        )
        return None if found is None else Status(found["status"])

    patch.setattr(Queue, "_change", change)


def _attempts_are_kept_by_a_release(patch: pytest.MonkeyPatch) -> None:
    release = pipelines.release
    patch.setattr(
        pipelines,
        "release",
        lambda **options: [*release(**options), {"$set": {"attempt": {"$add": ["$attempt", 1]}}}],
    )


def _the_living_are_taken_from(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Rescue, "seen", lambda self, ids: dict.fromkeys(ids))


def _what_has_ended_can_be_canceled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("slotsched.store.tasks.OPEN", frozenset(Status))


def _a_late_retirement_counts(patch: pytest.MonkeyPatch) -> None:
    def retire(self: Any, id: str, incarnation: int) -> None:
        self._instances.update_one({"_id": id, "live": True}, {"$set": {"live": False}})

    patch.setattr(Instances, "retire", retire)


def _a_second_registration_raises_the_dead(patch: pytest.MonkeyPatch) -> None:
    register = Instances.register

    def raising(self: Any, instance: Instance) -> Instance:
        register(self, instance)
        self._instances.update_one({"_id": instance.id}, {"$set": {"live": True}})
        return self.get(instance.id)

    patch.setattr(Instances, "register", raising)


@pytest.mark.parametrize(
    "broken",
    [
        _without_the_fence,
        _attempts_are_kept_by_a_release,
        _the_living_are_taken_from,
        _what_has_ended_can_be_canceled,
        _a_late_retirement_counts,
        _a_second_registration_raises_the_dead,
    ],
    ids=lambda broken: broken.__name__.strip("_"),
)
def test_a_store_without_one_of_its_rules_is_found_out(
    broken: Callable[[pytest.MonkeyPatch], None], machine: type[StoreMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    found = settings(QUICK, max_examples=200, phases=[Phase.generate])  # the first is enough; nobody reads it
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_state_machine_as_test(machine, settings=found)
