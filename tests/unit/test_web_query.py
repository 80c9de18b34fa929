"""Query strings and forms: what is known, how often, within which bounds."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.errors import UsageError
from slotsched.model import Reason, Status
from slotsched.web.query import FILTERS, LONGEST_VALUE, MOST_PAIRS, Words

NOW = dt.datetime(2026, 11, 21, 11, 0, tzinfo=dt.UTC)
ID = "65f0c0ffee00000000000001"


def words(*pairs: tuple[str, str]) -> Words:
    return Words(pairs, ("status", "tag", "limit", "after", "raw", "owner"))


def test_values_come_back_in_the_order_given() -> None:
    given_ones = words(("tag", "b"), ("owner", "ann"), ("tag", "a"))
    assert given_ones.all("tag") == ["b", "a"]
    assert given_ones.one("owner") == "ann"
    assert given_ones.pairs(("owner", "tag")) == [("owner", "ann"), ("tag", "b"), ("tag", "a")]


def test_a_field_that_nobody_filled_in_was_not_given() -> None:
    given_ones = words(("tag", ""), ("limit", ""), ("raw", ""), ("after", ""), ("owner", ""))
    assert given_ones.all("tag") == []
    assert (given_ones.one("owner"), given_ones.number("limit", least=1, most=9)) == (None, None)
    assert (given_ones.task_id("after"), given_ones.flag("raw")) == (None, False)
    assert given_ones.pairs(("owner", "tag", "limit")) == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stauts", 'did you mean "status"?'),
        ("Status", 'did you mean "status"?'),
        ("zzz", "(known: status, tag"),
        ("", "(known: "),
        ("__proto__", "(known: "),
        ("status\0", 'did you mean "status"?'),
    ],
)
def test_an_unknown_name_is_refused_with_what_was_meant(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as said:
        words((name, "x"))
    assert f'unknown parameter "{name}"' in str(said.value)
    assert hint in str(said.value)


def test_where_nothing_is_known_an_unknown_name_is_told_so() -> None:
    with pytest.raises(UsageError, match=r'unknown parameter "x" \(known: none\)'):
        Words([("x", "1")], ())


def test_a_name_without_end_is_not_repeated_to_its_sender() -> None:
    with pytest.raises(UsageError) as said:
        words(("x" * 100_000, "1"))
    assert len(str(said.value)) < 300


def test_one_that_is_meant_once_is_refused_twice() -> None:
    with pytest.raises(UsageError, match="owner: given 2 times, one is meant"):
        words(("owner", "a"), ("owner", "b")).one("owner")
    assert words(("owner", ""), ("owner", "b")).one("owner") == "b"


def test_more_than_anybody_means_is_refused() -> None:
    assert len(words(*[("tag", "x")] * MOST_PAIRS).all("tag")) == MOST_PAIRS
    with pytest.raises(UsageError, match=f"more than {MOST_PAIRS} parameters"):
        words(*[("tag", "x")] * (MOST_PAIRS + 1))
    assert words(("tag", "x" * LONGEST_VALUE)).one("tag") is not None
    with pytest.raises(UsageError, match=f"tag: {LONGEST_VALUE + 1} characters are more than {LONGEST_VALUE}"):
        words(("tag", "x" * (LONGEST_VALUE + 1)))


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("500", 500), ("007", 7)])
def test_a_whole_number_within_its_bounds(text: str, number: int) -> None:
    assert words(("limit", text)).number("limit", least=1, most=500) == number


@pytest.mark.parametrize(
    "text",
    ["0", "501", "-1", "+1", "1.5", "1e2", " 1", "1 ", "0x1", "１", "٣", "²", "1_0", "nan", "9" * 16, "1\n", "\0"],
)
def test_what_is_no_whole_number_within_its_bounds_is_refused_with_them(text: str) -> None:
    with pytest.raises(UsageError, match=r"(?s)limit: .* is not a whole number from 1 to 500"):
        words(("limit", text)).number("limit", least=1, most=500)


@pytest.mark.parametrize(("text", "yes"), [("1", True), ("true", True), ("0", False), ("false", False)])
def test_a_flag_is_one_of_four_words(text: str, yes: bool) -> None:
    assert words(("raw", text)).flag("raw") is yes


@pytest.mark.parametrize("text", ["yes", "TRUE", "2", "on", "-1"])
def test_another_word_is_no_flag(text: str) -> None:
    with pytest.raises(UsageError, match=r"raw: .* is neither 1 nor 0"):
        words(("raw", text)).flag("raw")


def test_a_full_id_is_taken_as_it_is() -> None:
    assert words(("after", ID)).task_id("after") == ID


@pytest.mark.parametrize("text", [ID[:-1], ID + "0", ID.upper(), ID[:-1] + "g", ID[:-1] + "\n", "last", "$gt"])
def test_less_or_other_than_a_full_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no full id of a task"):
        words(("after", text)).task_id("after")


def test_the_filters_of_a_list_are_read() -> None:
    given_ones = Words(
        [
            *(("status", "failed,canceled"), ("status", "running"), ("job", "a"), ("job", "b"), ("owner", "ann")),
            *(("tag", "x"), ("tag", "y"), ("reason", "exit"), ("instance", "big-1"), ("since", "1h"), ("until", "30m")),
        ],
        FILTERS,
    )
    found = given_ones.filter(NOW)
    assert found.status == {Status.FAILED, Status.CANCELED, Status.RUNNING}
    assert (found.jobs, found.tags, found.owner) == (("a", "b"), ("x", "y"), "ann")
    assert (found.reason, found.instance) == (Reason.EXIT, "big-1")
    assert (found.since, found.until) == (NOW - dt.timedelta(hours=1), NOW - dt.timedelta(minutes=30))


@pytest.mark.parametrize("name", ["owner", "reason", "instance", "since", "until"])
def test_a_filter_that_is_meant_once_is_refused_twice(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: given 2 times"):
        Words([(name, "exit"), (name, "exit")], FILTERS).filter(NOW)


@given(st.lists(st.tuples(st.text(max_size=12) | st.sampled_from(FILTERS), st.text(max_size=30)), max_size=8))
def test_whatever_is_sent_is_a_filter_or_told_as_a_mistake(pairs: list[tuple[str, str]]) -> None:
    with suppress(UsageError):
        Words(pairs, FILTERS).filter(NOW)
