"""F03: a scheduler that stands still for three leases, by SIGSTOP or in its own loop, while its tasks go on.

Its supervisors end the trees before anybody else may start them, and what it says when it comes back matches nothing.
The last test takes the fence out of that late word and shows that the outcome is then overwritten.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from checker import Evidence, Verdict, all_tasks, judge
from fault_lab import Crash
from figures import Figures
from fleet import JOBS, Fleet, FleetMaker, InstanceProcess, boottime, until
from outage_lab import LOCAL_SHARE, called_lost
from proc_sampler import ProcSampler

from slotsched.client import Client
from slotsched.model import InstanceRef, Outcome, Reason, Task
from slotsched.scheduler.leasing import LONGEST_TURN_SECONDS
from slotsched.store import Store
from slotsched.store.queue import Queue

LEASE_SECONDS, GRACE_SECONDS = 3.0, 1.0
POLL_SECONDS = 1.0
BUSY_SECONDS = 1.0  # what a busy machine may add
LEASES = 3


@dataclass
class Casualty:
    """An instance that stands still, and its three tasks: one that may run twice, one that may not, one that ends
    meanwhile. stopped: since when (CLOCK_BOOTTIME).
    """

    instance: InstanceProcess
    id: str
    again: str
    endless: str
    ends: str
    stopped: float = 0.0


@dataclass
class Story:
    """What happened to a frozen and to a hung scheduler, seen from outside once both were back."""

    fleet: Fleet
    lease: float
    grace: float
    frozen: Casualty
    hung: Casualty
    sampler: ProcSampler
    tasks: dict[str, Task]
    verdict: Verdict

    def alive_until(self, task: str, fence: int = 1) -> float:
        return self.sampler.sightings[task, str(fence)].last


def settle_in(fleet: Fleet, instance: InstanceProcess, gate: Path) -> Casualty:
    """The three tasks run on this instance, because no other has room."""
    client = fleet.client
    again = client.enqueue("stuck_once").id
    endless = client.enqueue("talker", {"lines": 100_000, "pause": 0.05}, max_time=600).id
    for task in (again, endless):
        fleet.witness.wait_for("start", task)
    ends = client.enqueue("gate", {"file": str(gate)}).id
    for task in (again, endless, ends):
        assert fleet.witness.wait_for("start", task).instance == instance.name
    return Casualty(instance, fleet.instance(instance.name)["id"], again, endless, ends)


def tell_story(fleet: Fleet, lease: float, grace: float) -> Story:
    """The hung one is in its loop as soon as it has launched its third task."""
    away = LEASES * lease
    standstill = min(LONGEST_TURN_SECONDS, lease)
    gate = fleet.folder / "gate"
    with ProcSampler(fleet.witness.path) as sampler:
        frozen = settle_in(fleet, fleet.start("frozen", slots=3), gate)
        crash = Crash(fleet, "hung", "launch.after", f"sleep:{away + standstill}@3", slots=3)
        crash.wait_up()
        hung = settle_in(fleet, crash.instance, gate)
        crash.wait()
        frozen.instance.signal(signal.SIGSTOP)
        frozen.stopped = boottime()
        hung.stopped = fleet.witness.starts(hung.ends)[0].at  # its launch was the last thing that the loop did
        gate.touch()
        fleet.start("survivor", slots=2)
        until(lambda: boottime() - frozen.stopped > away, seconds=away + 5, what="three leases")
        frozen.instance.signal(signal.SIGCONT)
        for one in (frozen, hung):
            until(lambda one=one: "up again" in called_lost(one.instance), seconds=2 * lease + 20, what="it to be back")
        fleet.ended(*(task for one in (frozen, hung) for task in (one.again, one.endless, one.ends)), seconds=60)
    tasks = all_tasks(fleet)
    evidence = Evidence(acknowledged=list(tasks), tasks=tasks, marks=fleet.witness.marks(), sightings=sampler.sightings)
    return Story(fleet, lease, grace, frozen, hung, sampler, tasks, judge(evidence))


@pytest.fixture(scope="module")
def story(make_fleet: FleetMaker) -> Iterator[Story]:
    with make_fleet(lease=f"{LEASE_SECONDS}s", grace=f"{GRACE_SECONDS}s") as fleet:
        yield tell_story(fleet, LEASE_SECONDS, GRACE_SECONDS)


def check_trees(story: Story, casualty: Casualty, name: str, own_end: float, figure: Figures) -> None:
    """own_end: seconds after which its supervisors must have ended the trees by themselves."""
    for kind, task in (("with", casualty.again), ("without", casualty.endless)):
        dead = story.alive_until(task) - casualty.stopped
        figure(
            "F03", f"{name}, lease {story.lease:g} s: a tree {kind} a lost-retry is dead after", dead, at_most=own_end
        )
    first, second = story.fleet.witness.starts(casualty.again)
    assert (first.instance, second.instance) == (casualty.instance.name, "survivor")
    assert story.alive_until(casualty.again) < second.at
    figure("F03", f"{name}: tasks doubled, or alive twice", len(story.verdict.doubled), "", exactly=0)
    figure("F03", f"{name}: tasks lost", len(story.verdict.lost), "", exactly=0)


def check_outcomes(story: Story, casualty: Casualty) -> None:
    """What the others decided stands, also where the script had ended well by then."""
    again, endless, ends = (story.tasks[task] for task in (casualty.again, casualty.endless, casualty.ends))
    assert [attempt.reason for attempt in again.attempts] == ["lost", "exit"]
    assert again.status == "completed"
    assert {(task.status, task.reason, task.attempt) for task in (endless, ends)} == {("failed", "lost", 1)}
    assert story.fleet.witness.wait_for("end", casualty.ends), "it ended by itself, and nobody could be told"


def check_return(story: Story, casualty: Casualty) -> None:
    assert called_lost(casualty.instance) == [
        "declared dead by another instance; ending all runs and beginning anew",
        "up again",
    ]
    assert story.fleet.instance(casualty.instance.name)["id"] != casualty.id


def test_a_frozen_schedulers_trees_are_dead_before_its_lease_is_over_and_run_nowhere_twice(
    story: Story, figure: Figures
) -> None:
    check_trees(story, story.frozen, "SIGSTOP", LOCAL_SHARE * story.lease + BUSY_SECONDS, figure)


def test_what_a_frozen_scheduler_says_when_it_is_back_changes_nothing(story: Story) -> None:
    check_outcomes(story, story.frozen)
    check_return(story, story.frozen)


def test_a_scheduler_whose_loop_hangs_is_not_renewed_for_and_others_take_its_tasks(
    story: Story, figure: Figures
) -> None:
    """The watchdog: the lease thread alone could renew for ever, for tasks that nobody looks after."""
    standstill = min(LONGEST_TURN_SECONDS, story.lease)
    own_end = standstill + LOCAL_SHARE * story.lease + BUSY_SECONDS
    check_trees(story, story.hung, "hung loop", own_end, figure)
    taken = story.fleet.witness.starts(story.hung.again)[1].at - story.hung.stopped
    latest = standstill + story.lease + story.grace + 2 * POLL_SECONDS + 1.0 + BUSY_SECONDS  # and its retry delay
    figure("F03", f"hung loop, lease {story.lease:g} s: its task starts elsewhere after", taken, at_most=latest)


def test_what_a_hung_scheduler_says_when_it_is_back_changes_nothing(story: Story) -> None:
    check_outcomes(story, story.hung)
    check_return(story, story.hung)


def test_a_scheduler_that_is_back_works_under_its_new_id(story: Story) -> None:
    fleet = story.fleet
    ids = [fleet.client.enqueue("work", {"seconds": 0.5}).id for _ in range(8)]
    fleet.ended(*ids)
    assert {fleet.witness.starts(task)[0].instance for task in ids} == {"frozen", "hung", "survivor"}


@pytest.mark.chaos
@pytest.mark.timeout(500)
def test_a_scheduler_that_stands_still_for_three_leases_at_the_default_lease(
    make_fleet: FleetMaker, figure: Figures
) -> None:
    with make_fleet(lease="30s", grace="5s") as fleet:
        story = tell_story(fleet, 30.0, 5.0)
        check_trees(story, story.frozen, "SIGSTOP", LOCAL_SHARE * 30 + BUSY_SECONDS, figure)
        check_trees(story, story.hung, "hung loop", 30 + LOCAL_SHARE * 30 + BUSY_SECONDS, figure)
        for casualty in (story.frozen, story.hung):
            check_outcomes(story, casualty)
            check_return(story, casualty)


# --- the negative control ---------------------------------------------------------------------------


@contextlib.contextmanager
def without_the_fence(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A finish that goes to the task whoever runs it, as it would without the claim's token in its filter."""

    def change(self: Queue, task_id: str, _token: str, update: Any) -> Any:
        with self._connection.guard():
            return self._tasks.find_one_and_update({"_id": ObjectId(task_id)}, update) and "overwritten"

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "_change", change)
        yield


