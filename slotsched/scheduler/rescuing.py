"""Rescue: find instances that are dead, fence them first, and only then touch their tasks.

An instance is dead when the *same nonce* was seen for its lease + grace on this observer's own CLOCK_BOOTTIME,
counting only stretches in which the observer's own reads succeeded: a store that was away makes nobody dead.
"""

from __future__ import annotations

from dataclasses import dataclass

from slotsched.errors import Refused
from slotsched.model import Instance
from slotsched.scheduler.engine import Engine


@dataclass
class _Watched:
    nonce: str
    seconds: float  # for how long it was seen unchanged


class Rescuer:
    """One pass looks at every live instance once; `every` is the seconds between passes."""

    def __init__(self, engine: Engine, every: float) -> None:
        self._engine = engine
        self._every = every
        self._watched: dict[str, _Watched] = {}
        self._last_pass: float | None = None

    def run_once(self) -> int:
        """Returns how many tasks were taken from dead owners."""
        instances = {instance.id: instance for instance in self._engine.store.instances.all()}
        self._observe([instance for instance in instances.values() if instance.live])
        taken = 0
        for instance in instances.values():
            if instance.live and instance.id != self._engine.identity.id and self._expired(instance):
                self._fence(instance)
        for owner in self._engine.store.rescue.owners():
            known = instances.get(owner)
            if known is None or not known.live or owner not in self._watched:
                taken += self._take(owner)
        return taken

    def _observe(self, live: list[Instance]) -> None:
        """Add the time since the last pass to every nonce that did not change, unless we ourselves were away."""
        now = self._engine.now()
        gap = now - self._last_pass if self._last_pass is not None else 0.0
        self._last_pass = now
        added = gap if gap <= 2 * self._every else 0.0
        watched: dict[str, _Watched] = {}
        for instance in live:
            before = self._watched.get(instance.id)
            unchanged = before is not None and before.nonce == instance.nonce
            watched[instance.id] = _Watched(instance.nonce, before.seconds + added if before and unchanged else 0.0)
        self._watched = watched
        self._engine.live = frozenset(watched)

    def _expired(self, instance: Instance) -> bool:
        return self._watched[instance.id].seconds >= instance.lease + instance.grace

    def _fence(self, instance: Instance) -> None:
        """Declare it dead by a compare-and-set on the nonce that was watched; dead is final."""
        if self._engine.store.rescue.fence(instance.id, instance.nonce):
            del self._watched[instance.id]
            self._engine.log.warning("declared an instance dead", instance=instance.name, id=instance.id)

    def _take(self, owner: str) -> int:
        """The store refuses unless the owner is dead or absent by a majority read."""
        try:
            taken = self._engine.store.rescue.take(owner)
        except Refused:  # it registered after we had read who there is
            return 0
        if taken:
            self._engine.log.warning("took the tasks of a dead instance", instance=owner, tasks=taken)
        return taken
