"""Which pending tasks an instance claims now, and the one it keeps room for: rank order with EASY backfill.

Greedy claiming ("whatever fits") keeps machines full and starves wide tasks: under a steady stream of narrow ones the
room a wide task needs never comes together. First come, first served does the reverse. EASY is the middle: the first
task that does not fit gets a promise, the earliest time at which it fits by the planned ends of what runs; the tasks
behind it may start at once as long as they cannot delay that promise.

Sources: D. A. Lifka, "The ANL/IBM SP scheduling system" (JSSPP 1995), where EASY was first described;
A. W. Mu'alem and D. G. Feitelson, "Utilization, predictability, workloads, and user runtime estimates in scheduling the
IBM SP2 with backfilling" (IEEE TPDS 12(6), 2001), whose formulation is followed here: shadow time, extra nodes.
Two things are added. Machines decide each for themselves, so that a promise is shared on the task as a reservation that
expires: who promises earlier keeps room, the others do not. And plans are estimates: a task that has waited for
`hard_after` gets a promise made of hard limits only, which wrong estimates cannot break.

Everything here is pure: values in, values out, no clock, no store, no state between calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add, sub
from typing import NamedTuple

from slotsched.model import Capacity, Needs

HARD_AFTER_SECONDS = 86400.0  # a day: by then plans have failed this task often enough
STEAL_SECONDS = 30.0  # another's promise is overtaken only if mine is earlier by more: less is noise and costs writes


class Running(NamedTuple):
    """A task this instance runs. planned_end, kill_at: seconds on the clock of `now`; kill_at = start + max_time."""

    needs: Needs
    planned_end: float
    kill_at: float


class Candidate(NamedTuple):
    """A due task this instance could run. planned, limit: seconds it is planned to and allowed to run.

    due: seconds on the clock of `now`. holder: the live instance whose unexpired reservation it carries, if any;
    hold_start: when that instance promised to start it.
    """

    id: str
    needs: Needs
    planned: float
    limit: float
    due: float
    holder: str | None = None
    hold_start: float | None = None


class Hold(NamedTuple):
    """The task to keep room for, and the time at which it can start here at the latest if plans are kept."""

    id: str
    start: float


class Choice(NamedTuple):
    """What to claim, in this order, and the reservation to write (None: give back the one there is)."""

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
) -> Choice:
    """Decide one claim pass of the instance `me`; candidates come in rank order."""
    dimensions = _Dimensions(capacity)
    plan = _Plan(now, dimensions.room(free), dimensions, running)
    promise: _Promise | None = None
    withheld = False
    claims: list[str] = []
    for candidate in candidates:
        ask = dimensions.ask(candidate.needs)
        if ask is None:
            continue
        if not _fits(ask, plan.room):
            if promise is None:
                promise = plan.promise(candidate, ask, me, hard=now - candidate.due >= hard_after)
        elif promise is None or promise.admits(ask, candidate):
            claims.append(candidate.id)
            plan.start(candidate, ask)
        else:
            withheld = True
    reserve = Hold(promise.id, promise.start) if promise is not None and withheld else None
    return Choice(claims, reserve)


_Vector = tuple[int, ...]


class _Dimensions:
    """Needs and capacities of one instance as vectors: slots, then memory if it is counted, then each resource."""

    def __init__(self, capacity: Capacity) -> None:
        self._memory = capacity.memory is not None
        self._resources = tuple(capacity.resources)
        self._capacity = self.room(capacity)
        self._asked: dict[int, _Vector | None] = {}

    def room(self, capacity: Capacity) -> _Vector:
        memory = (capacity.memory or 0,) if self._memory else ()
        return (capacity.slots, *memory, *(capacity.resources.get(name, 0) for name in self._resources))

    def ask(self, needs: Needs) -> _Vector | None:
        """None: the instance could not run this even when empty. Tasks of a lane share one Needs: asked once each."""
        key = id(needs)
        if key not in self._asked:
            vector = self.vector(needs)
            missing = any(units and name not in self._resources for name, units in needs.resources.items())
            self._asked[key] = None if missing or not _fits(vector, self._capacity) else vector
        return self._asked[key]

    def vector(self, needs: Needs) -> _Vector:
        memory = (needs.memory or 0,) if self._memory else ()
        return (needs.slots, *memory, *(needs.resources.get(name, 0) for name in self._resources))


class _Promise:
    """The earliest start of the first blocked task (the shadow time) and what it leaves over then (the extra room)."""

    def __init__(self, id: str, start: float, extra: _Vector, now: float, *, hard: bool) -> None:
        self.id, self.start, self._extra, self._now, self._hard = id, start, extra, now, hard

    def admits(self, ask: _Vector, candidate: Candidate) -> bool:
        """Whether the candidate can start now without delaying the promise; room it takes beyond the start is noted."""
        length = candidate.limit if self._hard else candidate.planned
        if self._now + length <= self.start:
            return True
        if not _fits(ask, self._extra):
            return False
        self._extra = _less(self._extra, ask)
        return True


class _Plan:
    """What is free now and what ends when, with the claims of this pass."""

    def __init__(self, now: float, room: _Vector, dimensions: _Dimensions, running: Sequence[Running]) -> None:
        self.now, self.room = now, room
        self._running = [(task.planned_end, task.kill_at, dimensions.vector(task.needs)) for task in running]

    def start(self, candidate: Candidate, ask: _Vector) -> None:
        self.room = _less(self.room, ask)
        self._running.append((self.now + candidate.planned, self.now + candidate.limit, ask))

    def promise(self, candidate: Candidate, ask: _Vector, me: str, *, hard: bool) -> _Promise | None:
        """None when another instance's promise is as good, or when what is taken here has no known end."""
        soonest = self.now + STEAL_SECONDS
        kept_by_other = candidate.holder is not None and candidate.holder != me and candidate.hold_start is not None
        if kept_by_other and candidate.hold_start <= soonest:
            return None
        room = self.room
        ends = sorted((self._end(planned, kill, hard=hard), vector) for planned, kill, vector in self._running)
        for index, (end, vector) in enumerate(ends):
            room = _more(room, vector)
            if _fits(ask, room) and (index + 1 == len(ends) or ends[index + 1][0] > end):
                if kept_by_other and candidate.hold_start <= end + STEAL_SECONDS:
                    return None
                return _Promise(candidate.id, end, _less(room, ask), self.now, hard=hard)
        return None

    def _end(self, planned_end: float, kill_at: float, *, hard: bool) -> float:
        if not hard and planned_end > self.now:
            return planned_end
        return max(kill_at, self.now + 1)


def _fits(ask: _Vector, room: _Vector) -> bool:
    for wanted, there in zip(ask, room, strict=True):
        if wanted > there:
            return False
    return True


def _less(room: _Vector, ask: _Vector) -> _Vector:
    return tuple(map(sub, room, ask))


def _more(room: _Vector, ask: _Vector) -> _Vector:
    return tuple(map(add, room, ask))