def overwritten(store: Store, task_id: str, last_said: dict[str, str]) -> list[str]:
    """What is wrong with a task's outcome, by what the last attempt's own script said."""
    task = store.tasks.get(task_id)
    return [] if task.result == last_said else [f"{task_id} shows {task.result}, its last attempt said {last_said}"]


@pytest.mark.parametrize(
    ("fenced", "wrong"), [pytest.param(True, 0, id="fenced"), pytest.param(False, 1, id="no fence")]
)
def test_a_late_finish_overwrites_another_instances_result_only_without_the_fence(
    fenced: bool, wrong: int, store: Store, monkeypatch: pytest.MonkeyPatch, figure: Figures
) -> None:
    task_id = store.tasks.enqueue(Client(jobs_dir=JOBS).request("again", {"seconds": 0.0})).id
    frozen, other = InstanceRef(id="frozen", name="frozen"), InstanceRef(id="other", name="other")
    store.queue.claim([task_id], "frozen's token", frozen)
    assert store.rescue.take("frozen") == 1, "nobody knows an instance of that id"
    until(lambda: store.queue.promote() == 1, what="the retry to be due")
    store.queue.claim([task_id], "other's token", other)
    said = {"by": "other"}
    outcome = Outcome(reason=Reason.EXIT, exit_code=0, result=said)
    assert store.queue.finish(task_id, "other's token", outcome) == "completed"

    late = Outcome(reason=Reason.EXIT, exit_code=0, result={"by": "frozen"})
    with contextlib.nullcontext() if fenced else without_the_fence(monkeypatch):
        store.queue.finish(task_id, "frozen's token", late)
    found = overwritten(store, task_id, said)
    name = "with the fence" if fenced else "negative control, no fence"
    figure("F03", f"{name}: results overwritten by a late finish", len(found), "", exactly=wrong)
