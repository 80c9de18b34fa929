"""The options of `enqueue`, checked the same for programs, the command line and JSON lines."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from slotsched.errors import UsageError
from slotsched.model import Facts, Job, RetryPolicy
from slotsched.request import build_request, refuse_unknown

FACTS = Facts(slots=4, memory=1 << 30, max_time=1800.0, priority=2, retry=RetryPolicy(limit=3), tags=("nightly",))
JOB = Job(name="resize", hash="0" * 64, facts=FACTS)


def test_what_is_not_given_comes_from_the_job_file() -> None:
    request = build_request(JOB, {"width": 3})
    assert request.needs == FACTS.needs
    assert request.retry == FACTS.retry
    assert (request.priority, request.tags, request.due_at, request.due_in) == (2, ("nightly",), None, None)
    assert request.max_time is None  # read from the file again at start
    assert request.owner


def test_what_is_given_replaces_it() -> None:
    request = build_request(
        JOB, {}, slots=2, memory="512M", max_time="10m", priority=-1.5, retries=0, key="k",
        tags=["a", "nightly"], in_="1h",
    )  # fmt: skip
    assert request.needs.slots == 2
    assert request.needs.memory == 512 << 20
    assert request.retry == RetryPolicy(limit=0)
    assert (request.max_time, request.due_in, request.priority, request.key) == (600.0, 3600.0, -1.5, "k")
    assert request.tags == ("nightly", "a")


def test_a_time_may_be_text_or_an_aware_datetime() -> None:
    at = dt.datetime(2026, 11, 21, 3, 15, tzinfo=dt.UTC)
    assert build_request(JOB, {}, at=at).due_at == at
    assert build_request(JOB, {}, at="2026-11-21T03:15:00Z").due_at == at
    assert build_request(JOB, {}, in_=dt.timedelta(minutes=2)).due_in == 120


BAD: list[tuple[dict[str, Any], str]] = [
    ({"slots": 0}, "slots: 0 is not a whole number of at least 1"),
    ({"slots": True}, "slots: True is not"),
    ({"slots": 2.5}, "slots: 2.5 is not"),
    ({"memory": "much"}, "memory: 'much' is not a size"),
    ({"max_time": 0}, "max_time: must be more than 0; no task runs without limit"),
    ({"max_time": "-5m"}, "max_time: '-5m' is not a duration"),
    ({"tags": ["x" * 501]}, "tags: must be texts of 1 to 500 characters"),
    ({"tags": ["a\0"]}, "tags: must be"),
    ({"retries": -1}, "retries: -1 is not a whole number of at least 0"),
    ({"priority": float("nan")}, "priority: nan is not a number"),
    ({"at": "tomorrow"}, "at: "),
    ({"at": dt.datetime(2026, 1, 1)}, "is no time with a zone"),  # noqa: DTZ001 - what is refused
    ({"at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "in_": 1}, "at and in exclude each other"),
    ({"in_": "soon"}, "in: 'soon' is not a duration"),
    ({"in_": None, "key": ""}, "key: must be a text of 1 to 500 characters"),
    ({"key": "a\0b"}, "key: must be"),
    ({"tags": [1]}, "tags: "),
]


@pytest.mark.parametrize(("options", "sentence"), BAD)
def test_a_bad_option_is_refused_by_its_name(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        build_request(JOB, {}, **options)
    assert sentence in str(refused.value)


def test_an_unknown_option_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match='unknown key "slot", did you mean "slots"'):
        refuse_unknown({"slot": 3})


PARENTS = ["8c1d2e3f" * 3, "0123456789abcdef01234567"]


def test_parents_come_once_each_and_name_the_trigger() -> None:
    request = build_request(JOB, {}, after=[*PARENTS, PARENTS[0]], when="any")
    assert (request.parents, request.when) == (tuple(PARENTS), "any")
    assert request.trigger == f"after:{PARENTS[0]}"
    assert build_request(JOB, {}, after=PARENTS[0]).when == "success"
    assert build_request(JOB, {}, after=PARENTS, trigger="event:x").trigger == "event:x"


def test_what_a_job_says_about_being_unique_goes_with_its_requests() -> None:
    only = Job(name="only", hash="0" * 64, facts=Facts(unique="running"))
    assert build_request(only, {}).unique == "running"
    assert build_request(JOB, {}).unique is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"when": "any"}, "when: only together with after"),
        (
            {"after": PARENTS, "when": "sucess"},
            "when: 'sucess' is none of success, failure, any, did you mean \"success\"?",
        ),
        ({"after": ["8c1d2e3f"]}, "is not a list of tasks' full ids"),
        ({"after": [7]}, "is not a list of tasks' full ids"),
        ({"after": {"a": 1}}, "is not a list of tasks' full ids"),
        ({"after": [f"{n:024x}" for n in range(10_001)]}, "after: 10001 tasks are more than 10000"),
    ],
)
def test_parents_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        build_request(JOB, {}, **options)
    assert message in str(error.value)
