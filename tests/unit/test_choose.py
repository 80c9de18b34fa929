"""The claim policy as a pure function: properties that hold for any queue, and the rules one by one."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from slotsched.choose import HARD_AFTER_SECONDS, STEAL_SECONDS, Candidate, Choice, Hold, Running, choose, is_hard
from slotsched.model import Capacity, Needs

NOW = 1_000_000.0
GIGABYTE = 1 << 30

needs_strategy = st.builds(
    Needs,
    slots=st.integers(1, 12),
    memory=st.none() | st.integers(1, 12).map(lambda n: n * GIGABYTE),
    resources=st.sampled_from([{}, {}, {"gpu": 1}, {"gpu": 2}, {"tpu": 1}]),
)
capacity_strategy = st.builds(
    Capacity,
    slots=st.integers(1, 12),
    memory=st.none() | st.integers(1, 12).map(lambda n: n * GIGABYTE),
    resources=st.sampled_from([{}, {"gpu": 1}, {"gpu": 2, "tpu": 1}]),
)
seconds = st.integers(1, 2000).map(float)


@st.composite
def candidate_lists(draw: st.DrawFn, *, held: bool = True) -> list[Candidate]:
    out = []
    for number in range(draw(st.integers(0, 20))):
        limit = draw(seconds)
        holder = draw(st.sampled_from([None, None, "me", "other"])) if held else None
        out.append(
            Candidate(
                id=f"t{number}",
                needs=draw(needs_strategy),
                planned=min(limit, draw(seconds)),
                limit=limit,
                due=NOW - draw(st.sampled_from([1.0, 1000.0, 3 * HARD_AFTER_SECONDS])),
                holder=holder,
                hold_start=NOW + draw(st.integers(-100, 2000)) if holder else None,
            )
        )
    return out


@st.composite
def passes(draw: st.DrawFn, *, held: bool = True) -> tuple[Capacity, Capacity, list[Running], list[Candidate]]:
    """(free, capacity, running, candidates): what runs was taken out of the capacity, so it fits together."""
    capacity = draw(capacity_strategy)
    free, running = capacity, []
    for needs in draw(st.lists(needs_strategy, max_size=8)):
        if free.fits(needs):
            free = free.less(needs)
            kill_at = NOW + draw(seconds)
            running.append(Running(needs, min(kill_at, NOW + draw(st.integers(-50, 2000))), kill_at))
    return free, capacity, running, draw(candidate_lists(held=held))


def take(free: Capacity, candidates: Sequence[Candidate], claims: Sequence[str]) -> Capacity:
    """What is left after the claims, checking every one of them."""
    by_id = {candidate.id: candidate for candidate in candidates}
    for claim in claims:
        assert free.fits(by_id[claim].needs), f"{claim} does not fit"
        free = free.less(by_id[claim].needs)
    return free


def earliest(
    free: Capacity, running: Sequence[Running], needs: Needs, end: Callable[[Running], float], capacity: Capacity
) -> float:
    """When `needs` fits if every running task ends at `end(task)`: written without vectors, as a second opinion."""
    times = sorted({NOW, *(end(task) for task in running)})
    for time in times:
        left = capacity
        for task in running:
            if end(task) > time:
                left = left.less(task.needs)
        if left.fits(needs):
            return time
    raise AssertionError("never fits")


# --- properties --------------------------------------------------------------------------------------


@given(passes())
def test_claims_are_distinct_candidates_and_never_exceed_what_is_free_in_any_dimension(p):
    free, capacity, running, candidates = p
    choice = choose(NOW, free, capacity, running, candidates, "me")
    assert len(set(choice.claims)) == len(choice.claims)
    take(free, candidates, choice.claims)


@given(passes())
def test_only_a_task_that_stays_pending_and_that_this_instance_could_run_is_reserved(p):
    free, capacity, running, candidates = p
    choice = choose(NOW, free, capacity, running, candidates, "me")
    if choice.reserve is not None:
        reserved = next(candidate for candidate in candidates if candidate.id == choice.reserve.id)
        assert reserved.id not in choice.claims
        assert capacity.fits(reserved.needs)
        assert choice.reserve.start > NOW


@settings(max_examples=300)
@given(passes(held=False))
def test_a_reserved_task_can_start_when_promised_if_planned_ends_are_kept(p):
    """Hard promises count with kill times, the others with plans; an overrun task counts with its kill time."""
    free, capacity, running, candidates = p
    choice = choose(NOW, free, capacity, running, candidates, "me")
    if choice.reserve is None:
        return
    by_id = {candidate.id: candidate for candidate in candidates}
    reserved = by_id[choice.reserve.id]
    hard = NOW - reserved.due >= HARD_AFTER_SECONDS
    claimed = [by_id[claim] for claim in choice.claims]
    then = [*running, *(Running(task.needs, NOW + task.planned, NOW + task.limit) for task in claimed)]

    def end(task: Running) -> float:
        return max(NOW + 1, task.kill_at if hard or task.planned_end <= NOW else task.planned_end)

    assert earliest(free, then, reserved.needs, end, capacity) <= choice.reserve.start


@settings(max_examples=300)
@given(passes())
def test_tasks_behind_never_delay_the_reserved_one_whatever_was_promised_before(p):
    """Its earliest start is the same with and without the claims that come after it in rank."""
    free, capacity, running, candidates = p
    choice = choose(NOW, free, capacity, running, candidates, "me")
    if choice.reserve is None:
        return
    place = [candidate.id for candidate in candidates].index(choice.reserve.id)
    reserved = candidates[place]
    hard = NOW - reserved.due >= HARD_AFTER_SECONDS
    claimed = [candidate for candidate in candidates if candidate.id in choice.claims]

    def starts(tasks: Sequence[Candidate]) -> list[Running]:
        return [*running, *(Running(task.needs, NOW + task.planned, NOW + task.limit) for task in tasks)]

    def end(task: Running) -> float:
        return max(NOW + 1, task.kill_at if hard or task.planned_end <= NOW else task.planned_end)

    ahead = starts([task for task in claimed if candidates.index(task) < place])
    assert earliest(free, starts(claimed), reserved.needs, end, capacity) == earliest(
        free, ahead, reserved.needs, end, capacity
    )


@given(capacity_strategy, candidate_lists())
def test_an_empty_machine_always_starts_the_first_task_that_fits_it(capacity, candidates):
    choice = choose(NOW, capacity, capacity, [], candidates, "me")
    fitting = [candidate.id for candidate in candidates if capacity.fits(candidate.needs)]
    assert choice.claims[:1] == fitting[:1]


@given(passes())
def test_nothing_that_fits_is_left_while_nothing_is_reserved(p):
    """Room is only withheld for a reservation, or left to a task that another instance keeps none for."""
    free, capacity, running, candidates = p
    choice = choose(NOW, free, capacity, running, candidates, "me")
    if choice.reserve is None:
        left = take(free, candidates, choice.claims)
        assert not [c.id for c in candidates if c.id not in choice.claims and left.fits(c.needs)]


@given(passes())
def test_the_same_input_gives_the_same_choice_and_is_left_unchanged(p):
    free, capacity, running, candidates = p
    before = (repr(free), list(running), list(candidates))
    first = choose(NOW, free, capacity, running, candidates, "me")
    assert choose(NOW, free, capacity, running, candidates, "me") == first
    assert (repr(free), running, candidates) == before


@given(passes(), st.floats(-1e6, 1e9))
def test_only_differences_of_times_matter(p, shift):
    """The clock's origin is the caller's business."""
    free, capacity, running, candidates = p
    shift = float(round(shift))
    choice = choose(NOW, free, capacity, running, candidates, "me")
    later = choose(
        NOW + shift,
        free,
        capacity,
        [task._replace(planned_end=task.planned_end + shift, kill_at=task.kill_at + shift) for task in running],
        [
            task._replace(due=task.due + shift, hold_start=None if task.hold_start is None else task.hold_start + shift)
            for task in candidates
        ],
        "me",
    )
    assert later.claims == choice.claims
    assert (later.reserve is None) == (choice.reserve is None)


@given(st.integers(0, 3))
def test_what_a_shrunken_machine_still_owes_is_not_claimed(owed):
    running = [Running(Needs(slots=4), NOW + 50, NOW + 60)]
    choice = choose(NOW, Capacity(slots=-owed), Capacity(slots=4 - owed), running, [task("a", 1)])
    assert choice.claims == []


# --- rules -------------------------------------------------------------------------------------------


def task(id: str, slots: int, planned: float = 100.0, **changes: Any) -> Candidate:
    limit = changes.pop("limit", 2 * planned)
    return Candidate(id=id, needs=Needs(slots=slots), planned=planned, limit=limit, due=NOW - 10)._replace(**changes)


def runs(*ends: float, slots: int = 1) -> list[Running]:
    return [Running(Needs(slots=slots), NOW + end, NOW + 2 * end) for end in ends]


def decide(free: int, running: Sequence[Running], *candidates: Candidate, **options: Any) -> Choice:
    capacity = Capacity(slots=free + sum(run.needs.slots for run in running))
    return choose(NOW, Capacity(slots=free), capacity, running, candidates, "me", **options)


def test_tasks_start_in_rank_order_up_to_the_first_blocked_one():
    choice = decide(4, [], task("long", 1, 900), task("short", 1, 10), task("two", 2))
    assert choice == (["long", "short", "two"], None)


def test_behind_a_blocked_task_only_what_ends_before_its_start_may_go():
    choice = decide(2, runs(60, 90), task("wide", 4), task("late", 1, 91), task("in-time", 1, 90))
    assert choice == (["in-time"], Hold("wide", NOW + 90))


def test_behind_a_blocked_task_what_needs_none_of_its_slots_may_go():
    choice = decide(2, runs(90, 90), task("wide", 3), task("first", 1, 900), task("second", 1, 900))
    assert choice.claims == ["first"], "four slots, three for the wide task: one is extra"


def test_the_shortest_fill_the_gaps_first_and_equals_keep_their_rank():
    choice = decide(2, runs(100), task("wide", 3), task("a", 1, 80), task("b", 1, 20), task("c", 1, 20))
    assert choice.claims == ["b", "c"]


def test_tasks_of_about_the_same_length_keep_their_rank_in_a_gap():
    alike = [task("wide", 3), task("a", 1, 60), task("b", 1, 40), task("c", 1, 30)]
    assert decide(2, runs(100), *alike).claims == ["a", "b"]
    assert decide(2, runs(100), *alike, task("short", 1, 6)).claims == ["short", "a"]


def test_nothing_is_reserved_while_nothing_is_withheld():
    assert decide(1, runs(60), task("wide", 2)) == ([], None)
    assert decide(1, runs(60), task("wide", 2), task("in-time", 1, 30)) == (["in-time"], None)


def test_a_reservation_is_kept_while_its_task_is_still_the_first_blocked_one():
    held = task("wide", 2, holder="me", hold_start=NOW + 60)
    assert decide(1, runs(60), held) == ([], Hold("wide", NOW + 60))


def test_a_slipped_plan_does_not_let_in_more_tasks_until_the_promised_start_is_past():
    late = task("late", 1, 300)
    promised = task("wide", 2, holder="me", hold_start=NOW + 60)
    assert decide(1, runs(500), promised, late) == ([], Hold("wide", NOW + 60))
    broken = task("wide", 2, holder="me", hold_start=NOW - 1)
    assert decide(1, runs(500), broken, late) == (["late"], Hold("wide", NOW + 500))


def test_a_task_for_which_another_instance_keeps_room_no_later_is_not_kept_room_for_here():
    behind = task("behind", 1, 900)
    as_good = task("wide", 2, holder="other", hold_start=NOW + 100 + STEAL_SECONDS)
    assert decide(1, runs(100), as_good, behind) == (["behind"], None)
    worse = as_good._replace(hold_start=NOW + 101 + STEAL_SECONDS)
    assert decide(1, runs(100), worse, behind) == ([], Hold("wide", NOW + 100))


def test_the_next_blocked_task_is_kept_room_for_when_another_instance_has_the_first():
    first = task("first", 3, holder="other", hold_start=NOW + 5)
    assert decide(1, runs(50, 90), first, task("second", 2), task("late", 1, 300)) == ([], Hold("second", NOW + 50))


def test_a_task_reserved_by_another_instance_is_claimed_where_it_fits_now():
    assert decide(2, [], task("wide", 2, holder="other", hold_start=NOW + 1)).claims == ["wide"]


def test_a_task_that_overran_its_plan_counts_with_its_kill_time():
    overrun = [Running(Needs(), NOW - 5, NOW + 200)]
    assert decide(1, overrun, task("wide", 2), task("late", 1, 201)).reserve == Hold("wide", NOW + 200)


def test_a_task_that_waited_too_long_is_promised_a_start_by_hard_limits_only():
    tired = task("wide", 2, due=NOW - HARD_AFTER_SECONDS)
    passing = task("passing", 1, planned=50, limit=500)
    assert decide(1, runs(100), tired._replace(due=NOW - 10), passing).claims == ["passing"]
    assert decide(1, runs(100), tired, passing) == ([], Hold("wide", NOW + 200))
    assert decide(1, runs(100), tired, passing._replace(limit=200)).claims == ["passing"]
    assert decide(1, runs(100), tired, passing, hard_after=2 * HARD_AFTER_SECONDS).claims == ["passing"]


def test_hard_limits_come_after_a_day_or_twice_the_tasks_own_limit():
    assert not is_hard(HARD_AFTER_SECONDS - 1, 600)
    assert is_hard(HARD_AFTER_SECONDS, 600)
    assert not is_hard(HARD_AFTER_SECONDS, HARD_AFTER_SECONDS)
    assert is_hard(2 * HARD_AFTER_SECONDS, HARD_AFTER_SECONDS)
    assert is_hard(3600, 600, hard_after=3600)


def test_a_task_the_machine_could_never_run_stops_nobody():
    giant = task("giant", 50)
    alien = task("alien", 1, needs=Needs(slots=1, resources={"tpu": 1}))
    assert decide(1, runs(60), giant, alien, task("small", 1, 900)) == (["small"], None)


def test_a_task_that_waits_for_a_resource_does_not_hold_back_those_that_need_none():
    capacity = Capacity(slots=8, memory=8 * GIGABYTE, resources={"gpu": 1})
    trains = Needs(slots=1, memory=GIGABYTE, resources={"gpu": 1})
    running = [Running(trains, NOW + 500, NOW + 900)]
    queue = [task("gpu", 1, needs=trains), task("plain", 1, 5000), task("gpu-too", 1, 5000, needs=trains)]
    choice = choose(NOW, capacity.less(trains), capacity, running, queue)
    assert choice.claims == ["plain"]


def test_memory_that_a_blocked_task_needs_is_withheld_like_slots():
    capacity = Capacity(slots=8, memory=8 * GIGABYTE)
    half = Needs(slots=1, memory=4 * GIGABYTE)
    running = [Running(half, NOW + 100, NOW + 200)]
    queue = [task("all", 1, needs=Needs(slots=1, memory=8 * GIGABYTE)), task("late", 1, 200, needs=half)]
    assert choose(NOW, capacity.less(half), capacity, running, queue) == ([], Hold("all", NOW + 100))


def test_room_held_by_no_running_task_still_gives_a_blocked_task_its_promise():
    """A claim in doubt or a dying process holds slots that no plan knows of."""
    choice = choose(NOW, Capacity(slots=1), Capacity(slots=4), runs(50), [task("wide", 4), task("late", 1, 60)])
    assert choice == ([], Hold("wide", NOW + 50))
    nothing_known = choose(NOW, Capacity(slots=1), Capacity(slots=4), [], [task("wide", 4), task("late", 1, 60)])
    assert nothing_known == ([], Hold("wide", NOW + 1))


def test_a_task_past_its_kill_time_is_taken_to_end_soon_but_not_to_have_ended():
    dying = [Running(Needs(), NOW - 50, NOW - 5)]
    assert decide(1, dying, task("wide", 2), task("late", 1, 60)) == ([], Hold("wide", NOW + 1))


def test_however_short_the_tasks_behind_are_they_do_not_pass_for_ever():
    """Under an endless stream of tasks of half a second, the promised start is when what runs ends, not a second on."""
    running = runs(0.1, 0.2, 0.3)
    assert decide(1, running, task("wide", 4), task("late", 1, 0.31)) == ([], Hold("wide", NOW + 0.3))
    assert decide(1, running, task("wide", 4), task("in-time", 1, 0.25)).claims == ["in-time"]


@given(st.floats(0.01, 100.0), st.integers(2, 8), st.integers(0, 2**32))
def test_a_wide_task_starts_in_a_stream_of_tasks_of_any_length_once_those_that_ran_have_ended(length, slots, seed):
    """Plans are kept here; one narrow task always waits for each slot that comes free."""
    source = random.Random(seed)
    ends = [NOW + length * source.random() for _ in range(slots)]
    latest = max(ends)
    while ends:
        now = min(ends)
        assert now <= latest, "they go on passing"
        ends.remove(now)
        running = [Running(Needs(), end, now + 1000.0) for end in ends]
        queue = [task("wide", slots, due=NOW - 1), *(task(f"n{n}", 1, length) for n in range(slots))]
        choice = choose(now, Capacity(slots=slots - len(ends)), Capacity(slots=slots), running, queue, "me")
        if "wide" in choice.claims:
            break
        ends += [now + length for _ in choice.claims]
    assert choice.claims[:1] == ["wide"]


# --- cost --------------------------------------------------------------------------------------------


def count_calls(action: Callable[[], object]) -> int:
    """Function calls made by `action`, those into C included: a measure of work that no busy machine changes."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(before)
    return calls


