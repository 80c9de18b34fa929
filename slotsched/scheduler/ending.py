"""From a dead process tree to a terminal task: read how it ended, free the slots, tell the store, hand over the log."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from slotsched import contract
from slotsched.errors import NotFound
from slotsched.execution import read_progress, read_result, read_state_out
from slotsched.failpoints import failpoint
from slotsched.machine import boot_id
from slotsched.model import Capacity, Lane, Outcome, Reason, RetryPolicy, Status
from slotsched.process import Ending, abandoned_ending, read_ending, sweep_tree
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.fitness import SHORTAGES
from slotsched.scheduler.run import Run, RunRecord, never_started

PER_TICK = 50  # ends that are told before the loop shows that it turns
SWEEP_SECONDS = 0.25  # the loop waits so long for a killed supervisor's processes; then it looks again every second

_CAUSES = {
    "signal": Reason.SIGNAL,
    "timeout": Reason.TIMEOUT,
    "memory": Reason.MEMORY,
    "lost": Reason.LOST,
    "shutdown": Reason.SHUTDOWN,
    "canceled": Reason.CANCELED,
    "not_started": Reason.NOT_STARTED,
}


class Finisher:
    """`collect` when a supervisor has ended; `run_once` tells the store of every end it does not know yet."""

    def __init__(
        self,
        engine: Engine,
        on_settled: Callable[[Run], None],
        on_recorded: Callable[[RunRecord, Status | None], None] = lambda _record, _status: None,
    ) -> None:
        self._engine = engine
        self._on_settled = on_settled
        self._on_recorded = on_recorded

    @failpoint("collect")
    def collect(self, run: Run) -> None:
        """The run's supervisor is gone: its slots are free now, whatever the store says later (G3)."""
        engine = self._engine
        ending = read_ending(run.directory)
        if ending is None and never_started(run.directory):
            run.end_unstarted()
            engine.ledger.give_back(run.id)
            engine.log.warning("its supervisor ended before the script began; releasing it", task=run.record.task_id)
            return
        if ending is not None and is_shortage(ending):
            engine.fitness.refused(f"it cannot start a process: {ending.message}")
            run.end_unstarted()
            engine.ledger.give_back(run.id)
            engine.log.warning("not started; releasing it", task=run.record.task_id, why=ending.message)
            return
        if ending is None:
            if not sweep_tree(run.directory, SWEEP_SECONDS):
                engine.log.error("a killed supervisor's processes live on; their slots stay taken", run=run.id)
                return  # the supervision looks again
            ending = abandoned_ending(run.directory)
            if run.ordered is not None:  # it was killed because it did not obey, or before it could
                ending = replace(ending, cause=run.ordered[0])
        run.end(outcome_of(run, ending, engine.now()), engine.now())
        engine.ledger.give_back(run.id)
        assert run.outcome is not None
        engine.log.info(
            "ended", task=run.record.task_id, job=run.record.job, reason=run.outcome.reason, code=run.outcome.exit_code
        )

    def run_once(self) -> int:
        """Send every unrecorded end; returns how many the store has taken. Raises StoreUnreachable."""
        ended = self._engine.roster.ended()
        for number, run in enumerate(ended, 1):
            self._record(run)
            if number % PER_TICK == 0:
                self._engine.tick()  # after an outage this may take long, and is no standstill
        return len(ended)

    def _record(self, run: Run) -> None:
        if run.outcome is None:
            self._engine.store.queue.release(run.record.task_id, run.record.token)
            self._engine.state.remove_run(run.directory)
            self._engine.roster.remove(run)
            return
        if run.inherited and self._is_cared_for(run):
            return
        engine, record = self._engine, run.record
        outcome = run.outcome_now(engine.now())
        has_log = run.directory.is_dir()
        log = replace(record.log, bytes=outcome.log_bytes, truncated=outcome.log_truncated) if has_log else None
        retry_in = retry_delay(record.retry, record.attempt, outcome)
        if not run.inherited:  # what the store does not show as ours it refuses; and it may show it again by now
            status = engine.store.queue.finish(
                record.task_id,
                record.token,
                outcome,
                hash=record.hash,
                log=log,
                retry_in=retry_in,
                lane=None if retry_in is None else retry_lane(record, outcome, engine.capacities),
            )
            if status is None:
                engine.log.warning(
                    "the store no longer shows this run as ours; its result is dropped", task=record.task_id
                )
            self._on_recorded(record, status)
        engine.roster.remove(run)
        run.settle()
        if not has_log:  # nothing is left to upload, and nobody else comes by
            engine.state.remove_run(run.directory)
        self._on_settled(run)

    def _is_cared_for(self, run: Run) -> bool:
        """A log that nobody but us has is ours to upload. In a copied directory the original's owner goes on with it:
        part of a log must not take the place of the whole.
        """
        engine, record = self._engine, run.record
        try:
            task = engine.store.tasks.get(record.task_id)
        except NotFound:
            return False
        log = next((one.log for one in task.attempts if one.fence == record.fence), None)
        if log is not None and log.uploaded:
            engine.state.remove_run(run.directory)
            engine.roster.remove(run)
            return True
        return task.status is Status.RUNNING and task.fence == record.fence  # asked again until rescuers take it


