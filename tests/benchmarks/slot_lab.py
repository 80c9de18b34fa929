"""The product's `choose` behind the interface of a simulator that counts slots only and passes plain tuples."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))  # a simulator's own interpreter need not have us installed

from slotsched.choose import Candidate, Running
from slotsched.choose import choose as product_choose
from slotsched.model import Capacity, Needs


class _Shared(dict[int, Needs]):
    """One Needs per width within a pass, as the tasks of a lane share theirs."""

    def __missing__(self, slots: int) -> Needs:
        return self.setdefault(slots, Needs(slots=slots))


def choose(
    now: float,
    free_slots: int,
    capacity: int,
    running: Sequence[tuple[int, float, float]],
    candidates: Sequence[Any],
    me: str = "",
) -> tuple[list[Any], tuple[Any, float] | None]:
    """(claims, reserve) for running tasks (slots, expected_end, kill_at) and candidates with the attributes id, slots,
    max_time (planned), kill (limit or None), due, holder, hold_start."""
    needs = _Shared()
    ids = {str(candidate.id): candidate.id for candidate in candidates}
    choice = product_choose(
        now,
        Capacity(slots=free_slots),
        Capacity(slots=capacity),
        [Running(needs[slots], expected_end, kill_at) for slots, expected_end, kill_at in running],
        [
            Candidate(
                id=str(candidate.id),
                needs=needs[candidate.slots],
                planned=candidate.max_time,
                limit=candidate.max_time if candidate.kill is None else candidate.kill,
                due=candidate.due,
                holder=candidate.holder,
                hold_start=candidate.hold_start,
            )
            for candidate in candidates
        ],
        me,
    )
    reserve = None if choice.reserve is None else (ids[choice.reserve.id], choice.reserve.start)
    return [ids[claim] for claim in choice.claims], reserve
