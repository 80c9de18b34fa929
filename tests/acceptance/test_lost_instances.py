"""An instance that is gone is found out by the others in time, and never before it is gone."""

from __future__ import annotations

import signal

import pymongo
from bson import ObjectId
from fault_proxy import fault_proxy
from figures import Figures
from fleet import Fleet, boottime, processes_of, until
from fleet_fixtures import GRACE_SECONDS, LEASE_SECONDS, POLL_SECONDS

from slotsched.scheduler.leasing import RENEWALS_PER_LEASE

LATEST = LEASE_SECONDS + GRACE_SECONDS + 2 * POLL_SECONDS
# The last renewal may have been as long before the end as renewals are apart; half a second for a busy machine.
EARLIEST = LEASE_SECONDS + GRACE_SECONDS - LEASE_SECONDS / RENEWALS_PER_LEASE - 0.5


def test_the_tasks_of_an_instance_that_was_killed_are_lost_in_time_and_those_of_a_living_one_are_not(
    fleet: Fleet, figure: Figures
) -> None:
    doomed = fleet.start("doomed", slots=4)
    lost, retried = fleet.enqueue_many(
        [{"job": "work", "args": {"seconds": 60}}, {"job": "work", "args": {"seconds": 60}, "retries": 1}]
    )
    for task_id in (lost, retried):
        fleet.witness.wait_for("start", task_id)
    fleet.start("survivor", slots=4, resources="gpu=1")
    kept = fleet.enqueue("gpu_work", f"seconds={LATEST + 1}")
    fleet.witness.wait_for("start", kept)

    doomed.kill_all()
    killed = boottime()
    assert processes_of(lost) == set()
    until(lambda: fleet.client.get(lost).status != "running", seconds=LATEST + 5, what="the task to be taken")
    took = boottime() - killed
    figure("F01", "kill -9 of a whole machine: its tasks are called lost", took, at_most=LATEST)
    assert took > EARLIEST

    task, again = fleet.client.get(lost), fleet.client.get(retried)
    assert (task.status, task.reason, task.attempt) == ("failed", "lost", 1)
    assert task.ended_at is not None
    assert again.status == "scheduled", "its retry"
    assert again.last_attempt is not None
    assert again.last_attempt.reason == "lost"
    assert "its instance was lost" in fleet.cli("task", "show", lost).stdout
    assert [one.name for one in fleet.client.fleet().instances] == ["survivor"]

    (untouched,) = fleet.ended(kept)
    assert (untouched.status, untouched.attempt) == ("completed", 1)
    assert len(fleet.witness.starts(lost)) == len(fleet.witness.starts(kept)) == 1


def test_an_instance_that_stands_still_for_less_than_its_lease_loses_nothing(fleet: Fleet) -> None:
    frozen = fleet.start("frozen", slots=2)
    task_id = fleet.enqueue("work", f"seconds={LEASE_SECONDS}")
    fleet.witness.wait_for("start", task_id)
    fleet.start("watching", slots=2)
    frozen.signal(signal.SIGSTOP)
    stopped = boottime()
    until(lambda: boottime() - stopped > 0.4 * LEASE_SECONDS, what="a part of the lease")
    frozen.signal(signal.SIGCONT)
    (task,) = fleet.ended(task_id)
    assert (task.status, task.attempt) == ("completed", 1)
    assert fleet.witness.wait_for("end", task_id)
    assert {one.name for one in fleet.client.fleet().instances} == {"frozen", "watching"}


def test_a_task_whose_owner_nobody_knows_is_lost_at_once(
    shared: Fleet, mongo_client: pymongo.MongoClient[dict[str, object]]
) -> None:
    task_id = shared.enqueue("work", "--in", "1h")
    claim = {"status": "running", "claim": {"instance": "of another year", "token": "0" * 24}, "attempt": 1, "fence": 1}
    tasks = mongo_client[shared.settings["database"]]["tasks"]
    assert tasks.update_one({"_id": ObjectId(task_id)}, {"$set": claim}).modified_count == 1
    (task,) = shared.ended(task_id, seconds=2 * POLL_SECONDS + 1)
    assert (task.status, task.reason) == ("failed", "lost")
    assert shared.witness.starts(task_id) == []


def test_an_instance_that_was_cut_off_ends_its_lost_task_when_it_learns_of_it_and_begins_anew(fleet: Fleet) -> None:
    with fault_proxy(fleet.settings["mongodb_uri"]) as proxy:
        own_way = f"{proxy.endpoint.replace('http', 'mongodb')}/?directConnection=true"
        fleet.start("cut", slots=2, resources="gpu=1", mongodb_uri=own_way)
        task_id = fleet.enqueue("gpu_work", "seconds=60")
        fleet.witness.wait_for("start", task_id)
        fleet.start("watching", slots=2)
        proxy.refuse()
        (task,) = fleet.ended(task_id, seconds=LATEST + 2)
        assert (task.status, task.reason) == ("failed", "lost")
        assert processes_of(task_id), "nobody may follow it, so it went on while its scheduler lives"
        proxy.heal()
        until(lambda: not processes_of(task_id), what="the end of what is no longer its own", seconds=LEASE_SECONDS)
        (following,) = fleet.ended(fleet.enqueue("gpu_work"))
        assert following.status == "completed"
    assert [mark.instance for mark in fleet.witness.starts(following.id)] == ["cut"]
    assert sorted(one.name for one in fleet.client.fleet().instances) == ["cut", "watching"]
