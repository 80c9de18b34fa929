"""Crons held against a brute-force walk through elapsed time, and against cronsim as a second opinion."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import replace

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrence_lab import (
    B5_ZONES,
    NAMED_CRONS,
    Spec,
    Walk,
    changes,
    first_difference,
    random_cron,
    some_crons,
    walk,
    within,
)

from slotsched.recurrence import find_zone, parse_cron

DAY = dt.timedelta(days=1)
# Half hours, quarters, two hours (Troll), whole days, midnights, clocks put back for winter by law (Dublin).
ODD_ZONES = {
    "Europe/Paris": (2000, 2035), "America/New_York": (2000, 2035), "Australia/Lord_Howe": (1980, 2030),
    "America/Sao_Paulo": (1990, 2020), "Africa/Cairo": (2005, 2030), "Pacific/Apia": (2009, 2014),
    "Africa/Casablanca": (2008, 2030), "America/St_Johns": (1985, 2012), "Antarctica/Troll": (2005, 2030),
    "Asia/Gaza": (2005, 2030), "Pacific/Kwajalein": (1965, 1995), "Asia/Pyongyang": (2010, 2020),
    "America/Caracas": (2005, 2018), "Asia/Kathmandu": (1984, 1988),
    "Pacific/Kiritimati": (1993, 1996), "Europe/Dublin": (2000, 2030), "Asia/Tehran": (2000, 2024),
}  # fmt: skip


def midnight(date: dt.date) -> dt.datetime:
    return dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC)


@st.composite
def around_a_change(draw: st.DrawFn, zones: list[str] | None = None) -> tuple[str, dt.datetime]:
    """A zone, and the UTC midnight before one of its changes."""
    zone = draw(st.sampled_from(zones or sorted(ODD_ZONES)))
    return zone, midnight(draw(st.sampled_from(changes(zone, *ODD_ZONES[zone]))))


crons = st.integers(0, 10**9).map(lambda seed: random_cron(random.Random(seed))) | st.sampled_from(NAMED_CRONS)


@settings(max_examples=100, deadline=None)
@given(crons, around_a_change(), st.integers(-(10**6), 10**6))
def test_every_fire_around_a_change_is_the_oracles(text: str, around: tuple[str, dt.datetime], shift: int) -> None:
    zone, day = around
    cron, walked = parse_cron(text, zone), walk(zone, day - 4 * DAY, day + 4 * DAY)
    start, end = day - 2 * DAY + dt.timedelta(seconds=shift % 86400, microseconds=shift % 7), day + 3 * DAY
    expected = within(walked.fires(Spec(text)), start.replace(microsecond=0), end)
    assert first_difference(expected, cron.between(start, end))[1] is None
    backwards = []
    fire = cron.previous_before(end + dt.timedelta(seconds=1))
    while fire is not None and fire > start:
        backwards.append(fire)
        fire = cron.previous_before(fire)
    assert first_difference(expected, iter(backwards[::-1]))[1] is None


@pytest.mark.parametrize(
    ("zone", "day"),
    [("Europe/Paris", "2026-03-29"), ("Australia/Lord_Howe", "2026-04-05"), ("Pacific/Apia", "2011-12-30")],
)
def test_crons_with_seconds_around_a_change_are_the_oracles(zone: str, day: str) -> None:
    chance = random.Random(day)
    first = midnight(dt.date.fromisoformat(day)) - DAY / 2
    walked = Walk(zone, first - DAY / 2, first + DAY, step=1)
    for text in [*(random_cron(chance, seconds=True) for _ in range(40)), "* 2 * * * */20", "30 2 * * * 15"]:
        expected = within(walked.fires(Spec(text)), first, first + DAY)
        assert first_difference(expected, parse_cron(text, zone).between(first, first + DAY))[1] is None, text


@pytest.mark.parametrize("zone", B5_ZONES)
def test_a_year_of_crons_is_the_oracles(zone: str) -> None:
    """A small share of tests/benchmarks/recurrence_oracle.py, which has five years and every cron."""
    start = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    walked = Walk(zone, start - 2 * DAY, start + 365 * DAY, step=300)
    for text in [text for text in some_crons(60, 7) if all(int(m) % 5 == 0 for m in minutes_of(text))][:20]:
        expected = within(walked.fires(Spec(text)), start, start + 365 * DAY)
        assert first_difference(expected, parse_cron(text, zone).between(start, start + 365 * DAY))[1] is None, text


def minutes_of(text: str) -> list[int]:
    return sorted({time // 60 % 60 for time in Spec(text).times})


def test_the_oracle_notices_a_wrong_rule() -> None:
    """A checker that never fails proves nothing: fixed times taken by pace, and the reverse, are seen."""
    start, end = dt.datetime(2026, 3, 27, tzinfo=dt.UTC), dt.datetime(2026, 3, 31, tzinfo=dt.UTC)
    for text in ("30 2 * * *", "0 */2 * * *"):
        cron = parse_cron(text, "Europe/Paris")
        wrong = replace(cron, reading=replace(cron.reading, by_pace=not cron.reading.by_pace))
        expected = within(walk("Europe/Paris", start - 2 * DAY, end).fires(Spec(text)), start, end)
        assert first_difference(expected, cron.between(start, end))[1] is None
        assert first_difference(expected, wrong.between(start, end))[1] is not None


@settings(max_examples=300, deadline=None)
@given(
    crons,
    st.sampled_from(sorted(ODD_ZONES)),
    st.datetimes(dt.datetime(1930, 1, 1), dt.datetime(2120, 1, 1), timezones=st.just(dt.UTC)),  # noqa: DTZ001
)
def test_next_and_previous_fit_together(text: str, zone: str, moment: dt.datetime) -> None:
    cron = parse_cron(text, zone)
    following, preceding = cron.next_after(moment), cron.previous_before(moment)
    assert following is not None
    assert preceding is not None
    assert preceding < moment < following
    assert following.microsecond == preceding.microsecond == 0
    on_it = cron.previous_before(following)
    assert on_it in (preceding, moment)
    assert cron.next_after(preceding) in (following, moment)


# What cronsim knows, and knows alike. Its exceptions, each seen when left in:
# - six fields: it has the seconds first, and takes such crons by pace, also `0 30 2 * * *`
# - ranges over the end, `15W`, `L5`, `H`: it refuses them; `4-4/2` it reads as `4/2`
# - crons by pace where clocks change at or near midnight, or by half an hour: it begins the day at a time that does not
#   exist, or goes on by whole hours and misses a round
CRONSIM_PACE_ZONES = ["America/New_York", "Antarctica/Troll", "Europe/Dublin", "Europe/Paris"]


def cronsim_knows(text: str) -> bool:
    words = text.upper().split()
    no_plain_range = any(
        len(ends) == 2 and all(end.isdigit() for end in ends) and int(ends[0]) >= int(ends[1])
        for word in words
        for item in word.split(",")
        for ends in [item.partition("/")[0].split("-")]
    )
    others = any(special in text for special in ("1W", "5W", "L0", "FRIL", "FRI-MON", "OCT-APR", "SAT-SUN"))
    return not no_plain_range and not others


@settings(max_examples=150, deadline=None)
@given(crons.filter(cronsim_knows), st.data(), st.integers(0, 3 * 1440))
def test_cronsim_agrees(text: str, data: st.DataObject, minutes: int) -> None:
    zone, day = data.draw(around_a_change(CRONSIM_PACE_ZONES if Spec(text).by_pace else None))
    start = day - dt.timedelta(minutes=minutes)
    fire: dt.datetime | None = start
    cron, other = parse_cron(text, zone), CronSim(text, start.astimezone(find_zone(zone).info))
    for _ in range(40):
        assert fire is not None
        fire = cron.next_after(fire)
        assert fire == next(other).astimezone(dt.UTC)
