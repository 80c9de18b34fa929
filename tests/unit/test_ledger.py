"""The slot ledger never hands out more than there is, and gets everything back."""

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
)


@given(st.lists(NEEDS, max_size=20))
def test_what_is_taken_never_exceeds_the_capacity_and_comes_back_whole(all_needs: list[Needs]) -> None:
    ledger = Ledger(Capacity(slots=16, memory=200, resources={"gpu": 4, "license": 2}, tags=("ssd", "x86")))
    before, taken = ledger.free, []
    for number, needs in enumerate(all_needs):
        if ledger.free.fits(needs):
            ledger.take(str(number), needs)
            taken.append(needs)
        else:
            with pytest.raises(ValueError, match="not enough"):
                ledger.take(str(number), needs)
    assert ledger.used_slots == sum(needs.slots for needs in taken) <= 16
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


@given(NEEDS, st.from_regex(r"[a-z0-9_-]+(/[a-z0-9_-]+)?", fullmatch=True))
def test_a_lane_survives_being_stored(needs: Needs, job: str) -> None:
    lane = Lane(job=job, needs=needs)
    assert Lane.parse(str(lane)) == lane


@pytest.mark.parametrize("text", ["", "job", "job|x|||", "job|1||gpu|", "job|1||gpu=x|", "a|1||||"])
def test_a_lane_nobody_wrote_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Lane.parse(text)
