"""An instance whose network is gone without a word: no answer, no refusal, no reset (F01's lease rules, for real).

It runs in a network namespace of its own with a cable to the store. Needs root; elsewhere it is skipped, loudly.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from checker import Evidence, all_tasks, judge
from figures import Figures
from fleet import Fleet, FleetMaker, boottime, until
from namespaces import Namespace, namespace
from outage_lab import LOCAL_SHARE, called_lost
from proc_sampler import ProcSampler
from replica_set import ReplicaSet

from slotsched.scheduler.leasing import RENEWALS_PER_LEASE

LEASE_SECONDS, GRACE_SECONDS, POLL_SECONDS = 3.0, 1.0, 1.0
BUSY_SECONDS = 1.0  # what a busy machine may add


@pytest.fixture(scope="module")
def cable() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


@pytest.fixture(scope="module")
def reachable(cable: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a store that listens on this side's end of the cable."""
    with ReplicaSet(tmp_path_factory.mktemp("store"), members=1, host=cable.host) as store:
        yield store.uri


@pytest.fixture(scope="module")
def quick(reachable: str, make_fleet: FleetMaker) -> Iterator[Fleet]:
    with make_fleet(mongodb_uri=reachable, lease=f"{LEASE_SECONDS}s", grace=f"{GRACE_SECONDS}s") as fleet:
        yield fleet


def cut_off(fleet: Fleet, cable: Namespace, figure: Figures, lease: float, grace: float) -> None:
    """One instance loses its network until another has taken its tasks, and gets it back."""
    name = f"cable pulled, lease {lease:g} s"
    with ProcSampler(fleet.witness.path) as sampler:
        alone = fleet.start("cut-off", slots=2, prefix=cable.prefix)
        before = fleet.instance("cut-off")["id"]
        again = fleet.client.enqueue("stuck_once").id
        endless = fleet.client.enqueue("talker", {"lines": 100_000, "pause": 0.05}, max_time=600).id
        for task in (again, endless):
            fleet.witness.wait_for("start", task)
        fleet.start("survivor", slots=2)

        cable.pull()
        pulled = boottime()
        elsewhere = until(lambda: fleet.witness.starts(again)[1:], seconds=2 * lease + 30, what="the other to take it")[
            0
        ]
        assert [line for line in alone.log() if "dead" in line["msg"]] == [], "it cannot know yet"
        cable.plug()
        plugged = boottime()
        until(lambda: "up again" in called_lost(alone), seconds=30, what="it to begin anew")
        figure("F01", f"{name}: up again after its return", boottime() - plugged, at_most=15.0)
        lost, retried = fleet.ended(endless, again, seconds=lease + 40)

    dead = sampler.sightings[again, "1"].last
    own_end = LOCAL_SHARE * lease + BUSY_SECONDS
    earliest = lease + grace - lease / RENEWALS_PER_LEASE - 0.5
    latest = lease + grace + 2 * POLL_SECONDS + 1.0 + BUSY_SECONDS  # and its retry delay
    figure("F01", f"{name}: a tree with a lost-retry is dead after", dead - pulled, at_most=own_end)
    figure("F01", f"{name}: it starts elsewhere after", elsewhere.at - pulled, at_most=latest)
    assert elsewhere.at - pulled > earliest
    assert dead < elsewhere.at
    assert (lost.status, lost.reason, lost.attempt) == ("failed", "lost", 1)
    assert (retried.status, [attempt.reason for attempt in retried.attempts]) == ("completed", ["lost", "exit"])
    tasks = all_tasks(fleet)
    verdict = judge(
        Evidence(acknowledged=list(tasks), tasks=tasks, marks=fleet.witness.marks(), sightings=sampler.sightings)
    )
    figure("F01", f"{name}: tasks doubled, or alive twice", len(verdict.doubled), "", exactly=0)
    figure("F01", f"{name}: tasks lost", len(verdict.lost), "", exactly=0)

    assert fleet.instance("cut-off")["id"] != before
    ids = [fleet.client.enqueue("work", {"seconds": 0.5}).id for _ in range(4)]
    fleet.ended(*ids)
    assert {fleet.witness.starts(task)[0].instance for task in ids} == {"cut-off", "survivor"}


def test_an_instance_that_is_cut_off_has_ended_its_trees_before_others_may_start_them_and_comes_back_anew(
    quick: Fleet, cable: Namespace, figure: Figures
) -> None:
    cut_off(quick, cable, figure, LEASE_SECONDS, GRACE_SECONDS)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_an_instance_that_is_cut_off_at_the_default_lease(
    reachable: str, make_fleet: FleetMaker, cable: Namespace, figure: Figures
) -> None:
    with make_fleet(mongodb_uri=reachable, lease="30s", grace="5s") as fleet:
        cut_off(fleet, cable, figure, 30.0, 5.0)


def test_a_cable_that_is_out_for_less_than_the_lease_costs_nothing(
    quick: Fleet, cable: Namespace, figure: Figures
) -> None:
    fleet = quick
    if not fleet.client.store.instances.live():  # alone, without what the tests before have started
        fleet.start("wired", slots=3, prefix=cable.prefix)
    before = {one.id for one in fleet.client.store.instances.live()}
    ids = [fleet.client.enqueue("again", {"seconds": LEASE_SECONDS}).id for _ in range(3)]
    for task in ids:
        fleet.witness.wait_for("start", task)
    cable.pull()
    pulled = boottime()
    until(lambda: boottime() - pulled > 0.3 * LEASE_SECONDS, what="a part of the lease")
    cable.plug()
    assert [(task.status, task.attempt) for task in fleet.ended(*ids)] == [("completed", 1)] * 3
    figure(
        "F01",
        "cable pulled for a third of the lease: instances called lost",
        len(before - {one.id for one in fleet.client.store.instances.live()}),
        "",
        exactly=0,
    )
