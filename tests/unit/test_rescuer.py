"""Who is declared dead, and when: never before the same nonce was seen for lease + grace in one stretch of looking."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import FakeClock, engine_of

from slotsched.errors import Refused, StoreUnreachable
from slotsched.model import Capacity, Instance
from slotsched.scheduler.rescuing import Rescuer

LEASE, GRACE, POLL = 30.0, 5.0, 1.0
ME, OTHER = "me", "other"
LONG_AGO = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def an_instance(instance_id: str, nonce: str = "first", live: bool = True) -> Instance:
    return Instance(
        id=instance_id,
        name=instance_id,
        host="host",
        pid=1,
        boot_id="boot",
        incarnation=1,
        nonce=nonce,
        live=live,
        draining=False,
        capacity=Capacity(slots=1),
        used=0,
        lease=LEASE,
        grace=GRACE,
        started_at=LONG_AGO,
        renewed_at=LONG_AGO,
        version="0",
    )


class MemoryFleet:
    """The store as a rescuer sees it: instances, who owns how many running tasks, and whether it answers."""

    def __init__(self, *instances: Instance) -> None:
        self.known = {instance.id: instance for instance in instances}
        self.tasks: dict[str, int] = {}
        self.unreadable: set[str] = set()
        self.down = False
        self.before_fence: Callable[[], None] = lambda: None
        self.before_take: Callable[[], None] = lambda: None
        self.instances, self.rescue = SimpleNamespace(all=self._all), self

    def renew(self, instance_id: str, nonce: str) -> None:
        self.known[instance_id] = an_instance(instance_id, nonce)

    def live(self, instance_id: str) -> bool:
        return self.known[instance_id].live

    def owners(self) -> list[str]:
        self._answer()
        return [owner for owner, tasks in self.tasks.items() if tasks]

    def seen(self, ids: Iterable[str]) -> dict[str, tuple[bool, str] | None]:
        self._answer()
        found = {instance_id: self.known.get(instance_id) for instance_id in ids}
        return {instance_id: (one.live, one.nonce) if one else None for instance_id, one in found.items()}

    def fence(self, instance_id: str, nonce: str) -> bool:
        self._answer()
        self.before_fence()
        found = self.known[instance_id]
        if not found.live or found.nonce != nonce:
            return False
        self.known[instance_id] = an_instance(instance_id, nonce, live=False)
        return True

    def take(self, owner: str) -> int:
        self._answer()
        self.before_take()
        if owner in self.known and self.known[owner].live:
            raise Refused("it is live")
        return self.tasks.pop(owner, 0)

    def _all(self) -> list[Instance]:
        self._answer()
        return [instance for instance in self.known.values() if instance.id not in self.unreadable]

    def _answer(self) -> None:
        if self.down:
            raise StoreUnreachable("no answer")


class Watch:
    """A rescuer that looks once per poll, on a clock of its own."""

    def __init__(self, *others: Instance) -> None:
        self.clock = FakeClock()
        self.store = MemoryFleet(an_instance(ME), *others)
        self.engine = engine_of(
            self.clock,
            store=self.store,
            identity=SimpleNamespace(id=ME),
            settings=SimpleNamespace(lease=LEASE, grace=GRACE),
        )
        self.rescuer = Rescuer(self.engine, POLL)

    def look(self) -> int:
        """One pass; an unanswered one counts for nothing, as in the timetable."""
        try:
            return self.rescuer.run_once()
        except StoreUnreachable:
            return 0

    def look_for(self, seconds: float) -> int:
        """A pass per poll for so long; how many tasks were taken."""
        taken = 0
        for _ in range(round(seconds / POLL)):
            self.clock.advance(POLL)
            taken += self.look()
        return taken


def test_an_instance_whose_nonce_stays_is_dead_after_lease_and_grace_and_its_tasks_are_taken() -> None:
    watch = Watch(an_instance(OTHER))
    watch.store.tasks[OTHER] = 3
    watch.look()
    assert watch.look_for(LEASE + GRACE - POLL) == 0
    assert watch.store.live(OTHER)
    assert watch.look_for(POLL) == 3, "in the very pass in which it is fenced"
    assert not watch.store.live(OTHER)


def test_a_renewed_nonce_begins_the_count_again() -> None:
    watch = Watch(an_instance(OTHER))
    watch.look()
    watch.look_for(LEASE + GRACE - POLL)
    watch.store.renew(OTHER, "second")
    watch.look_for(LEASE + GRACE)  # the first of these looks sees the new one for the first time
    assert watch.store.live(OTHER)
    watch.look_for(POLL)
    assert not watch.store.live(OTHER)


def test_time_in_which_the_store_did_not_answer_is_not_counted() -> None:
    watch = Watch(an_instance(OTHER))
    watch.look()
    watch.look_for(20)
    watch.store.down = True
    watch.look_for(600)
    watch.store.down = False
    watch.look_for(LEASE + GRACE - 20)  # the first of these looks ends the gap, and counts nothing
    assert watch.store.live(OTHER)
    watch.look_for(POLL)
    assert not watch.store.live(OTHER)


def test_time_in_which_the_observer_did_not_look_is_not_counted() -> None:
    """Suspended, stopped, or too busy: it was away itself, and the other may have renewed all along."""
    watch = Watch(an_instance(OTHER))
    watch.look()
    watch.clock.advance(10 * LEASE)
    watch.look()
    assert watch.store.live(OTHER)


def test_looks_that_are_a_little_late_still_count() -> None:
    watch = Watch(an_instance(OTHER))
    watch.look()
    for _ in range(18):
        watch.clock.advance(2 * POLL)
        watch.look()
    assert not watch.store.live(OTHER)


def test_it_never_declares_itself_dead() -> None:
    watch = Watch()
    watch.store.tasks[ME] = 1
    watch.look()
    watch.look_for(10 * LEASE)
    assert watch.store.live(ME)
    assert watch.store.tasks == {ME: 1}


def test_a_renewal_between_the_look_and_the_fence_wins() -> None:
    watch = Watch(an_instance(OTHER))
    watch.store.tasks[OTHER] = 1
    watch.store.before_fence = lambda: watch.store.renew(OTHER, "just in time")
    watch.look()
    assert watch.look_for(LEASE + GRACE) == 0
    assert watch.store.live(OTHER)


@pytest.mark.parametrize("owner", ["dead", "absent"])
def test_tasks_of_an_owner_that_is_dead_or_absent_are_taken_at_once(owner: str) -> None:
    watch = Watch(an_instance("dead", live=False))
    watch.store.tasks[owner] = 2
    assert watch.look() == 2


def test_an_owner_that_registered_after_the_look_keeps_its_tasks_and_the_others_are_still_rescued() -> None:
    watch = Watch()
    watch.store.tasks = {"new": 1, "gone": 1}
    watch.store.before_take = lambda: watch.store.renew("new", "first")
    assert watch.look() == 1
    assert watch.store.tasks == {"new": 1}


def test_an_owner_whose_document_cannot_be_read_is_watched_like_any_other() -> None:
    watch = Watch(an_instance(OTHER))
    watch.store.unreadable.add(OTHER)
    watch.store.tasks[OTHER] = 1
    watch.look()
    assert watch.look_for(LEASE + GRACE - POLL) == 0
    watch.store.renew(OTHER, "second")
    assert watch.look_for(LEASE + GRACE) == 0
    assert watch.look_for(POLL) == 1


def test_the_engine_is_told_who_lives() -> None:
    watch = Watch(an_instance(OTHER), an_instance("dead", live=False))
    watch.look()
    assert watch.engine.live == {ME, OTHER}
    watch.look_for(LEASE + GRACE)
    watch.look_for(POLL)
    assert watch.engine.live == {ME}


@given(
    pauses=st.lists(st.floats(0.1, LEASE + GRACE - 2 * POLL), min_size=1, max_size=8),
    outages=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_an_instance_that_renews_within_its_lease_is_never_declared_dead_whatever_the_store_does(
    pauses: list[float], outages: list[bool]
) -> None:
    watch = Watch(an_instance(OTHER))
    watch.look()
    for number, (pause, down) in enumerate(zip(pauses, outages, strict=False)):
        watch.store.down = down
        watch.look_for(pause)
        watch.store.renew(OTHER, f"nonce {number}")
        watch.look_for(POLL)
    assert watch.store.live(OTHER)
