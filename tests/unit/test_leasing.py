"""The lease thread: what it promises the supervisors, and for whom it does not renew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import FakeClock, engine_of

from slotsched.errors import StoreUnreachable
from slotsched.scheduler.inbox import Fenced, Renewed
from slotsched.scheduler.leasing import LOCAL_SHARE, LONGEST_TURN_SECONDS, TIMEOUT_SHARE, LeaseKeeper

LEASE = 30.0
ME = "me"


class Instances:
    """The store's side: what was sent, and how it answers. `takes`: seconds until an answer."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.sent: list[dict[str, Any]] = []
        self.takes = 0.0
        self.answer: Any = "an instance"

    def renew(self, id: str, incarnation: int, nonces: list[str], nonce: str, **facts: Any) -> Any:
        self.sent.append({"nonces": list(nonces), "nonce": nonce, **facts})
        self.clock.advance(self.takes)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Stage:
    def __init__(self, lease: float = LEASE) -> None:
        self.clock = FakeClock()
        self.instances = Instances(self.clock)
        self.posted: list[Any] = []
        self.promised: list[float] = []
        self.store = SimpleNamespace(instances=self.instances, knows_primary=True)
        self.engine = engine_of(
            self.clock,
            store=self.store,
            identity=SimpleNamespace(id=ME, incarnation=1),
            settings=SimpleNamespace(lease=lease),
            last_turn=self.clock.now,
            used_slots=0,
            running=0,
            draining=False,
            ledger=SimpleNamespace(capacity=None),
            free=None,
            fitness=SimpleNamespace(hindrance=None),
            keeps_for=None,
            inbox=SimpleNamespace(post=self.posted.append),
            deadline=SimpleNamespace(extend=self.promised.append),
        )
        self.keeper = LeaseKeeper(self.engine, "first")


def test_an_acknowledged_renewal_promises_a_part_of_the_lease_from_the_moment_it_was_sent() -> None:
    stage = Stage()
    sent, stage.instances.takes = stage.clock.now, 7.0
    assert stage.keeper.run_once()
    assert stage.promised == [sent + LOCAL_SHARE * LEASE]
    assert stage.posted == [Renewed("an instance", sent)]  # type: ignore[arg-type]


def test_a_renewal_without_an_answer_promises_nothing_and_names_every_nonce_it_may_have_left() -> None:
    stage = Stage()
    stage.instances.answer = StoreUnreachable("no answer")
    assert stage.keeper.run_once()
    assert stage.keeper.run_once()
    assert (stage.promised, stage.posted) == ([], [])
    stage.instances.answer = "an instance"
    assert stage.keeper.run_once()
    first, second, third = (one["nonce"] for one in stage.instances.sent)
    assert stage.instances.sent[2]["nonces"] == ["first", first, second, third]
    assert stage.keeper.run_once()
    assert stage.instances.sent[3]["nonces"][0] == third, "only the acknowledged one and what was sent since"
    assert len(stage.instances.sent[3]["nonces"]) == 2


def test_whoever_is_fenced_tells_the_loop_and_renews_no_more() -> None:
    stage = Stage()
    stage.instances.answer = None
    assert not stage.keeper.run_once()
    assert (stage.promised, stage.posted) == ([], [Fenced(ME)])


@pytest.mark.parametrize("lease", [3.0, 30.0, 300.0])
def test_a_loop_that_stands_still_is_not_renewed_for_until_it_turns_again(lease: float) -> None:
    stage = Stage(lease)
    limit = min(lease, LONGEST_TURN_SECONDS)
    stage.clock.advance(limit)
    assert stage.keeper.run_once()
    assert len(stage.promised) == 1, "it may only be slow"
    stage.clock.advance(0.1)
    assert stage.keeper.run_once(), "the thread lives on"
    assert (len(stage.instances.sent), len(stage.promised)) == (1, 1)
    stage.engine.last_turn = stage.clock.now
    assert stage.keeper.run_once()
    assert len(stage.promised) == 2


def test_a_slow_store_has_time_to_answer_and_one_that_is_not_there_is_not_searched_for_long() -> None:
    stage = Stage()
    stage.keeper.run_once()
    stage.store.knows_primary = False
    stage.keeper.run_once()
    assert [one["timeout"] for one in stage.instances.sent] == [TIMEOUT_SHARE * LEASE, pytest.approx(1.0)]


def test_anything_odd_in_an_answer_does_not_end_the_thread() -> None:
    stage = Stage()
    stage.instances.answer = KeyError("lease")
    assert stage.keeper.run_once()
    assert stage.promised == []
