"""Crons, case by case: what clocks that change do to them, what they refuse, what they say in words."""

from __future__ import annotations

import datetime as dt
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import slotsched.recurrence
from slotsched.errors import InvalidRecurrence, UsageError
from slotsched.recurrence import Cron, Note, notes, parse_cron

PACKAGE = Path(slotsched.recurrence.__file__).parent


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[arg-type]  # year to microsecond


def local_fires(text: str, zone: str, first_day: str, days: int) -> list[str]:
    """The fires of so many local days, as `day-of-month hour:minute offset`; the same set found backwards."""
    cron = parse_cron(text, zone)
    start = dt.datetime.fromisoformat(first_day).replace(tzinfo=cron.zone.info)
    end = (start.replace(tzinfo=None) + dt.timedelta(days=days)).replace(tzinfo=cron.zone.info).astimezone(dt.UTC)
    start = start.astimezone(dt.UTC) - dt.timedelta(seconds=1)
    forwards = list(cron.between(start, end - dt.timedelta(seconds=1)))
    backwards = []
    fire = cron.previous_before(end)
    while fire is not None and fire > start:
        backwards.append(fire)
        fire = cron.previous_before(fire)
    assert backwards[::-1] == forwards
    return [f"{cron.zone.local(fire):%d %H:%M %z}" for fire in forwards]


