"""Job files: rescanned by mtime while running, and this instance's catalog published when it changed."""

from __future__ import annotations

from slotsched.scheduler.engine import Engine


class Publisher:
    """One pass rescans the folder and reads which jobs are disabled; a change wakes the claim pass."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._published: object = None

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
        engine.disabled_jobs = frozenset(engine.store.catalogs.disabled())
        return before != (engine.scan, engine.disabled_jobs)

    def _tell_broken(self, before: object) -> None:
        broken = self._engine.scan.broken
        if broken != before:
            for found in broken.values():
                self._engine.log.warning("a job file is broken; its tasks wait", job=found.name, why=found.message)
