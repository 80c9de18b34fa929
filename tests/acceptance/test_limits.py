"""Limits of concurrency and of starts: exact over the whole fleet, without a place for a crash to leave them wrong."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from fact_jobs import write_jobs
from fleet import Fleet, FleetMaker, until
from proc_sampler import ProcSampler, most_slots_at_once

from slotsched.model import Limit

FACTS = {
    "plain": "",
    "three": "concurrency = 3",
    "each": 'concurrency = 1\nconcurrency_key = "customer"',
    "paced": 'rate = "4/2s"',
    "both": 'concurrency = 1\nrate = "20/s"\nretries = 1\nretry_on = ["lost"]\nretry_delay = 0',
}
LIMIT = 3


@pytest.fixture
def limited(make_fleet: FleetMaker, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet of the jobs above, with nothing started yet."""
    with make_fleet(jobs=write_jobs(tmp_path / "jobs", FACTS)) as made:
        yield made


def test_no_more_than_the_limit_run_at_once_in_the_whole_fleet_and_no_fewer(limited: Fleet) -> None:
    for name in ("one", "two"):
        limited.start(name, slots=8)
    with ProcSampler(limited.witness.path) as sampler:
        ids = limited.enqueue_many([{"job": "three", "args": {"seconds": 0.2}}] * 30)
        limited.ended(*ids)
    assert most_slots_at_once(sampler.sightings.values()) == LIMIT
    assert limited.witness.most_slots_at_once() == LIMIT
    marks = limited.witness.marks()
    seconds = max(mark.at for mark in marks) - min(mark.at for mark in marks)
    print(f"30 tasks of 0.2 s, 3 at once, took {seconds:.1f} s; {sampler.samples} samples")
    assert seconds < 6.0, "a permit that comes free is used at once, wherever it was held"


def test_a_limit_that_is_reached_holds_up_nobody_else(limited: Fleet) -> None:
    limited.start("one", slots=8)
    first = limited.enqueue_many([{"job": "three", "args": {"seconds": 60}}] * 150)
    until(lambda: len(limited.witness.marks("start")) == LIMIT, what="three to run")
    others = limited.enqueue_many([{"job": "plain"}] * 20)
    limited.ended(*others)
    assert len({mark.task for mark in limited.witness.marks("start")} & set(first)) == LIMIT
    assert limited.client.store.tasks.counts()["pending"] == len(first) - LIMIT


def test_the_limit_holds_per_value_of_an_argument(limited: Fleet) -> None:
    """A thousand tasks of one customer in front do not keep another customer's waiting."""
    limited.start("one", slots=8)
    acme = limited.enqueue_many([{"job": "each", "args": {"seconds": 0.5, "customer": "acme"}}] * 200)
    limited.witness.wait_for("start", acme[0])
    others = limited.enqueue_many(
        [{"job": "each", "args": {"seconds": 0.5, "customer": name}} for name in ("bolt", "crown", "bolt", "crown")]
    )
    limited.ended(*others)
    ends = {mark.task: mark.at for mark in limited.witness.marks("end")}
    starts = {mark.task: mark.at for mark in limited.witness.marks("start")}
    assert starts[others[2]] >= ends[others[0]]
    assert starts[others[3]] >= ends[others[1]]
    assert starts[others[1]] < ends[others[0]], "two customers side by side"
    done = [task_id for task_id in acme if task_id in starts]
    assert len(done) < 40, "the other customers did not wait for all of these"
    assert all(starts[later] >= ends[earlier] for earlier, later in itertools.pairwise(done))
    said = "concurrency limit 1 for customer=acme reached (held by "
    until(lambda: limited.client.why(acme[-1]).startswith(said), what="the reason")  # not between two of them


