"""The timetable: what is due runs in order, and no pass that fails stops another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from stand_ins import FakeClock, engine_of

from slotsched.errors import ArchiveError, InvalidDocument, StoreUnreachable
from slotsched.scheduler.duty import Duty, Timetable


class Table:
    """A timetable on a fake clock, and who ran."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.engine = engine_of(self.clock)
        self.ran: list[str] = []
        self.duties: dict[str, Duty] = {}
        self.troubles: dict[str, Exception] = {}

    def add(self, name: str, every: float = 1.0, *, needs_store: bool = True) -> Duty:
        duty = self.duties[name] = Duty(name, self._pass(name), every, needs_store)
        self.timetable = Timetable(self.engine, list(self.duties.values()))
        return duty

    def _pass(self, name: str) -> Callable[[], None]:
        def run_once() -> None:
            self.ran.append(name)
            if name in self.troubles:
                raise self.troubles[name]

        return run_once

    def turn(self, seconds: float = 0.0) -> list[str]:
        """Who runs in the loop's turn after so many seconds."""
        self.clock.advance(seconds)
        self.ran.clear()
        self.timetable.run_due()
        return list(self.ran)


@pytest.fixture
def table() -> Table:
    return Table()


def test_duties_run_at_once_in_their_order_and_then_as_often_as_they_say(table: Table) -> None:
    table.add("often", every=1.0)
    table.add("seldom", every=3.0)
    assert table.turn() == ["often", "seldom"]
    assert table.turn(0.5) == []
    assert [table.turn(seconds) for seconds in (0.5, 1, 1)] == [["often"], ["often"], ["often", "seldom"]]


def test_a_woken_duty_runs_at_the_next_turn(table: Table) -> None:
    duty = table.add("claim", every=60)
    table.turn()
    duty.wake()
    assert table.timetable.seconds_to_next(table.clock.now) == 0
    assert table.turn() == ["claim"]
    assert table.turn() == []


def test_waiting_until_a_moment_only_ever_comes_earlier(table: Table) -> None:
    duty = table.add("claim", every=10)
    table.turn()
    duty.wait_until(table.clock.now + 60)
    assert table.timetable.seconds_to_next(table.clock.now) == 10
    duty.wait_until(table.clock.now + 2)
    assert table.timetable.seconds_to_next(table.clock.now) == 2
    assert table.turn(2) == ["claim"]


@pytest.mark.parametrize(
    "trouble", [RuntimeError("a bug"), ArchiveError("no bucket"), InvalidDocument("a bad document"), KeyError("x")]
)
def test_a_duty_that_fails_is_logged_and_tried_again_and_stops_no_other(trouble: Exception, table: Table) -> None:
    table.add("first")
    table.add("second")
    table.troubles["first"] = trouble
    assert table.turn() == ["first", "second"]
    assert table.turn(1) == ["first", "second"]
    assert len(table.engine.log.lines) == 2
    assert table.engine.health.up


def test_a_store_that_does_not_answer_rests_the_store_duties_until_it_does(table: Table) -> None:
    table.add("sweep")
    table.add("claim")
    table.add("launches", needs_store=False)
    table.troubles["sweep"] = StoreUnreachable("no answer")
    assert table.turn() == ["sweep", "launches"], "claiming is not even tried: each try costs its timeout"
    assert [table.turn(1) for _ in range(3)] == [["launches"]] * 3
    assert [level for level, _ in table.engine.log.lines] == ["warning"], "said once, not once a second"
    table.troubles.clear()
    table.engine.health.answered()
    assert table.turn() == ["claim", "sweep"]
    assert table.turn(1) == ["sweep", "claim", "launches"]


def test_a_duty_whose_own_query_takes_too_long_every_time_keeps_none_from_its_turn(table: Table) -> None:
    for name in ("resolve", "claim", "fire"):
        table.add(name)
    table.troubles["resolve"] = StoreUnreachable("no answer in time")
    turns = []
    for _ in range(4):
        turns.append(table.turn(1))
        table.engine.health.answered()  # to the lease thread the store does answer
    assert turns == [["resolve"]] + [["claim", "fire", "resolve"]] * 3


def test_while_the_store_is_away_the_loop_sleeps_until_the_next_duty_that_does_without_it(table: Table) -> None:
    table.add("claim", every=1)
    table.add("launches", every=5, needs_store=False)
    table.turn()
    table.engine.health.failed()
    assert table.timetable.seconds_to_next(table.clock.now + 2) == 3


def test_when_the_store_answers_again_everything_is_due(table: Table) -> None:
    for name in ("finish", "sweep", "claim"):
        table.add(name, every=3600)
    table.turn()
    table.timetable.wake_all()
    assert table.turn() == ["finish", "sweep", "claim"]


def test_the_loop_shows_that_it_turns_after_every_pass(table: Table) -> None:
    for name in ("a", "b", "c"):
        table.add(name)
    table.troubles["b"] = RuntimeError("a bug")
    table.turn()
    assert table.engine.ticks == 3