def is_shortage(ending: Ending) -> bool:
    """Whether its script never started for lack of what the machine should have: no fault of the task's."""
    return ending.cause == "not_started" and ending.errno in SHORTAGES


def outcome_of(run: Run, ending: Ending, now: float) -> Outcome:
    """What the supervisor saw, and what the script left in its files, as the store takes it."""
    io = run.directory / contract.RUN_IO
    reason = _reason(ending)
    result, complaint = read_result(io)
    return Outcome(
        reason=reason,
        exit_code=ending.exit_code,
        signal=ending.signal,
        message=ending.message or complaint,
        cpu_seconds=ending.cpu_seconds,
        peak_memory=ending.peak_memory,
        ago=max(0.0, now - ending.ended) if ending.boot_id == boot_id() else 0.0,
        result=result,
        state=read_state_out(io),
        progress=read_progress(io),
        log_bytes=ending.log_bytes,
        log_truncated=ending.log_truncated,
    )


def _reason(ending: Ending) -> Reason:
    if ending.cause == "exit":
        return Reason.CANCELED_BY_JOB if ending.exit_code == contract.SCRIPT_CANCELED else Reason.EXIT
    return _CAUSES.get(ending.cause, Reason.LOST)  # a newer version's supervisor may know more causes


def retry_lane(record: RunRecord, outcome: Outcome, capacities: Sequence[Capacity]) -> Lane | None:
    """Where the retry waits if it asks for more memory than this attempt had; None: where the task was before.

    capacities: of the instances that are up. The largest of those that have the other needs is the bound: a task that
    asked for more would never start again.
    """
    needs, factor = record.needs, record.memory_retry_factor
    if outcome.reason is not Reason.MEMORY or needs.memory is None or factor is None:
        return None
    others = replace(needs, memory=None)
    largest = max((one.memory for one in capacities if one.memory is not None and one.fits(others)), default=None)
    wanted = math.ceil(needs.memory * factor)
    memory = wanted if largest is None else min(wanted, largest)
    if memory <= needs.memory:
        return None
    return Lane(job=record.job, needs=replace(needs, memory=memory), key=record.lane_key)


def retry_delay(
    policy: RetryPolicy, attempt: int, outcome: Outcome, chance: Callable[[], float] = random.random
) -> float | None:
    """Seconds until the next attempt, or None when there is none: success, attempts used up, a reason not retried.

    Exponential delays double from the first and are capped; chance spreads them by a quarter both ways, so that
    tasks that failed together do not come back together. `chance` gives a number in [0, 1).
    """
    succeeded = outcome.reason is Reason.EXIT and outcome.exit_code == contract.SCRIPT_COMPLETED
    if succeeded or attempt > policy.limit or outcome.reason.value not in policy.on:
        return None
    delay = policy.delay * 2 ** min(attempt - 1, 30) if policy.exponential else policy.delay
    return min(policy.cap, delay) * (0.75 + 0.5 * chance())
