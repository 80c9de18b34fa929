"""The slot ledger: what this instance has, and who holds how much of it.

A task's needs are taken before the claim is sent and given back when its last process is dead (G3), so that the sum
of what is held never exceeds the capacity, except while capacity was lowered under running tasks.

Of named resources each holder has concrete units, numbered from 0: no unit has two holders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from slotsched.model import Capacity, Needs

Units = Mapping[str, tuple[int, ...]]  # by resource


class Ledger:
    """Held needs by holder (a run's or a claim's id)."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._held: dict[str, Needs] = {}
        self._units: dict[str, Units] = {}
        self._free: Capacity | None = None  # known until something changes

    @property
    def capacity(self) -> Capacity:
        return self._capacity

    @property
    def free(self) -> Capacity:
        """What may still be taken; slots are negative after a shrink."""
        if self._free is None:
            free = self._capacity
            for needs in self._held.values():
                free = free.less(needs.on(self._capacity))
            self._free = free
        return self._free

    @property
    def used_slots(self) -> int:
        return self._capacity.slots - self.free.slots

    def take(self, holder: str, needs: Needs) -> None:
        """Hold needs for `holder`. Raises ValueError when they do not fit or the holder holds already."""
        if holder in self._held:
            raise ValueError(f"{holder} holds slots already")
        lacking = self.free.lacks(needs.on(self._capacity))
        if lacking is not None:
            raise ValueError(f"not enough {lacking} for {holder}")
        self._hold(holder, needs, self._choose_units(needs))

    def adopt(self, holder: str, needs: Needs, units: Units | None = None) -> None:
        """Hold needs of what already runs: after a restart with less capacity it may exceed what is there.

        units: those it was told to use; None: it is to be told what `units` says.
        """
        self._hold(holder, needs, self._choose_units(needs) if units is None else units)

    def units(self, holder: str) -> Units:
        """The units of each resource that `holder` has."""
        return self._units.get(holder, {})

    def give_back(self, holder: str) -> None:
        """Free what `holder` holds; a second time is harmless."""
        self._held.pop(holder, None)
        self._units.pop(holder, None)
        self._free = None

    def resize(self, slots: int) -> None:
        """Offer this many slots from now on; running tasks keep theirs."""
        self._capacity = replace(self._capacity, slots=slots)
        self._free = None

    def _hold(self, holder: str, needs: Needs, units: Units) -> None:
        again = holder in self._held
        self._held[holder], self._units[holder] = needs, units
        self._free = None if again or self._free is None else self._free.less(needs.on(self._capacity))

    def _choose_units(self, needs: Needs) -> Units:
        """The lowest that nobody has; fewer than asked only where more is held than there is."""
        return {name: tuple(self._unheld(name)[:count]) for name, count in needs.resources.items()}

    def _unheld(self, name: str) -> list[int]:
        held = {unit for units in self._units.values() for unit in units.get(name, ())}
        return [unit for unit in range(self._capacity.resources.get(name, 0)) if unit not in held]