def pass_of(candidates: int, blocked: int, running: int, *, holder: str | None) -> Callable[[], Choice]:
    queue = [task(f"wide-{n}", 200, holder=holder, hold_start=NOW + 90 if holder else None) for n in range(blocked)] + [
        task(f"t{n}", 1, 100.0 + n, needs=Needs(slots=1, resources={"gpu": n % 2})) for n in range(candidates)
    ]
    here = [Running(Needs(slots=1), NOW + n, NOW + 2 * n) for n in range(1, running + 1)]
    capacity = Capacity(slots=200, memory=GIGABYTE, resources={"gpu": 100})
    free = Capacity(slots=200 - running, memory=GIGABYTE, resources={"gpu": 100})
    return lambda: choose(NOW, free, capacity, here, queue, "me")


def test_the_work_of_a_full_pass_is_bounded():
    """100 that fit, 16 that do not, 64 running, three dimensions: some ten calls for each task."""
    assert count_calls(pass_of(100, 16, 64, holder=None)) < 20 * (100 + 16 + 64)


def test_the_work_of_a_pass_grows_with_its_input_and_no_faster():
    assert count_calls(pass_of(400, 16, 160, holder=None)) < 5 * count_calls(pass_of(100, 4, 40, holder=None))


def test_reservations_of_others_on_every_blocked_task_cost_one_look_at_the_plan_each():
    assert count_calls(pass_of(100, 16, 64, holder="other")) < 20 * (100 + 16 * 64)
