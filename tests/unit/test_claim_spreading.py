"""Which tasks an instance draws while others are after the same ones."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from slotsched.scheduler.spreading import WIDEST, Spread


def spread_of(factor: float) -> Spread:
    spread = Spread()
    spread.factor = factor
    return spread


def test_where_nobody_is_in_the_way_what_was_chosen_stands() -> None:
    spread = Spread()
    spread.learn(tried=8, won=8, live=8)
    assert spread.draw(["a", "b"], dict.fromkeys("abcdef", "one")) == ["a", "b"]


@given(
    kinds=st.lists(st.sampled_from(["narrow", "wide", "wider"]), max_size=60),
    factor=st.floats(1.0, 32.0),
    data=st.data(),
)
def test_it_draws_as_many_of_each_kind_and_none_twice(kinds: list[str], factor: float, data: st.DataObject) -> None:
    by_task = {f"{number}": kind for number, kind in enumerate(kinds)}
    wanted = data.draw(st.lists(st.sampled_from([*by_task, "limited"]), unique=True))
    drawn = spread_of(factor).draw(wanted, by_task)
    assert len(set(drawn)) == len(drawn)
    assert Counter(by_task.get(one) for one in drawn) == Counter(by_task.get(one) for one in wanted)


def test_it_draws_from_the_front_and_no_further_back_than_its_factor_says() -> None:
    kinds = {str(number): "one" for number in range(100)}
    drawn = {one for _ in range(300) for one in spread_of(4.0).draw(["0", "1"], kinds)}
    assert drawn == {str(number) for number in range(8)}


def test_lost_claims_widen_it_up_to_a_bound_and_won_ones_lead_back_to_the_front() -> None:
    spread = Spread()
    for _ in range(20):
        spread.learn(tried=1, won=0, live=8)
    assert spread.factor == WIDEST * 8
    for _ in range(60):
        spread.learn(tried=1, won=1, live=8)
    assert spread.factor == 1.0


def test_once_alone_it_is_back_at_the_front() -> None:
    spread = spread_of(32.0)
    spread.learn(tried=1, won=1, live=1)
    assert spread.factor <= WIDEST
