"""The slot ledger: what this instance has, and who holds how much of it.

A task's needs are taken before the claim is sent and given back when its last process is dead (G3), so that the sum
of what is held never exceeds the capacity, except while capacity was lowered under running tasks.
"""

from __future__ import annotations

from dataclasses import replace

from slotsched.model import Capacity, Needs


class Ledger:
    """Held needs by holder (a run's or a claim's id)."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._held: dict[str, Needs] = {}

    @property
    def capacity(self) -> Capacity:
        return self._capacity

    @property
    def free(self) -> Capacity:
        """What may still be taken; slots are negative after a shrink."""
        free = self._capacity
        for needs in self._held.values():
            free = free.less(needs)
        return free

    @property
    def used_slots(self) -> int:
        return sum(needs.slots for needs in self._held.values())

    def take(self, holder: str, needs: Needs) -> None:
        """Hold needs for `holder`. Raises ValueError when they do not fit or the holder holds already."""
        if holder in self._held:
            raise ValueError(f"{holder} holds slots already")
        lacking = self.free.lacks(needs)
        if lacking is not None:
            raise ValueError(f"not enough {lacking} for {holder}")
        self._held[holder] = needs

    def adopt(self, holder: str, needs: Needs) -> None:
        """Hold needs of what already runs: after a restart with less capacity it may exceed what is there."""
        self._held[holder] = needs

    def give_back(self, holder: str) -> None:
        """Free what `holder` holds; a second time is harmless."""
        self._held.pop(holder, None)

    def resize(self, slots: int) -> None:
        """Offer this many slots from now on; running tasks keep theirs."""
        self._capacity = replace(self._capacity, slots=slots)
