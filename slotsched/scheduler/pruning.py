"""Retention on a thread of its own: finished tasks and the logs they leave behind go, once an hour.

What is old is looked for in the log store, too, whose listing may take minutes or not answer at all: the loop must not
wait for that, or the lease would end over it.
"""

from __future__ import annotations

import random
import threading

from slotsched.errors import SlotschedError
from slotsched.retention import Removed, prune
from slotsched.scheduler.engine import Engine

PRUNE_SECONDS = 3600.0
MORE_SECONDS = 60.0  # after a pass that left something: more may end in an hour than one pass removes


class Pruner(threading.Thread):
    """Does every hour what `slotsched db prune` does by hand. first: seconds until the first time; chance unless given,
    so that instances started together do not prune together.
    """

    def __init__(self, engine: Engine, first: float | None = None) -> None:
        super().__init__(name="prune", daemon=True)
        self._engine = engine
        self._pause = PRUNE_SECONDS * random.random() if first is None else first
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.wait(self._pause):
            self._pause = PRUNE_SECONDS
            try:
                if self.run_once().more:
                    self._pause = MORE_SECONDS
            except SlotschedError as error:
                self._engine.log.warning("not pruned", why=str(error))
            except Exception:  # one odd object must not end the thread
                self._engine.log.exception("not pruned, unexpectedly")

    def run_once(self) -> Removed:
        """One pass. Raises StoreError, ArchiveError."""
        engine = self._engine
        removed = prune(engine.store, engine.archive, engine.settings.keep)
        if removed.tasks or removed.logs:
            engine.log.info("pruned", tasks=removed.tasks, logs=removed.logs)
        return removed
