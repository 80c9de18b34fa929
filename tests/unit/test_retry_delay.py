"""When the next attempt comes, if any does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.model import Outcome, Reason, RetryPolicy
from slotsched.scheduler.ending import retry_delay

FAILED = Outcome(reason=Reason.EXIT, exit_code=1)
MIDDLE = 0.5  # the chance that leaves a delay as it is


def test_without_retries_there_is_no_next_attempt() -> None:
    assert retry_delay(RetryPolicy(), 1, FAILED) is None


def test_success_is_never_retried() -> None:
    assert retry_delay(RetryPolicy(limit=3), 1, Outcome(reason=Reason.EXIT, exit_code=0)) is None


def test_retries_are_counted_from_the_first_attempt() -> None:
    policy = RetryPolicy(limit=2)
    assert [retry_delay(policy, attempt, FAILED) is not None for attempt in (1, 2, 3, 4)] == [True, True, False, False]


def test_exponential_delays_double_up_to_the_cap() -> None:
    policy = RetryPolicy(limit=9, delay=10, cap=100)
    assert [retry_delay(policy, attempt, FAILED, lambda: MIDDLE) for attempt in range(1, 6)] == [10, 20, 40, 80, 100]


def test_fixed_delays_stay_what_they_are() -> None:
    policy = RetryPolicy(limit=9, delay=7, exponential=False)
    assert {retry_delay(policy, attempt, FAILED, lambda: MIDDLE) for attempt in range(1, 9)} == {7}


@pytest.mark.parametrize(
    ("reason", "retried"),
    [
        (Reason.EXIT, True),
        (Reason.SIGNAL, True),
        (Reason.TIMEOUT, True),
        (Reason.MEMORY, True),
        (Reason.LOST, True),
        (Reason.SHUTDOWN, True),
        (Reason.CANCELED, False),
        (Reason.CANCELED_BY_JOB, False),
        (Reason.INVALID, False),
        (Reason.NOT_STARTED, False),
    ],
)
def test_by_default_what_ended_a_run_is_retried_and_what_a_person_or_the_job_decided_is_not(
    reason: Reason, retried: bool
) -> None:
    assert (retry_delay(RetryPolicy(limit=1), 1, Outcome(reason=reason)) is not None) is retried


def test_only_the_reasons_asked_for_are_retried() -> None:
    policy = RetryPolicy(limit=5, on=("timeout",))
    assert retry_delay(policy, 1, Outcome(reason=Reason.TIMEOUT)) is not None
    assert retry_delay(policy, 1, FAILED) is None


@given(
    attempt=st.integers(1, 10_000),
    delay=st.floats(0, 1e6),
    cap=st.floats(0, 1e6),
    chance=st.floats(0, 1, exclude_max=True),
    exponential=st.booleans(),
)
def test_chance_spreads_a_delay_by_a_quarter_and_no_more_than_that_above_the_cap(
    attempt: int, delay: float, cap: float, chance: float, exponential: bool
) -> None:
    policy = RetryPolicy(limit=10_000, delay=delay, cap=cap, exponential=exponential)
    plain = retry_delay(policy, attempt, FAILED, lambda: MIDDLE)
    spread = retry_delay(policy, attempt, FAILED, lambda: chance)
    assert plain is not None
    assert spread is not None
    assert 0 <= plain <= cap
    assert 0.75 * plain <= spread <= 1.25 * plain
