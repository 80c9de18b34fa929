"""Models of the smaller protocols, each with what keeps it right as a switch: a schedule's fire, a task that waits for
another, and a limit of concurrency. Left out: more than one nominal time, one child and one permit.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from explorer import Broken, Stepwise

ONE_FIRE = Broken("one task per schedule and nominal time")
LIMIT = Broken("never more at once than the limit")


# --- fire: two firers, one nominal time ------------------------------------------------------------
class FireRule(Enum):
    UNIQUE_KEY = "schedule and nominal time are a unique key"
    REVISION = "the advance names the revision it read"
    TRANSACTION = "advance and insert are one transaction"


class Fire(NamedTuple):
    """firers: 0 idle, 1 has read that it is due, 2 has advanced and not inserted, 3 crashed."""

    advanced: bool = False
    tasks: int = 0
    firers: tuple[int, ...] = (0, 0)


class Firing(Stepwise[Fire]):
    """A firer reads that a schedule is due, advances it and inserts its task; both may do so at once, or crash."""

    def __init__(self, *without: FireRule) -> None:
        self._without = without

    def initial(self) -> Fire:
        return Fire()

    def settled(self, state: Fire) -> bool:
        return state.advanced and state.tasks == 1

    def steps(self, state: Fire) -> list[tuple[str, bool, Fire | Broken]]:
        return [step for firer in (0, 1) for step in self._firer(state, firer)]

    def _firer(self, state: Fire, firer: int) -> Iterator[tuple[str, bool, Fire | Broken]]:
        def at(phase: int, now: Fire = state) -> Fire:
            return now._replace(firers=tuple(phase if n == firer else each for n, each in enumerate(now.firers)))

        phase = state.firers[firer]
        fits = not state.advanced or FireRule.REVISION in self._without
        if phase == 0 and not state.advanced:
            yield f"{firer} reads that it is due", True, at(1)
        elif phase == 1 and FireRule.TRANSACTION in self._without:
            yield f"{firer} advances", True, at(2, state._replace(advanced=True)) if fits else at(0)
        elif phase == 1:
            yield f"{firer} fires", True, self._insert(at(0, state._replace(advanced=True)), at(0)) if fits else at(0)
        elif phase == 2:
            yield f"{firer} inserts", True, self._insert(at(0), at(0))
        if phase == 3:
            yield f"{firer} is started again", True, at(0)
        else:
            yield f"{firer} crashes", False, at(3)

    def _insert(self, state: Fire, refused: Fire) -> Fire | Broken:
        if state.tasks and FireRule.UNIQUE_KEY not in self._without:
            return refused
        return ONE_FIRE if state.tasks else state._replace(tasks=1)


# --- after: a parent that ends while a child is put behind it ---------------------------------------
class AfterRule(Enum):
    TRANSACTION = "the child and its parent's mark are one transaction"
    POKES = "a mark is taken back only if none came since"


class After(NamedTuple):
    """marked, pokes: the parent's. child: 0 none, 1 waits, 2 goes on. wrote: the half of an enqueue that is done.
    teller: 0 idle, 1 has seen the mark, 2 has told; seen: the marks it saw.
    """

    ended: bool = False
    marked: bool = False
    pokes: int = 0
    child: int = 0
    wrote: str = ""
    teller: int = 0
    seen: int = 0


class Following(Stepwise[After]):
    """A child is enqueued at any time behind a parent that another one waits for already; whoever tells of ends may
    crash between its writes, and starts again.
    """

    def __init__(self, *without: AfterRule) -> None:
        self._without = without

    def initial(self) -> After:
        return After(marked=True, pokes=1)

    def settled(self, state: After) -> bool:
        return state.ended and state.child != 1

    def steps(self, state: After) -> list[tuple[str, bool, After | Broken]]:
        return [*self._enqueue(state), *self._parent(state), *self._teller(state)]

    def _enqueue(self, state: After) -> Iterator[tuple[str, bool, After]]:
        marked = state._replace(marked=True, pokes=state.pokes + 1)
        if state.child == 0 and AfterRule.TRANSACTION not in self._without:
            yield "a child is enqueued, its parent marked", False, marked._replace(child=1)
        elif not state.wrote and state.child == 0:
            yield "the parent is marked", False, marked._replace(wrote="mark")
            yield "a child is inserted, its sender crashes", False, state._replace(child=1, wrote="both")
        elif state.wrote == "mark":
            yield "the child is inserted", False, state._replace(child=1, wrote="both")

    def _parent(self, state: After) -> Iterator[tuple[str, bool, After]]:
        if not state.ended:
            followed = state._replace(marked=True, pokes=state.pokes + 1) if state.pokes else state
            yield "the parent ends", True, followed._replace(ended=True)

    def _teller(self, state: After) -> Iterator[tuple[str, bool, After]]:
        if state.teller == 0 and state.ended and state.marked:
            yield "the mark is seen", True, state._replace(teller=1, seen=state.pokes)
        elif state.teller == 1:
            told = state._replace(child=2) if state.child == 1 else state
            yield "the child is told", True, told._replace(teller=2)
        elif state.teller == 2:
            ours = state.seen == state.pokes or AfterRule.POKES in self._without
            after = state._replace(marked=False) if ours else state
            yield "the mark is taken back", True, after._replace(teller=0, seen=0)
        if state.teller:
            yield "the teller crashes", False, state._replace(teller=0, seen=0)


# --- permits: two claimers of tasks under a limit of one --------------------------------------------
class Counting(Enum):
    PERMITS = "a permit in the claim itself, under a unique index"
    COUNTER = "a counter beside the claim"
    RUNNING = "the number of running tasks, read before the claim"


class Limited(NamedTuple):
    """claimers: 0 its task is pending, 1 it was let through, 2 it runs, 3 it has ended and not told, 4 it is over."""

    count: int = 0
    claimers: tuple[int, ...] = (0, 0)


class Limiting(Stepwise[Limited]):
    """Each claimer has a task of its own; what a crash leaves running is rescued and pending again."""

    def __init__(self, counting: Counting = Counting.PERMITS) -> None:
        self._counting = counting

    def initial(self) -> Limited:
        return Limited()

    def settled(self, state: Limited) -> bool:
        return all(phase == 4 for phase in state.claimers)

    def steps(self, state: Limited) -> list[tuple[str, bool, Limited | Broken]]:
        return [step for claimer in (0, 1) for step in self._claimer(state, claimer)]

    def _claimer(self, state: Limited, claimer: int) -> Iterator[tuple[str, bool, Limited | Broken]]:
        def at(phase: int, change: int = 0) -> Limited:
            phases = tuple(phase if n == claimer else each for n, each in enumerate(state.claimers))
            return Limited(state.count + change, phases)

        phase, others = state.claimers[claimer], state.claimers[1 - claimer]
        counter = self._counting is Counting.COUNTER
        if phase == 0 and (state.count == 0 if counter else others != 2):
            yield f"{claimer} is let through", True, at(1, int(counter))
        elif phase == 1 and self._counting is Counting.PERMITS and others == 2:
            yield f"{claimer} is refused by the index", True, at(0)
        elif phase == 1:
            yield f"{claimer} claims", True, LIMIT if others == 2 else at(2)
        elif phase == 2:
            yield f"{claimer} finishes", True, at(3 if counter else 4)
        elif phase == 3:
            yield f"{claimer} counts down", True, at(4, -1)
        if phase in (1, 2):
            # a rescuer gives back what a dead one's running task held, and knows of nothing else
            yield f"{claimer} crashes", False, at(0, -1 if counter and phase == 2 else 0)
        elif phase == 3:
            yield f"{claimer} crashes", False, at(4)
