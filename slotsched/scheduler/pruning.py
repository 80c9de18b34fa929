"""Retention as a duty: finished tasks, log tails and old log objects go, a batch per pass."""

from __future__ import annotations

import datetime as dt

from slotsched.errors import ArchiveError
from slotsched.scheduler.engine import Engine


class Pruner:
    """One pass does what `slotsched db prune` does by hand."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run_once(self) -> int:
        """Returns how many tasks were removed. By the store's clock: this machine's may be a year ahead."""
        engine = self._engine
        keep = engine.settings.keep
        removed = engine.store.upkeep.prune(keep)
        try:
            objects = engine.archive.prune((engine.store.now() - dt.timedelta(seconds=keep)).date())
        except ArchiveError as error:
            engine.log.warning("old logs not pruned", why=str(error))
            objects = 0
        if removed or objects:
            engine.log.info("pruned", tasks=removed, logs=objects)
        return removed
