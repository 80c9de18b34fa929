"""Why a task does not run yet, as sentences."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from slotsched.model import (
    Attempt,
    Cancel,
    Capacity,
    Facts,
    Instance,
    InstanceRef,
    Needs,
    Rate,
    Reason,
    Reservation,
    Status,
    Task,
    key_digest,
)
from slotsched.views.explain import Fleet, Place, ended, obstacle, why

NOW = dt.datetime(2026, 11, 21, 12, 0, 0, tzinfo=dt.UTC)
BIG = InstanceRef(id="i-big", name="big-1")


def instance(name: str = "big-1", slots: int = 8, used: int = 0, **other: Any) -> Instance:
    capacity = Capacity(
        slots=slots,
        memory=other.pop("memory", None),
        resources=other.pop("resources", {}),
        tags=other.pop("tags", ()),
    )
    values = {
        "id": f"i-{name.partition('-')[0]}",
        "name": name,
        "host": "h",
        "pid": 1,
        "boot_id": "b",
        "incarnation": 1,
        "nonce": "n",
        "live": True,
        "draining": False,
        "capacity": capacity,
        "used": used,
        "lease": 30.0,
        "grace": 5.0,
        "started_at": NOW,
        "renewed_at": NOW,
        "version": "0.1.0",
    }
    return Instance(**(values | other))


def fleet(*instances: Instance, job: str = "backup", disabled: tuple[str, ...] = ()) -> Fleet:
    return Fleet(instances=instances, holders={job: {one.id for one in instances}}, disabled=disabled)


def task(status: Status = Status.PENDING, **other: Any) -> Task:
    values = {
        "id": "0" * 16 + "8c1d2e4a",
        "job": "backup",
        "args": {},
        "needs": Needs(slots=8),
        "due_at": NOW,
        "created_at": NOW,
    }
    return Task(status=status, **(values | other))


PENDING = [
    (task(), Fleet(), "no instance is up"),
    (task(), fleet(instance(used=4)), "no instance has 8 free slots (most free: 4 on big-1)"),
    (
        task(needs=Needs(slots=1)),
        fleet(instance(slots=2, used=2)),
        "no instance has 1 free slot (most free: 0 on big-1)",
    ),
    (task(), fleet(instance(), disabled=("backup",)), 'job "backup" is disabled'),
    (task(), fleet(instance(), job="other"), 'job "backup" is on no instance that is up'),
    (task(), fleet(instance()), "next in line"),
    (
        task(needs=Needs(slots=4096)),
        fleet(instance(slots=1024), instance("small-1", 4)),
        "no instance that is up has 4096 slots (largest: big-1, 1024)",
    ),
    (
        task(needs=Needs(slots=1, memory=2 << 30)),
        fleet(instance(memory=1 << 30)),
        "no instance that is up has 2.0 GiB of memory (largest: big-1, 1.0 GiB)",
    ),
    (
        task(needs=Needs(slots=1, resources={"gpu": 2})),
        fleet(instance(resources={"gpu": 1})),
        "no instance that is up has 2 gpu (largest: big-1, 1)",
    ),
    (
        task(needs=Needs(slots=1, tags=("ssd",))),
        fleet(instance(tags=("hdd",))),
        "no instance that is up has the tag ssd",
    ),
    (
        task(needs=Needs(slots=8, tags=("ssd",))),
        fleet(instance(), instance("small-1", 2, tags=("ssd",))),
        "no instance that is up has 8 slots, the tag ssd together",
    ),
    (
        task(),
        Fleet(instances=[instance(), instance("small-1", 2)], holders={"backup": {"i-small"}}),
        'no instance that is up and holds job "backup" has 8 slots (largest: small-1, 2)',
    ),
    (task(), fleet(instance(draining=True)), "every instance that could run it is draining (big-1)"),
    (
        task(),
        fleet(instance(hindrance="its disk is nearly full (3.1 MiB left)"), instance("gone-1", draining=True)),
        "big-1 claims nothing: its disk is nearly full (3.1 MiB left)",
    ),
    (
        task(),
        fleet(instance(hindrance="its spawner does not start"), instance("busy-1", used=4)),
        "no instance has 8 free slots (most free: 4 on busy-1)",
    ),
    (
        task(reserved=Reservation(by="i-big", start=NOW + dt.timedelta(minutes=3), until=NOW + dt.timedelta(hours=1))),
        fleet(instance(used=4)),
        "no instance has 8 free slots (most free: 4 on big-1); reserved on big-1 from "
        + f"{(NOW + dt.timedelta(minutes=3)).astimezone():%H:%M:%S}",
    ),
    (
        task(reserved=Reservation(by="i-big", start=NOW, until=NOW - dt.timedelta(seconds=1))),
        fleet(instance(used=4)),
        "no instance has 8 free slots (most free: 4 on big-1)",
    ),
]


FREE = Capacity(slots=6, memory=1 << 30, resources={"gpu": 1})
BUSY = instance(memory=4 << 30, resources={"gpu": 4}, used=2, free=FREE)
PENDING += [
    (task(needs=Needs(slots=6)), fleet(BUSY), "next in line"),
    (
        task(needs=Needs(memory=3 << 30)),
        fleet(BUSY),
        "waits for 3.0 GiB of memory (most free: 1.0 GiB on big-1)",
    ),
    (task(needs=Needs(resources={"gpu": 2})), fleet(BUSY), "waits for 2 gpu (most free: 1 on big-1)"),
    (
        task(needs=Needs(slots=2, resources={"gpu": 2})),
        fleet(
            replace(BUSY, free=replace(FREE, slots=1, resources={"gpu": 4})),
            instance("small-1", 8, resources={"gpu": 2}, free=Capacity(slots=8, resources={"gpu": 0})),
        ),
        "waits for 2 gpu (most free: 0 on small-1)",
    ),
    (
        task(needs=Needs(memory=2 << 30, resources={"gpu": 1})),
        fleet(
            replace(BUSY, free=replace(FREE, resources={"gpu": 4})),
            instance(
                "small-1", memory=4 << 30, resources={"gpu": 1}, free=Capacity(slots=8, memory=4 << 30, resources={})
            ),
        ),
        "waits for an instance that has all it needs free at the same time",
    ),
    (
        task(needs=Needs(slots=1, exclusive=True)),
        fleet(BUSY, instance("small-1", 4, used=3)),
        "waits to be alone on a machine (least in use: big-1, 2 of 8 slots)",
    ),
    (task(needs=Needs(slots=1, exclusive=True)), fleet(BUSY, instance("small-1", 4)), "next in line"),
    (
        task(needs=Needs(slots=1)),
        fleet(instance(used=4, keeps_for="0" * 16 + "11112222"), instance("small-1", 4, used=4)),
        "big-1 keeps its free slots for 11112222",
    ),
    (
        task(needs=Needs(slots=1)),
        fleet(instance(used=4, keeps_for="0" * 16 + "11112222"), instance("small-1", 4, used=3)),
        "next in line",
    ),
    (task(needs=Needs(slots=4)), fleet(instance(used=4, keeps_for=task().id)), "next in line"),
]


@pytest.mark.parametrize(("waiting", "known", "sentence"), PENDING)
def test_a_pending_task_says_what_keeps_it(waiting: Task, known: Fleet, sentence: str) -> None:
    assert why(waiting, known, NOW) == sentence


def test_a_scheduled_task_says_when_absolute_and_relative() -> None:
    due = NOW + dt.timedelta(minutes=10)
    sentence = why(task(Status.SCHEDULED, due_at=due), Fleet(), NOW)
    assert sentence == f"not due until {due.astimezone():%Y-%m-%d %H:%M:%S %Z} (in 10m00s)"


def test_a_task_that_is_tried_again_says_what_happened_before() -> None:
    attempt = Attempt(number=1, fence=1, instance=BIG, started_at=NOW, reason=Reason.EXIT, exit_code=3)
    retried = task(Status.SCHEDULED, due_at=NOW + dt.timedelta(seconds=10), attempts=(attempt,), attempt=1)
    assert why(retried, Fleet(), NOW).startswith("attempt 1: exit code 3; next attempt at ")


def test_a_running_task_says_where_and_who_wants_its_end() -> None:
    running = task(Status.RUNNING, instance=BIG, started_at=NOW - dt.timedelta(seconds=42))
    assert why(running, Fleet(), NOW) == "running on big-1 for 42s"
    canceled = replace(running, cancel=Cancel(by="ann"))
    assert why(canceled, Fleet(), NOW) == "being canceled by ann; still running on big-1 for 42s"
    killed = replace(running, cancel=Cancel(by="ann", kill=True))
    assert why(killed, Fleet(), NOW).startswith("being killed by ann")


def test_a_task_that_waits_for_many_names_a_few_and_says_how_they_must_end() -> None:
    ids = tuple(f"{n:024x}" for n in range(8))
    waiting = task(Status.WAITING, parents=ids, after=ids[1:], when="any")
    said = why(waiting, Fleet(), NOW, {ids[1]: task(Status.RUNNING, id=ids[1])})
    assert said == (
        "waits for 7 of 8 tasks: 00000001 backup (running), 00000002, 00000003, 00000004, 00000005 and 2 more to end"
    )


def test_a_waiting_task_names_its_parents() -> None:
    assert why(task(Status.WAITING, parents=("0" * 16 + "8c1d2e3f",)), Fleet(), NOW) == "waits for 8c1d2e3f to complete"


ENDED = [
    (task(Status.COMPLETED, reason=Reason.EXIT, exit_code=0), "completed"),
    (task(Status.FAILED, reason=Reason.EXIT, exit_code=3), "failed: exit code 3"),
    (task(Status.FAILED, reason=Reason.SIGNAL, signal=9), "failed: signal SIGKILL"),
    (task(Status.FAILED, reason=Reason.SIGNAL, signal=99), "failed: signal 99"),
    (task(Status.FAILED, reason=Reason.TIMEOUT), "failed: max time reached"),
    (task(Status.FAILED, reason=Reason.LOST), "failed: its instance was lost"),
    (
        task(Status.FAILED, reason=Reason.NOT_STARTED, message="no such file"),
        "failed: could not be started (no such file)",
    ),
    (task(Status.CANCELED, reason=Reason.CANCELED, cancel=Cancel(by="ann")), "canceled by ann"),
    (task(Status.CANCELED, reason=Reason.CANCELED_BY_JOB), "canceled: the job canceled itself"),
    (task(Status.CANCELED, reason=Reason.UPSTREAM), "canceled: a task it waited for cannot satisfy it any more"),
]


@pytest.mark.parametrize(("over", "sentence"), ENDED)
def test_an_ended_task_says_how_it_ended(over: Task, sentence: str) -> None:
    assert ended(over) == sentence
    assert why(over, Fleet(), NOW) == sentence


def test_every_reason_has_words() -> None:
    for reason in Reason:
        assert ": " in ended(task(Status.FAILED, reason=reason, exit_code=1, signal=15))


def test_nothing_stands_in_the_way_of_what_fits_once_others_are_done() -> None:
    assert obstacle("backup", Needs(slots=8), fleet(instance(used=8))) is None


# --- limits and places --------------------------------------------------------------------------------
def limited(facts: Facts, **other: Any) -> Fleet:
    return replace(fleet(instance()), facts={"backup": facts}, **other)


def holding(*permits: str) -> dict[str, str]:
    return {permit: f"{number:016d}8c1d2e3{number}" for number, permit in enumerate(permits)}


def test_a_limit_that_is_reached_names_who_holds_it() -> None:
    facts = Facts(concurrency=2)
    full = limited(facts, held=holding("job:backup#0", "job:backup#1"))
    assert why(task(), full, NOW) == "concurrency limit 2 reached (held by 8c1d2e30, 8c1d2e31)"
    half = limited(facts, held=holding("job:backup#1"))
    assert why(task(), half, NOW) == "next in line"
    many = limited(Facts(concurrency=7), held=holding(*(f"job:backup#{number}" for number in range(7))))
    assert why(task(), many, NOW).endswith("8c1d2e34 and 2 more)")


def test_a_limit_per_key_is_the_keys_own() -> None:
    facts = Facts(concurrency=1, concurrency_key="customer")
    mine = task(concurrency_key="customer=acme")
    scope = f"key:backup:{key_digest('customer=acme')}#0"
    assert why(mine, limited(facts, held=holding("key:backup:0123#0")), NOW) == "next in line"
    sentence = "concurrency limit 1 for customer=acme reached (held by 8c1d2e30)"
    assert why(mine, limited(facts, held=holding(scope)), NOW) == sentence


def test_a_rate_that_is_used_up_says_when_the_next_start_is() -> None:
    used_up = limited(Facts(rate=Rate(starts=10, seconds=60.0)), waits={"backup": 12.0})
    next_start = (NOW + dt.timedelta(seconds=12)).astimezone()
    assert why(task(), used_up, NOW) == f"start rate 10/m reached; the next start is at {next_start:%H:%M:%S}"


@pytest.mark.parametrize(
    ("used", "place", "sentence"),
    [
        (0, Place(ahead=0), "next in line"),
        (0, Place(ahead=3), "in line; number 4 in its lane"),
        (0, Place(ahead=3, seconds=90.0), "in line; number 4 in its lane, about 1m30s"),
        (4, Place(ahead=0), "no instance has 8 free slots (most free: 4 on big-1)"),
        (
            4,
            Place(ahead=0, seconds=5.0),
            "no instance has 8 free slots (most free: 4 on big-1); number 1 in its lane, about 5.0s",
        ),
    ],
)
def test_the_place_in_the_lane_is_told_where_it_was_looked_up(used: int, place: Place, sentence: str) -> None:
    assert why(task(), fleet(instance(used=used)), NOW, place=place) == sentence
