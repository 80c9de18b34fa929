"""Times, widths and cells as people read and write them."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.views.text import ago, cut, local, moment, parse_moment, parse_since, plain, span, width


@pytest.fixture(autouse=True)
def _in_paris(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


NOW = dt.datetime(2026, 11, 21, 11, 0, tzinfo=dt.UTC)  # noon in Paris

MOMENTS = [
    ("2026-11-21T03:15:00Z", "2026-11-21T03:15:00+00:00"),
    ("2026-11-21T03:15", "2026-11-21T02:15:00+00:00"),
    ("2026-07-01 03:15", "2026-07-01T01:15:00+00:00"),
    ("2026-11-22", "2026-11-21T23:00:00+00:00"),
    ("13:30", "2026-11-21T12:30:00+00:00"),
    ("11:30", "2026-11-22T10:30:00+00:00"),
    ("12:00:00", "2026-11-22T11:00:00+00:00"),
]


@pytest.mark.parametrize(("text", "utc"), MOMENTS)
def test_a_time_without_a_zone_is_local_and_a_time_of_day_is_the_next_one(text: str, utc: str) -> None:
    assert parse_moment(text, NOW) == dt.datetime.fromisoformat(utc)
    assert parse_moment(text, NOW).tzinfo is not None


@pytest.mark.parametrize("text", ["", "soon", "25:00", "12:60", "2026-13-01", "10m"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse_moment(text, NOW)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00", "0001-01-01T00:00+14:00", "9999-12-31T23:59:59", "9999-12-31T23:59:59-14:00"]
)
def test_a_moment_at_the_calendars_ends_is_one_everywhere_or_refused(
    text: str, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    for parse in (parse_moment, parse_since):
        with suppress(ValueError):
            assert parse(text, NOW).astimezone(dt.UTC).year in (1, 9999)


SINCE = [
    ("1h", "2026-11-21T10:00:00+00:00"),
    ("90", "2026-11-21T10:58:30+00:00"),
    ("1h30m", "2026-11-21T09:30:00+00:00"),
    ("0", "2026-11-21T11:00:00+00:00"),
    ("700000d", "0110-05-10T11:00:00+00:00"),
    ("2026-11-20", "2026-11-19T23:00:00+00:00"),
    ("2026-11-21T03:15:00Z", "2026-11-21T03:15:00+00:00"),
    ("13:30", "2026-11-20T12:30:00+00:00"),
    ("11:30", "2026-11-21T10:30:00+00:00"),
    ("12:00", "2026-11-21T11:00:00+00:00"),
]


@pytest.mark.parametrize(("text", "utc"), SINCE)
def test_since_is_a_while_ago_a_moment_or_the_last_such_time_of_day(text: str, utc: str) -> None:
    assert parse_since(text, NOW) == dt.datetime.fromisoformat(utc)


@pytest.mark.parametrize("text", ["", "soon", "-1h", "1e9d", "inf", "nan", "9999999d", "9" * 400, "1h ago", "\0", "5x"])
def test_since_what_is_neither_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time such as"):
        parse_since(text, NOW)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("edge", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_time_at_the_calendars_ends_is_shown(zone: str, edge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    shown = moment(dt.datetime.fromisoformat(edge))
    assert int(shown.partition("-")[0]) in (1, 9999)
    assert local(dt.datetime.fromisoformat(edge), NOW) == shown


@given(st.text(max_size=60), st.integers(min_value=1, max_value=40))
def test_a_cell_is_never_wider_than_its_column(text: str, cells: int) -> None:
    assert width(cut(plain(text), cells)) <= cells


@given(st.text())
def test_a_cell_is_one_line_without_control_characters(text: str) -> None:
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in plain(text))


def test_terminal_sequences_in_a_name_do_nothing() -> None:
    assert plain("a\x1b[31mred\x1b]8;;http://x\x07link\nb\tc") == "aredlink b c"


def test_wide_characters_count_twice_and_combining_ones_not_at_all() -> None:
    assert width("日本") == 4
    assert width("e\u0301") == 1
    assert cut("日本語", 5) == "日本…"


def test_what_somebody_set_is_shown_as_short_as_they_wrote_it() -> None:
    assert [span(seconds) for seconds in (1800, 3600, 5400, 90, 2.5, 10, 5, 2592000)] == [
        "30m", "1h", "1h30m", "1m30s", "2.5s", "10s", "5s", "30d",
    ]  # fmt: skip


def test_distances_in_time_have_a_direction() -> None:
    assert ago(NOW - dt.timedelta(seconds=42), NOW) == "42s ago"
    assert ago(NOW + dt.timedelta(minutes=5), NOW) == "in 5m00s"
