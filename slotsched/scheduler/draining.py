"""The end of an instance: SIGTERM lets tasks finish up to a limit, a second one ends them at once, cleanly."""

from __future__ import annotations

from collections.abc import Callable

from slotsched.scheduler.engine import Engine

RECORD_PATIENCE_SECONDS = 10.0  # for the store to take the last ends, once nothing runs any more
UPLOAD_PATIENCE_SECONDS = 30.0  # for the log store to take the last logs; what is not up by then stays in the spool


class Drain:
    """Nothing happens until `begin()`; then no new claims, and `over()` becomes true.

    uploads: how many logs are not in the log store yet.
    """

    def __init__(self, engine: Engine, uploads: Callable[[], int]) -> None:
        self._engine = engine
        self._uploads = uploads
        self._limit: float | None = None  # CLOCK_BOOTTIME: when what still runs is ended
        self._give_up: float | None = None  # when unrecorded ends are left to the next start
        self._leave_spool: float | None = None  # when logs that are not uploaded are left to it
        self.forced = False

    def begin(self) -> None:
        engine = self._engine
        engine.draining = True
        self._limit = engine.now() + engine.settings.drain_timeout
        engine.log.info("draining", running=len(engine.roster.alive()), limit=engine.settings.drain_timeout)

    def force(self) -> None:
        engine = self._engine
        self.forced = True
        engine.log.warning("ending at once", running=len(engine.roster.alive()))
        self._end_runs(kill=True)

    def advance(self) -> None:
        """At the limit, end what still runs, with its own grace; it is recorded as `shutdown`."""
        now = self._engine.now()
        if self._limit is not None and now >= self._limit:
            self._limit = None
            self._end_runs(kill=False)
        if self._engine.draining and self._give_up is None and not self._engine.roster.alive():
            self._give_up = now + RECORD_PATIENCE_SECONDS

    def over(self) -> bool:
        """Nothing runs, every end is recorded and every log is uploaded (or the stores were given their time)."""
        if not self._engine.draining or self._engine.roster.alive():
            return False
        recorded = self.clean() or (self._give_up is not None and self._engine.now() >= self._give_up)
        return recorded and (self.forced or self._uploaded())

    def _uploaded(self) -> bool:
        pending, now = self._uploads(), self._engine.now()
        if not pending:
            return True
        if self._leave_spool is None:
            self._leave_spool = now + UPLOAD_PATIENCE_SECONDS
            self._engine.log.info("waiting for uploads", pending=pending)
        return now >= self._leave_spool

    def clean(self) -> bool:
        """Whether this instance owns nothing in the store any more."""
        return not len(self._engine.roster) and not self._engine.unsettled

    def _end_runs(self, *, kill: bool) -> None:
        for run in self._engine.roster.alive():
            self._engine.order_end(run, "shutdown", kill=kill)
