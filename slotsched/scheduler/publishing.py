"""Job files: rescanned by mtime while running, and this instance's catalog published when it changed."""

from __future__ import annotations

from slotsched.scheduler.engine import Engine

FOLLOW_SECONDS = 60.0


class Publisher:
    """One pass rescans the folder and reads which jobs are disabled; a change wakes the claim pass."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._published: object = None
        self._follow_at = 0.0

    def run_once(self) -> bool:
        """Whether what this instance may claim has changed."""
        engine = self._engine
        before = (engine.scan, engine.disabled_jobs)
        engine.scan = engine.folder.scan()
        self._tell_broken(before[0].broken)
        if self._published != (engine.identity.id, engine.scan):
            engine.store.catalogs.publish(
                engine.identity.id, list(engine.scan.jobs.values()), list(engine.scan.broken.values())
            )
            self._published = (engine.identity.id, engine.scan)
            self._follow_at = 0.0
        self._follow()
        engine.disabled_jobs = frozenset(engine.store.catalogs.disabled())
        return before != (engine.scan, engine.disabled_jobs)

    def _follow(self) -> None:
        """The schedules that job files declare: at once after a change here, now and then for changes elsewhere."""
        engine = self._engine
        if engine.now() < self._follow_at:
            return
        for change in engine.store.declared.follow():
            tell = engine.log.warning if change.what == "broken" else engine.log.info
            tell("a job file's schedule", schedule=change.name, what=change.what, why=change.why)
        self._follow_at = engine.now() + FOLLOW_SECONDS

    def _tell_broken(self, before: object) -> None:
        broken = self._engine.scan.broken
        if broken != before:
            for found in broken.values():
                self._engine.log.warning("a job file is broken; its tasks wait", job=found.name, why=found.message)
