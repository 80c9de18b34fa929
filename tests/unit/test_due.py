"""Which nominal times are due, and how jitter and bounds move them."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.due import MOST_AT_ONCE, check_schedule, due_times, fires_at, nominal_after, nominals_between
from slotsched.errors import InvalidRecurrence, UsageError
from slotsched.model import CatchUp, Overrides, Schedule

T0 = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
FIRST_DAY = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
LAST_DAY = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


def after(seconds: float) -> dt.datetime:
    return T0 + dt.timedelta(seconds=seconds)


def every(seconds: float, **more: Any) -> Schedule:
    made = Schedule(name="s", job="j", every=seconds, anchor_at=T0, **more)
    return replace(made, next_nominal_at=nominal_after(made, T0))


def test_nothing_is_due_before_its_time_and_one_is_at_it() -> None:
    schedule = every(10)
    assert due_times(schedule, after(9.999)).times == ()
    found = due_times(schedule, after(10))
    assert (found.times, found.next, found.late) == ((after(10),), after(20), False)


def test_what_is_due_without_a_rule_or_a_time_is_refused_as_it_would_be_due_for_ever() -> None:
    for broken in (replace(every(10), every=None), replace(every(10), every=None, after=("a",))):
        with pytest.raises(InvalidRecurrence, match="nothing says when"):
            due_times(broken, after(10))
    with pytest.raises(InvalidRecurrence, match="next_nominal_at"):
        due_times(replace(every(10), next_nominal_at=None), after(10))


def test_after_an_outage_once_fires_the_latest_and_goes_on_on_the_grid() -> None:
    found = due_times(every(7), after(7 + 100))
    assert (found.times, found.next, found.late) == ((after(105),), after(112), True)


def test_catching_up_on_all_keeps_to_the_window() -> None:
    found = due_times(every(10, catch_up=CatchUp.ALL, catch_up_window=35), after(100))
    assert (found.times, found.next) == ((after(70), after(80), after(90), after(100)), after(110))


def test_catching_up_on_all_goes_on_in_the_next_transaction_where_there_are_too_many() -> None:
    schedule = every(1, catch_up=CatchUp.ALL)
    found = due_times(schedule, after(1000))
    assert (len(found.times), found.next) == (MOST_AT_ONCE, after(MOST_AT_ONCE + 1))
    rest = due_times(replace(schedule, next_nominal_at=found.next), after(1000))
    assert rest.times[0] == after(MOST_AT_ONCE + 1)


def test_catching_up_on_nothing_still_fires_what_is_only_a_little_late() -> None:
    none = every(600, catch_up=CatchUp.NONE)
    assert due_times(none, after(605)).times == (after(600),)
    missed = due_times(none, after(700))
    assert (missed.times, missed.next) == ((), after(1200))


def test_a_year_of_missed_seconds_costs_no_walk() -> None:
    found = due_times(every(1), after(366 * 86400))
    assert found.times == (after(366 * 86400),)


def test_bounds_hold_for_crons() -> None:
    schedule = Schedule(name="s", job="j", cron=("*/10 * * * *",), start_at=after(1200), end_at=after(2400))
    assert nominal_after(schedule, T0) == after(1200)
    assert nominal_after(schedule, after(1800)) == after(2400)
    assert nominal_after(schedule, after(2400)) is None
    late = due_times(replace(schedule, next_nominal_at=after(1800)), after(86400))
    assert (late.times, late.next) == ((after(2400),), None)


def test_several_crons_are_one_series_and_share_a_common_time() -> None:
    schedule = Schedule(name="s", job="j", cron=("0 * * * *", "*/40 * * * *"))
    times = list(nominals_between(schedule, T0, after(7200)))
    assert times == [after(2400), after(3600), after(6000), after(7200)]


def test_a_moment_fires_once() -> None:
    schedule = Schedule(name="s", job="j", at=after(5), next_nominal_at=after(5))
    found = due_times(schedule, after(5))
    assert (found.times, found.next) == ((after(5),), None)


@given(
    st.floats(0, 3600),
    st.integers(0, 10**9),
    st.text(alphabet="abc", min_size=1, max_size=5),
)
def test_jitter_is_bounded_and_the_same_for_everyone(jitter: float, offset: int, name: str) -> None:
    schedule = Schedule(name=name, job="j", every=60, jitter=jitter)
    nominal = after(offset)
    fires = fires_at(schedule, nominal)
    assert 0 <= (fires - nominal).total_seconds() <= jitter + 0.0006
    assert fires == fires_at(schedule, nominal.astimezone(dt.timezone(dt.timedelta(hours=5))))


def test_jitter_spreads_schedules() -> None:
    moments = {fires_at(Schedule(name=f"s{n}", job="j", every=60, jitter=30), T0) for n in range(100)}
    assert len(moments) > 90


@given(
    period=st.integers(1, 90),
    jitter=st.integers(0, 200),
    down=st.integers(0, 500),
    catch_up=st.sampled_from(CatchUp),
    window=st.integers(0, 400),
)
def test_whatever_was_missed_no_time_is_early_or_twice_and_the_next_is_later(
    period: int, jitter: int, down: int, catch_up: CatchUp, window: int
) -> None:
    schedule = every(period, jitter=float(jitter), catch_up=catch_up, catch_up_window=float(window))
    now = after(period + down)
    first = schedule.next_nominal_at
    found = due_times(schedule, now)
    assert first is not None
    assert found.next is not None
    assert list(found.times) == sorted(set(found.times))
    assert all(first <= time <= now for time in found.times)
    if found.times:
        assert fires_at(schedule, found.times[-1]) <= now
        assert found.next > found.times[-1]
    else:
        assert fires_at(schedule, first) > now or catch_up is not CatchUp.ONCE
    if catch_up is not CatchUp.ALL:
        assert len(found.times) <= 1


def test_times_that_lead_out_of_the_calendar_are_refused_as_a_rule_is() -> None:
    beyond = "out of the years 1 to 9999"
    ancient = replace(every(10), start_at=FIRST_DAY)
    with pytest.raises(InvalidRecurrence, match=beyond):
        due_times(ancient, after(10))
    with pytest.raises(InvalidRecurrence, match=beyond):
        nominal_after(ancient, T0)
    jittery = replace(every(10), jitter=86400.0, next_nominal_at=LAST_DAY, name="beyond")
    with pytest.raises(InvalidRecurrence, match=beyond):
        due_times(jittery, after(10))
    with pytest.raises(InvalidRecurrence, match=beyond):
        fires_at(jittery, LAST_DAY)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "one of cron, every, at, after"),
        ({"cron": ("* * * * *",), "every": 5.0}, "cron and every exclude each other"),
        ({"every": 60.0, "name": "has space"}, "is no name"),
        ({"every": 60.0, "timezone": "Europe/Pari"}, "Europe/Paris"),
        ({"every": 60.0, "jitter": -1.0}, "jitter"),
        ({"every": 60.0, "start_at": after(5), "end_at": T0}, "end_at: is before start_at"),
        ({"every": 60.0, "max_runs": 0}, "max_runs"),
        ({"every": 60.0, "overrides": Overrides(slots=0)}, "slots"),
        ({"after": ("s",)}, "cannot follow itself"),
        ({"after": ("a",), "when": "maybe"}, "when"),
        ({"every": 60.0, "start_at": FIRST_DAY}, "start_at: the year 1 is too far away"),
        ({"every": 60.0, "end_at": LAST_DAY}, "end_at: the year 9999 is too far away"),
    ],
)
def test_what_could_never_be_followed_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_schedule(Schedule(**{"name": "s", "job": "j", **fields}))


def test_a_bad_cron_is_pointed_at() -> None:
    with pytest.raises(InvalidRecurrence, match=r"minute 61 is not in 0-59"):
        check_schedule(Schedule(name="s", job="j", cron=("61 * * * *",)))
