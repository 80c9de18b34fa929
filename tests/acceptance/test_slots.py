"""Slots: what fits runs, what does not waits and says why, and none are ever lost or given out twice."""

from __future__ import annotations

from collections import Counter

import pytest
from fleet import Fleet, Mark, Witness, until
from proc_sampler import ProcSampler, Sighting, most_slots_at_once

SLOTS = 8  # of the shared instance


def test_a_task_wider_than_every_instance_waits_with_its_reason_until_a_wide_enough_one_joins(fleet: Fleet) -> None:
    fleet.start("small", slots=4)
    wide, narrow = fleet.enqueue_many([{"job": "work", "slots": 8}, {"job": "work", "slots": 4}])
    fleet.ended(narrow)
    assert fleet.client.get(wide).status == "pending"
    why = fleet.cli("why", wide).stdout.strip()
    assert why == "no instance that is up has 8 slots (largest: small, 4)"
    assert why in fleet.cli("ps").stdout
    fleet.start("big", slots=8)
    (task,) = fleet.ended(wide)
    assert task.status == "completed"
    assert [mark.instance for mark in fleet.witness.starts(wide)] == ["big"]
    assert [mark.instance for mark in fleet.witness.starts(narrow)] == ["small"]


def test_of_three_tasks_that_each_take_half_the_slots_two_run_at_once_and_the_third_follows_at_once(
    shared: Fleet,
) -> None:
    with ProcSampler(shared.witness.path) as sampler:
        ids = shared.enqueue_many([{"job": "work", "args": {"seconds": 0.8}, "slots": 4}] * 3)
        shared.ended(*ids)
    starts = sorted((shared.witness.wait_for("start", task_id) for task_id in ids), key=lambda mark: mark.at)
    ends = sorted(shared.witness.wait_for("end", task_id).at for task_id in ids)
    assert starts[1].at < ends[0] <= starts[2].at, "two at once, then the third"
    assert starts[2].at - ends[0] < 1.0
    assert sampler.most_slots_at_once("shared") == SLOTS


@pytest.mark.parametrize("end", ["success", "failure", "cancel", "timeout", "spawn failure"])
def test_slots_are_all_free_again_after(end: str, shared: Fleet) -> None:
    """The next task takes every slot the instance has: it can only run once all have been given back."""
    lines = {
        "success": {"job": "work"},
        "failure": {"job": "work", "args": {"code": 3}},
        "cancel": {"job": "work", "args": {"seconds": 60}},
        "timeout": {"job": "work", "args": {"seconds": 60}, "max_time": "0.5s"},
        "spawn failure": {"job": "no_interpreter"},
    }
    first, full_width = shared.enqueue_many([{**lines[end], "slots": 5}, {"job": "work", "slots": SLOTS}])
    if end == "cancel":
        shared.witness.wait_for("start", first)
        assert shared.client.get(full_width).status == "pending"
        shared.cli("cancel", first)
    ended, followed = shared.ended(first, full_width)
    assert followed.status == "completed"
    reasons = {"cancel": "canceled", "timeout": "timeout", "spawn failure": "not_started"}
    assert ended.reason == reasons.get(end, "exit")
    until(lambda: [one.used for one in shared.client.fleet().instances] == [0], what="the instance to show none in use")
    assert [one.capacity.slots for one in shared.client.fleet().instances] == [SLOTS]


WIDTHS = {"small": 3, "middle": 5, "big": 8}


def test_500_tasks_over_three_instances_run_exactly_once_each_and_never_more_than_the_slots(fleet: Fleet) -> None:
    for name, slots in WIDTHS.items():
        fleet.start(name, slots=slots)
    lines = [{"job": "tick", "args": {"seconds": 0.05 * (n % 3)}, "slots": 1 + n % 3} for n in range(500)]
    with ProcSampler(fleet.witness.path) as sampler:
        ids = fleet.enqueue_many(lines)
        assert len(set(ids)) == 500
        fleet.cli("wait", *ids, seconds=90)
    assert {fleet.client.get(task_id).status for task_id in ids} == {"completed"}
    assert executions(fleet.witness) == dict.fromkeys(ids, (1, 1))
    shares = Counter(mark.instance for mark in fleet.witness.marks("start"))
    assert all(shares[name] >= 20 for name in WIDTHS), f"all three did work: {shares}"
    print(f"{sampler.samples} samples of /proc, {sampler.mean_gap * 1000:.0f} ms apart on average; work by {shares}")
    assert sampler.mean_gap < 0.06
    for name, slots in WIDTHS.items():
        assert fleet.witness.most_slots_at_once(name) <= slots
        assert sampler.most_slots_at_once(name) <= slots
        assert sampler.most_slots_at_once(name) >= slots - 1, "the sampler saw the instance at work"


def executions(witness: Witness) -> dict[str, tuple[int, int]]:
    """How often each task's script began and ended."""
    starts = Counter(mark.task for mark in witness.marks("start"))
    ends = Counter(mark.task for mark in witness.marks("end"))
    return {task: (starts[task], ends[task]) for task in starts | ends}


# --- the checkers themselves can go red ---------------------------------------------------------------


def test_the_sampler_sees_a_tree_of_a_task_and_counts_two_that_overlap() -> None:
    overlapping = [Sighting("i", 4, 0.0, 2.0), Sighting("i", 4, 1.0, 3.0), Sighting("i", 1, 1.5, 1.5)]
    assert most_slots_at_once(overlapping) == 9
    in_turn = [Sighting("i", 4, 0.0, 0.9), Sighting("i", 4, 1.0, 3.0)]
    assert most_slots_at_once(in_turn) == 4


def test_an_instance_that_runs_more_than_it_is_said_to_have_is_caught_by_both_checkers(fleet: Fleet) -> None:
    """The overcommit check of the 500 tasks, against a machine whose true slots are fewer than what it gives out."""
    fleet.start("liar", slots=4)
    with ProcSampler(fleet.witness.path) as sampler:
        fleet.ended(*fleet.enqueue_many([{"job": "tick", "args": {"seconds": 0.5}, "slots": 2}] * 2))
    assert sampler.most_slots_at_once("liar") > 2
    assert fleet.witness.most_slots_at_once("liar") > 2


def test_a_task_that_ran_twice_or_half_is_caught(fleet: Fleet) -> None:
    fields = {"attempt": 1, "pid": 2, "slots": 1, "instance": "i", "note": ""}
    lines = [
        Mark(event="start", task="twice", fence=1, at=1.0, **fields),
        Mark(event="end", task="twice", fence=1, at=2.0, **fields),
        Mark(event="start", task="twice", fence=2, at=3.0, **fields),
        Mark(event="end", task="twice", fence=2, at=4.0, **fields),
        Mark(event="start", task="half", fence=1, at=1.0, **fields),
    ]
    for mark in lines:
        fleet.witness.write(mark)
    assert executions(fleet.witness) == {"twice": (2, 2), "half": (1, 0)}
