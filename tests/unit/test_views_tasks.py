"""Filters of a list of tasks as people type them."""

from __future__ import annotations

import datetime as dt

import pytest

from slotsched.errors import UsageError
from slotsched.model import Reason, Status
from slotsched.store import TaskFilter
from slotsched.views.tasks import read_filter

NOW = dt.datetime(2026, 11, 21, 11, 0, tzinfo=dt.UTC)


def test_nothing_said_is_every_task() -> None:
    assert read_filter(now=NOW) == TaskFilter()


def test_statuses_may_be_joined_repeated_and_named_twice() -> None:
    found = read_filter(status=["failed,canceled", "failed", ",running,"], now=NOW)
    assert found.status == {Status.FAILED, Status.CANCELED, Status.RUNNING}
    assert read_filter(status=["", ",,"], now=NOW).status is None


def test_what_is_said_is_what_is_looked_for() -> None:
    found = read_filter(jobs=["a", "b"], owner="ann", tags=["x"], reason="lost", instance="big-1", now=NOW)
    assert found == TaskFilter(jobs=("a", "b"), owner="ann", tags=("x",), reason=Reason.LOST, instance="big-1")


def test_times_are_a_while_ago_or_a_moment() -> None:
    found = read_filter(since="1h30m", until="2026-11-21T10:45:00Z", now=NOW)
    assert found.since == NOW - dt.timedelta(minutes=90)
    assert found.until == dt.datetime(2026, 11, 21, 10, 45, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"status": ["faild"]}, r'status: "faild" is none of .*failed.*'),
        ({"status": ["Failed"]}, r'status: "Failed" is none of '),
        ({"status": ["failed, canceled"]}, r'status: " canceled" is none of '),
        ({"reason": "boom"}, r'reason: "boom" is none of .*exit.*'),
        ({"reason": ""}, r'reason: "" is none of '),
        ({"since": "soon"}, r'since: "soon" is not a time such as '),
        ({"until": "2026-13-01"}, r'until: "2026-13-01" is not a time such as '),
        ({"since": "-1h"}, r'since: "-1h" is not a time'),
        ({"until": "9" * 400 + "d"}, "until: .* is not a time"),
        ({"since": "0001-01-01T00:00+14:00"}, "since: .* is not a time"),
    ],
)
def test_what_cannot_be_meant_is_told_by_its_name(said: dict[str, object], told: str) -> None:
    for option in ("", "--"):
        with pytest.raises(UsageError, match=f"^{option}{told}"):
            read_filter(**said, now=NOW, option=option)  # type: ignore[arg-type]
