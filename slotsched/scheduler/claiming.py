"""The claim pass: from the lanes this instance can serve now to tasks that are certainly its own."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import secrets
from collections.abc import Callable, Iterable, Sequence

from slotsched.choose import Candidate, Hold, Running, choose
from slotsched.errors import InvalidDocument
from slotsched.estimate import HISTORY_RUNS, planned, replanned
from slotsched.model import Capacity, Lane, Needs, Reservation, SeriesMemory, Task
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.limiting import Limiter
from slotsched.scheduler.spreading import Spread
from slotsched.scheduler.starting import Starter
from slotsched.store import Waiting

WINDOW = 100  # candidates that fit now; more while this instance draws from further back
WIDEST_WINDOW = 1000
BLOCKED_WINDOW = 16  # candidates that fit the machine but not what is free
WINDOW_READS = 8  # until a window is full although limits keep tasks out of it
HISTORY_SECONDS = 60.0  # how long a job's run times are believed before they are read again
SHORTEST_HISTORY_SECONDS = 2.0  # ... and where there are few or none yet, which the next run changes most


class Claimer:
    """One pass promotes what is due, chooses, claims, and starts what was won."""

    def __init__(self, engine: Engine, starter: Starter) -> None:
        self._engine = engine
        self._starter = starter
        self._lanes: dict[str, Lane] = {}
        self._asks: dict[str, Needs] = {}  # by lane: what its tasks would hold here
        self.limiter = Limiter(engine)
        self._history: dict[str, tuple[float, list[float]]] = {}
        self._spread = Spread()
        self._fitting: list[Waiting] = []  # what the last window was drawn from
        self._reserved: Hold | None = None
        self._reserved_until = 0.0
        self.more = False  # the last pass may have left work behind that fits

    def add_lane(self, lane: str) -> None:
        """A lane heard of from the change stream: a task of a new lane need not wait for the next scan."""
        self._lanes.update(_parse_lanes([lane]))

    def refresh_lanes(self) -> None:
        """Read the lanes that exist."""
        self._lanes = _parse_lanes(self._engine.store.queue.lanes())

    def run_once(self) -> int:
        """Claim what fits and start it; returns how many were won.

        What is due is promoted also where nothing may be claimed: others may, and what stays overdue would have the
        loop look again at once, for ever.
        """
        engine = self._engine
        self.more = False
        self.settle()
        promoted = engine.store.queue.promote()
        if not self._may_claim():
            if not engine.fenced:
                self._reserve(None)  # others can keep room for it from now on
            return 0
        if promoted:
            self.refresh_lanes()  # now, whenever the change stream tells of it
        window = self._window()
        if not window:
            self._reserve(None)
            return 0
        wanted, hold = self._choose([self._candidate(waiting) for waiting in window])
        drawn = self._spread.draw(wanted, self._kinds(window, hold)) if len(engine.live) > 1 else wanted
        self._reserve(hold)
        lanes = {waiting.id: self._lanes[waiting.lane] for waiting in [*window, *self._fitting]}
        won = self._claim([(task_id, lanes[task_id]) for task_id in drawn])
        self.more = bool(wanted)  # also when others were faster: there may be more behind what they took
        return won

    def settle(self) -> None:
        """Learn the fate of claims whose answer was lost. What the store shows is ours, and is given back unstarted:
        the lease, or this instance's very identity, may have changed since the claim was sent.
        """
        engine = self._engine
        for token in list(engine.unsettled):
            for task in engine.store.queue.settle(token):
                engine.store.queue.release(task.id, token)
                engine.log.info("released a claim whose answer was lost", task=task.id)
            self._give_back(token)

    # --- what may be claimed -------------------------------------------------------------------------

    def _may_claim(self) -> bool:
        """Whether a start could still be finished within the lease, and its log be written."""
        engine = self._engine
        if engine.draining or engine.paused or engine.fenced:
            return False
        if engine.lease_left() < engine.settings.lease / 15:  # 2 s with the default lease
            return False
        return engine.fitness.look()

    def _window(self) -> list[Waiting]:
        """Due tasks of the lanes this instance can serve, in rank order: those that fit now, and a few that do not."""
        engine = self._engine
        free, capacity = engine.ledger.free, engine.ledger.capacity
        fitting, blocked = self._serve(free, capacity)
        queue = engine.store.queue
        size = min(max(WINDOW, math.ceil(self._spread.factor * free.slots)), WIDEST_WINDOW)
        later = self._admitted(queue.blocked, blocked, BLOCKED_WINDOW)
        # Where something waits for room, what may pass it is told by each task's own max time, which no index holds.
        now = self._fitting = self._admitted(queue.blocked if later else queue.candidates, fitting, size)
        merged = sorted([*now, *later], key=lambda waiting: (waiting.rank, waiting.id))
        admission = self.limiter.admission()
        return [waiting for waiting in merged if admission.admit(self._lanes[waiting.lane])]

    def _admitted(self, read: Callable[..., list[Waiting]], lanes: list[str], size: int) -> list[Waiting]:
        """The first `size` tasks of these lanes, no more under one limit than it leaves.

        A limit with little left and thousands of tasks behind it must not fill the window: once it has what it leaves,
        the others' lanes are read on alone.
        """
        admission = self.limiter.admission()
        seen: set[str] = set()
        found: list[Waiting] = []
        rank: dt.datetime | None = None
        for _ in range(WINDOW_READS):
            if not lanes:
                break
            batch = read(lanes, size, rank_from=rank)
            new = [waiting for waiting in batch if waiting.id not in seen]
            seen.update(waiting.id for waiting in new)
            admitted = [waiting for waiting in new if admission.admit(self._lanes[waiting.lane])]
            found += admitted
            if len(batch) < size or len(admitted) == len(new) or len(found) >= size:
                break
            lanes = [lane for lane in lanes if admission.open(self._lanes[lane])]
            rank = batch[-1].rank
        return found

    def _serve(self, free: Capacity, capacity: Capacity) -> tuple[list[str], list[str]]:
        """The lanes whose tasks fit what is free, and those that only fit the whole machine."""
        known = {text: lane for text, lane in self._lanes.items() if self._enabled(lane.job)}
        self._asks = {text: lane.needs.on(capacity) for text, lane in known.items()}
        served = {text: lane for text, lane in known.items() if capacity.fits(self._asks[text])}
        self.limiter.refresh(served.values())
        fitting: list[str] = []
        blocked: list[str] = []
        for text, lane in served.items():
            if not self.limiter.reached(lane):
                (fitting if free.fits(self._asks[text]) else blocked).append(text)
        return fitting, blocked

    def _enabled(self, job: str) -> bool:
        engine = self._engine
        return job in engine.scan.jobs and job not in engine.disabled_jobs and engine.scan.jobs[job].facts.enabled

    def _candidate(self, waiting: Waiting) -> Candidate:
        lane = self._lanes[waiting.lane]
        limit = waiting.max_time or self._engine.scan.jobs[lane.job].facts.max_time
        held = waiting.reserved
        if held is not None and (
            held.by not in self._engine.live or held.until.timestamp() < self._engine.server_now()
        ):
            held = None  # a promise of somebody who is gone, or too old to be kept
        return Candidate(
            id=waiting.id,
            needs=self._asks[waiting.lane],  # shared, so that choose() translates them once
            planned=self._planned(lane.job, limit),
            limit=limit,
            due=(waiting.due_at or waiting.rank).timestamp(),
            holder=held.by if held else None,
            hold_start=held.start.timestamp() if held else None,
        )

    def _planned(self, job: str, limit: float) -> float:
        """How long a run of this job is expected to take, from its last completed runs."""
        engine = self._engine
        read_at, runs = self._history.get(job, (-math.inf, []))
        if engine.now() - read_at >= max(SHORTEST_HISTORY_SECONDS, HISTORY_SECONDS * len(runs) / HISTORY_RUNS):
            runs = engine.store.queue.recent_runs(job, HISTORY_RUNS)
            self._history[job] = (engine.now(), runs)
        return planned(runs, limit)

    # --- the decision --------------------------------------------------------------------------------

    def _choose(self, candidates: list[Candidate]) -> tuple[list[str], Hold | None]:
        engine = self._engine
        now = engine.server_now()
        to_server = now - engine.now()
        running = [
            Running(
                needs=run.record.needs.on(engine.ledger.capacity),
                planned_end=run.launched
                + to_server
                + replanned(run.planned, engine.now() - run.launched, run.record.max_time),
                kill_at=run.launched + to_server + run.record.max_time,
            )
            for run in engine.roster.alive()
        ]
        choice = choose(
            now,
            engine.ledger.free,
            engine.ledger.capacity,
            running,
            candidates,
            me=engine.identity.id,
            steal_after=engine.settings.lease,
        )
        return choice.claims, choice.reserve

    def _reserve(self, hold: Hold | None) -> None:
        """Write, renew or give back the hint that this instance keeps slots for a wide task."""
        store, engine = self._engine.store, self._engine
        engine.keeps_for = None if hold is None else hold.id
        if self._reserved is not None and (hold is None or hold.id != self._reserved.id):
            store.queue.unreserve(self._reserved.id, engine.identity.id)
            self._reserved = None
        if hold is None or not self._changed(hold):
            return
        until = engine.server_now() + engine.settings.lease
        reservation = Reservation(by=engine.identity.id, start=_server_time(hold.start), until=_server_time(until))
        if store.queue.reserve(hold.id, reservation):
            self._reserved, self._reserved_until = hold, until

    def _changed(self, hold: Hold) -> bool:
        """Whether what the store shows of this hold is worth a write: new, moved, or soon expired."""
        before = self._reserved
        if before is None or abs(before.start - hold.start) >= self._engine.settings.lease:
            return True
        return self._reserved_until - self._engine.server_now() < self._engine.settings.lease / 2

    # --- the claim -----------------------------------------------------------------------------------

    def _kinds(self, window: Sequence[Waiting], hold: Hold | None) -> dict[str, str]:
        """Of the tasks that fit now, in rank order: which ones can stand for each other.

        Those with the same needs; for as long, where a plan for a task that waits for room depends on it (only then
        the max time of each was read). Never one that room was kept for, and none under a limit, which may leave less
        than there are tasks.
        """
        fitting = {waiting.id for waiting in self._fitting}
        planning = hold is not None or any(waiting.id not in fitting for waiting in window)
        by_lane: dict[str, str | None] = {}
        for text in {waiting.lane for waiting in self._fitting}:
            lane = self._lanes[text]
            alike = str(Lane(job=lane.job if planning else "", needs=lane.needs))
            by_lane[text] = None if self.limiter.scopes(lane) else alike
        kept = {one.id for one in (self._reserved, hold) if one is not None}
        return {
            waiting.id: f"{kind} {waiting.max_time}"
            for waiting in self._fitting
            if waiting.id not in kept and (kind := by_lane[waiting.lane]) is not None
        }

    def _claim(self, wanted: Sequence[tuple[str, Lane]]) -> int:
        """Claim tasks (id, lane): those without a limit in one write for all, the others one by one."""
        limited = [(task_id, lane) for task_id, lane in wanted if self.limiter.scopes(lane)]
        free = [(task_id, lane) for task_id, lane in wanted if not self.limiter.scopes(lane)]
        won = self._send_free(free) if free else 0
        if free:
            self._spread.learn(len(free), won, len(self._engine.live))
        return won + (self._send(limited, self.limiter.claim) if limited else 0)

    def _send_free(self, wanted: Sequence[tuple[str, Lane]]) -> int:
        try:
            return self._send(wanted, self._claim_free)
        except InvalidDocument:  # one of them has no room left for a claim; it must not keep the others waiting
            self.settle()
            return sum(self._send_alone(one) for one in wanted)

    def _send_alone(self, one: tuple[str, Lane]) -> int:
        try:
            return self._send([one], self._claim_free)
        except InvalidDocument as error:
            self._engine.log.warning("a task cannot be claimed", task=one[0], why=str(error))
            self.settle()
            return 0

    def _claim_free(self, wanted: Sequence[tuple[str, Lane]], token: str) -> list[Task]:
        return self._engine.store.queue.claim([task_id for task_id, _ in wanted], token, self._engine.ref)

    def _send(
        self, wanted: Sequence[tuple[str, Lane]], claim: Callable[[Sequence[tuple[str, Lane]], str], list[Task]]
    ) -> int:
        """Hold the slots, send one claim with a fresh token, and start what the store shows as won."""
        engine = self._engine
        token = secrets.token_hex(12)
        holders = {f"{token}/{task_id}": lane.needs for task_id, lane in wanted}
        for holder, needs in holders.items():
            engine.ledger.take(holder, needs)
        engine.unsettled[token] = list(holders)
        tasks = claim(wanted, token)
        self._won(token, tasks)
        self.limiter.settle(token, tasks)
        return len(tasks)

    def _won(self, token: str, tasks: list[Task]) -> None:
        """The store has told which of the token's tasks are ours: give back what was held for the others."""
        series = {task.schedule for task in tasks if task.schedule is not None}
        # Before anything is given back: without an answer here, the claim is one whose fate is to be settled.
        memories = self._engine.store.schedules.memories(series) if series else {}
        self._give_back(token)
        for task in sorted(tasks, key=lambda task: (task.due_at, task.id)):
            history = self._history.get(task.job, (0.0, []))[1]
            self._starter.start(task, token, history=history, memory=memories.get(task.schedule or "", SeriesMemory()))

    def _give_back(self, token: str) -> None:
        for holder in self._engine.unsettled.pop(token):
            self._engine.ledger.give_back(holder)


def _parse_lanes(texts: Iterable[str]) -> dict[str, Lane]:
    """Lanes by their stored text; one that no slotsched wrote is left out (its tasks are nobody's to claim)."""
    lanes: dict[str, Lane] = {}
    for text in texts:
        with contextlib.suppress(ValueError):
            lanes[text] = Lane.parse(text)
    return lanes


def _server_time(epoch_seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(epoch_seconds, dt.UTC)
