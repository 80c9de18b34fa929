"""Schedules whose time has come: fired by any instance, by the store's clock, in batches.

Of instances that look at the same moment one fires and the others find nothing to do, so nobody has to be in charge.
"""

from __future__ import annotations

from slotsched.scheduler.engine import Engine
from slotsched.store.firing import MOST_DUE

PASS_SECONDS = 1.0  # after this a pass leaves the rest to the next, so that nothing else in the loop waits long
LEAST_PAUSE_SECONDS = 0.02  # what is still overdue after a pass is in somebody else's hands: about one transaction
PASS_SHARE = 1 / 30  # of the lease, where that is shorter


class Firer:
    """`run_once` fires what is due; `wait` tells when to come again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.more = False  # the last pass left something to do

    def run_once(self) -> int:
        """Returns how many tasks were made."""
        engine = self._engine
        self.more = False
        if engine.draining or engine.fenced:  # what is due waits for the others, or for this machine's return
            return 0
        if freed := engine.store.firing.free_locks():
            engine.log.warning("freed what a killed process had left locked", transactions=freed)
        begun = engine.now()
        allowed = min(PASS_SECONDS, PASS_SHARE * engine.settings.lease)
        made = 0
        while True:
            due = engine.store.firing.due()
            if not due:
                break
            fired = engine.store.firing.fire(due)
            made += fired
            engine.tick()
            self.more = engine.now() - begun > allowed
            if self.more or (len(due) < MOST_DUE and not fired):  # what is left is in somebody else's hands
                break
        if made:
            engine.log.info("fired", tasks=made)
        return made

    def wait(self) -> float | None:
        """Seconds until the next schedule is due by the store's clock; None: the next poll is soon enough."""
        if self.more:
            return 0.0
        due_in = self._engine.store.firing.next_due() if not self._engine.draining else None
        return None if due_in is None else max(due_in, LEAST_PAUSE_SECONDS)
