"""The instance of the model in protocol_model.py to which everything may happen, as often as it likes."""

from __future__ import annotations

from protocol_parts import (
    ALIVE,
    BAD,
    DEAD,
    DOWN,
    FORBIDDEN,
    FREE,
    IDLE,
    LINGERS,
    NONE,
    PENDING,
    REBOOTED,
    RECOVERING,
    REFUSED,
    RUN,
    RUNNING,
    RUNS,
    SENT,
    TAKEN,
    UNSETTLED,
    UNSTARTED,
    UP,
    Ideal,
    Instance,
    Moves,
    Rule,
    Setting,
    Task,
    dead,
)


class Unlucky(Ideal):
    """An instance to which everything may happen. alone: nobody else could bring the task to its end."""

    def __init__(self, number: int, setting: Setting, *, alone: bool = False) -> None:
        super().__init__(number, setting)
        self._alone = alone
        self._deadline = self._sizes.deadline if self._on(Rule.DEADLINE_BEFORE_LEASE) else self._sizes.lease

    def _on(self, rule: Rule) -> bool:
        return rule not in self._setting.without

    def first(self) -> Instance:
        return Instance(file=self._deadline)

    def tick(self, me: Instance) -> Instance | None:
        if self._on(Rule.LOCAL_DEADLINE) and me.tree in ALIVE and me.file == 0 and self._doomed(me):
            return None
        watched = min(me.watched + me.live, self._sizes.lease)
        return me._replace(file=max(0, me.file - 1), renewal=self._older(me), watched=watched)

    def _older(self, me: Instance) -> tuple[()] | tuple[int, bool]:
        """The renewal under way one tick later; forgotten once its answer could bring nothing any more."""
        if not me.renewal:
            return ()
        age, landed = me.renewal
        useless = landed and age + 1 >= self._deadline and self._on(Rule.DEADLINE_FROM_SEND)
        return () if useless and me.scheduler != RECOVERING else (min(age + 1, self._deadline), landed)

    def _doomed(self, me: Instance) -> bool:
        """An attempt that nobody may follow goes on for as long as its scheduler turns."""
        return me.dies or me.scheduler != UP

    def moves(self, task: Task, me: Instance, elsewhere: bool) -> Moves:
        up = me.scheduler == UP
        if up:
            yield from self._queue(task, me)
            yield from self._owner(task, me)
        yield from self._messages(task, me)
        yield from self._processes(task, me, elsewhere)
        yield from self._lease(task, me)
        yield from self._rescue(task, me)
        yield from self._life(task, me)

    # --- the loop -----------------------------------------------------------------------------------

    def _queue(self, task: Task, me: Instance) -> Moves:
        in_time = me.file > 0 or not self._on(Rule.CLAIM_MARGIN)
        if me.phase == IDLE and task.status == PENDING and in_time and not me.waiting and me.tree not in ALIVE:
            again = not self._on(Rule.FRESH_TOKEN) and me.stray
            token = me.stray[0] if again and me.stray else self._fresh(task, me)
            yield "sends a claim", True, task, me._replace(phase=SENT, token=token)
        mine = task.status == RUNNING and task.token == me.token
        if me.phase == UNSETTLED:
            if not mine:
                yield "settles: nothing was claimed", True, task, self._idle(me)
            elif self._on(Rule.ABANDONED):
                yield "settles: releases what it finds", True, self._released(task), self._idle(me)
            else:
                yield (
                    "settles: takes what it finds",
                    True,
                    task,
                    self._won(task._replace(attempt=task.attempt - 1), me, me.token),
                )
        if me.phase == UNSTARTED:
            yield "releases what did not start", True, self._released(task) if mine else task, self._idle(me)
        unknown = me.phase == IDLE or task.token != me.token
        if self._on(Rule.SWEEP) and me.phase != SENT and task.status == RUNNING and task.owner == self.now and unknown:
            yield "sweeps: releases a claim it does not know", True, self._released(task), me

    def _owner(self, task: Task, me: Instance) -> Moves:
        shown = self._shown(task, me)
        if me.phase == RUN and me.start == FREE and me.tree == NONE:
            if me.waiting < self._sizes.launches:
                yield "launches", me.waiting == 0, task, me._replace(waiting=me.waiting + 1)
            yield "gives its launch up", False, task, self._forbidden(me)
        if me.tree in ALIVE and ((shown and task.wish) or (not shown and self._on(Rule.SWEEP))):
            yield "kills its tree", True, task, dead(me)
        done = me.tree == DEAD or (me.tree == LINGERS and not self._on(Rule.DEAD_TREE))
        if me.phase == RUN and done and me.finish != (me.token, me.result):
            yield "sends the end", True, task, me._replace(finish=(me.token, me.result))

    def _forbidden(self, me: Instance) -> Instance:
        if self._on(Rule.FORBID_START):
            return me._replace(phase=UNSTARTED, start=FORBIDDEN, waiting=0)
        return me._replace(phase=UNSTARTED)

    # --- what is under way --------------------------------------------------------------------------

    def _messages(self, task: Task, me: Instance) -> Moves:
        if me.phase == SENT:
            lost = me._replace(phase=UNSETTLED)
            if task.status == PENDING:
                claimed = self._claimed(task, self.now, me.token)
                yield "its claim wins", True, claimed, self._won(task, me, me.token)
                yield "its claim wins, the answer is lost", False, claimed, lost
            else:
                yield "its claim comes too late", True, task, self._idle(me)
            yield "its claim is lost", False, task, lost
            if not me.stray:
                yield "its claim is given up, under way", False, task, lost._replace(stray=(me.token, False))
        if me.stray:
            token, old = me.stray
            landed = task if task.status != PENDING else self._claimed(task, self.old if old else self.now, token)
            yield "a claim it gave up lands", False, landed, me._replace(stray=())
        if me.finish:
            yield from self._finish_lands(task, me, *me.finish)

    def _finish_lands(self, task: Task, me: Instance, token: int, result: int) -> Moves:
        ours = me.phase == RUN and me.token == token
        told = me._replace(finish=())
        if task.status == RUNNING and (task.token == token or not self._on(Rule.TOKEN_FENCE)):
            after, told = self._ended(task, result), told._replace(told=me.told or ours)
        else:
            after = self._missed(task, me) if ours else task
        yield "its end lands, the answer is lost", False, after, told
        answered = ours and me.scheduler == UP
        yield "its end lands", True, after, self._idle(told) if answered else told

    # --- processes ----------------------------------------------------------------------------------

    def _processes(self, task: Task, me: Instance, elsewhere: bool) -> Moves:
        if me.waiting:
            yield from self._start(task, me._replace(waiting=me.waiting - 1), elsewhere)
            yield "a supervisor is killed", False, task, me._replace(waiting=me.waiting - 1)
        yield from self._tree(task, me)
        if me.tree in ALIVE:
            yield "its supervisor is killed", False, task, dead(me)
            if self._on(Rule.LOCAL_DEADLINE) and me.file == 0:
                yield "its tree dies at the deadline", self._doomed(me), task, dead(me)

    def _start(self, task: Task, me: Instance, elsewhere: bool) -> Moves:
        if me.start != FREE and self._on(Rule.START_RIGHT):
            yield "a supervisor finds the start taken", True, task, me
            return
        waiting = 0 if self._on(Rule.START_RIGHT) else me.waiting  # the others will find it taken
        taken = me._replace(start=TAKEN, waiting=waiting)
        if me.file > 0 or not self._on(Rule.START_LOOKS):
            yield "a supervisor starts the script", True, self._executed(task, me, elsewhere), taken._replace(tree=RUNS)
        else:
            yield "a supervisor finds the lease over", True, task, taken._replace(tree=DEAD, result=REFUSED)

    # --- the lease ----------------------------------------------------------------------------------

    def _lease(self, task: Task, me: Instance) -> Moves:
        if me.scheduler in (UP, RECOVERING) and not me.renewal:
            yield "sends a renewal", True, task, me._replace(renewal=(0, False))
        elif me.renewal:
            age, landed = me.renewal
            scheduler = UP if me.scheduler == RECOVERING else me.scheduler
            yield "its renewal is lost", False, task, me._replace(renewal=())
            if landed:
                left = self._deadline - (age if self._on(Rule.DEADLINE_FROM_SEND) else 0)
                kept = me._replace(renewal=(), scheduler=scheduler, file=max(me.file, left))
                yield "its renewal is answered", True, task, kept
            elif me.live or not self._on(Rule.DEAD_IS_FINAL):
                fixed = not self._on(Rule.WATCHED_NONCE) and me.watched == self._sizes.lease
                seen = me.watched if fixed else 0
                leaving = me.leaving and not (me.scheduler == RECOVERING and self._on(Rule.RETIRES_ITSELF))
                landed_now = me._replace(renewal=(age, True), live=True, watched=seen, leaving=leaving)
                yield "its renewal lands", True, task, landed_now
            else:
                yield "its renewal is refused", True, task, me._replace(renewal=())
        if me.scheduler in (UP, RECOVERING) and not me.live and me.tree in ALIVE:
            yield "kills its tree, which is no longer its own", True, task, dead(me)
        settled = me.phase != SENT and me.tree not in ALIVE and not (me.waiting and me.start == FREE)
        if me.scheduler in (UP, RECOVERING) and not me.live and settled:
            gone = me if me.phase == UNSETTLED else self._idle(me)
            yield "takes a new id", True, *self._renamed(task, gone)

    def _renamed(self, task: Task, me: Instance) -> tuple[Task, Instance]:
        """Under a new id; what was the present one's is an older one's."""
        stray = (me.stray[0], True) if me.stray else ()
        again = me._replace(
            scheduler=UP, live=True, stray=stray, file=self._deadline, watched=0, renewal=(), leaving=False
        )
        return self._orphaned(task), again._replace(old_live=me.old_live or me.live)

    def _orphaned(self, task: Task) -> Task:
        return task._replace(owner=self.old) if task.owner == self.now else task

    def _rescue(self, task: Task, me: Instance) -> Moves:
        over = me.watched == self._sizes.lease
        if me.live and (over or not self._on(Rule.OBSERVER_CLOCK)):
            yield "is declared dead", me.scheduler == DOWN, task, me._replace(live=False)
        if me.old_live:
            yield "its older id is declared dead", True, task, me._replace(old_live=False)
        dead = not me.live or (over and not self._on(Rule.FENCE_FIRST))
        if task.status == RUNNING and (
            (task.owner == self.now and dead) or (task.owner == self.old and not me.old_live)
        ):
            counted = task._replace(ran=task.attempt)
            yield "its task is taken", True, self._ended(counted, BAD), me

    # --- crashes ------------------------------------------------------------------------------------

    def _life(self, task: Task, me: Instance) -> Moves:
        if me.scheduler == UP and me.phase == IDLE and not me.waiting and me.tree not in ALIVE:
            yield (
                "signs off, and is killed before it forgets its id",
                False,
                task,
                me._replace(scheduler=DOWN, renewal=(), leaving=True),
            )
        if me.leaving:
            yield "its retirement lands", False, task, me._replace(leaving=False, live=False)
        if me.scheduler == DOWN:
            if not self._on(Rule.SAME_ID):
                yield "the scheduler restarts under a new id", self._alone, *self._renamed(task, self._back(me))
            else:
                back = self._back(me)._replace(scheduler=RECOVERING, renewal=(0, False))
                yield "the scheduler restarts", self._alone, task, back
        elif me.scheduler == REBOOTED:
            yield "the machine is up again", self._alone, task, self._renamed(task, me)[1]
        else:
            crashed = self._forgets(me)
            yield "the scheduler crashes", False, task, crashed._replace(scheduler=DOWN)
        if me.scheduler != REBOOTED:
            orphaned, nothing = self._renamed(task, self._idle(self._forgets(me)._replace(tree=NONE, waiting=0)))
            yield "the machine crashes", False, orphaned, nothing._replace(scheduler=REBOOTED, live=False, file=0)

    def _back(self, me: Instance) -> Instance:
        unstarted = me.phase == RUN and me.start == FREE and me.tree == NONE
        return self._forbidden(me) if unstarted else me

    def _forgets(self, me: Instance) -> Instance:
        """Without the memory of a scheduler: its runs are in their directories, a claim under way still lands."""
        if me.phase == SENT and not me.stray:
            me = me._replace(stray=(me.token, False))
        if me.phase in (SENT, UNSETTLED):
            me = me._replace(phase=IDLE, token=0)
        return me._replace(renewal=())
