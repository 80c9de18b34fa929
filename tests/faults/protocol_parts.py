"""The parts of the model in protocol_model.py: a task, an instance, and one that never fails."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from explorer import Broken


class Rule(Enum):
    """What the protocol asks for, each of which can be left out."""

    TOKEN_FENCE = "a finish names the token of its claim"
    LOCAL_DEADLINE = "a tree dies at the local deadline"
    DEADLINE_BEFORE_LEASE = "the local deadline lies before the end of the lease"
    DEADLINE_FROM_SEND = "the local deadline counts from the send"
    WATCHED_NONCE = "who declares dead names the nonce that was watched"
    OBSERVER_CLOCK = "a lease ends by the observer's own clock"
    FENCE_FIRST = "fence first, then take the tasks"
    DEAD_IS_FINAL = "dead is final: a renewal or resume asks for live"
    SAME_ID = "a restart resumes the same id"
    START_RIGHT = "the start right: one supervisor per run"
    FORBID_START = "who gives a run up forbids its start first"
    START_LOOKS = "a start looks at the deadline first"
    FRESH_TOKEN = "a token is sent once"
    ABANDONED = "an abandoned claim is never started"
    SWEEP = "the sweep"
    DEAD_TREE = "finish only when the tree is dead"
    ONE_UPDATE_CANCEL = "a cancel is one update"
    GIVEN_BACK = "a release gives the attempt back"
    RETIRES_ITSELF = "a retirement names its incarnation"
    CLAIM_MARGIN = "claim only while the lease lasts"


ONE_EXECUTION = Broken("at most one live execution")
OWN_CLAIM = Broken("only what the store shows as claimed by it starts")
TERMINAL = Broken("a terminal state never changes")
COUNTED = Broken("every attempt is counted once, and only what ran or was lost is one")
IN_TIME = Broken("an end that its owner tells in time is the task's end")
SLOTS = Broken("slots are held until the tree is dead")

PENDING, RUNNING, ENDED = range(3)
DOWN, RECOVERING, UP, REBOOTED = range(4)  # a scheduler
IDLE, SENT, UNSETTLED, RUN, UNSTARTED = range(5)  # its one slot
FREE, TAKEN, FORBIDDEN = range(3)  # the start right
NONE, RUNS, LINGERS, DEAD = range(4)  # a tree; it lingers when its main process has ended
BAD, OK, REFUSED = range(3)  # how a run ended; refused: the lease was over before its start
ALIVE = (RUNS, LINGERS)
TOKENS = 8  # of one instance that can be told apart at one time


class Task(NamedTuple):
    """ran: the attempts of `attempt` that began or were lost. blind: a cancel that has read and not yet written."""

    status: int = PENDING
    owner: int = 0
    token: int = 0
    wish: bool = False
    attempt: int = 0
    ran: int = 0
    blind: bool = False


class Instance(NamedTuple):
    """live, watched: its document, and for how many ticks its nonce was seen unchanged. old_live: the ids before.

    file: ticks left in the deadline file. renewal: (ticks since the send, whether it has landed). waiting: supervisors
    forked and not yet started. dies: another attempt may follow this one. finish: (token, result) under way; told: one
    has landed. stray: (token, whether by an older id) of a claim that was given up and may still land. leaving: a
    retirement is under way.
    """

    scheduler: int = UP
    live: bool = True
    old_live: bool = False
    watched: int = 0
    file: int = 0
    renewal: tuple[()] | tuple[int, bool] = ()
    phase: int = IDLE
    token: int = 0
    start: int = FREE
    waiting: int = 0
    tree: int = NONE
    result: int = BAD
    told: bool = False
    dies: bool = False
    finish: tuple[()] | tuple[int, int] = ()
    stray: tuple[()] | tuple[int, bool] = ()
    leaving: bool = False


class Sizes(NamedTuple):
    """In ticks; retries: of the task; launches: of one run that can be under way at once."""

    deadline: int = 1
    lease: int = 2
    retries: int = 1
    launches: int = 2


class Setting(NamedTuple):
    """What is explored. without: rules left out. only: the one promise that is looked at, None for all."""

    sizes: Sizes = Sizes()
    without: frozenset[Rule] = frozenset()
    only: Broken | None = None

    def asks(self, promise: Broken) -> bool:
        return self.only is None or self.only == promise


Move = tuple[str, bool, Task | Broken, Instance]
Moves = Iterator[Move]


class Ideal:
    """An instance that never fails: it keeps its lease, and every answer comes."""

    def __init__(self, number: int, setting: Setting) -> None:
        self._number, self._setting, self._sizes = number, setting, setting.sizes
        self.now, self.old = 1 + 2 * number, 2 + 2 * number  # how the task names its present id, and those before

    def first(self) -> Instance:
        return Instance(file=self._sizes.deadline)

    def moves(self, task: Task, me: Instance, elsewhere: bool) -> Moves:
        """Every step it can do now, with what becomes of the task; elsewhere: a tree lives on the other one."""
        shown = task.status == RUNNING and task.token == me.token
        if me.phase == IDLE and task.status == PENDING:
            token = self._fresh(task, me)
            yield "claims", True, self._claimed(task, self.now, token), self._won(task, me, token)
        elif me.phase == RUN and me.tree == NONE:
            yield "starts", True, self._executed(task, me, elsewhere), me._replace(tree=RUNS)
        elif me.phase == RUN and me.tree == DEAD:
            after = self._ended(task, me.result) if shown else self._missed(task, me)
            yield "records the end", True, after, self._idle(me)
        yield from self._tree(task, me)
        if me.tree in ALIVE and (task.wish or not shown):
            yield "kills its tree", True, task, dead(me)

    def tick(self, me: Instance) -> Instance | None:
        """The instance one tick later; None where something must happen before."""
        return me

    # --- what a write does to the task ------------------------------------------------------------

    def _claimed(self, task: Task, owner: int, token: int) -> Task:
        return task._replace(status=RUNNING, owner=owner, token=token, attempt=task.attempt + 1)

    def _released(self, task: Task) -> Task | Broken:
        if task.ran == task.attempt:
            if self._setting.asks(COUNTED):
                return COUNTED
            task = task._replace(ran=task.ran - 1)
        attempt = task.attempt if Rule.GIVEN_BACK in self._setting.without else task.attempt - 1
        return self._let_go(task, ENDED if task.wish else PENDING)._replace(attempt=attempt)

    def _ended(self, task: Task, result: int) -> Task | Broken:
        if task.ran < task.attempt and result != REFUSED and self._setting.asks(COUNTED):
            return COUNTED
        over = result == OK or task.wish or task.attempt > self._sizes.retries
        return self._let_go(task, ENDED if over else PENDING)._replace(ran=task.attempt)

    def _let_go(self, task: Task, status: int) -> Task:
        return task._replace(status=status, owner=0, token=0, wish=False)

    # --- what happens to a run ----------------------------------------------------------------------

    def _fresh(self, task: Task, me: Instance) -> int:
        """A token that nothing under way names. Tokens are only compared, so that their number does not matter."""
        known = {task.token, me.token, *me.finish[:1], *me.stray[:1]}
        return next(
            token for token in range(1 + self._number * TOKENS, 9 + self._number * TOKENS) if token not in known
        )

    def _won(self, task: Task, me: Instance, token: int) -> Instance:
        return me._replace(phase=RUN, token=token, dies=task.attempt < self._sizes.retries)

    def _executed(self, task: Task, me: Instance, elsewhere: bool) -> Task | Broken:
        if (elsewhere or me.tree in ALIVE) and self._setting.asks(ONE_EXECUTION):
            return ONE_EXECUTION
        if not self._shown(task, me):
            return OWN_CLAIM if self._setting.asks(OWN_CLAIM) else task
        if task.ran == task.attempt:
            return COUNTED if self._setting.asks(COUNTED) else task
        return task._replace(ran=task.ran + 1)

    def _missed(self, task: Task, me: Instance) -> Task | Broken:
        """The owner tells an end, and the store does not want to know."""
        return IN_TIME if me.live and not me.told and self._setting.asks(IN_TIME) else task

    def _shown(self, task: Task, me: Instance) -> bool:
        """Whether the store shows the run as this instance's."""
        mine = (self.now, self.old) if Rule.SAME_ID in self._setting.without else (self.now,)
        return task.status == RUNNING and task.token == me.token and task.owner in mine

    def _tree(self, task: Task, me: Instance) -> Moves:
        if me.tree == RUNS:
            yield "its main process succeeds", True, task, me._replace(tree=LINGERS, result=OK)
            yield "its main process fails", True, task, me._replace(tree=LINGERS, result=BAD)
        elif me.tree == LINGERS:
            yield "the last of its tree dies", True, task, dead(me)

    def _idle(self, me: Instance) -> Instance:
        """The run is forgotten, but for a supervisor that may still start it and processes that live."""
        if me.waiting and me.start == FREE:
            return me._replace(phase=IDLE)
        tree = me.tree if me.tree in ALIVE else NONE
        return me._replace(phase=IDLE, token=0, start=FREE, waiting=0, tree=tree, result=BAD, told=False, dies=False)


def dead(me: Instance) -> Instance:
    return me._replace(tree=DEAD, result=me.result if me.tree == LINGERS else BAD)
