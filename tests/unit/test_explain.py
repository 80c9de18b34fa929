"""Why a task does not run yet, as sentences."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from slotsched.explain import Fleet, ended, obstacle, why
from slotsched.model import (
    Attempt,
    Cancel,
    Capacity,
    Instance,
    InstanceRef,
    Needs,
    Reason,
    Reservation,
    Status,
    Task,
)

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
    (task(Status.CANCELED, reason=Reason.CANCELED, cancel=Cancel(by="ann")), "canceled: canceled by ann"),
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
