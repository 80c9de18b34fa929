"""When a tree dies by itself, and the file that decides it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.process.agenda import Agenda
from slotsched.process.deadline import DeadlineFile, DeadlineReader, next_check

LEASE = 30.0


@pytest.mark.parametrize("die_at_deadline", [True, False])
def test_before_the_deadline_nothing_happens_until_it_comes(die_at_deadline):
    assert next_check(100.0, 124.0, 0.0, LEASE, die_at_deadline=die_at_deadline) == 124.0


def test_past_the_deadline_an_attempt_that_may_be_followed_dies_at_once():
    assert next_check(124.0, 124.0, 124.0, LEASE, die_at_deadline=True) is None


def test_past_the_deadline_another_lives_on_while_its_scheduler_ticks():
    assert next_check(200.0, 124.0, 199.0, LEASE, die_at_deadline=False) == 209.0
    assert next_check(200.0, 124.0, 189.9, LEASE, die_at_deadline=False) is None


@pytest.mark.parametrize(
    ("deadline", "tick", "lease"),
    [
        (1e9, 0.0, LEASE),
        (math.nan, 0.0, LEASE),
        (math.inf, 0.0, LEASE),
        (0.0, 1e9, LEASE),
        (0.0, math.nan, LEASE),
        (0.0, 0.0, 0.0),
        (150.0, 100.0, math.nan),
        (150.0, 100.0, 0.0),
        (0.0, 100.0, -1.0),
    ],
)
def test_values_that_no_scheduler_writes_are_distrusted(deadline, tick, lease):
    assert next_check(100.0, deadline, tick, lease, die_at_deadline=False) is None


ANY = st.floats(allow_nan=True, allow_infinity=True)
NEAR = st.floats(0, 2e5)


@given(st.floats(0, 1e5), ANY | NEAR, ANY | NEAR, ANY | st.floats(1, 100), st.booleans())
def test_the_next_look_is_always_ahead_and_never_far(now, deadline, tick, lease, die_at_deadline):
    again = next_check(now, deadline, tick, lease, die_at_deadline=die_at_deadline)
    if again is not None:
        assert again > now
        assert again <= now + max(lease, 0.1) + 0.1


def test_a_promise_is_only_ever_extended(tmp_path):
    file = DeadlineFile.create(tmp_path / "deadline", LEASE)
    file.extend(100.0)
    file.extend(90.0)
    file.tick(80.0)
    assert file.read() == (100.0, 80.0, LEASE)
    assert DeadlineReader(tmp_path / "deadline").read() == (100.0, 80.0, LEASE)
    file.close()


def test_an_existing_file_keeps_its_promise_when_it_is_taken_over(tmp_path):
    path = tmp_path / "deadline"
    file = DeadlineFile.create(path, LEASE)
    file.extend(100.0)
    file.close()
    opened = DeadlineFile.open(path)
    assert opened.read() == (100.0, 0.0, LEASE)
    opened.close()
    again = DeadlineFile.create(path, 20.0)
    assert again.read() == (100.0, 0.0, 20.0)
    again.close()


def test_a_leftover_of_another_boot_is_replaced(tmp_path):
    file = DeadlineFile.create(tmp_path / "deadline", LEASE)
    for leftover in (1e9, math.nan):
        file._view[0] = leftover
        file.extend(100.0)
        assert file.read()[0] == 100.0
    file.close()


def test_a_file_that_is_cut_or_removed_is_no_promise(tmp_path):
    path = tmp_path / "deadline"
    file = DeadlineFile.create(path, LEASE)
    file.extend(100.0)
    reader = DeadlineReader(path)
    path.unlink()
    assert reader.read()[0] == 100.0
    file.close()
    path.write_bytes(b"short")
    assert DeadlineReader(path).read() == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="too short"):
        DeadlineFile.open(path)
    with pytest.raises(FileNotFoundError):
        DeadlineFile.open(tmp_path / "none")


def test_an_appointment_is_kept_once_even_if_it_makes_itself_again():
    agenda, kept = Agenda(), []

    def again():
        kept.append(1)
        agenda.put("again", 0.0, again)

    agenda.put("again", 1.0, again)
    agenda.put_earlier("again", 2.0, kept.clear)
    assert agenda.next() == 1.0
    agenda.keep(0.5)
    assert kept == []
    agenda.keep(5.0)
    assert kept == [1]
    agenda.drop("again")
    agenda.drop("again")
    assert agenda.next() is None
