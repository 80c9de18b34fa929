"""Whoever keeps room for a wide task may die: nothing stands still longer than its reservation lasts.

What each run showed is judged by `reservation_lab.judge`, which is shown going red below. With thousands of tasks and
dozens of kills: `python tests/benchmarks/wide_chaos.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from figures import Figures
from fleet import Fleet, FleetMaker, Mark
from reservation_lab import (
    BEYOND_SECONDS,
    GRACE_SECONDS,
    HELD_BACK_SECONDS,
    LEASE_SECONDS,
    MAX_SECONDS,
    Death,
    HolderKills,
    Span,
    Story,
    judge,
    write_wide_and_narrow,
)

KILLS = 3


@pytest.fixture
def mixed(make_fleet: FleetMaker, tmp_path: Path) -> Iterator[Fleet]:
    jobs = write_wide_and_narrow(tmp_path / "jobs")
    with make_fleet(jobs=jobs, lease=f"{LEASE_SECONDS}s", grace=f"{GRACE_SECONDS}s") as made:
        yield made


@pytest.mark.timeout(150)
def test_the_death_of_who_keeps_room_for_a_wide_task_holds_nobody_up_longer_than_its_reservation(
    mixed: Fleet, figure: Figures
) -> None:
    story = HolderKills(mixed, tasks=200, kills=KILLS, most_seconds=90.0).run()
    verdict = judge(story)
    assert len(story.deaths) >= KILLS, f"no more holders could be killed: {verdict}"
    row = "slots"
    figure(row, "wide task not started, after its dead holder's reservation", verdict.beyond, at_most=BEYOND_SECONDS)
    figure(row, "narrow task that fitted held back, ever", verdict.held_back, at_most=HELD_BACK_SECONDS)
    figure(row, "tasks begun twice", verdict.twice, "", exactly=0)
    figure(row, "tasks not ended after holders were killed", story.open, "", exactly=0)


# --- the judge ----------------------------------------------------------------------------------------


def mark(event: str, task: str, at: float, slots: int = 1) -> Mark:
    return Mark(event=event, task=task, attempt=1, fence=1, pid=1, slots=slots, instance="one", at=at)


CALM = Story(
    slots={"one": 2},
    fed=Span(0.0, 20.0),
    marks=(
        *(mark(event, f"left{n}", n + at) for n in range(20) for event, at in (("start", 0.0), ("end", 0.9))),
        *(mark(event, f"right{n}", n + at) for n in range(20) for event, at in (("start", 0.0), ("end", 0.9))),
    ),
    wides={"wide": Span(2.0, 9.0)},
    deaths=[Death("other", "wide", 4.0, 8.0)],
    kept={"one": []},
    up={"one": [Span(0.0, float("inf"))]},
)


def test_nothing_stands_still_where_slots_are_taken_again_at_once() -> None:
    verdict = judge(CALM)
    assert (verdict.beyond, verdict.twice) == (1.0, 0)
    assert verdict.held_back == verdict.kept == pytest.approx(0.1)


def test_a_wide_task_that_waits_on_after_the_reservation_is_seen() -> None:
    assert judge(replace(CALM, wides={"wide": Span(2.0, 19.0)})).beyond == 11.0
    again = [*CALM.deaths, Death("one", "wide", 10.0, 14.0)]
    assert judge(replace(CALM, wides={"wide": Span(2.0, 19.0)}, deaths=again)).beyond == 5.0


def test_a_slot_that_stands_free_is_seen_unless_room_is_kept_there() -> None:
    marks = [one for one in CALM.marks if not (one.task.startswith("left") and 5.0 <= one.at < 8.0)]
    idle = replace(CALM, marks=marks)
    assert judge(idle).held_back == judge(idle).held_back_after_death == pytest.approx(3.1)
    kept = judge(replace(idle, kept={"one": [Span(5.0, 7.0)]}))
    assert kept.held_back == pytest.approx(1.0), "from the end of that to the next start"
    assert kept.kept == pytest.approx(3.1)
    assert judge(replace(idle, up={"one": [Span(0.0, 6.0)]})).held_back == pytest.approx(1.1)


def test_a_task_without_an_end_is_taken_to_have_run_until_its_max_time() -> None:
    marks = [one for one in CALM.marks if not (one.task.startswith("left") and one.at >= 5.1)]
    gone = judge(replace(CALM, marks=marks))
    assert gone.held_back == pytest.approx(20.0 - (5.0 + MAX_SECONDS) + 0.1), "and the gap of the other right before"


def test_a_task_that_began_twice_is_seen() -> None:
    assert judge(replace(CALM, marks=[*CALM.marks, mark("start", "left3", 3.5)])).twice == 1
