"""The sweep: make what runs here and what the store says runs here the same.

Done at every renewal, after reconnects, and when somebody touched a running task (PROTOCOL "sweep" and "cancel").
"""

from __future__ import annotations

from collections.abc import Mapping

from slotsched.model import Cancel
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.run import Phase, Run
from slotsched.store import Held


class Sweeper:
    """One pass reads this instance's claims and acts on every difference."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run_once(self) -> int:
        """Returns how many differences were found."""
        held = self._engine.store.queue.held(self._engine.identity.id)
        found = sum(self._compare(run, held.get(run.record.task_id)) for run in self._engine.roster)
        return found + self._release_unknown(held)

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

    def _release_unknown(self, held: Mapping[str, Held]) -> int:
        """Claims the store shows as ours that we neither run nor wait to learn about: an answer that came too late."""
        engine = self._engine
        known = {(run.record.task_id, run.record.token) for run in engine.roster}
        released = 0
        for task_id, claim in held.items():
            if (task_id, claim.token) in known or claim.token in engine.unsettled:
                continue
            engine.store.queue.release(task_id, claim.token)
            engine.log.warning("released a claim that this instance does not hold", task=task_id)
            released += 1
        return released
