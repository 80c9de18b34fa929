"""Keeping instances that claim from one queue at the same time off each other's tasks.

Everybody sees the same front of the queue, so everybody would want the same tasks, and all but one in vain. Tasks of
one kind fill the same room for as long, so which of them this instance takes makes no difference to its plan: while
claims are lost to others it draws from further back, and moves to the front again as they are won. Where nobody is in
the way, what was chosen stands.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

USEFUL = 0.9  # of a claim's tasks: below it, others were after the same
WIDER, NARROWER = 2.0, 0.9  # at these, about one claim in eight is lost when all are busy
WIDEST = 4  # times all live instances: enough even if they all claim in the same moment


class Spread:
    """From how many tasks of a kind this instance draws each one it claims."""

    def __init__(self) -> None:
        self.factor = 1.0

    def learn(self, tried: int, won: int, live: int) -> None:
        """A claim of `tried` tasks got `won`, among `live` instances."""
        change = WIDER if won < USEFUL * tried else NARROWER
        self.factor = min(max(1.0, self.factor * change), float(WIDEST * live))

    def draw(self, wanted: Sequence[str], kinds: Mapping[str, str]) -> list[str]:
        """As many tasks of each kind as `wanted` holds; those without a kind stay.

        kinds: the kind of each task that may be drawn, in the order of the queue.
        """
        if self.factor <= 1.0:
            return list(wanted)
        alike: dict[str, list[str]] = defaultdict(list)
        for task_id, kind in kinds.items():
            alike[kind].append(task_id)
        drawn = [task_id for task_id in wanted if task_id not in kinds]
        for kind, count in Counter(kinds[task_id] for task_id in wanted if task_id in kinds).items():
            drawn += random.sample(alike[kind][: math.ceil(count * self.factor)], count)
        return drawn
