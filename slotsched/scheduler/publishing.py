"""Job files: rescanned by mtime while running, and this instance's catalog published when it changed."""

from __future__ import annotations

from collections.abc import Mapping

from slotsched.catalog import Scan
from slotsched.scheduler.engine import Engine

FOLLOW_SECONDS = 60.0
GONE_SECONDS = 600.0  # an instance that is away for so long has taken its job files with it


class Publisher:
    """One pass rescans the folder and reads which jobs are disabled; a change wakes the claim pass."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._published: tuple[str, Scan] | None = None
        self._follow_at = 0.0
        self._taken_out: frozenset[str] = frozenset()  # jobs that this instance held, until schedules know of it
        self._missed_since: dict[str, float] = {}  # jobs that nobody held at the last look, CLOCK_BOOTTIME

    def run_once(self) -> bool:
        """Whether what this instance may claim has changed."""
        engine = self._engine
        before = (engine.scan, engine.disabled_jobs)
        engine.scan = engine.folder.scan()
        engine.disabled_jobs = frozenset(engine.store.catalogs.disabled())  # first: whatever becomes of publishing
        self._tell_broken(before[0].broken)
        if self._published != (engine.identity.id, engine.scan):
            engine.store.catalogs.publish(
                engine.identity.id, list(engine.scan.jobs.values()), list(engine.scan.broken.values())
            )
            held = frozenset() if self._published is None else frozenset(self._published[1].jobs)
            self._taken_out = (self._taken_out | held) - frozenset(engine.scan.jobs)
            self._published = (engine.identity.id, engine.scan)
            self._follow_at = 0.0
        self._follow()
        return before != (engine.scan, engine.disabled_jobs)

    def _follow(self) -> None:
        """The schedules that job files declare: at once after a change here, now and then for changes elsewhere."""
        engine = self._engine
        if engine.now() < self._follow_at:
            return
        before, self._missed_since = self._missed_since, {}
        for change in engine.store.declared.follow(lambda name: self._is_gone(name, before)):
            tell = engine.log.warning if change.what == "broken" else engine.log.info
            tell("a job file's schedule", schedule=change.name, what=change.what, why=change.why)
        self._taken_out = frozenset()
        self._follow_at = engine.now() + FOLLOW_SECONDS

    def _is_gone(self, name: str, before: Mapping[str, float]) -> bool:
        """A file that was taken out here is gone at once; that of a machine that is down only after a while: its
        schedule has times to catch up on when it is back.
        """
        now = self._engine.now()
        since = self._missed_since[name] = before.get(name, now)
        return name in self._taken_out or now - since >= GONE_SECONDS

    def _tell_broken(self, before: object) -> None:
        broken = self._engine.scan.broken
        if broken != before:
            for found in broken.values():
                self._engine.log.warning("a job file is broken; its tasks wait", job=found.name, why=found.message)
