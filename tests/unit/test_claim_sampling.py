"""The claim pass: which part of the queue an instance looks at, and what becomes of a claim whose answer was lost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import FakeClock, engine_of

from slotsched.errors import StoreUnreachable
from slotsched.ledger import Ledger
from slotsched.model import Capacity, Facts, Lane, Needs, Status, Task
from slotsched.scheduler.claiming import Claimer, _sample
from slotsched.scheduler.engine import FREE_BYTES_FLOOR
from slotsched.store import Waiting

START = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
LEASE = 30.0


def waiting(number: int, lane: str = "work|1|||") -> Waiting:
    return Waiting(id=f"{number:024x}", lane=lane, rank=START + dt.timedelta(seconds=number))


# --- the sample ---------------------------------------------------------------------------------------


def test_a_window_that_is_small_is_looked_at_whole() -> None:
    window = [waiting(number) for number in range(10)]
    assert _sample(window, 10) == window


@given(
    lanes=st.lists(st.sampled_from(["a|1|||", "b|2|||", "c|4|||", "d|8|||"]), max_size=100),
    size=st.integers(1, 60),
)
def test_a_sample_holds_each_lanes_head_and_otherwise_so_many_of_the_window(lanes: list[str], size: int) -> None:
    window = [waiting(number, lane) for number, lane in enumerate(lanes)]
    sample = _sample(window, size)
    heads = {next(entry.id for entry in window if entry.lane == lane) for lane in lanes}
    ids = [entry.id for entry in sample]
    assert heads <= set(ids) <= {entry.id for entry in window}
    assert len(ids) == len(set(ids)) <= size + len(heads)
    assert len(ids) >= min(len(window), size)


def test_two_samples_of_a_long_window_seldom_want_the_same() -> None:
    window = [waiting(number) for number in range(100)]
    drawn = [{entry.id for entry in _sample(window, 10)} for _ in range(20)]
    assert len({frozenset(ids) for ids in drawn}) > 15


# --- a pass -------------------------------------------------------------------------------------------


class MemoryQueue:
    """The store's queue as the claim pass sees it. lose_answer: the next claim is applied, its answer lost."""

    def __init__(self, tasks: Iterable[Waiting]) -> None:
        self.pending = list(tasks)
        self.running: dict[str, str] = {}  # task id -> token
        self.released: list[str] = []
        self.lose_answer = self.down = False

    def lanes(self) -> list[str]:
        return sorted({entry.lane for entry in self.pending})

    def promote(self) -> int:
        self._answer()
        return 0

    def candidates(self, lanes: Sequence[str], limit: int, *, rank_from: dt.datetime | None = None) -> list[Waiting]:
        least = START if rank_from is None else rank_from
        return [entry for entry in self.pending if entry.lane in lanes and entry.rank >= least][:limit]

    blocked = candidates

    def recent_runs(self, job: str, n: int) -> list[float]:
        return []

    def claim(self, ids: Sequence[str], token: str, instance: Any) -> list[Task]:
        self._answer()
        self.running |= {entry.id: token for entry in self.pending if entry.id in ids}
        self.pending = [entry for entry in self.pending if entry.id not in ids]
        if self.lose_answer:
            self.lose_answer = False
            raise StoreUnreachable("the answer was lost")
        return self._under(token)

    def settle(self, token: str) -> list[Task]:
        self._answer()
        return self._under(token)

    def release(self, task_id: str, token: str) -> None:
        self._answer()
        assert self.running.pop(task_id) == token
        self.released.append(task_id)
        self.pending.append(waiting(int(task_id, 16)))

    def _under(self, token: str) -> list[Task]:
        return [
            Task(id=task_id, job="work", args={}, status=Status.RUNNING, due_at=START, created_at=START, needs=Needs())
            for task_id, claimed in self.running.items()
            if claimed == token
        ]

    def _answer(self) -> None:
        if self.down:
            raise StoreUnreachable("no answer")