CHANGES = [
    # spring, Paris: 02:00 -> 03:00 on 29 March 2026
    ("30 2 * * *", "Europe/Paris", "2026-03-28", 3, ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]),
    ("0,30 2 * * *", "Europe/Paris", "2026-03-29", 1, ["29 03:00 +0200"]),
    ("0,30 2,3 * * *", "Europe/Paris", "2026-03-29", 1, ["29 03:00 +0200", "29 03:30 +0200"]),
    ("0 1,2,3 * * *", "Europe/Paris", "2026-03-29", 1, ["29 01:00 +0100", "29 03:00 +0200"]),
    ("0 */6 * * *", "Europe/Paris", "2026-03-29", 1,
     ["29 00:00 +0100", "29 06:00 +0200", "29 12:00 +0200", "29 18:00 +0200"]),
    ("0 2/2 * * SUN", "Europe/Paris", "2026-03-29", 1, [f"29 {h:02d}:00 +0200" for h in (3, *range(4, 24, 2))]),
    ("* 2 * * *", "Europe/Paris", "2026-03-29", 1, []),
    ("30 2 29 3 *", "Europe/Paris", "2026-03-28", 3, ["29 03:00 +0200"]),
    ("30 2 * * * 15", "Europe/Paris", "2026-03-29", 1, ["29 03:00 +0200"]),
    # autumn, Paris: 03:00 -> 02:00 on 25 October 2026
    ("30 2 * * *", "Europe/Paris", "2026-10-24", 3, ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"]),
    ("0 2,3 * * *", "Europe/Paris", "2026-10-25", 1, ["25 02:00 +0200", "25 03:00 +0100"]),
    ("30 2,5 * * *", "Europe/Paris", "2026-10-25", 1, ["25 02:30 +0200", "25 05:30 +0100"]),
    ("0 */2 25 * *", "Europe/Paris", "2026-10-25", 1, ["25 00:00 +0200", "25 02:00 +0200", "25 02:00 +0100"]
     + [f"25 {hour:02d}:00 +0100" for hour in range(4, 24, 2)]),
    ("*/30 2 * * *", "Europe/Paris", "2026-10-25", 1,
     ["25 02:00 +0200", "25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100"]),
    # New York: 02:00 -> 03:00 on 8 March, 02:00 -> 01:00 on 1 November 2026
    ("30 2 * * *", "America/New_York", "2026-03-08", 1, ["08 03:00 -0400"]),
    ("30 1 * * *", "America/New_York", "2026-11-01", 2, ["01 01:30 -0400", "02 01:30 -0500"]),
    # half an hour, Lord Howe: 02:00 -> 02:30 on 4 October, 02:00 -> 01:30 on 5 April 2026
    ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03", 2, ["03 02:15 +1030", "04 02:30 +1100"]),
    ("0,15,30 2 * * *", "Australia/Lord_Howe", "2026-10-04", 1, ["04 02:30 +1100"]),
    ("45 1 * * *", "Australia/Lord_Howe", "2026-04-05", 2, ["05 01:45 +1100", "06 01:45 +1030"]),
    ("15 1 * * *", "Australia/Lord_Howe", "2026-04-05", 1, ["05 01:15 +1100"]),
    ("45 0-3 * * *", "Australia/Lord_Howe", "2026-04-05", 1,
     ["05 00:45 +1100", "05 01:45 +1100", "05 02:45 +1030", "05 03:45 +1030"]),
    ("45 */1 5 4 *", "Australia/Lord_Howe", "2026-04-05", 1, ["05 00:45 +1100", "05 01:45 +1100", "05 01:45 +1030"]
     + [f"05 {hour:02d}:45 +1030" for hour in range(2, 24)]),
    # midnight does not exist: Sao Paulo 2018, Cairo 2026; comes twice: Sao Paulo 2018
    ("0 0 * * *", "America/Sao_Paulo", "2018-11-03", 3, ["03 00:00 -0300", "04 01:00 -0200", "05 00:00 -0200"]),
    ("30 23 * * *", "America/Sao_Paulo", "2018-02-17", 2, ["17 23:30 -0200", "18 23:30 -0300"]),
    ("0 0 18 * *", "America/Sao_Paulo", "2018-02-17", 2, ["18 00:00 -0300"]),
    ("30 0 24 4 *", "Africa/Cairo", "2026-04-23", 3, ["24 01:00 +0300"]),
    ("0 0 * * FRI", "Africa/Cairo", "2026-10-29", 3, ["30 00:00 +0200"]),
    # a day left out: Apia had no 30 December 2011
    ("0 12 * * *", "Pacific/Apia", "2011-12-29", 4,
     ["29 12:00 -1000", "31 00:00 +1400", "31 12:00 +1400", "01 12:00 +1400"]),
    ("0 0 * * *", "Pacific/Apia", "2011-12-29", 4, ["29 00:00 -1000", "31 00:00 +1400", "01 00:00 +1400"]),
    ("0 0,6,12 30 * *", "Pacific/Apia", "2011-12-29", 3, ["31 00:00 +1400"]),
    ("0 */12 * * *", "Pacific/Apia", "2011-12-29", 3,
     ["29 00:00 -1000", "29 12:00 -1000", "31 00:00 +1400", "31 12:00 +1400"]),
    # a day that came twice: Kwajalein 1969, 30 September 23:00 -> 24:00 the day before
    ("0 12 * * *", "Pacific/Kwajalein", "1969-09-29", 3, ["29 12:00 +1100", "30 12:00 +1100", "01 12:00 -1200"]),
    # the change is at the turn of a UTC year: Kiritimati had no 31 December 1994 (from -10:00)
    ("0 12 * * *", "Pacific/Kiritimati", "1994-12-30", 3, ["30 12:00 -1000", "01 00:00 +1400", "01 12:00 +1400"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "zone", "day", "days", "expected"), CHANGES)
def test_when_clocks_change(text: str, zone: str, day: str, days: int, expected: list[str]) -> None:
    assert local_fires(text, zone, day, days) == expected


FIELDS = [
    ("0 0 1 1 *", "2026-06-01", ["2027-01-01", "2028-01-01"]),
    ("0 0 L * *", "2026-01-15", ["2026-01-31", "2026-02-28", "2026-03-31"]),
    ("0 0 L 2 *", "2027-01-15", ["2027-02-28", "2028-02-29"]),
    ("0 0 LW * *", "2026-01-15", ["2026-01-30", "2026-02-27", "2026-03-31"]),
    ("0 0 1W * *", "2026-07-15", ["2026-08-03", "2026-09-01"]),  # 1 August is a Saturday: not back into July
    ("0 0 15W * *", "2026-02-01", ["2026-02-16", "2026-03-16"]),  # Sundays
    ("0 0 31W * *", "2026-05-01", ["2026-05-29", "2026-06-30"]),  # the last day, where there is no 31st
    ("0 0 * * 5#3", "2026-01-01", ["2026-01-16", "2026-02-20"]),
    ("0 0 * * MON#5", "2026-01-01", ["2026-03-30", "2026-06-29"]),
    ("0 0 * * 5L", "2026-01-01", ["2026-01-30", "2026-02-27"]),
    ("0 0 * * LFRI", "2026-01-01", ["2026-01-30", "2026-02-27"]),
    ("0 0 * * 7", "2026-01-01", ["2026-01-04", "2026-01-11"]),
    ("0 0 * * FRI-MON", "2026-01-06", ["2026-01-09", "2026-01-10", "2026-01-11", "2026-01-12", "2026-01-16"]),
    ("0 0 * * 5-7", "2026-01-05", ["2026-01-09", "2026-01-10", "2026-01-11", "2026-01-16"]),
    ("0 0 14 * FRI", "2026-02-10", ["2026-02-13", "2026-02-14", "2026-02-20"]),
    ("0 0 */2 * MON", "2026-01-01", ["2026-01-05", "2026-01-19", "2026-02-09"]),  # `*/2` is a star: both must fit
    ("0 0 29 2 *", "2026-01-01", ["2028-02-29", "2032-02-29"]),
    ("0 0 29 2 */7", "2026-01-01", ["2032-02-29", "2060-02-29", "2088-02-29", "2128-02-29"]),
    ("0 0 ? * 1", "2026-01-01", ["2026-01-05", "2026-01-12"]),
    ("0 0 30-2 * *", "2026-01-29", ["2026-01-30", "2026-01-31", "2026-02-01", "2026-02-02", "2026-03-01"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "start", "expected"), FIELDS)
def test_which_days(text: str, start: str, expected: list[str]) -> None:
    cron = parse_cron(text)
    fire = dt.datetime.fromisoformat(start).replace(tzinfo=dt.UTC) - dt.timedelta(seconds=1)
    found = []
    for _ in expected:
        following = cron.next_after(fire)
        assert following is not None
        fire = following
        found.append(f"{fire:%Y-%m-%d}")
    assert found == expected


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("@hourly", "0 * * * *"), ("@daily", "0 0 * * *"), ("@midnight", "0 0 * * *"), ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"), ("@yearly", "0 0 1 1 *"), ("@ANNUALLY", "0 0 1 1 *"),
        ("  5\t3  * * * ", "5 3 * * *"),
        ("0 0 * jan,Mar sun", "0 0 * 1,3 0"), ("5-5 0 * * *", "5 0 * * *"), ("59/15 0 * * *", "59 0 * * *"),
        ("22-2/2 0 1 * *", "22,24,26,28,30,32,34,36,38,40,42,44,46,48,50,52,54,56,58,0,2 0 1 * *"),
        ("0 0 * * 0-7", "0 0 * * *"), ("*/60 * * * *", "0 * * * *"), ("0 3 * * * 0", "0 3 * * *"),
    ],
)  # fmt: skip
def test_other_ways_to_write_the_same(text: str, same: str) -> None:
    start = utc(2026, 1, 1)
    cron, other = parse_cron(text, "Europe/Paris"), parse_cron(same, "Europe/Paris")
    first = [fire for fire, _ in zip(cron.between(start, utc(2040, 1, 1)), range(50), strict=False)]
    assert first == [fire for fire, _ in zip(other.between(start, utc(2040, 1, 1)), range(50), strict=False)]


