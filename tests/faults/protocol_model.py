"""A model of how a task changes hands between instances that may crash, be cut off or stand still at any moment.

One task with one retry (for any failure, being lost included); an instance to which everything may happen, and a
second one that is either ideal (it claims, runs and finishes what it can, and never fails) or as unlucky as the first;
a rescuer that never tires; a person who cancels. An unlucky instance is a scheduler, a lease thread, a spawner's
launches (sent twice where the spawner died), supervisors and a tree, a deadline file, and messages under way: one claim
that may land any time after its sender gave it up or died, a finish, a renewal. There is no bound on how often
anything fails. That a scheduler is stopped (SIGSTOP, a slow machine) is that its next step does not come.

Time is ticks. The store lets a lease end `lease` ticks after a nonce was first seen; the local deadline is `deadline`
ticks after a renewal was sent. A tree whose deadline is over dies before the next tick: that is what the difference
between the two is for, and the one thing that is asked of a supervisor: that it is not stopped itself.

Left out: the store is one atomic document store (majority writes and majority reads; elections and what concerns
guarantee are MongoDB's part, so nothing here speaks of the write before a settling read); a rescuer's and a cancel's
writes are one step (a late one finds the same condition or does nothing); waiting, due times and backoff (a retry is
pending at once); more than one slot; logs; a degraded containment, in which a tree outlives its supervisor. An id that
nobody renews any more, since its machine was rebooted, may be declared dead at any time. Signals that kill take effect
within the step that sends them, but that step may come late. A new id registers once the processes of the last one are
gone, and its first deadline is at once in its file. An unlucky instance whose scheduler is down is not waited for: the
other one has to bring the task to its end (unless both are unlucky, then somebody starts them again).
"""

from __future__ import annotations

from typing import NamedTuple

from explorer import Broken
from protocol_faults import Unlucky
from protocol_parts import (
    ALIVE,
    COUNTED,
    ENDED,
    IDLE,
    IN_TIME,
    ONE_EXECUTION,
    OWN_CLAIM,
    PENDING,
    RUN,
    RUNNING,
    SLOTS,
    TERMINAL,
    UP,
    Ideal,
    Instance,
    Rule,
    Setting,
    Sizes,
    Task,
)

__all__ = ["COUNTED", "IN_TIME", "ONE_EXECUTION", "OWN_CLAIM", "SLOTS", "TERMINAL", "Protocol", "Rule", "Sizes"]

USUAL = Sizes()

_BITS = 20
_PART = (1 << _BITS) - 1

To = int | Broken


class Found(NamedTuple):
    """The steps of a part, with their labels for a trace and without them for speed."""

    steps: tuple[tuple[str, bool, To], ...]
    ordinary: tuple[int, ...]
    others: tuple[int, ...]
    broken: bool

    @classmethod
    def of(cls, steps: list[tuple[str, bool, To]]) -> Found:
        whole = [(ordinary, to) for _, ordinary, to in steps if not isinstance(to, Broken)]
        return cls(
            tuple(steps),
            tuple(to for ordinary, to in whole if ordinary),
            tuple(to for ordinary, to in whole if not ordinary),
            len(whole) < len(steps),
        )


