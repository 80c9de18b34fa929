"""The claim pass: what of the queue an instance claims, alone and among others, what it plans with and keeps room for,
and what becomes of a claim whose answer was lost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import FakeClock, engine_of

from slotsched.errors import InvalidDocument, StoreUnreachable
from slotsched.ledger import Ledger
from slotsched.model import Capacity, Facts, Lane, Needs, Reservation, Status, Task
from slotsched.scheduler.claiming import HISTORY_SECONDS, SHORTEST_HISTORY_SECONDS, Claimer
from slotsched.scheduler.spreading import WIDEST
from slotsched.store import Waiting

START = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
LEASE = 30.0


def waiting(number: int, lane: str = "work|1|||", **other: Any) -> Waiting:
    return Waiting(id=f"{number:024x}", lane=lane, rank=START + dt.timedelta(seconds=number), **other)


# --- a pass -------------------------------------------------------------------------------------------


class MemoryQueue:
    """The store's queue as the claim pass sees it. lose_answer: the next claim is applied, its answer lost."""

    def __init__(self, tasks: Iterable[Waiting]) -> None:
        self.pending = list(tasks)
        self.running: dict[str, str] = {}  # task id -> token
        self.released: list[str] = []
        self.lose_answer = self.down = False
        self.promotions = 0
        self.full = ""  # the id of a task whose document has no room for a claim
        self.runs: list[float] = []  # of the job, newest first
        self.history_reads = 0
        self.reserved: dict[str, Reservation] = {}

    def lanes(self) -> list[str]:
        return sorted({entry.lane for entry in self.pending})

    def promote(self) -> int:
        self._answer()
        self.promotions += 1
        return 0

    def candidates(self, lanes: Sequence[str], limit: int, *, rank_from: dt.datetime | None = None) -> list[Waiting]:
        least = START if rank_from is None else rank_from
        found = [entry for entry in self.pending if entry.lane in lanes and entry.rank >= least][:limit]
        return [replace(entry, max_time=None, reserved=None) for entry in found]

    def blocked(self, lanes: Sequence[str], limit: int, *, rank_from: dt.datetime | None = None) -> list[Waiting]:
        least = START if rank_from is None else rank_from
        found = [entry for entry in self.pending if entry.lane in lanes and entry.rank >= least][:limit]
        return [replace(entry, reserved=self.reserved.get(entry.id)) for entry in found]

    def recent_runs(self, job: str, n: int) -> list[float]:
        self.history_reads += 1
        return self.runs[:n]

    def reserve(self, task_id: str, reservation: Reservation) -> bool:
        self.reserved[task_id] = reservation
        return True

    def unreserve(self, task_id: str, by: str) -> None:
        assert self.reserved.pop(task_id).by == by

    def claim(self, ids: Sequence[str], token: str, instance: Any) -> list[Task]:
        self._answer()
        if self.full in ids:  # as update_many does it: those before it are claimed
            ids = ids[: list(ids).index(self.full)]
            self.running |= {entry.id: token for entry in self.pending if entry.id in ids}
            self.pending = [entry for entry in self.pending if entry.id not in ids]
            raise InvalidDocument("larger than 16777216 bytes")
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

    def __init__(
        self, tasks: Iterable[Waiting], *, slots: int = 4, live: Iterable[str] = ("me",), busy: Iterable[float] = ()
    ) -> None:
        """busy: for how many seconds each run that is there, with one slot, is planned and allowed to go on."""
        self.queue = MemoryQueue(tasks)
        self.started: list[str] = []
        self.ledger = Ledger(Capacity(slots=slots))
        self.clock = clock = FakeClock()
        runs = []
        for number, seconds in enumerate(busy):
            self.ledger.take(f"busy{number}", Needs())
            record = SimpleNamespace(needs=Needs(), max_time=seconds)
            runs.append(SimpleNamespace(record=record, planned=seconds, launched=clock.boottime()))
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
            fitness=SimpleNamespace(look=lambda: True),
            roster=SimpleNamespace(alive=lambda: runs),
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


@pytest.mark.parametrize("hindrance", ["draining", "paused"])
def test_what_is_due_is_promoted_also_by_an_instance_that_claims_nothing(hindrance: str) -> None:
    """Others may claim it; and as long as it is overdue, this loop would look again at once."""
    resting = Pass([waiting(0)])
    setattr(resting.engine, hindrance, True)
    assert resting.claimer.run_once() == 0
    assert (resting.queue.promotions, resting.started) == (1, [])


def test_a_document_that_cannot_be_claimed_keeps_nothing_behind_it_waiting() -> None:
    tasks = [waiting(number) for number in range(4)]
    alone = Pass(tasks)
    alone.queue.full = tasks[1].id
    assert alone.claimer.run_once() == 3
    assert sorted(alone.started) == [entry.id for entry in (tasks[0], tasks[2], tasks[3])]
    assert (alone.ledger.used_slots, alone.engine.unsettled) == (3, {})


