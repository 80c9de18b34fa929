"""The protocol explored exhaustively: every promise holds, and each rule that is taken out breaks one.

What the models leave out is told in protocol_model.py and small_models.py. The same promises are tested on real
processes and a real store elsewhere in this folder; here every order of events is tried, not the likely ones.
"""

from __future__ import annotations

import pytest
from explorer import STUCK, Broken, Explored, Stepwise, TooManyStates, explore
from figures import Figures
from protocol_model import COUNTED, IN_TIME, ONE_EXECUTION, OWN_CLAIM, SLOTS, TERMINAL, Protocol, Rule, Sizes
from small_models import LIMIT, ONE_FIRE, AfterRule, Counting, FireRule, Firing, Following, Limiting

NO_RETRY = Sizes(retries=0)  # a third of the states, where a second attempt adds nothing
THREE_ATTEMPTS = Sizes(retries=2)

# What each rule keeps, looked for alone: a promise that stands for it may be broken earlier.
BROKEN_BY = {
    Rule.TOKEN_FENCE: (THREE_ATTEMPTS, ONE_EXECUTION),
    Rule.LOCAL_DEADLINE: (Sizes(), ONE_EXECUTION),
    Rule.DEADLINE_BEFORE_LEASE: (Sizes(), ONE_EXECUTION),
    Rule.DEADLINE_FROM_SEND: (Sizes(), ONE_EXECUTION),
    Rule.WATCHED_NONCE: (Sizes(), ONE_EXECUTION),
    Rule.OBSERVER_CLOCK: (Sizes(), ONE_EXECUTION),
    Rule.FENCE_FIRST: (Sizes(), ONE_EXECUTION),
    Rule.DEAD_IS_FINAL: (Sizes(), ONE_EXECUTION),
    Rule.SAME_ID: (Sizes(), ONE_EXECUTION),
    Rule.START_RIGHT: (Sizes(), ONE_EXECUTION),
    Rule.FORBID_START: (Sizes(), ONE_EXECUTION),
    Rule.START_LOOKS: (Sizes(), ONE_EXECUTION),
    Rule.ABANDONED: (Sizes(), ONE_EXECUTION),
    Rule.DEAD_TREE: (Sizes(), ONE_EXECUTION),
    Rule.RETIRES_ITSELF: (Sizes(), ONE_EXECUTION),
    Rule.FRESH_TOKEN: (Sizes(), COUNTED),
    Rule.GIVEN_BACK: (Sizes(), COUNTED),
    Rule.ONE_UPDATE_CANCEL: (NO_RETRY, TERMINAL),
    Rule.SWEEP: (NO_RETRY, Broken(STUCK)),
}
# Promises besides the first that a rule keeps, so that every promise is seen broken.
ALSO_BROKEN_BY = [
    (Rule.FORBID_START, OWN_CLAIM),
    (Rule.FENCE_FIRST, IN_TIME),
    (Rule.ONE_UPDATE_CANCEL, IN_TIME),
    (Rule.DEAD_TREE, SLOTS),
    (Rule.TOKEN_FENCE, COUNTED),
]


def shown(found: Explored) -> Explored:
    """For `pytest -s`, and for the report of a test that failed."""
    print(found)
    return found


# --- the protocol ----------------------------------------------------------------------------------
def test_every_promise_holds_in_every_state(figure: Figures) -> None:
    found = shown(explore(Protocol()))
    assert found.broken is None
    assert found.states > 100_000  # else the model has lost something
    figure("model", "states explored", found.states, "")
    figure("model", "violations in any of them", 0 if found.broken is None else 1, "", exactly=0)
    figure("model", "time to explore them", found.seconds)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "sizes",
    [Sizes(deadline=2, lease=3), Sizes(deadline=2, lease=4, retries=2), Sizes(launches=3, retries=2)],
    ids=["longer lease", "longer lease, three attempts", "three launches, three attempts"],
)
def test_every_promise_holds_in_every_state_of_a_larger_model(sizes: Sizes, figure: Figures) -> None:
    found = shown(explore(Protocol(sizes=sizes), most=4_000_000))
    assert found.broken is None
    figure("model", f"states explored ({sizes})", found.states, "")


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_no_promise_is_broken_within_the_first_states_of_two_unlucky_instances(figure: Figures) -> None:
    """Not the whole of it, which is beyond any memory here: breadth first, so everything within so many steps."""
    found = shown(explore(Protocol(both=True), most=2_000_000, whole=False))
    assert found.broken is None
    figure("model", "states explored, both instances unlucky, not all", found.states, "")


