"""The slot ledger never hands out more than there is, and gets everything back."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.ledger import Ledger
from slotsched.model import Capacity, Lane, Needs

NEEDS = st.builds(
    Needs,
    slots=st.integers(1, 8),
    memory=st.none() | st.integers(1, 100),
    resources=st.dictionaries(st.sampled_from(["gpu", "license"]), st.integers(1, 3)),
    tags=st.sets(st.sampled_from(["ssd", "x86"])).map(lambda tags: tuple(sorted(tags))),
    exclusive=st.sampled_from([False, False, False, True]),
)
CAPACITY = Capacity(slots=16, memory=200, resources={"gpu": 4, "license": 2}, tags=("ssd", "x86"))


@given(st.lists(NEEDS, max_size=20))
def test_what_is_taken_never_exceeds_the_capacity_and_comes_back_whole(all_needs: list[Needs]) -> None:
    ledger = Ledger(CAPACITY)
    before, taken = ledger.free, []
    for number, needs in enumerate(all_needs):
        if ledger.free.fits(needs.on(CAPACITY)):
            ledger.take(str(number), needs)
            taken.append(needs)
        else:
            with pytest.raises(ValueError, match="not enough"):
                ledger.take(str(number), needs)
    assert ledger.used_slots == sum(needs.on(CAPACITY).slots for needs in taken) <= 16
    assert len(taken) == 1 or not any(needs.exclusive for needs in taken)
    assert sum(needs.memory or 0 for needs in taken) <= 200
    for name, units in (("gpu", 4), ("license", 2)):
        assert sum(needs.resources.get(name, 0) for needs in taken) <= units
    for number in range(len(all_needs)):
        ledger.give_back(str(number))
    assert ledger.free == before


def test_a_holder_holds_once() -> None:
    ledger = Ledger(Capacity(slots=4))
    ledger.take("a", Needs(slots=1))
    with pytest.raises(ValueError, match="holds slots already"):
        ledger.take("a", Needs(slots=1))


def test_lowering_the_capacity_leaves_running_tasks_theirs() -> None:
    ledger = Ledger(Capacity(slots=4))
    ledger.take("a", Needs(slots=3))
    ledger.resize(2)
    assert ledger.free.slots == -1
    assert not ledger.free.fits(Needs(slots=1))
    ledger.give_back("a")
    assert ledger.free.slots == 2


class Turns:
    """What a scheduler does with a ledger: take, give back, restart with the same or another capacity."""

    def __init__(self) -> None:
        self.ledger = Ledger(CAPACITY)
        self.told: dict[str, tuple[Needs, dict[str, tuple[int, ...]]]] = {}

    def take(self, number: int, needs: Needs) -> None:
        holder = f"run-{number}"
        if self.ledger.free.fits(needs.on(self.ledger.capacity)):
            self.ledger.take(f"claim/{number}", needs)
            self.ledger.give_back(f"claim/{number}")
            self.ledger.adopt(holder, needs)
            self.told[holder] = needs, dict(self.ledger.units(holder))

    def give_back(self, number: int) -> None:
        if self.told:
            holder = sorted(self.told)[number % len(self.told)]
            del self.told[holder]
            self.ledger.give_back(holder)

    def restart(self, gpus: int) -> None:
        self.ledger = Ledger(replace(CAPACITY, resources={"gpu": gpus, "license": 2}))
        for holder, (needs, units) in self.told.items():
            self.ledger.adopt(holder, needs, units)


TURNS = st.lists(
    st.tuples(st.just("take"), NEEDS)
    | st.tuples(st.just("give_back"), st.integers(0, 20))
    | st.tuples(st.just("restart"), st.integers(0, 6)),
    max_size=40,
)


@given(TURNS)
def test_no_unit_has_two_holders_and_each_holder_all_it_asked_for_also_after_restarts(
    turns: list[tuple[str, Any]],
) -> None:
    lab = Turns()
    for number, (what, value) in enumerate(turns):
        if what == "take":
            lab.take(number, value)
        else:
            getattr(lab, what)(value)
        held = [(name, unit) for _, units in lab.told.values() for name, unit in _pairs(units)]
        assert len(held) == len(set(held))
        for holder, (needs, units) in lab.told.items():
            assert {name: len(numbers) for name, numbers in units.items()} == dict(needs.resources)
            assert lab.ledger.units(holder) == units


def _pairs(units: dict[str, tuple[int, ...]]) -> list[tuple[str, int]]:
    return [(name, unit) for name, numbers in units.items() for unit in numbers]


def test_units_are_numbered_from_0_and_the_lowest_free_ones_are_given() -> None:
    ledger = Ledger(CAPACITY)
    two, one = Needs(resources={"gpu": 2}), Needs(resources={"gpu": 1})
    ledger.take("a", two)
    ledger.take("b", one)
    assert (ledger.units("a"), ledger.units("b")) == ({"gpu": (0, 1)}, {"gpu": (2,)})
    ledger.give_back("a")
    ledger.take("c", one)
    assert ledger.units("c") == {"gpu": (0,)}
    assert ledger.units("a") == {}


def test_what_is_exclusive_starts_on_an_empty_machine_only_and_keeps_it_through_every_change_of_capacity() -> None:
    ledger, alone = Ledger(Capacity(slots=4)), Needs(slots=2, exclusive=True)
    ledger.take("other", Needs())
    with pytest.raises(ValueError, match="not enough slots"):
        ledger.take("alone", alone)
    ledger.give_back("other")
    ledger.take("alone", alone)
    for slots in (4, 9, 1):
        ledger.resize(slots)
        assert not ledger.free.fits(Needs())
    ledger.give_back("alone")
    assert ledger.free.slots == 1


@given(
    NEEDS,
    st.from_regex(r"[a-z0-9_-]+(/[a-z0-9_-]+)?", fullmatch=True),
    st.none() | st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
)
def test_a_lane_survives_being_stored(needs: Needs, job: str, key: str | None) -> None:
    lane = Lane(job=job, needs=needs, key=key)
    assert Lane.parse(str(lane)) == lane


@pytest.mark.parametrize(
    "text", ["", "job", "job|x|||", "job|1||gpu|", "job|1||gpu=x|", "a|1||||", "a|!|||", "a|1||||k|k"]
)
def test_a_lane_nobody_wrote_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Lane.parse(text)
