"""Needs beyond slots: memory, units of resources, tags, a machine of one's own; and capacity that changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from fact_jobs import write_jobs
from fleet import Fleet, FleetMaker, Mark, until
from proc_sampler import ProcSampler

FACTS = {
    "plain": "",
    "gpu": "resources = { gpu = 1 }",
    "two_gpus": "resources = { gpu = 2 }",
    "alone": "exclusive = true",
    "tagged": 'requires = ["ssd"]',
}
EATERS = {
    "eater": 'memory = "64M"',
    "grower": 'memory = "64M"\nmemory_retry_factor = 2\nretries = 3\nretry_delay = 0',
}


@pytest.fixture
def mixed(make_fleet: FleetMaker, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet of the jobs above, with nothing started yet."""
    with make_fleet(jobs=write_jobs(tmp_path / "jobs", FACTS, EATERS)) as made:
        yield made


def spans(fleet: Fleet, *ids: str) -> list[tuple[Mark, float]]:
    """When each execution began and ended, by the tasks' own clocks."""
    ends = {(mark.task, mark.fence): mark.at for mark in fleet.witness.marks("end")}
    starts = [mark for mark in fleet.witness.marks("start") if not ids or mark.task in ids]
    return [(mark, ends.get((mark.task, mark.fence), float("inf"))) for mark in starts]


def overlap(one: tuple[Mark, float], other: tuple[Mark, float]) -> bool:
    return one[0].at < other[1] and other[0].at < one[1]


def units_used_twice(runs: list[tuple[Mark, float]]) -> list[str]:
    """Units that two runs on one instance had at the same time."""
    shared = []
    for one, other in itertools.combinations(runs, 2):
        if one[0].instance == other[0].instance and overlap(one, other):
            shared += sorted(set(one[0].note.split(",")) & set(other[0].note.split(",")))
    return shared


# --- resources ----------------------------------------------------------------------------------------
def test_each_attempt_learns_its_units_and_no_unit_is_held_twice(mixed: Fleet) -> None:
    mixed.start("big", slots=8, resources="gpu=3")
    jobs = ["gpu", "two_gpus", "gpu", "plain", "gpu", "two_gpus", "gpu", "gpu"] * 2
    ids = mixed.enqueue_many([{"job": job, "args": {"seconds": 0.3}} for job in jobs])
    assert {task.status for task in mixed.ended(*ids)} == {"completed"}
    runs = [run for run in spans(mixed) if run[0].note]
    assert len(runs) == 14
    asked = {task_id: {"gpu": 1, "two_gpus": 2}[job] for task_id, job in zip(ids, jobs, strict=True) if job != "plain"}
    assert {run[0].task: len(run[0].note.split(",")) for run in runs} == asked
    assert {unit for run in runs for unit in run[0].note.split(",")} == {"0", "1", "2"}
    assert units_used_twice(runs) == []
    assert any(overlap(one, other) for one, other in itertools.combinations(runs, 2)), "they did run side by side"


def test_units_stay_with_their_runs_through_a_crash_of_the_scheduler(mixed: Fleet) -> None:
    big = mixed.start("big", slots=8, resources="gpu=2")
    first = mixed.enqueue("gpu", "seconds=60")
    held = mixed.witness.wait_for("start", first).note
    big.tree()
    big.process.kill()
    big.process.wait(10)
    mixed.start("big", slots=8, resources="gpu=2")
    others = mixed.enqueue_many([{"job": "gpu", "args": {"seconds": 0.2}}] * 3)
    mixed.ended(*others)
    assert mixed.client.get(first).status == "running"
    mixed.cli("kill", first)
    runs = spans(mixed, first, *others)
    assert (held, [run[0].note for run in runs[1:]]) == ("0", ["1"] * 3)
    assert units_used_twice(runs) == []


def test_a_task_waits_for_a_unit_and_says_so(mixed: Fleet) -> None:
    mixed.start("big", slots=8, resources="gpu=1")
    first, second = mixed.enqueue_many([{"job": "gpu", "args": {"seconds": 60}}] * 2)
    mixed.witness.wait_for("start", first)
    until(
        lambda: mixed.client.why(second) == "waits for 1 gpu (most free: 0 on big)",
        what=f"the reason, not {mixed.client.why(second)}",
    )
    assert "waits for 1 gpu" in mixed.cli("ps").stdout
    mixed.cli("kill", first)
    mixed.witness.wait_for("start", second)
    mixed.cli("kill", second)


# --- tags ---------------------------------------------------------------------------------------------
def test_a_task_runs_only_where_its_tag_is(mixed: Fleet) -> None:
    mixed.start("other", slots=8, tags="hdd")
    mixed.start("fast", slots=2, tags="ssd,hdd")
    ids = mixed.enqueue_many([{"job": "tagged"}] * 8)
    mixed.ended(*ids)
    assert {mark.instance for mark in mixed.witness.marks("start")} == {"fast"}