def test_among_others_that_are_in_nobodys_way_it_claims_in_the_order_of_the_queue_too() -> None:
    tasks = [waiting(number) for number in range(100)]
    among = Pass(tasks, live=("me", "other"))
    assert among.claimer.run_once() == 4
    assert among.started == [entry.id for entry in tasks[:4]]


def test_once_claims_were_lost_to_others_it_draws_from_further_back_and_as_many() -> None:
    tasks = [waiting(number) for number in range(1000)]
    among = Pass(tasks, live=("me", "other"))
    claim = among.queue.claim
    among.queue.claim = lambda ids, token, instance: []  # type: ignore[method-assign]
    for _ in range(10):
        assert among.claimer.run_once() == 0
        assert among.claimer.more, "there may be more behind what the others took"
    among.queue.claim = claim  # type: ignore[method-assign]
    assert among.claimer.run_once() == 4
    drawn_from = {entry.id for entry in tasks[: 4 * WIDEST * 2]}
    assert set(among.started) <= drawn_from
    assert among.started != [entry.id for entry in tasks[:4]], "by chance once in 35,960 runs"


def test_a_task_that_room_is_kept_for_is_never_drawn_for_another() -> None:
    """It waited as the first one; now that it fits, it is the one to start, whatever is like it."""
    wide = str(Lane(job="work", needs=Needs(slots=4)))
    tasks = [waiting(number, wide) for number in range(20)]
    among = Pass([*tasks, waiting(50)], live=("me", "other"), busy=[50.0])
    assert among.claimer.run_once() == 0
    assert set(among.queue.reserved) == {waiting(0).id}
    among.ledger.give_back("busy0")
    among.claimer._spread.factor = 8.0
    among.claimer.run_once()
    assert set(among.queue.running) == {waiting(0).id}


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
        {"fitness": SimpleNamespace(look=lambda: False)},
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


# --- what is planned with, and kept room for ----------------------------------------------------------

WIDE = str(Lane(job="work", needs=Needs(slots=4)))


def test_behind_a_task_that_waits_for_room_each_is_let_in_by_its_own_max_time_not_by_its_jobs() -> None:
    """The job's is 60 s, and the room is promised in 50 s."""
    behind = [waiting(1), waiting(2, max_time=50.0), waiting(3, max_time=51.0)]
    planned = Pass([waiting(0, WIDE), *behind], busy=[50.0, 20.0])
    planned.claimer.run_once()
    assert planned.started == [behind[1].id]


def test_a_history_that_is_empty_is_read_again_soon_and_a_full_one_after_a_minute() -> None:
    planned = Pass([waiting(0, WIDE), waiting(1)], busy=[50.0])

    def reads_within(seconds: float) -> int:
        before, until = planned.queue.history_reads, planned.clock.boottime() + seconds
        while planned.clock.boottime() < until:
            planned.clock.advance(0.5)
            planned.claimer.run_once()
        return planned.queue.history_reads - before

    planned.claimer.run_once()
    assert planned.started == [], "without a history it might run for 60 s"
    assert reads_within(SHORTEST_HISTORY_SECONDS) == 1
    planned.queue.runs = [1.0] * 20
    assert reads_within(SHORTEST_HISTORY_SECONDS) == 1
    assert planned.started == [waiting(1).id]
    planned.queue.pending.append(waiting(2))
    planned.ledger.give_back(f"{waiting(1).id}-1")
    assert reads_within(HISTORY_SECONDS - 1) == 0
    assert reads_within(1.0) == 1


@pytest.mark.parametrize("state", ["draining", "paused"])
def test_an_instance_that_is_to_claim_nothing_keeps_no_room_any_more(state: str) -> None:
    keeper = Pass([waiting(0, WIDE), waiting(1)], busy=[50.0])
    keeper.claimer.run_once()
    assert set(keeper.queue.reserved) == {waiting(0).id}
    setattr(keeper.engine, state, True)
    keeper.claimer.run_once()
    assert keeper.queue.reserved == {}


@pytest.mark.parametrize(("earlier_by", "overtaken"), [(LEASE - 1, False), (LEASE + 1, True)])
def test_a_promise_is_overtaken_by_one_that_is_earlier_by_more_than_a_reservation_lasts(
    earlier_by: float, overtaken: bool
) -> None:
    able = Pass([waiting(0, WIDE), waiting(1)], live=("me", "other"), busy=[50.0])
    theirs = START + dt.timedelta(seconds=50.0 + earlier_by)
    able.queue.reserved[waiting(0).id] = Reservation(by="other", start=theirs, until=START + dt.timedelta(seconds=5))
    able.claimer.run_once()
    assert (able.queue.reserved[waiting(0).id].by == "me") == overtaken


def test_a_lane_that_an_event_tells_of_is_served_before_the_lanes_are_read_again() -> None:
    told = Pass([])
    told.queue.pending.append(waiting(1))
    assert told.claimer.run_once() == 0, "it knows of no lane"
    told.claimer.add_lane("work|1|||")
    assert told.claimer.run_once() == 1
