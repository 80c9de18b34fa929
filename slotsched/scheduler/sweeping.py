"""The sweep: make what runs here and what the store says runs here the same.

Done at every renewal, after reconnects, and when somebody touched a running task (PROTOCOL "sweep" and "cancel").
"""

from __future__ import annotations

from collections.abc import Mapping

from slotsched.errors import StoreUnreachable
from slotsched.model import Cancel, Status
from slotsched.process import sweep_tree
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.run import Phase, Run, RunRecord, never_started, second_record
from slotsched.store import Held


class Sweeper:
    """One pass reads this instance's claims and acts on every difference."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run_once(self) -> int:
        """Returns how many differences were found."""
        queue, me = self._engine.store.queue, self._engine.identity.id
        held = queue.held(me)
        if self._differs(held):
            held = queue.held(me, settled=True)  # a new primary may not show yet what the last one acknowledged
        found = sum(self._compare(run, held.get(run.record.task_id)) for run in self._engine.roster)
        return found + self._settle_unknown(held)

    def _differs(self, held: Mapping[str, Held]) -> bool:
        """Whether a run would be ended, or a claim given back."""
        shown = {(task_id, claim.token) for task_id, claim in held.items()}
        ours = {(run.record.task_id, run.record.token) for run in self._engine.roster.alive() if not run.disowned}
        return not ours <= shown or bool(self._unknown(held))

    # --- runs ---------------------------------------------------------------------------------------

    def _compare(self, run: Run, held: Held | None) -> bool:
        if held is None or held.token != run.record.token:
            if run.phase is not Phase.ENDED:
                self._disown(run)
                return True
            return False  # its end is being told; the store answers whether it still wants to know
        if held.cancel is not None and run.phase is not Phase.ENDED:
            self._cancel(run, held.cancel)
            return True
        return False

    def _disown(self, run: Run) -> None:
        if not run.disowned:
            self._engine.log.warning("the store no longer shows this run as ours; ending it", task=run.record.task_id)
        run.disowned = True
        self._engine.order_end(run, "lost", kill=True)

    def _cancel(self, run: Run, cancel: Cancel) -> None:
        self._engine.order_end(run, "canceled", kill=cancel.kill, by=cancel.by)

    # --- claims -------------------------------------------------------------------------------------

    def _unknown(self, held: Mapping[str, Held]) -> dict[str, Held]:
        """Claims the store shows as ours that we neither run nor wait to learn about."""
        engine = self._engine
        known = {(run.record.task_id, run.record.token) for run in engine.roster}
        return {
            task_id: claim
            for task_id, claim in held.items()
            if (task_id, claim.token) not in known and claim.token not in engine.unsettled
        }

    def _settle_unknown(self, held: Mapping[str, Held]) -> int:
        unknown = self._unknown(held)
        for task_id, claim in unknown.items():
            try:
                if self._may_have_started(task_id, claim):
                    self._take_on(task_id, claim)
                else:
                    self._release(task_id, claim)
            except StoreUnreachable:
                raise
            except Exception:  # one odd run directory must not keep the others from being settled
                self._engine.log.exception("a claim cannot be settled; trying again", task=task_id)
            self._engine.tick()  # a look through all processes takes its time
        return len(unknown)

    def _may_have_started(self, task_id: str, claim: Held) -> bool:
        """Whatever is left of a run counts: its second record, its start right, its living processes.

        Those are killed on sight. A tree that has ended and a script that removed more than its run directory leave
        nothing.
        """
        directory = self._engine.state.run_directory(f"{task_id}-{claim.fence}")
        is_there = directory.is_dir() or second_record(directory).exists()
        return (is_there and not never_started(directory)) or not sweep_tree(directory, within=0.0)

    def _take_on(self, task_id: str, claim: Held) -> None:
        """A run that no recovery could put back to work is the supervision's from now on: it finds what lives of it.

        Without a readable record nobody knows how long it may go on, so it is lost.
        """
        engine = self._engine
        directory = engine.state.run_directory(f"{task_id}-{claim.fence}")
        record = RunRecord.read(directory)
        lost = record is None
        if record is None:
            task = engine.store.tasks.get(task_id)
            if task.status is not Status.RUNNING or task.fence != claim.fence:
                return  # it has changed hands meanwhile
            record = RunRecord.of(task, claim.token, engine.ref, engine.archive.url)
        run = Run(record=record, directory=directory, phase=Phase.RUNNING, launched=engine.now(), adopted=True)
        run.planned = record.max_time
        if lost:
            run.ordered, run.ordered_at = ("lost", True), engine.now()
        engine.ledger.adopt(run.id, record.needs, record.units or None)
        engine.roster.add(run)
        engine.log.warning("took on a run that was not known here", task=task_id, lost=lost)

    def _release(self, task_id: str, claim: Held) -> None:
        """The answer to its claim came too late, or not at all."""
        engine = self._engine
        engine.store.queue.release(task_id, claim.token)
        engine.state.remove_run(engine.state.run_directory(f"{task_id}-{claim.fence}"))
        engine.log.warning("released a claim that this instance does not hold", task=task_id)