def test_a_sixth_field_is_seconds_and_comes_last() -> None:
    fires = list(parse_cron("30 2 * * * 15,45").between(utc(2026, 1, 1), utc(2026, 1, 2)))
    assert fires == [utc(2026, 1, 1, 2, 30, 15), utc(2026, 1, 1, 2, 30, 45)]


def test_the_next_fire_is_later_and_the_previous_earlier_also_between_seconds() -> None:
    cron = parse_cron("* * * * * *")
    moment = utc(2026, 1, 1, 0, 0, 0, 999_999)
    assert cron.next_after(moment) == utc(2026, 1, 1, 0, 0, 1)
    assert cron.previous_before(moment) == utc(2026, 1, 1)
    assert cron.next_after(utc(2026, 1, 1)) == utc(2026, 1, 1, 0, 0, 1)
    assert cron.previous_before(utc(2026, 1, 1)) == utc(2025, 12, 31, 23, 59, 59)


def test_moments_of_any_zone_go_in_and_utc_comes_out() -> None:
    cron = parse_cron("0 12 * * *", "Asia/Kolkata")
    moment = utc(2026, 1, 1).astimezone(dt.timezone(dt.timedelta(hours=-7)))
    fire = cron.next_after(moment)
    assert fire == utc(2026, 1, 1, 6, 30)
    assert fire.tzinfo is dt.UTC


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        parse_cron("* * * * *").next_after(dt.datetime(2026, 1, 1))  # noqa: DTZ001  # what is refused


