"""Which pending tasks an instance claims now, and the one it keeps room for: rank order with EASY backfill.

Claiming whatever fits keeps machines full and starves wide tasks: under a steady stream of narrow ones the room a wide
task needs never comes together. Strict order does the reverse. EASY is the middle: the first task that does not fit is
promised the earliest start that the planned ends of what runs allow, and the tasks behind it may go first as long as
they cannot delay that start.

Sources: D. A. Lifka, "The ANL/IBM SP scheduling system" (JSSPP 1995), which introduced EASY; A. W. Mu'alem and
D. G. Feitelson, "Utilization, predictability, workloads, and user runtime estimates in scheduling the IBM SP2 with
backfilling" (IEEE TPDS 12(6), 2001), whose terms are used here: the promised start is their shadow time, what the
promised task leaves free then are their extra nodes. Four things are added:

- Many machines. Each decides alone, so a promise is shared as a reservation on the task; of two machines the one that
  promises earlier keeps room, the other looks at the next task.
- Plans are estimates and get broken. When a plan slips, the time gained is not given to tasks behind: until the
  promised start is past, they must still be over by then. Otherwise every overrun would let in more of them.
- Gaps behind a promise are filled with shorter tasks first, which fits more into them: D. Tsafrir, Y. Etsion and
  D. G. Feitelson, "Backfilling using system-generated predictions rather than user runtime estimates" (IEEE TPDS
  18(6), 2007). It cannot starve the long ones: only tasks ahead in rank ever stand between a task and its own promise.
- A task that has waited too long even so (see is_hard) is planned with hard limits, which nothing breaks.

Everything here is pure: values in, values out, no clock, no store, nothing remembered between calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import add, le, sub
from typing import NamedTuple

from slotsched.model import Capacity, Needs

STEAL_SECONDS = 30.0  # see `steal_after`
HARD_AFTER_SECONDS = 86400.0  # a day: by then plans have failed a task often enough
HARD_AFTER_LIMITS = 2.0  # a task that may run for most of a day has not waited long after one
ALIKE = 4.0  # lengths within about this factor keep their rank behind a promise
SHORTEST_SECONDS = 0.001  # told from shorter ones
ENDING_SECONDS = 1.0  # what should be over by now is taken to be over this soon


class Running(NamedTuple):
    """A task this instance runs. planned_end, kill_at (start + max_time): seconds on the clock of `now`."""

    needs: Needs
    planned_end: float
    kill_at: float


class Candidate(NamedTuple):
    """A pending task. planned, limit: seconds it is expected and allowed to run; due: seconds on the clock of `now`.

    holder: id of the live instance whose unexpired reservation the task carries; hold_start: the start promised there.
    """

    id: str
    needs: Needs
    planned: float
    limit: float
    due: float
    holder: str | None = None
    hold_start: float | None = None


class Hold(NamedTuple):
    """The task to keep room for, and the start promised to it, in seconds on the clock of `now`."""

    id: str
    start: float


class Choice(NamedTuple):
    """The ids to claim, in this order, and the reservation to have (None: give back the one there is)."""

    claims: list[str]
    reserve: Hold | None


def choose(
    now: float,
    free: Capacity,
    capacity: Capacity,
    running: Sequence[Running],
    candidates: Sequence[Candidate],
    me: str = "",
    *,
    hard_after: float = HARD_AFTER_SECONDS,
    steal_after: float = STEAL_SECONDS,
) -> Choice:
    """Decide one claim pass of the instance with the id `me`.

    free, capacity: what the instance has free and has at all; free may be negative after a shrink.
    candidates: due tasks in rank order, tags and limits of concurrency already checked: those that fit now and the
    first few that do not. One that even the empty instance could not run is ignored.
    hard_after: seconds a task waits before it is planned with hard limits.
    steal_after: seconds by which a promise must be earlier than another instance's to overtake it: what is less is
    noise, and costs writes. The time that a reservation lasts is a fair measure of it.
    """
    plan = _Plan(now, _Dimensions(capacity), free, running)
    queue = iter(candidates)
    claims, promise = _in_rank_order(plan, queue, _Rules(me, hard_after, steal_after))
    if promise is None:
        return Choice(claims, None)
    backfilled, withheld = _backfill(plan, promise, queue)
    keep = withheld or promise.mine
    return Choice(claims + backfilled, Hold(promise.id, promise.start) if keep else None)


def is_hard(waited: float, max_time: float, hard_after: float = HARD_AFTER_SECONDS) -> bool:
    """Whether a task due `waited` seconds ago is owed a start that broken plans cannot delay (hard limits only).

    That start costs a drained machine, so it is for those who waited long in absolute terms and for their own length.
    """
    return waited >= max(hard_after, HARD_AFTER_LIMITS * max_time)


def _in_rank_order(plan: _Plan, queue: Iterator[Candidate], rules: _Rules) -> tuple[list[str], _Promise | None]:
    """Start what fits, up to the first task that has to wait for this instance; the queue is left behind it."""
    claims: list[str] = []
    for candidate in queue:
        ask = plan.dimensions.vector(candidate.needs)
        if _fits(ask, plan.room):
            claims.append(candidate.id)
            plan.start(ask, candidate)
        elif _fits(ask, plan.dimensions.capacity):
            promise = _promise(plan, ask, candidate, rules)
            if promise is not None:
                return claims, promise
    return claims, None


def _backfill(plan: _Plan, promise: _Promise, behind: Iterable[Candidate]) -> tuple[list[str], bool]:
    """Start what fits behind the promise without delaying it, the shorter first; and whether anything was withheld."""
    claims: list[str] = []
    withheld = False
    for candidate in sorted(behind, key=_magnitude):
        ask = plan.dimensions.vector(candidate.needs)
        if not _fits(ask, plan.room):
            continue
        if promise.admits(ask, candidate, plan.now):
            claims.append(candidate.id)
            plan.start(ask, candidate)
        else:
            withheld = True
    return claims, withheld


def _magnitude(candidate: Candidate) -> int:
    """By which tasks behind a promise are sorted: finer, the shortest of every job would always go, and what is left
    for the gaps before a start would be the longest of each.
    """
    return math.floor(math.log(max(candidate.planned, SHORTEST_SECONDS), ALIKE))


class _Rules(NamedTuple):
    """Who decides, and by which of the limits of `choose`."""

    me: str
    hard_after: float
    steal_after: float


_Vector = tuple[int, ...]


class _Dimensions:
    """Needs and capacities as vectors: slots, memory where it is counted, every resource, what the instance lacks."""

    def __init__(self, capacity: Capacity) -> None:
        self._counts_memory = capacity.memory is not None
        self._resources = tuple(capacity.resources)
        self._vectors: dict[int, _Vector] = {}
        self.capacity = self.room(capacity)

    def room(self, capacity: Capacity) -> _Vector:
        memory = (capacity.memory or 0,) if self._counts_memory else ()
        return (capacity.slots, *memory, *(capacity.resources.get(name, 0) for name in self._resources), 0)

    def vector(self, needs: Needs) -> _Vector:
        """Needs shared by many tasks are translated once (by identity: all live as long as the call)."""
        known = self._vectors.get(id(needs))
        if known is None:
            known = self._vectors[id(needs)] = self._translate(needs)
        return known

    def _translate(self, needs: Needs) -> _Vector:
        memory = (needs.memory or 0,) if self._counts_memory else ()
        asked = needs.resources
        lacking = sum(units for name, units in asked.items() if name not in self._resources) if asked else 0
        return (needs.slots, *memory, *(asked.get(name, 0) for name in self._resources), lacking)


class _Plan:
    """What is free now and when the rest comes back, with the claims of this pass taken out."""

    def __init__(self, now: float, dimensions: _Dimensions, free: Capacity, running: Sequence[Running]) -> None:
        self.now = now
        self.dimensions = dimensions
        self.room = dimensions.room(free)
        self._taken = [(task.planned_end, task.kill_at, dimensions.vector(task.needs)) for task in running]

    def start(self, ask: _Vector, candidate: Candidate) -> None:
        """Take the room of a task claimed now."""
        self.room = _less(self.room, ask)
        self._taken.append((self.now + candidate.planned, self.now + candidate.limit, ask))

    def earliest(self, ask: _Vector, *, hard: bool) -> tuple[float, _Vector]:
        """The earliest time at which `ask`, which the empty instance has, fits; and all the room there is then.

        Where room is held by no running task (a claim in doubt, a process that is dying), it is taken to be back by the
        last end; the room returned is then less than `ask`, so that nothing that could be in the way is let in.
        """
        ends = sorted(
            (self._end(planned_end, kill_at, hard=hard), vector) for planned_end, kill_at, vector in self._taken
        )
        room, start = self.room, self.now
        for end, vector in ends:
            if end > start and _fits(ask, room):
                break
            room, start = _more(room, vector), end
        return self._to_come(start), room

    def _end(self, planned_end: float, kill_at: float, *, hard: bool) -> float:
        """A task that has outrun its plan is planned with its limit."""
        return self._to_come(kill_at if hard or planned_end <= self.now else planned_end)

    def _to_come(self, moment: float) -> float:
        """No floor under what is to come anyway: tasks shorter than it would always pass who waits for room."""
        return moment if moment > self.now else self.now + ENDING_SECONDS


@dataclass(slots=True)
class _Promise:
    """The start promised to the first blocked task, and the extra room it leaves when it starts."""

    id: str
    start: float
    extra: _Vector
    hard: bool
    mine: bool  # made in an earlier pass

    def admits(self, ask: _Vector, candidate: Candidate, now: float) -> bool:
        """Whether a task behind may start now: over before the promised start, or within the extra (then noted)."""
        if now + (candidate.limit if self.hard else candidate.planned) <= self.start:
            return True
        if not _fits(ask, self.extra):
            return False
        self.extra = _less(self.extra, ask)
        return True


def _promise(plan: _Plan, ask: _Vector, blocked: Candidate, rules: _Rules) -> _Promise | None:
    """What this instance can promise a blocked task; None if another instance's promise is as good."""
    kept = blocked.hold_start if blocked.holder is not None else None
    mine = kept is not None and blocked.holder == rules.me
    hard = is_hard(plan.now - blocked.due, blocked.limit, rules.hard_after)
    start, room = plan.earliest(ask, hard=hard)
    if kept is not None and not mine and kept <= start + rules.steal_after:
        return None
    if kept is not None and mine and kept > plan.now:
        start = min(start, kept)
    return _Promise(blocked.id, start, _less(room, ask), hard=hard, mine=mine)


def _fits(ask: _Vector, room: _Vector) -> bool:
    return all(map(le, ask, room))


def _less(room: _Vector, ask: _Vector) -> _Vector:
    return tuple(map(sub, room, ask))


def _more(room: _Vector, ask: _Vector) -> _Vector:
    return tuple(map(add, room, ask))
