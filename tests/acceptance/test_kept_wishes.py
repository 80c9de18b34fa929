"""What people have set of an instance (`instance drain`, `instance slots`) outlives whatever happens to its scheduler;
only a clean end and a new start begin with the settings again.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from fleet import Fleet, FleetMaker, InstanceProcess, until

LEASE_SECONDS = 6.0
WAYS = ["SIGHUP", "kill", "fenced", "kill and fenced"]


@pytest.fixture
def patient(make_fleet: FleetMaker) -> Iterator[Fleet]:
    with make_fleet(lease=f"{LEASE_SECONDS}s") as made:
        yield made


def said(instance: InstanceProcess, *messages: str) -> int:
    return sum(line["msg"] in messages for line in instance.log())


def fence(fleet: Fleet, name: str) -> None:
    """As another instance does that has not heard of it for a lease."""
    [one] = [one for one in fleet.client.store.instances.live() if one.name == name]
    until(
        lambda: fleet.client.store.rescue.fence(one.id, fleet.client.store.instances.get(one.id).nonce),
        what="a nonce that is not renewed between two reads",
    )


def go_through(fleet: Fleet, instance: InstanceProcess, way: str) -> InstanceProcess:
    """The instance that is up again behind it."""
    if way.startswith("kill"):
        instance.process.kill()
        instance.process.wait(10)
        if way == "kill and fenced":
            fence(fleet, instance.name)
        return fleet.start(instance.name)
    before = said(instance, "up", "up again")
    if way == "SIGHUP":
        instance.signal(signal.SIGHUP)
    else:
        fence(fleet, instance.name)
    until(lambda: said(instance, "up", "up again") > before, seconds=30, what=f"up again after {way}")
    return instance


def live(fleet: Fleet) -> Any:
    [one] = fleet.client.store.instances.live()
    return one


def wait_renewed(fleet: Fleet) -> None:
    """Twice: claims were looked for meanwhile, once a second at least."""
    seen = {live(fleet).nonce}
    until(lambda: seen.add(live(fleet).nonce) or len(seen) > 2, what="renewals")


@pytest.mark.parametrize("way", WAYS)
def test_a_drained_instance_stays_drained(patient: Fleet, way: str) -> None:
    fleet = patient
    instance = fleet.start("a")
    fleet.cli("instance", "drain", "a")
    wait_renewed(fleet)
    waiting = fleet.client.enqueue("work").id
    go_through(fleet, instance, way)
    wait_renewed(fleet)
    assert fleet.client.get(waiting).status == "pending"
    assert live(fleet).draining
    fleet.cli("instance", "resume", "a")
    assert fleet.ended(waiting)[0].status == "completed"


@pytest.mark.parametrize("way", WAYS)
def test_an_instance_keeps_the_slots_that_it_was_given(patient: Fleet, way: str) -> None:
    fleet = patient
    instance = fleet.start("a", slots=4)
    fleet.cli("instance", "slots", "a", "2")
    until(lambda: live(fleet).capacity.slots == 2)
    instance = go_through(fleet, instance, way)
    if way != "fenced":
        assert [line["slots"] for line in instance.log() if line["msg"] == "up"][-1] == 2, "from the first claim on"
    until(lambda: live(fleet).capacity.slots == 2)
    assert live(fleet).slots_wanted == 2


def test_a_clean_end_and_a_new_start_begin_with_the_settings(patient: Fleet) -> None:
    fleet = patient
    instance = fleet.start("a", slots=4)
    fleet.cli("instance", "slots", "a", "2")
    fleet.cli("instance", "drain", "a")
    until(lambda: live(fleet).capacity.slots == 2)
    assert instance.stop() == 0
    fleet.start("a", slots=4)
    assert (live(fleet).capacity.slots, live(fleet).draining) == (4, False)
    assert fleet.ended(fleet.client.enqueue("work").id)[0].status == "completed"