class Protocol:
    """The whole model, as `explore` takes it.

    A state is one number, joined of the numbers of its three parts in the order they were met: what an instance can do
    depends on the task, itself and whether a tree lives elsewhere, so that is worked out once and looked up after.
    """

    def __init__(self, *without: Rule, sizes: Sizes = USUAL, both: bool = False, only: Broken | None = None) -> None:
        """without: the rules that are left out. both: the second instance is as unlucky as the first. only: the one
        promise that is looked at; what breaks another goes on.
        """
        self._setting = Setting(sizes, frozenset(without), only)
        self._both = both
        other = Unlucky(1, self._setting, alone=True) if both else Ideal(1, self._setting)
        self._parties = (Unlucky(0, self._setting, alone=both), other)
        self._numbers: dict[Task | Instance, int] = {}
        self._tasks: dict[int, Task] = {}
        self._instances: dict[int, Instance] = {}
        self._alive: dict[int, bool] = {}
        self._moves: tuple[dict[int, Found], dict[int, Found]] = ({}, {})
        self._ticks: dict[int, int] = {}
        self._asked: dict[int, Found] = {}

    def initial(self) -> int:
        task = self._task(Task())
        first, second = (self._instance(party.first()) for party in self._parties)
        return task | first << _BITS | second << 2 * _BITS

    def successors(self, state: int) -> tuple[list[int], list[int]] | None:
        first, second, asked = self._found(state)
        if first.broken or second.broken or asked.broken:
            return None
        beside_first, beside_second, beside_task = self._beside(state)
        ordinary = [to | beside_first for to in first.ordinary]
        ordinary += [to | beside_second for to in second.ordinary]
        later = self._tick(state >> _BITS)
        if later != state >> _BITS:
            ordinary.append(state & _PART | later << _BITS)
        others = [to | beside_first for to in first.others]
        others += [to | beside_second for to in second.others]
        others += [to | beside_task for to in asked.others]
        return ordinary, others

    def steps(self, state: int) -> list[tuple[str, bool, To]]:
        steps: list[tuple[str, bool, To]] = []
        for name, found, beside in zip(("A: ", "B: ", ""), self._found(state), self._beside(state), strict=True):
            steps += [
                (name + label, ordinary, to if isinstance(to, Broken) else to | beside)
                for label, ordinary, to in found.steps
            ]
        return [*steps, ("a tick", True, state & _PART | self._tick(state >> _BITS) << _BITS)]

    def settled(self, state: int) -> bool:
        """The task has ended, no process of it lives, and whoever is up has its slot free."""
        parts = self._instances[state >> _BITS & _PART], self._instances[state >> 2 * _BITS]
        over = self._tasks[state & _PART].status == ENDED
        return over and all(part.tree not in ALIVE and (part.scheduler != UP or part.phase == IDLE) for part in parts)

    def show(self, state: int) -> str:
        first, second = self._instances[state >> _BITS & _PART], self._instances[state >> 2 * _BITS]
        return f"{self._tasks[state & _PART]}, A: {first}, B: {second}"

    # --- steps, each worked out once ----------------------------------------------------------------

    def _found(self, state: int) -> tuple[Found, Found, Found]:
        task, first, second = state & _PART, state >> _BITS & _PART, state >> 2 * _BITS
        return self._moves_of(0, task, first, second), self._moves_of(1, task, second, first), self._asked_of(task)

    @staticmethod
    def _beside(state: int) -> tuple[int, int, int]:
        """What stays of a state when the first instance, the second one or a person makes a step."""
        return state & ~(_PART | _PART << _BITS), state & _PART << _BITS, state & ~_PART

    def _moves_of(self, which: int, task: int, me: int, other: int) -> Found:
        known, key = self._moves[which], task | me << _BITS | self._alive[other] << 2 * _BITS
        found = known.get(key)
        if found is None:
            found = known[key] = self._work_out(which, task, me, self._alive[other])
        return found

    def _work_out(self, which: int, task: int, me: int, elsewhere: bool) -> Found:
        steps: list[tuple[str, bool, To]] = []
        moves = self._parties[which].moves(self._tasks[task], self._instances[me], elsewhere)
        for label, ordinary, after, came in moves:
            became = came if isinstance(after, Broken) else self._without_stale(after, came)
            broken = after if isinstance(after, Broken) else self._broken(after, became)
            if broken is not None:
                steps.append((label, ordinary, broken))
            elif not isinstance(after, Broken):
                steps.append((label, ordinary, self._task(after) | self._instance(became) << _BITS * (which + 1)))
        return Found.of(steps)

    def _without_stale(self, task: Task, me: Instance) -> Instance:
        """An end under way whose claim is over changes nothing, whenever it lands: tokens never come back."""
        if not me.finish or Rule.TOKEN_FENCE in self._setting.without or Rule.FRESH_TOKEN in self._setting.without:
            return me
        token = me.finish[0]
        return me if token == task.token or (me.phase == RUN and me.token == token) else me._replace(finish=())

    def _broken(self, task: Task, me: Instance) -> Broken | None:
        """What must hold in every state, looked at where it could have changed."""
        if task.status != RUNNING and task.ran != task.attempt and self._setting.asks(COUNTED):
            return COUNTED
        if me.scheduler == UP and me.phase == IDLE and me.tree in ALIVE and self._setting.asks(SLOTS):
            return SLOTS
        return None

    def _asked_of(self, task: int) -> Found:
        if task not in self._asked:
            steps = [(label, False, to) for label, to in self._cancels(self._tasks[task])]
            self._asked[task] = Found.of(
                [(label, ordinary, to if isinstance(to, Broken) else self._task(to)) for label, ordinary, to in steps]
            )
        return self._asked[task]

    def _cancels(self, task: Task) -> list[tuple[str, Task | Broken]]:
        """A person cancels: what runs is told to its owner, what does not is over."""
        ended = task._replace(status=ENDED, owner=0, token=0, wish=False, blind=False, ran=task.attempt)
        steps: list[tuple[str, Task | Broken]] = []
        if task.status == RUNNING and not task.wish:
            steps.append(("a cancel asks the owner", task._replace(wish=True)))
        elif task.status == PENDING and Rule.ONE_UPDATE_CANCEL not in self._setting.without:
            steps.append(("a cancel ends the task", ended))
        elif task.status == PENDING and not task.blind:
            steps.append(("a cancel reads that the task is pending", task._replace(blind=True)))
        if task.blind:
            broken = task.status == ENDED and self._setting.asks(TERMINAL)
            steps.append(("the cancel writes what it decided", TERMINAL if broken else ended))
        return steps

    def _tick(self, both: int) -> int:
        later = self._ticks.get(both)
        if later is None:
            numbers = both & _PART, both >> _BITS
            after = [party.tick(self._instances[number]) for party, number in zip(self._parties, numbers, strict=True)]
            known = [self._instance(each) for each in after if each is not None]
            later = self._ticks[both] = known[0] | known[1] << _BITS if len(known) == len(after) else both
        return later

    # --- parts by number ----------------------------------------------------------------------------

    def _task(self, task: Task) -> int:
        number = self._numbers.setdefault(task, len(self._numbers))
        self._tasks[number] = task
        return number

    def _instance(self, instance: Instance) -> int:
        number = self._numbers.setdefault(instance, len(self._numbers))
        self._instances[number] = instance
        self._alive[number] = instance.tree in ALIVE
        return number