@pytest.mark.parametrize("rule", BROKEN_BY, ids=lambda rule: rule.name.lower())
def test_without_one_of_its_rules_a_promise_is_broken(rule: Rule) -> None:
    sizes, promise = BROKEN_BY[rule]
    found = shown(explore(Protocol(rule, sizes=sizes, only=promise)))
    assert found.broken == promise, rule.value
    assert found.trace


@pytest.mark.parametrize(("rule", "promise"), ALSO_BROKEN_BY)
def test_each_promise_is_one_that_can_be_broken(rule: Rule, promise: Broken) -> None:
    assert shown(explore(Protocol(rule, only=promise))).broken == promise


def test_every_rule_is_held_against_the_model() -> None:
    assert set(BROKEN_BY) | {Rule.CLAIM_MARGIN} == set(Rule)


def test_claiming_late_in_a_lease_breaks_nothing_because_the_start_looks_again() -> None:
    """The one rule that is not needed for safety: it saves a claim that could not start any more, and its attempt."""
    assert shown(explore(Protocol(Rule.CLAIM_MARGIN, sizes=NO_RETRY))).broken is None
    both = Protocol(Rule.CLAIM_MARGIN, Rule.START_LOOKS, sizes=NO_RETRY)
    assert explore(both).broken == OWN_CLAIM


# --- smaller ones ----------------------------------------------------------------------------------
@pytest.mark.parametrize("without", [(), (FireRule.UNIQUE_KEY,), (FireRule.REVISION,)], ids=["none", "key", "revision"])
def test_a_schedule_fires_once_and_the_key_or_the_revision_alone_would_do(without: tuple[FireRule, ...]) -> None:
    assert shown(explore(Firing(*without))).broken is None


def test_without_the_key_and_the_revision_a_schedule_fires_twice() -> None:
    assert shown(explore(Firing(FireRule.UNIQUE_KEY, FireRule.REVISION))).broken == ONE_FIRE


def test_without_the_transaction_a_crash_loses_a_fire() -> None:
    assert shown(explore(Firing(FireRule.TRANSACTION))).broken == STUCK


def test_a_child_never_waits_for_a_parent_that_is_over() -> None:
    assert shown(explore(Following())).broken is None


@pytest.mark.parametrize("rule", AfterRule, ids=lambda rule: rule.name.lower())
def test_without_the_transaction_or_the_pokes_a_child_waits_for_ever(rule: AfterRule) -> None:
    assert shown(explore(Following(rule))).broken == STUCK


def test_permits_neither_leak_nor_let_too_many_through() -> None:
    assert shown(explore(Limiting())).broken is None


def test_a_counter_leaks_in_a_crash() -> None:
    assert shown(explore(Limiting(Counting.COUNTER))).broken == STUCK


def test_counting_what_runs_lets_too_many_through() -> None:
    assert shown(explore(Limiting(Counting.RUNNING))).broken == LIMIT


# --- the explorer ----------------------------------------------------------------------------------
class Numbers(Stepwise[int]):
    """From 0 up by one or two; 5 leads nowhere but by luck, 9 is not to be reached."""

    def __init__(self, forbidden: int | None = None) -> None:
        self._forbidden = forbidden

    def initial(self) -> int:
        return 0

    def steps(self, state: int) -> list[tuple[str, bool, int | Broken]]:
        ordinary = state != 5
        return [
            (f"+{more}", ordinary, Broken("forbidden") if state + more == self._forbidden else state + more)
            for more in (1, 2)
            if state + more <= 10
        ]

    def settled(self, state: int) -> bool:
        return state == 10


def test_the_explorer_finds_the_shortest_way_to_what_is_forbidden() -> None:
    found = explore(Numbers(forbidden=9))
    assert (found.broken, found.trace.count("+2"), len(found.trace)) == ("forbidden", 4, 5)


def test_the_explorer_finds_where_only_luck_helps() -> None:
    found = explore(Numbers())
    assert (found.broken, found.states) == (STUCK, 11)
    assert found.trace[-1] == "for ever: 5"
    assert len(found.trace) == 4


def test_the_explorer_refuses_what_is_larger_than_its_bound() -> None:
    with pytest.raises(TooManyStates):
        explore(Numbers(forbidden=9), most=5)
    assert explore(Numbers(forbidden=9), most=5, whole=False).broken is None
