"""The writes of a round and of those that follow it, gathered without a store."""

from __future__ import annotations

import datetime as dt
import itertools
import sys
from typing import Any

from slotsched.model import Overlap, Schedule
from slotsched.overlap import plan_rounds
from slotsched.store.rounds import Around, Batch

NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
ROUND = "0123456789abcdef01234567"


def follower(name: str, *after: str, **more: Any) -> Schedule:
    return Schedule(name=name, job=name, after=after, **more)


def batch_of(*followers: Schedule) -> Batch:
    """What one round of `first` brings."""
    by_name: dict[str, list[Schedule]] = {}
    for one in followers:
        for name in one.after:
            by_name.setdefault(name, []).append(one)
    batch = Batch(Around(jobs={}, statuses={}, followers=by_name), NOW)
    plan = plan_rounds(Overlap.SKIP, [None], [ROUND], [])
    batch.add_by_hand(Schedule(name="first", job="first", every=60.0), plan, trigger="run-now:first", owner="ann")
    return batch


def test_a_follower_that_no_round_can_be_made_for_is_left_out_with_those_that_follow_it() -> None:
    bad = follower("bad", "first", priority=1e7, rev=3)
    batch = batch_of(bad, follower("below", "bad"), follower("good", "first"))
    assert [task["schedule"] for task in batch.tasks] == ["first", "good"]
    assert batch.faulty == {"bad": (3, "priority: 10000000.0 is not a number from -1000000 to 1000000")}
    assert len(batch.updates()) == 2


def test_a_line_of_followers_may_be_longer_than_calls_can_be_nested() -> None:
    length = sys.getrecursionlimit() + 100
    names = ["first", *(f"s{n}" for n in range(length))]
    batch = batch_of(*(follower(name, before) for before, name in itertools.pairwise(names)))
    assert [task["schedule"] for task in batch.tasks] == names


def test_rounds_of_one_that_follows_several_come_in_the_order_of_their_names() -> None:
    batch = batch_of(follower("b", "first"), follower("c", "first"), follower("d", "b", "c"))
    rounds = {task["schedule"]: str(task["_id"]) for task in batch.tasks}
    triggers = [task["trigger"] for task in batch.tasks if task["schedule"] == "d"]
    assert triggers == [f"after:{rounds['b']}", f"after:{rounds['c']}"]
