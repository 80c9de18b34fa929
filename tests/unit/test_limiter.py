"""Limits as the claim pass sees them: what it reads, what it remembers, and how a window is filled past them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import FakeClock, engine_of

from slotsched.model import (
    Capacity,
    Facts,
    Job,
    Lane,
    Limit,
    Needs,
    Outcome,
    Parameter,
    Rate,
    Reason,
    concurrency_limit,
    key_digest,
    key_text,
)
from slotsched.request import build_request
from slotsched.scheduler.claiming import WINDOW_READS, Claimer
from slotsched.scheduler.ending import retry_lane
from slotsched.scheduler.limiting import RECHECK_SECONDS, Limiter
from slotsched.store import Room, Waiting

START = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)


# --- names --------------------------------------------------------------------------------------------
def test_a_limit_is_shared_by_the_job_or_by_the_value_of_its_key() -> None:
    assert concurrency_limit("a", None, per_key=False, key=None) is None
    assert concurrency_limit("a", 2, per_key=False, key="0f") == Limit(scope="job:a", most=2)
    assert concurrency_limit("a", 2, per_key=True, key="0f") == Limit(scope="key:a:0f", most=2)
    assert concurrency_limit("a", 2, per_key=True, key=None) == Limit(scope="key:a:", most=2)
    assert Limit(scope="job:a", most=2).permits == ["job:a#0", "job:a#1"]


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_a_key_is_a_short_text_and_the_same_for_the_same_value(value: Any) -> None:
    text = key_text("customer", value)
    assert text == key_text("customer", value)
    assert text.startswith("customer=")
    assert len(text) <= 200
    assert len(key_digest(text) or "") == 16


def test_an_argument_that_is_not_given_counts_with_its_default() -> None:
    job = Job(
        name="a",
        hash="0",
        facts=Facts(concurrency=1, concurrency_key="customer"),
        parameters=(Parameter(name="customer", required=False, default="house"),),
    )
    assert build_request(job, {}).concurrency_key == "customer=house"
    assert build_request(job, {"customer": "acme"}).concurrency_key == "customer=acme"
    assert build_request(job, {"customer": "acme"}).lane != build_request(job, {}).lane


# --- what is open -------------------------------------------------------------------------------------
class MemoryLimits:
    """The store's permits and rates, as a limiter reads them."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.rooms: dict[str, Room] = {}
        self.reads = 0

    def held(self, limits: Iterable[Limit]) -> frozenset[str]:
        self.reads += 1
        return frozenset(permit for limit in limits for permit in limit.permits if permit in self.taken)

    def room(self, rates: Mapping[str, Rate]) -> dict[str, Room]:
        self.reads += 1
        return {job: self.rooms.get(job, Room(starts=rate.starts, wait=0.0)) for job, rate in rates.items()}


JOBS = {
    "plain": Facts(),
    "two": Facts(concurrency=2),
    "each": Facts(concurrency=1, concurrency_key="customer"),
    "paced": Facts(rate=Rate(starts=3, seconds=60.0)),
}


class Lab:
    def __init__(self) -> None:
        self.clock, self.limits = FakeClock(), MemoryLimits()
        jobs = {name: SimpleNamespace(facts=facts) for name, facts in JOBS.items()}
        store = SimpleNamespace(permits=self.limits, rates=self.limits)
        self.engine = engine_of(self.clock, store=store, scan=SimpleNamespace(jobs=jobs))
        self.limiter = Limiter(self.engine)


@pytest.fixture
def lab() -> Lab:
    return Lab()


def lane(job: str, key: str | None = None) -> Lane:
    return Lane(job=job, needs=Needs(), key=key)


def test_without_limits_nothing_is_read(lab: Lab) -> None:
    lab.limiter.refresh([lane("plain")])
    assert lab.limits.reads == 0
    assert not lab.limiter.reached(lane("plain"))
    assert lab.limiter.opens_at is None


def test_a_limit_that_is_reached_is_left_alone_until_something_ends_or_a_second_has_passed(lab: Lab) -> None:
    lab.limits.taken = {"job:two#0", "job:two#1"}
    lab.limiter.refresh([lane("two")])
    assert lab.limiter.reached(lane("two"))
    lab.limits.taken = set()
    lab.limiter.refresh([lane("two")])
    assert (lab.limits.reads, lab.limiter.reached(lane("two"))) == (1, True)
    lab.limiter.look_again()
    lab.limiter.refresh([lane("two")])
    assert (lab.limits.reads, lab.limiter.reached(lane("two"))) == (2, False)
    lab.limits.taken = {"job:two#0", "job:two#1"}
    lab.limiter.refresh([lane("two")])
    lab.clock.advance(RECHECK_SECONDS)
    lab.limits.taken = set()
    lab.limiter.refresh([lane("two")])
    assert not lab.limiter.reached(lane("two"))


