"""Rescue: find instances that are dead, fence them first, and only then touch their tasks.

An instance is dead when the *same nonce* was seen for its lease + grace on this observer's own CLOCK_BOOTTIME,
counting only stretches in which the observer's own reads succeeded: a store that was away makes nobody dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from slotsched.errors import Refused
from slotsched.model import Instance
from slotsched.scheduler.engine import Engine


@dataclass
class _Watched:
    name: str
    nonce: Any  # text, unless the document is one that no slotsched wrote
    patience: float  # seconds: its lease + grace
    seconds: float = 0.0  # for how long it was seen unchanged


class Rescuer:
    """One pass looks at every live instance once; `every` is the seconds between passes."""

    def __init__(self, engine: Engine, every: float, on_taken: Callable[[str], None] = lambda _owner: None) -> None:
        self._engine = engine
        self._on_taken = on_taken
        self._every = every
        self._watched: dict[str, _Watched] = {}
        self._last_pass: float | None = None

    def run_once(self) -> int:
        """Returns how many tasks were taken from dead owners."""
        instances = {instance.id: instance for instance in self._engine.store.instances.all()}
        self._engine.capacities = tuple(one.capacity for one in instances.values() if one.live)
        owners = self._engine.store.rescue.owners()
        self._observe(self._alive(instances, owners))
        for instance_id, watched in list(self._watched.items()):
            if watched.seconds >= watched.patience and instance_id != self._engine.identity.id:
                self._fence(instance_id, watched)
        return sum(self._take(owner) for owner in owners if owner not in self._watched)

    def _alive(self, instances: Mapping[str, Instance], owners: Iterable[str]) -> dict[str, _Watched]:
        """Everyone whose document says that it lives. An owner whose document cannot be read is watched all the same,
        with this instance's own patience: else its tasks would run for ever.
        """
        alive = {one.id: _Watched(one.name, one.nonce, one.lease + one.grace) for one in instances.values() if one.live}
        unknown = set(owners) - set(instances)
        sights = self._engine.store.rescue.seen(unknown) if unknown else {}
        patience = self._engine.settings.lease + self._engine.settings.grace
        return alive | {
            owner: _Watched("?", sight[1], patience)
            for owner, sight in sights.items()
            if sight is not None and sight[0]
        }

    def _observe(self, alive: dict[str, _Watched]) -> None:
        """Add the time since the last pass to every nonce that did not change, unless we ourselves were away."""
        now = self._engine.now()
        gap = now - self._last_pass if self._last_pass is not None else 0.0
        self._last_pass = now
        added = gap if gap <= 2 * self._every else 0.0
        for instance_id, seen in alive.items():
            before = self._watched.get(instance_id)
            if before is not None and before.nonce == seen.nonce:
                seen.seconds = before.seconds + added
        self._watched = alive
        self._engine.live = frozenset(alive)

    def _fence(self, instance_id: str, watched: _Watched) -> None:
        """Declare it dead by a compare-and-set on the nonce that was watched; dead is final."""
        if self._engine.store.rescue.fence(instance_id, watched.nonce):
            del self._watched[instance_id]
            self._engine.log.warning("declared an instance dead", instance=watched.name, id=instance_id)

    def _take(self, owner: str) -> int:
        """The store refuses unless the owner is dead or absent by a majority read."""
        try:
            taken = self._engine.store.rescue.take(owner)
        except Refused:  # it registered after we had read who there is
            return 0
        if taken:
            self._engine.log.warning("took the tasks of a dead instance", instance=owner, tasks=taken)
            self._on_taken(owner)
        return taken
