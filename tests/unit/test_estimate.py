"""Planned run times from the runs before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.estimate import planned, replanned, starts_in

lengths = st.floats(0, 1e6)


def test_without_history_a_task_is_planned_with_max_time():
    assert planned([], 600) == 600


def test_the_plan_is_the_high_quantile_of_the_last_runs_with_a_margin():
    assert planned([10.0] * 18 + [100.0, 1000.0], 6000) == pytest.approx(120)
    assert planned([50.0], 6000) == pytest.approx(60)


def test_only_the_last_twenty_runs_count():
    assert planned([10.0] * 20 + [5000.0] * 100, 6000) == pytest.approx(12)


@given(st.lists(lengths, max_size=40), st.floats(1, 1e6))
def test_a_plan_never_exceeds_max_time_and_does_not_depend_on_the_order_of_the_runs(runs, max_time):
    assert 0 <= planned(runs, max_time) <= max_time
    assert planned(list(reversed(runs[:20])), max_time) == planned(runs[:20], max_time)


@given(lengths, lengths, st.floats(1, 1e6))
def test_a_plan_that_was_overrun_is_ahead_again_unless_max_time_is_reached(plan, elapsed, max_time):
    again = replanned(min(plan, max_time), elapsed, max_time)
    assert again > elapsed or again == max_time
    assert again <= max_time


def test_a_plan_that_holds_stays_and_a_broken_one_doubles():
    assert replanned(60, 59, 3600) == 60
    assert replanned(60, 60, 3600) == 120
    assert replanned(60, 500, 3600) == 960
    assert replanned(60, 3599, 3600) == 3600
    assert replanned(0.25, 0.3, 3600) == 0.5
    assert 0.3 < replanned(0.0, 0.3, 3600) < 1


def test_a_turn_comes_after_those_in_front_as_many_at_once_as_the_fleet_runs():
    assert starts_in(0, 4, [10.0]) == 5.0
    assert starts_in(8, 4, [8.0, 12.0]) == 25.0
    assert starts_in(8, 4, []) is None
    assert starts_in(8, 0, [10.0]) is None