class Pass:
    """A claimer of an instance with `slots` slots, and what it started."""

    def __init__(self, tasks: Iterable[Waiting], *, slots: int = 4, live: Iterable[str] = ("me",)) -> None:
        self.queue = MemoryQueue(tasks)
        self.started: list[str] = []
        self.ledger = Ledger(Capacity(slots=slots))
        clock = FakeClock()
        job = SimpleNamespace(facts=Facts(max_time=60.0))
        self.engine = engine_of(
            clock,
            store=SimpleNamespace(queue=self.queue),
            ledger=self.ledger,
            scan=SimpleNamespace(jobs={"work": job}),
            disabled_jobs=frozenset(),
            draining=False,
            paused=False,
            fenced=False,
            lease_left=lambda: LEASE,
            settings=SimpleNamespace(lease=LEASE),
            state=SimpleNamespace(free_bytes=lambda: FREE_BYTES_FLOOR, path="/state"),
            roster=SimpleNamespace(alive=list),
            unsettled={},
            identity=SimpleNamespace(id="me"),
            ref=None,
            live=frozenset(live),
            server_now=lambda: START.timestamp(),
        )
        self.claimer = Claimer(self.engine, SimpleNamespace(start=self._start))
        self.claimer.refresh_lanes()

    def _start(self, task: Task, token: str, history: Sequence[float], memory: Any) -> None:
        assert self.queue.running[task.id] == token
        self.ledger.adopt(f"{task.id}-1", task.needs)
        self.started.append(task.id)


def test_alone_an_instance_claims_strictly_in_the_order_of_the_queue() -> None:
    tasks = [waiting(number) for number in range(100)]
    alone = Pass(tasks)
    assert alone.claimer.run_once() == 4
    assert alone.started == [entry.id for entry in tasks[:4]]
    assert alone.ledger.used_slots == 4


def test_among_others_it_claims_as_many_from_a_sample_and_the_head_of_the_queue_first() -> None:
    tasks = [waiting(number) for number in range(100)]
    among = Pass(tasks, live=("me", "other"))
    assert among.claimer.run_once() == 4
    assert tasks[0].id in among.started
    assert among.ledger.used_slots == 4


def test_a_wide_lane_at_the_front_is_seen_by_everyone() -> None:
    wide = str(Lane(job="work", needs=Needs(slots=4)))
    for _ in range(20):
        among = Pass([waiting(0, wide), *(waiting(number) for number in range(1, 100))], live=("me", "other"))
        among.claimer.run_once()
        assert set(among.queue.running) == {waiting(0).id}


@pytest.mark.parametrize(
    "state",
    [
        {"draining": True},
        {"paused": True},
        {"fenced": True},
        {"lease_left": lambda: LEASE / 15 - 0.01},
        {"state": SimpleNamespace(free_bytes=lambda: FREE_BYTES_FLOOR - 1, path="/state")},
        {"disabled_jobs": frozenset({"work"})},
    ],
    ids=lambda state: next(iter(state)),
)
def test_nothing_is_claimed_while(state: dict[str, Any]) -> None:
    idle = Pass([waiting(1)])
    vars(idle.engine).update(state)
    assert idle.claimer.run_once() == 0
    assert idle.queue.running == {}


def test_a_claim_whose_answer_was_lost_keeps_its_slots_until_its_fate_is_known_and_is_never_started() -> None:
    doubt = Pass([waiting(number) for number in range(3)])
    doubt.queue.lose_answer = True
    with pytest.raises(StoreUnreachable):
        doubt.claimer.run_once()
    assert doubt.ledger.used_slots == 3, "they may be ours"

    doubt.queue.down = True
    with pytest.raises(StoreUnreachable):
        doubt.claimer.run_once()
    assert doubt.ledger.used_slots == 3, "still not known"
    assert doubt.started == []

    doubt.queue.down, doubt.engine.draining = False, True
    assert doubt.claimer.run_once() == 0
    assert len(doubt.queue.released) == 3
    assert (doubt.ledger.used_slots, doubt.started, doubt.engine.unsettled) == (0, [], {})


def test_what_was_given_back_is_claimed_again_under_another_token() -> None:
    doubt = Pass([waiting(1)])
    doubt.queue.lose_answer = True
    with pytest.raises(StoreUnreachable):
        doubt.claimer.run_once()
    (lost,) = doubt.queue.running.values()
    assert doubt.claimer.run_once() == 1
    assert doubt.queue.running[doubt.started[0]] != lost