# --- alone --------------------------------------------------------------------------------------------
def test_an_exclusive_task_is_alone_on_its_machine_and_gets_its_turn_in_a_stream_of_others(mixed: Fleet) -> None:
    mixed.start("big", slots=4)
    stream = [{"job": "plain", "args": {"seconds": 0.4}}] * 12
    before = mixed.enqueue_many(stream)
    mixed.witness.wait_for("start", before[0])
    [alone] = mixed.enqueue_many([{"job": "alone", "args": {"seconds": 0.5}}])  # a CLI may come too late
    until(lambda: mixed.client.get(alone).status != "pending" or "alone" in mixed.client.why(alone), what="the reason")
    after = mixed.enqueue_many(stream)
    mixed.ended(alone, *before, *after)
    [mine] = spans(mixed, alone)
    assert mine[0].slots == 4, "it holds all there are"
    assert [run for run in spans(mixed) if run[0].task != alone and overlap(run, mine)] == []
    assert min(mark.at for mark in mixed.witness.marks("start")) < mine[0].at
    assert max(mark.at for mark in mixed.witness.marks("start")) > mine[0].at


def test_capacity_that_is_raised_lets_nobody_beside_an_exclusive_task(mixed: Fleet) -> None:
    mixed.start("big", slots=2)
    alone = mixed.enqueue("alone", "seconds=2.5")
    mixed.witness.wait_for("start", alone)
    mixed.cli("instance", "slots", "big", "6")
    other = mixed.enqueue("plain")
    until(lambda: mixed.instance("big")["capacity"]["slots"] == 6, what="six slots")
    mixed.ended(alone, other)
    [mine], [its] = spans(mixed, alone), spans(mixed, other)
    assert its[0].at >= mine[1]


# --- memory -------------------------------------------------------------------------------------------
def test_tasks_whose_memory_does_not_fit_together_run_one_after_the_other_and_say_why(mixed: Fleet) -> None:
    mixed.start("big", slots=8, memory="1G")
    ids = mixed.enqueue_many([{"job": "plain", "args": {"seconds": 4}, "memory": "600M"}] * 2)
    small = mixed.enqueue("plain", "--memory", "300M")
    until(
        lambda: any("waits for 600.0 MiB of memory (most free: " in mixed.client.why(task_id) for task_id in ids),
        what="the reason",
    )
    mixed.ended(*ids, small)
    one, other = spans(mixed, *ids)
    assert not overlap(one, other)
    assert spans(mixed, small)[0][1] < max(one[1], other[1]), "what fits beside does not wait"


def test_a_task_that_takes_more_than_it_asked_for_ends_with_the_reason_memory(mixed: Fleet) -> None:
    mixed.start("big", slots=2, memory="1G")
    over, within = mixed.enqueue("eater", "mib=200"), mixed.enqueue("eater", "mib=20")
    failed, completed = mixed.ended(over, within)
    assert (failed.status, failed.reason) == ("failed", "memory")
    assert completed.status == "completed"


def test_a_retry_after_memory_asks_for_more_until_it_is_enough(mixed: Fleet) -> None:
    mixed.start("big", slots=2, memory="1G")
    [task] = mixed.ended(mixed.enqueue("grower", "mib=150"))
    assert task.status == "completed"
    assert [attempt.reason for attempt in task.attempts] == ["memory", "memory", "exit"]
    assert task.needs.memory == 256 << 20


def test_it_asks_for_no_more_than_the_largest_instance_has(mixed: Fleet) -> None:
    mixed.start("small", slots=2, memory="90M")
    [task] = mixed.ended(mixed.enqueue("grower", "mib=200"))
    assert (task.status, task.reason) == ("failed", "memory")
    assert task.needs.memory == 90 << 20
    assert len(task.attempts) == 4


# --- never --------------------------------------------------------------------------------------------
def test_an_enqueue_that_can_never_run_is_taken_with_a_warning(mixed: Fleet) -> None:
    mixed.start("big", slots=4, memory="1G", resources="gpu=1", tags="hdd")
    said = {
        ("two_gpus",): "no instance that is up has 2 gpu (largest: big, 1)",
        ("tagged",): "no instance that is up has the tag ssd",
        ("plain", "--memory", "4G"): "no instance that is up has 4.0 GiB of memory (largest: big, 1.0 GiB)",
        ("plain", "--slots", "5"): "no instance that is up has 5 slots (largest: big, 4)",
    }
    for words, reason in said.items():
        done = mixed.cli("enqueue", *words)
        assert done.stderr.strip() == f"queued, but {reason}; it will wait"
        assert mixed.cli("why", done.stdout.strip()).stdout.strip() == reason
    assert mixed.cli("enqueue", "gpu").stderr == ""


# --- capacity that changes ----------------------------------------------------------------------------
def test_slots_can_be_set_while_tasks_run(mixed: Fleet) -> None:
    mixed.start("big", slots=2)
    with ProcSampler(mixed.witness.path) as sampler:
        ids = mixed.enqueue_many([{"job": "plain", "args": {"seconds": 60}}] * 6)
        until(lambda: len(mixed.witness.marks("start")) == 2, what="two to run")
        mixed.cli("instance", "slots", "big", "4")
        until(lambda: len(mixed.witness.marks("start")) == 4, what="two more to run")
        mixed.cli("instance", "slots", "big", "1")
        until(lambda: mixed.instance("big")["capacity"]["slots"] == 1, what="one slot")
        running = [mark.task for mark in mixed.witness.marks("start")]
        assert len(running) == 4, "those that ran keep theirs"
        mixed.cli("kill", *running[:3])
        mixed.ended(*running[:3])
        assert len(mixed.witness.marks("start")) == 4, "the one slot is taken"
        mixed.cli("kill", running[3])
        until(lambda: len(mixed.witness.marks("start")) == 5, what="the next one")
        mixed.cli("kill", *[task_id for task_id in ids if task_id not in running])
    assert sampler.most_slots_at_once("big") == 4
