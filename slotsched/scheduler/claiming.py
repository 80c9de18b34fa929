"""The claim pass: from the lanes this instance can serve now to tasks that are certainly its own."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import secrets
from collections.abc import Iterable, Sequence

from slotsched.choose import STEAL_SECONDS, Candidate, Hold, Running, choose
from slotsched.estimate import HISTORY_RUNS, planned, replanned
from slotsched.model import Capacity, Lane, Reservation, Task
from slotsched.scheduler.engine import FREE_BYTES_FLOOR, Engine
from slotsched.scheduler.starting import Starter
from slotsched.store import Waiting

WINDOW = 100  # candidates that fit now
SAMPLE_MINIMUM = 10
BLOCKED_WINDOW = 16  # candidates that fit the machine but not what is free
HISTORY_SECONDS = 60.0  # how long a job's run times are believed before they are read again


class Claimer:
    """One pass promotes what is due, chooses, claims, and starts what was won."""

    def __init__(self, engine: Engine, starter: Starter) -> None:
        self._engine = engine
        self._starter = starter
        self._lanes: dict[str, Lane] = {}
        self._history: dict[str, tuple[float, list[float]]] = {}
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
        """Claim what fits and start it; returns how many were won."""
        engine = self._engine
        self.more = False
        self.settle()
        if not self._may_claim():
            return 0
        engine.store.queue.promote()
        candidates = self._candidates()
        if not candidates:
            self._reserve(None)
            return 0
        wanted, hold = self._choose(candidates)
        self._reserve(hold)
        won = self._claim(wanted, {candidate.id: candidate for candidate in candidates}) if wanted else 0
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
        if engine.state.free_bytes() < FREE_BYTES_FLOOR:
            engine.log.warning("the state directory is nearly full; claiming nothing", path=str(engine.state.path))
            return False
        return True

    def _candidates(self) -> list[Candidate]:
        """Due tasks of the lanes this instance can serve, in rank order: those that fit now, and a few that do not."""
        engine = self._engine
        free, capacity = engine.ledger.free, engine.ledger.capacity
        fitting, blocked = self._serve(free, capacity)
        queue = engine.store.queue
        now = queue.candidates(fitting, WINDOW) if fitting else []
        later = queue.blocked(blocked, BLOCKED_WINDOW) if blocked else []
        if len(engine.live) > 1:
            now = _sample(now, max(SAMPLE_MINIMUM, 2 * free.slots))
        merged = sorted([*now, *later], key=lambda waiting: (waiting.rank, waiting.id))
        return [self._candidate(waiting) for waiting in merged]

    def _serve(self, free: Capacity, capacity: Capacity) -> tuple[list[str], list[str]]:
        """The lanes whose tasks fit what is free, and those that only fit the whole machine."""
        engine = self._engine
        fitting: list[str] = []
        blocked: list[str] = []
        for text, lane in self._lanes.items():
            if lane.job not in engine.scan.jobs or lane.job in engine.disabled_jobs:
                continue
            if not engine.scan.jobs[lane.job].facts.enabled:
                continue
            if free.fits(lane.needs):
                fitting.append(text)
            elif capacity.fits(lane.needs):
                blocked.append(text)
        return fitting, blocked

    def _candidate(self, waiting: Waiting) -> Candidate:
        lane = self._lanes[waiting.lane]  # shared, so that choose() translates its needs once
        limit = waiting.max_time or self._engine.scan.jobs[lane.job].facts.max_time
        held = waiting.reserved
        if held is not None and (
            held.by not in self._engine.live or held.until.timestamp() < self._engine.server_now()
        ):
            held = None  # a promise of somebody who is gone, or too old to be kept
        return Candidate(
            id=waiting.id,
            needs=lane.needs,
            planned=self._planned(lane.job, limit),
            limit=limit,
            due=(waiting.due_at or waiting.rank).timestamp(),
            holder=held.by if held else None,
            hold_start=held.start.timestamp() if held else None,
        )

    def _planned(self, job: str, limit: float) -> float:
        """How long a run of this job is expected to take, from its last completed runs."""
        engine = self._engine
        read_at, runs = self._history.get(job, (-HISTORY_SECONDS, []))
        if engine.now() - read_at >= HISTORY_SECONDS:
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
                needs=run.record.needs,
                planned_end=run.launched
                + to_server
                + replanned(run.planned, engine.now() - run.launched, run.record.max_time),
                kill_at=run.launched + to_server + run.record.max_time,
            )
            for run in engine.roster.alive()
        ]
        choice = choose(now, engine.ledger.free, engine.ledger.capacity, running, candidates, me=engine.identity.id)
        return choice.claims, choice.reserve

    def _reserve(self, hold: Hold | None) -> None:
        """Write, renew or give back the hint that this instance keeps slots for a wide task."""
        store, engine = self._engine.store, self._engine
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
        if before is None or abs(before.start - hold.start) >= STEAL_SECONDS:
            return True
        return self._reserved_until - self._engine.server_now() < self._engine.settings.lease / 2

    # --- the claim -----------------------------------------------------------------------------------

    def _claim(self, wanted: list[str], candidates: dict[str, Candidate]) -> int:
        """Hold the slots, send one claim with a fresh token, and start what the store shows as won."""
        engine = self._engine
        token = secrets.token_hex(12)
        holders = {f"{token}/{task_id}": candidates[task_id].needs for task_id in wanted}
        for holder, needs in holders.items():
            engine.ledger.take(holder, needs)
        engine.unsettled[token] = list(holders)
        tasks = engine.store.queue.claim(wanted, token, engine.ref)
        self._won(token, tasks)
        return len(tasks)

    def _won(self, token: str, tasks: list[Task]) -> None:
        """The store has told which of the token's tasks are ours: give back what was held for the others."""
        self._give_back(token)
        for task in sorted(tasks, key=lambda task: (task.due_at, task.id)):
            self._starter.start(task, token, history=self._history.get(task.job, (0.0, []))[1])

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


def _sample(window: Sequence[Waiting], size: int) -> list[Waiting]:
    """A random part of the window, so that instances that look at the same queue seldom want the same task.

    Each lane's head stays in: a wide task at the front must be seen by everyone who could keep room for it.
    """
    if len(window) <= size:
        return list(window)
    heads: dict[str, Waiting] = {}
    for waiting in window:
        heads.setdefault(waiting.lane, waiting)
    others = [waiting for waiting in window if heads[waiting.lane] is not waiting]
    return [*heads.values(), *random.sample(others, min(len(others), size))]


def _server_time(epoch_seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(epoch_seconds, dt.UTC)
