"""The bounds of what a task may ask for: one rule for requests, schedules, documents and job files' headers."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from slotsched.catalog.facts import read_facts
from slotsched.due import check_schedule
from slotsched.errors import UsageError
from slotsched.model import Facts, Job, Overrides, Schedule
from slotsched.model.limits import LARGEST_COUNT, LARGEST_PRIORITY, LARGEST_SECONDS, LARGEST_SIZE
from slotsched.request import build_request
from slotsched.store import documents
from slotsched.store.schedule_documents import read_schedule, schedule_to_document
from slotsched.wishes import read_wishes

NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
JOB = Job(name="j", hash="", facts=Facts())
HOURLY = Schedule(name="s", job="j", every=3600.0)


def asked(facts: Facts | None = None, **options: Any) -> None:
    """Raises UsageError where a task with these could not be enqueued."""
    documents.new_document(build_request(replace(JOB, facts=facts or Facts()), {}, **options), NOW)


def scheduled(**fields: Any) -> None:
    """Raises UsageError where a schedule with these is refused; one that is stored can be read and makes its tasks."""
    schedule = replace(HOURLY, **fields)
    check_schedule(schedule)
    read_schedule(schedule_to_document(schedule))


def declared(**facts: Any) -> None:
    """Raises UsageError where `job check` complains; with a header that passes, tasks can be enqueued."""
    read, problems = read_facts(facts)
    if problems:
        raise UsageError(problems[0][1])
    asked(read)


def accepted(check: Callable[..., object], **values: Any) -> bool:
    try:
        check(**values)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("priority", [LARGEST_PRIORITY, -1e6, 0, 2.5, 1_000_000.5, -(10**30), math.inf, math.nan])
def test_a_priority_is_accepted_everywhere_or_nowhere(priority: float) -> None:
    is_one = abs(priority) <= LARGEST_PRIORITY
    assert accepted(asked, priority=priority) == is_one
    assert accepted(lambda priority: read_wishes({"priority": priority}), priority=priority) == is_one
    assert accepted(scheduled, priority=priority) == is_one
    assert accepted(declared, priority=priority) == is_one


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_time", LARGEST_SECONDS),
        ("max_time", 1.0000001e9),
        ("max_time", 0.0),
        ("max_time", math.inf),
        ("memory", LARGEST_SIZE),
        ("memory", LARGEST_SIZE + 1),
        ("memory", 0),
        ("slots", LARGEST_COUNT),
        ("slots", LARGEST_COUNT + 1),
        ("slots", 0),
        ("retries", LARGEST_COUNT),
        ("retries", LARGEST_COUNT + 1),
        ("retries", -1),
    ],
)
def test_what_a_schedule_asks_for_instead_of_its_job_has_the_bounds_of_a_task(name: str, value: float) -> None:
    assert accepted(scheduled, overrides=Overrides(**{name: value})) == accepted(asked, **{name: value})


@pytest.mark.parametrize("name", ["max_runs", "pause_on_failure"])
def test_what_is_counted_fits_its_document(name: str) -> None:
    assert accepted(scheduled, **{name: LARGEST_COUNT})
    assert not accepted(scheduled, **{name: LARGEST_COUNT + 1})


@pytest.mark.parametrize(
    ("name", "value", "is_fine"),
    [
        ("keep", 0, False),
        ("keep", 0.5, True),
        ("keep", LARGEST_SECONDS, True),
        ("keep", "11574d", True),
        ("keep", "11575d", False),
        ("memory", LARGEST_SIZE, True),
        ("memory", LARGEST_SIZE + 1, False),
        ("memory", "8193T", False),
    ],
)
def test_a_header_that_passes_its_check_can_be_enqueued(name: str, value: Any, is_fine: bool) -> None:
    assert accepted(declared, **{name: value}) == is_fine
    if not is_fine:
        assert [path for path, _ in read_facts({name: value})[1]] == [(name,)]