def test_time_ends_with_what_datetime_can_hold() -> None:
    for text in ("* * * * *", "0 3 * * *", "0 0 29 2 *"):
        cron = parse_cron(text, "Europe/Paris")
        assert cron.next_after(dt.datetime.max.replace(tzinfo=dt.UTC)) is None
        assert cron.previous_before(dt.datetime.min.replace(tzinfo=dt.UTC)) is None
        assert cron.next_after(utc(9998, 12, 31, 23, 59, 59)) is None
        assert cron.previous_before(utc(2, 1, 1)) is None


REFUSALS = [
    ("61 * * * *", 'minute 61 is not in 0-59: "[61] * * * *"'),
    ("0,61 * * * *", 'minute 61 is not in 0-59: "0,[61] * * * *"'),
    ("0-61/5 * * * *", 'minute 61 is not in 0-59: "[0-61/5] * * * *"'),
    ("0 24 * * *", 'hour 24 is not in 0-23: "0 [24] * * *"'),
    ("0 0 0 * *", 'day of month 0 is not in 1-31: "0 0 [0] * *"'),
    ("0 0 32W * *", 'day of month 32 is not in 1-31: "0 0 [32W] * *"'),
    ("0 0 * 13 *", 'month 13 is not in 1-12: "0 0 * [13] *"'),
    ("0 0 * * 8", 'day of week 8 is not in 0-7: "0 0 * * [8]"'),
    ("0 0 * * * 60", 'second 60 is not in 0-59: "0 0 * * * [60]" (the sixth field is seconds, last)'),
    ("0 30 2 * * MON", 'hour 30 is not in 0-23: "0 [30] 2 * * MON" (the sixth field is seconds, last)'),
    ("*/90 * * * *", 'minute step 90 is not in 1-60 (for a steady pace write every "90m"): "[*/90] * * * *"'),
    ("0 */36 * * *", 'hour step 36 is not in 1-24 (for a steady pace write every "36h"): "0 [*/36] * * *"'),
    ("0 0 */0 * *", 'day of month step 0 is not in 1-31: "0 0 [*/0] * *"'),
    ("0 0 31 2 *", 'no such month has a day 31: "0 0 [31] [2] *"'),
    ("0 0 30,31 FEB MON", 'no such month has a day 30: "0 0 [30,31] [FEB] MON"'),
    ("0 0 31 4,6,9,11 *", 'no such month has a day 31: "0 0 [31] [4,6,9,11] *"'),
    ("0 0 */31 2 MON#2", 'no date fits, so it never fires: "0 0 [*/31] [2] [MON#2]"'),
    ("0 0 * * MONDAY", 'day of week "MONDAY" is not understood, did you mean "MON"?: "0 0 * * [MONDAY]"'),
    ("0 0 * JANVIER *", 'month "JANVIER" is not understood, did you mean "JAN"?: "0 0 * [JANVIER] *"'),
    ("x * * * *", 'minute "X" is not understood: "[X] * * * *"'),
    ("? * * * *", 'minute "?" is not understood: "[?] * * * *"'),
    ("-5 * * * *", 'minute "-5" is not understood: "[-5] * * * *"'),
    ("*/2/3 * * * *", 'minute "*/2/3" is not understood: "[*/2/3] * * * *"'),
    ("1,,2 * * * *", 'minute has an empty item: "1,[],2 * * * *"'),
    ("٣ * * * *", 'minute "٣" is not understood: "[٣] * * * *"'),
    ("0 0 * * L", 'L in the day of week needs its day, 5L is the last Friday: "0 0 * * [L]"'),
    ("0 0 * * 5#6", 'a month has no 6th of any day of week, write #1 to #5: "0 0 * * [5#6]"'),
    ("H(5-99) * * * *", 'minute 99 is not in 0-59: "[H(5-99)] * * * *"'),
    ("H(9-5) * * * *", 'H(9-5) is no range, it ends before it begins: "[H(9-5)] * * * *"'),
    ("* * * *", '4 fields, but a cron has five, or six with seconds last ("minute hour day-of-month month '
     'day-of-week [second]"): "* * * *"'),
    ("0 0 1 1 * 0 2027", 'seven fields are one too many, there is no field for years: "0 0 1 1 * 0 2027"'),
    ("@every 5m", '@every is not a cron here, write every "5m" (every = "5m", --every 5m)'),
    ("@reboot", '@reboot has no time to run at; for a steady pace write every "10m", else use systemd'),
    ("@dialy", '"@dialy" is not known, did you mean "@daily"?'),
    ("9" * 400, "a cron of 400 characters is too long, 300 are allowed"),
    ("", 'a cron has five fields, or six with seconds last ("minute hour day-of-month month day-of-week [second]")'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSALS)
def test_a_refusal_points_at_the_place(text: str, message: str) -> None:
    with pytest.raises(InvalidRecurrence) as refusal:
        parse_cron(text, name="nightly")
    assert str(refusal.value) == message
    assert isinstance(refusal.value, UsageError)


@pytest.mark.parametrize("value", [None, 5, ["* * * * *"], b"* * * * *"])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidRecurrence, match="is not a cron"):
        parse_cron(value)  # type: ignore[arg-type]  # as a broken document would have it