def test_a_job_starts_no_more_often_than_its_rate(limited: Fleet) -> None:
    for name in ("one", "two"):
        limited.start(name, slots=8)
    ids = limited.enqueue_many([{"job": "paced"}] * 14)
    said = until(lambda: next((w for w in map(limited.client.why, ids[-3:]) if "rate" in w), None), what="the reason")
    assert said.startswith("start rate 4/2s reached; the next start is at ")
    tasks = limited.ended(*ids)
    starts = sorted(task.started_at for task in tasks if task.started_at)
    gaps = [(later - first).total_seconds() for first, later in zip(starts, starts[4:], strict=False)]
    seen = sorted(mark.at for mark in limited.witness.marks("start"))
    print(f"14 starts at 4/2s took {seen[-1] - seen[0]:.1f} s; five of them {min(gaps):.2f} s at least")
    assert min(gaps) >= 2.0
    assert seen[-1] - seen[0] < 9.0, "the rate is used"


def test_why_names_the_limit_its_holders_and_the_place_in_the_lane(limited: Fleet) -> None:
    limited.start("one", slots=8)
    ids = limited.enqueue_many([{"job": "three", "args": {"seconds": 60}}] * 5)
    until(lambda: len(limited.witness.marks("start")) == LIMIT, what="three to run")
    held = {task_id[-8:] for task_id in ids[:3]}
    said = limited.cli("why", ids[4]).stdout.strip()
    assert said.startswith("concurrency limit 3 reached (held by ")
    assert set(said.partition("held by ")[2].partition(")")[0].split(", ")) == held
    assert said.endswith("; number 2 in its lane")
    assert "concurrency limit 3 reached" in limited.cli("ps").stdout
    limited.cli("kill", *ids)


def test_the_wait_is_estimated_from_what_ran_before(limited: Fleet) -> None:
    limited.start("one", slots=1)
    limited.ended(*limited.enqueue_many([{"job": "plain", "args": {"seconds": 1}}] * 2))
    ids = limited.enqueue_many([{"job": "plain", "args": {"seconds": 60}}] * 6)
    limited.witness.wait_for("start", ids[0])
    said = until(lambda: next((w for w in [limited.client.why(ids[5])] if "no instance" in w), None), what="the reason")
    assert said.startswith("no instance has 1 free slot (most free: 0 on one); number 5 in its lane, about ")
    limited.cli("kill", *ids)


def test_what_a_killed_machine_held_is_free_again_and_what_it_runs_counts_until_then(limited: Fleet) -> None:
    doomed = limited.start("doomed", slots=8)
    first = limited.enqueue("both", "seconds=60")
    limited.witness.wait_for("start", first)
    limited.start("other", slots=8)
    second = limited.enqueue("both", "--priority", "5")
    doomed.kill_all()
    assert limited.client.why(second).startswith("concurrency limit 1 reached"), "nobody knows yet that it is dead"
    (task,) = limited.ended(second)
    assert task.instance is not None
    assert task.instance.name == "other"
    limited.cli("kill", first)
    until(lambda: limited.client.get(first).ended_at, what="the rescued task to end")
    assert limited.client.store.permits.held([Limit(scope="job:both", most=1)]) == frozenset()
    (again,) = limited.ended(limited.enqueue("both"))
    assert again.status == "completed"


def test_facts_that_make_no_sense_are_refused_with_their_line(limited: Fleet, tmp_path: Path) -> None:
    said = {
        'rate = "many"': 'rate: "many" is not starts per time, such as 10/m, 100/h or 1/90s',
        'concurrency_key = "customer"': "concurrency_key: only together with concurrency",
        'concurrency = 2\nconcurrency_key = "custommer"': 'concurrency_key: there is no argument "custommer", did you '
        'mean "customer"?',
        "concurrency = 0": "concurrency: 0 is not a whole number from 1 to 10000",
        "memory_retry_factor = 2": "memory_retry_factor: only together with memory",
    }
    for number, (lines, complaint) in enumerate(said.items()):
        write_jobs(tmp_path / "jobs", {f"bad{number}": lines})
        done = limited.cli("job", "check", f"bad{number}", check=False)
        assert done.returncode == 1
        assert complaint in done.stdout + done.stderr
