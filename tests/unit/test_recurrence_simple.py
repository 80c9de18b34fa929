"""Intervals, single moments and zones."""

from __future__ import annotations

import datetime as dt
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.errors import InvalidRecurrence
from slotsched.recurrence import find_zone, notes, parse_every, parse_once

T0 = dt.datetime(2026, 1, 1, 12, 0, 0, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
moments = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2090, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001


def test_every_ten_seconds_from_a_start_is_a_grid() -> None:
    every = parse_every("10s", T0)
    assert every.next_after(T0) == T0 + 10 * SECOND
    assert every.next_after(T0 + 14 * SECOND) == T0 + 20 * SECOND
    assert every.next_after(T0 + 20 * SECOND) == T0 + 30 * SECOND
    assert every.previous_before(T0 + 20 * SECOND) == T0 + 10 * SECOND
    assert every.previous_before(T0 + 21 * SECOND) == T0 + 20 * SECOND


def test_the_start_is_the_first_fire() -> None:
    every = parse_every(7, T0)
    assert every.next_after(T0 - 1000 * SECOND) == T0
    assert every.previous_before(T0) is None
    assert every.previous_before(T0 + SECOND) == T0
    assert list(every.between(T0 - SECOND, T0 + 14 * SECOND)) == [T0, T0 + 7 * SECOND, T0 + 14 * SECOND]


def test_a_hundred_seconds_down_lead_back_to_the_grid() -> None:
    assert parse_every("7s", T0).next_after(T0 + 100 * SECOND) == T0 + 105 * SECOND


@given(moment=moments, start=moments, period=st.integers(100, 10**8))
def test_an_interval_never_drifts(moment: dt.datetime, start: dt.datetime, period: int) -> None:
    every = parse_every(period / 1000, start)
    following, preceding = every.next_after(moment), every.previous_before(moment)
    assert following is not None
    assert following > moment
    assert (following - every.start) % every.period == dt.timedelta(0)
    assert following - every.period <= moment or following == every.start
    assert preceding is None or preceding < moment <= preceding + every.period
    assert following.microsecond % 1000 == 0  # what a document store keeps: read back, it is the same fire
    assert every.next_after(following) == following + every.period


def test_without_a_start_the_grid_hangs_on_the_epoch() -> None:
    assert parse_every("1h").next_after(T0 + SECOND) == T0 + dt.timedelta(hours=1)


def test_an_interval_ends_with_what_datetime_can_hold() -> None:
    assert parse_every("9000d", T0).next_after(dt.datetime.max.replace(tzinfo=dt.UTC)) is None


@pytest.mark.parametrize(
    ("every", "words"),
    [("10s", "10 seconds"), ("1m", "minute"), ("1h30m", "1 hour 30 minutes"), ("1d", "day"), (1.5, "1 second 500 ms")],
)
def test_an_interval_in_words(every: str | float, words: str) -> None:
    assert parse_every(every, T0).describe() == f"every {words} from 2026-01-01 12:00:00 UTC"


@pytest.mark.parametrize(
    "every", ["", "0", "-5m", "50ms", "5 minutes", "1000000w", "0.10001", float("nan"), True, None, []]
)
def test_no_interval(every: object) -> None:
    with pytest.raises(InvalidRecurrence, match="every"):
        parse_every(every, T0)  # type: ignore[arg-type]  # as a broken document would have it


def test_a_start_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidRecurrence, match="no time zone"):
        parse_every("10s", T0.replace(tzinfo=None))


def test_once() -> None:
    once = parse_once("2026-01-01T12:00:00Z")
    assert once.next_after(T0 - SECOND) == T0
    assert once.next_after(T0) is None
    assert once.previous_before(T0) is None
    assert once.previous_before(T0 + SECOND) == T0
    assert list(once.between(T0 - SECOND, T0)) == [T0]
    assert list(once.between(T0, T0 + SECOND)) == []
    assert notes(once, [T0]) == []


@pytest.mark.parametrize(
    ("at", "zone", "utc"),
    [
        ("2026-07-01 08:30", "Europe/Paris", "2026-07-01T06:30:00+00:00"),
        ("2026-07-01T08:30+02:00", "Asia/Tokyo", "2026-07-01T06:30:00+00:00"),
        ("2026-07-01", "Europe/Paris", "2026-06-30T22:00:00+00:00"),
        ("2026-03-29T02:30:00.5", "Europe/Paris", "2026-03-29T01:00:00+00:00"),  # skipped: right after
        ("2026-10-25T02:30:00.5", "Europe/Paris", "2026-10-25T00:30:00.500000+00:00"),  # twice: the first
        ("2011-12-30T12:00", "Pacific/Apia", "2011-12-30T10:00:00+00:00"),
        (dt.datetime(2026, 7, 1, 8, 30), "Europe/Paris", "2026-07-01T06:30:00+00:00"),  # noqa: DTZ001  # TOML's local time
        (dt.datetime(2026, 7, 1, 8, 30, 0, 1999, tzinfo=dt.UTC), "UTC", "2026-07-01T08:30:00.001000+00:00"),
    ],
)
def test_a_moment_is_local_unless_it_says_otherwise(at: str | dt.datetime, zone: str, utc: str) -> None:
    assert parse_once(at, zone).at.isoformat() == utc


def test_a_moment_in_words() -> None:
    assert parse_once("2026-03-29T02:30", "Europe/Paris").describe() == "once at 2026-03-29 03:00:00, Europe/Paris"


@pytest.mark.parametrize("at", ["", "tomorrow", "2026-13-01", None, 5, "9999-12-31", "0001-01-01T00:00"])
def test_no_moment(at: object) -> None:
    with pytest.raises(InvalidRecurrence, match=r"is not a moment|too far"):
        parse_once(at)  # type: ignore[arg-type]  # as a broken document would have it


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Europe/Pari", "Europe/Paris"), ("europe/paris", "Europe/Paris"), ("Paris", "Europe/Paris"),
     ("new york", "America/New_York"), ("Asia/Calcuta", "Asia/Calcutta")],
)  # fmt: skip
def test_an_unknown_zone_gets_a_suggestion(name: str, meant: str) -> None:
    with pytest.raises(InvalidRecurrence) as refusal:
        find_zone(name)
    assert str(refusal.value) == f'time zone "{name}" is not known, did you mean "{meant}"?'


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../etc/passwd", "Europe", "localtime", "right/UTC", "posixrules", "a\0b", "zone.tab"]
)
def test_what_is_no_zone_of_the_database_is_refused(name: str) -> None:
    with pytest.raises(InvalidRecurrence, match="is not known"):
        find_zone(name)


def test_every_zone_of_the_database_is_known() -> None:
    for name in zoneinfo.available_timezones() - {"localtime"}:
        assert find_zone(name).name == name