def test_one_value_of_a_key_that_is_at_its_limit_leaves_the_others_open(lab: Lab) -> None:
    acme, bolt = lane("each", "ac"), lane("each", "b0")
    lab.limits.taken = {"key:each:ac#0"}
    lab.limiter.refresh([acme, bolt])
    assert (lab.limiter.reached(acme), lab.limiter.reached(bolt)) == (True, False)


def test_a_rate_that_is_used_up_is_looked_at_again_when_it_opens(lab: Lab) -> None:
    lab.limits.rooms["paced"] = Room(starts=0, wait=0.25)
    lab.limiter.refresh([lane("paced")])
    assert lab.limiter.reached(lane("paced"))
    assert lab.limiter.opens_at == lab.clock.now + 0.25
    lab.limits.rooms["paced"] = Room(starts=0, wait=3000.0)
    lab.limiter.look_again()
    lab.limiter.refresh([lane("paced")])
    assert lab.limiter.opens_at == lab.clock.now + RECHECK_SECONDS, "its job file may say something else by then"


# --- the window ---------------------------------------------------------------------------------------
def fill(lab: Lab, queue: Sequence[Lane], size: int) -> tuple[list[int], int]:
    """The positions in the queue that a window of `size` holds, and how many reads it took."""
    claimer = Claimer(lab.engine, SimpleNamespace())
    claimer.limiter = lab.limiter
    claimer._lanes = {str(one): one for one in queue}
    lab.limiter.refresh(queue)
    entries = [
        Waiting(id=f"{number:04}", lane=str(one), rank=START + dt.timedelta(seconds=number // 3))
        for number, one in enumerate(queue)
    ]
    reads = 0

    def read(lanes: list[str], limit: int, *, rank_from: dt.datetime | None = None) -> list[Waiting]:
        nonlocal reads
        reads += 1
        return [one for one in entries if one.lane in lanes and one.rank >= (rank_from or START)][:limit]

    open_lanes = [text for text, one in claimer._lanes.items() if not lab.limiter.reached(one)]
    return [int(one.id) for one in claimer._admitted(read, open_lanes, size)], reads


def test_thousands_of_tasks_behind_a_limit_do_not_keep_others_out_of_the_window(lab: Lab) -> None:
    queue = [lane("two")] * 500 + [lane("each", "ac")] * 500 + [lane("paced")] * 500 + [lane("plain")] * 5
    positions, reads = fill(lab, queue, 10)
    assert positions == [0, 1, 500, 1000, 1001, 1002, 1500, 1501, 1502, 1503, 1504]
    assert reads <= WINDOW_READS


lanes = st.sampled_from([lane("plain"), lane("two"), lane("paced"), *(lane("each", f"{n:02x}") for n in range(4))])


@given(st.lists(lanes, max_size=60), st.integers(1, 20), st.sets(st.sampled_from(["job:two#0", "key:each:01#0"])))
def test_a_window_is_what_counting_through_the_whole_queue_admits(
    queue: list[Lane], size: int, taken: set[str]
) -> None:
    lab = Lab()
    lab.limits.taken = taken
    positions, reads = fill(lab, queue, size)
    admission = lab.limiter.admission()
    expected = [number for number, one in enumerate(queue) if admission.admit(one)]
    assert positions[:size] == expected[:size] or (reads == WINDOW_READS and expected[: len(positions)] == positions)


# --- more memory --------------------------------------------------------------------------------------
MEMORY = Outcome(reason=Reason.MEMORY, signal=9)
SMALL, LARGE = Capacity(slots=2, memory=100), Capacity(slots=8, memory=300, tags=("ssd",))


@pytest.mark.parametrize(
    ("needs", "factor", "capacities", "memory"),
    [
        (Needs(memory=80), 2.0, [SMALL, LARGE], 160),
        (Needs(memory=80), 1.01, [SMALL, LARGE], 81),
        (Needs(memory=80), 9.0, [SMALL, LARGE], 300),
        (Needs(memory=80), 2.0, [SMALL], 100),
        (Needs(memory=80, slots=2, tags=("ssd",)), 9.0, [SMALL, LARGE], 300),
        (Needs(memory=80, slots=9), 9.0, [SMALL, LARGE], 720),
        (Needs(memory=300), 2.0, [SMALL, LARGE], None),
        (Needs(memory=80), None, [LARGE], None),
        (Needs(), 2.0, [LARGE], None),
    ],
)
def test_a_retry_after_memory_asks_for_the_factor_and_no_more_than_the_largest_that_could_run_it(
    needs: Needs, factor: float | None, capacities: list[Capacity], memory: int | None
) -> None:
    record: Any = SimpleNamespace(needs=needs, memory_retry_factor=factor, job="a", lane_key="0f")
    grown = retry_lane(record, MEMORY, capacities)
    assert (None if grown is None else grown.needs.memory) == memory
    assert grown is None or (grown.key, grown.needs.slots, grown.needs.tags) == ("0f", needs.slots, needs.tags)
    assert retry_lane(record, Outcome(reason=Reason.EXIT, exit_code=1), capacities) is None