def test_hashed_times_depend_on_the_name_alone_and_never_move() -> None:
    """Pinned: a version that computes others would move everybody's nightly jobs."""
    hashed = "H H H H H H"
    values = {name: parse_cron(hashed, name=name).next_after(utc(2026, 1, 1)) for name in ("nightly", "backup")}
    assert values == {"nightly": HASHED_NIGHTLY, "backup": HASHED_BACKUP}
    assert parse_cron("H H * * *", name="nightly").describe() == "at 05:15 every day, UTC"


HASHED_NIGHTLY = utc(2026, 2, 2, 5, 15, 20)
HASHED_BACKUP = utc(2026, 1, 4, 15, 2, 42)


def test_hashed_times_spread_and_stay_in_their_range() -> None:
    minutes = set()
    for number in range(300):
        fire = parse_cron("H(10-19) H(1-3) H * *", name=f"job-{number}").next_after(utc(2026, 1, 1))
        assert fire is not None
        assert fire.hour in (1, 2, 3)
        assert fire.day <= 28
        minutes.add(fire.minute)
    assert minutes == set(range(10, 20))


@pytest.mark.parametrize(("text", "gap"), [("H/15 * * * *", 15), ("H(0-29)/10 * * * *", 10), ("H/20 4 * * *", 20)])
def test_a_hashed_step_begins_anywhere_in_its_first_round(text: str, gap: int) -> None:
    begins = set()
    for number in range(200):
        fires = list(
            parse_cron(text, name=f"job-{number}").between(utc(2026, 1, 1, 3, 59, 59), utc(2026, 1, 1, 4, 59, 59))
        )
        begins.add(fires[0].minute)
        assert {(b - a).seconds // 60 for a, b in itertools.pairwise(fires)} == {gap}
        assert len(fires) == (3 if "29" in text else 60 // gap)
    assert begins == set(range(gap))


def test_a_hashed_time_needs_a_name() -> None:
    with pytest.raises(InvalidRecurrence, match=r'chosen by the schedule.s name.*"\[H\] 3 \* \* \*"'):
        parse_cron("H 3 * * *")


WORDS = [
    ("15 3 * * *", "at 03:15 every day"),
    ("* * * * *", "every minute"),
    ("*/15 * * * *", "every 15 minutes"),
    ("7/15 * * * *", "every 15 minutes from minute 7"),
    ("*/45 * * * *", "at minutes 0 and 45 of every hour"),
    ("0 * * * *", "every hour"),
    ("5 * * * *", "at minute 5 of every hour"),
    ("0 */2 * * *", "every 2 hours"),
    ("30 1/2 * * *", "every 2 hours from 01:30"),
    ("0 */7 * * *", "at 00:00, 07:00, 14:00 and 21:00 every day"),
    ("*/10 8-17 * * MON-FRI", "every 10 minutes from 08:00 to 17:59 on Monday to Friday"),
    ("30 2 * * SAT,SUN", "at 02:30 on Saturday and Sunday"),
    ("0 0 1 * *", "at 00:00 on day 1 of every month"),
    ("0 0 1 1 *", "at 00:00 on day 1 of January"),
    ("0 12 15W,L * *", "at 12:00 on the weekday nearest to day 15 and the last day of every month"),
    ("0 9 * * 5#3,1L", "at 09:00 on the third Friday and the last Monday of every month"),
    ("0 0 13 * FRI", "at 00:00 on day 13 of every month, and also on Friday"),
    ("0 0 */2 * MON", "at 00:00 on every 2nd day from day 1 of every month, where that is Monday"),
    ("0 0 * JAN-MAR,NOV *", "at 00:00 in January to March and November"),
    ("0 0 1-31 * MON", "at 00:00 every day"),
    ("* * * * * *", "every second"),
    ("*/10 * * * * 30", "at second 30 of minutes 0, 10, 20, 30, 40 and 50 of every hour"),
    ("30 2 * * FRI */10", "every 10 seconds of minute 30 from 02:00 to 02:59 on Friday"),
    ("0 3 * * * 5", "at 03:00:05 every day"),
]


@pytest.mark.parametrize(("text", "words"), WORDS)
def test_plain_words(text: str, words: str) -> None:
    assert parse_cron(text, "Europe/Paris").describe() == f"{words}, Europe/Paris"


def noted(text: str, zone: str, after: dt.datetime, count: int) -> dict[str, list[tuple[str, str]]]:
    cron = parse_cron(text, zone)
    fires: list[dt.datetime] = []
    for _ in range(count):
        fire = cron.next_after(fires[-1] if fires else after)
        assert fire is not None
        fires.append(fire)
    found: dict[str, list[tuple[str, str]]] = {}
    for note in notes(cron, fires):
        assert isinstance(note, Note)
        found.setdefault(f"{cron.zone.local(note.fire):%d %H:%M %z}", []).append((note.kind, note.text))
    return found


NOTES = [
    ("30 2 * * *", "Europe/Paris", utc(2026, 3, 27), {"29 03:00 +0200": [
        ("moved", "02:30 does not exist, runs at 03:00: clocks go from 02:00 to 03:00 on 2026-03-29")]}),
    ("0,30 2 * * *", "Europe/Paris", utc(2026, 3, 28), {"29 03:00 +0200": [
        ("merged", "02:00 and 02:30 do not exist, one run at 03:00: clocks go from 02:00 to 03:00 on 2026-03-29")]}),
    ("0 2,3 * * *", "Europe/Paris", utc(2026, 3, 28), {"29 03:00 +0200": [
        ("merged", "02:00 does not exist, one run with 03:00: clocks go from 02:00 to 03:00 on 2026-03-29")]}),
    ("0 */2 * * *", "Europe/Paris", utc(2026, 3, 29), {"29 04:00 +0200": [
        ("dropped", "02:00 does not exist and is left out: clocks go from 02:00 to 03:00 on 2026-03-29")]}),
    ("*/10 * * * *", "Europe/Paris", utc(2026, 3, 29, 0, 50), {"29 03:00 +0200": [
        ("dropped", "02:00 to 02:50 (6 times) do not exist and are left out: "
                    "clocks go from 02:00 to 03:00 on 2026-03-29")]}),
    ("30 2 * * *", "Europe/Paris", utc(2026, 10, 24, 1), {"25 02:30 +0200": [
        ("once", "02:30 comes twice on 2026-10-25, runs the first time only")]}),
    ("0 */2 * * *", "Europe/Paris", utc(2026, 10, 24, 22), {"25 02:00 +0100": [
        ("repeated", "02:00 comes a second time: clocks were put back on 2026-10-25")]}),
    ("0 12 * * *", "Pacific/Apia", utc(2011, 12, 29), {"31 00:00 +1400": [
        ("moved", "2011-12-30 12:00 does not exist, runs at 2011-12-31 00:00: "
                  "clocks go from 2011-12-30 00:00 to 2011-12-31 00:00")]}),
    ("30 3 * * *", "Europe/Paris", utc(2026, 3, 27), {}),
    ("30 2 * * *", "UTC", utc(2026, 3, 27), {}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "zone", "after", "expected"), NOTES)
def test_notes_tell_what_a_change_does(text: str, zone: str, after: dt.datetime, expected: object) -> None:
    assert noted(text, zone, after, 4) == expected


def test_no_fires_have_no_notes() -> None:
    assert notes(parse_cron("* * * * *"), []) == []


def test_equal_crons_are_equal() -> None:
    assert parse_cron("0 3 * * *", "Europe/Paris") == parse_cron(" 0  3 * * *", "Europe/Paris")
    assert parse_cron("0 3 * * *", "Europe/Paris") != parse_cron("0 3 * * *", "UTC")
    assert isinstance(parse_cron("0 3 * * *"), Cron)


def test_croniter_is_imported_in_one_place_and_only_when_a_cron_is_read() -> None:
    importing = [path.name for path in PACKAGE.parent.rglob("*.py") if "import croniter" in path.read_text()
                 or "from croniter" in path.read_text()]  # fmt: skip
    assert importing == ["expansion.py"]
    code = "import slotsched.recurrence, sys; sys.exit('croniter' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
