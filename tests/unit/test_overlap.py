"""What becomes of due rounds while earlier ones have not ended."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from slotsched.model import Overlap
from slotsched.overlap import LiveTask, Plan, lined_up, plan_rounds

T0 = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def times(count: int) -> list[dt.datetime]:
    return [T0 + dt.timedelta(minutes=n) for n in range(count)]


def plan(policy: Overlap, count: int = 1, live: Sequence[LiveTask] = (), **more: object) -> Plan:
    return plan_rounds(policy, times(count), [f"new-{n}" for n in range(count)], live, **more)  # type: ignore[arg-type]


RUNNING = LiveTask(id="running")
WAITING = LiveTask(id="waiting", waiting=True)


def behind(planned: Plan) -> list[tuple[str, ...]]:
    return [one.behind for one in planned.rounds]


def test_without_live_tasks_every_policy_starts_one_at_once() -> None:
    for policy in Overlap:
        assert (behind(plan(policy)), plan(policy).skipped, plan(policy).cancel) == ([()], 0, ())


def test_skip_leaves_out() -> None:
    assert (plan(Overlap.SKIP, live=[RUNNING]).rounds, plan(Overlap.SKIP, live=[RUNNING]).skipped) == ((), 1)


def test_buffer_one_waits_unless_one_waits_already() -> None:
    assert behind(plan(Overlap.BUFFER_ONE, live=[RUNNING])) == [("running",)]
    assert plan(Overlap.BUFFER_ONE, live=[RUNNING, WAITING]).skipped == 1


def test_buffer_all_waits_behind_the_last_that_waits_and_all_that_do_not() -> None:
    other = LiveTask(id="earlier", waiting=True)
    assert behind(plan(Overlap.BUFFER_ALL, live=[RUNNING, other, WAITING])) == [("running", "waiting")]


def test_cancel_other_cancels_all_that_live_and_waits_for_them() -> None:
    planned = plan(Overlap.CANCEL_OTHER, count=3, live=[RUNNING, WAITING])
    assert planned.cancel == ("running", "waiting")
    assert [(one.id, one.nominal_at, one.behind) for one in planned.rounds] == [
        ("new-2", times(3)[-1], ("running", "waiting"))
    ]
    assert planned.skipped == 2


def test_allow_all_asks_nobody() -> None:
    assert behind(plan(Overlap.ALLOW_ALL, count=3, live=[RUNNING])) == [(), (), ()]


def test_several_missed_times_follow_one_another_under_skip_instead_of_being_left_out() -> None:
    assert behind(plan(Overlap.SKIP, count=3, late=True)) == [(), ("new-0",), ("new-0", "new-1")]


def test_no_more_rounds_than_there_is_room_for() -> None:
    for policy in Overlap:
        assert len(plan(policy, count=5, late=True, room=2).rounds) <= 2
        assert plan(policy, count=5, room=0).rounds == ()


@given(
    policy=st.sampled_from(Overlap),
    count=st.integers(0, 6),
    late=st.booleans(),
    waits=st.lists(st.booleans(), max_size=4),
    room=st.none() | st.integers(0, 4),
)
def test_whatever_is_due_the_policy_holds(
    policy: Overlap, count: int, late: bool, waits: list[bool], room: int | None
) -> None:
    live = [LiveTask(id=f"live-{n}", waiting=waiting) for n, waiting in enumerate(waits)]
    planned = plan(policy, count, live, late=late, room=room)
    made = [one.id for one in planned.rounds]
    assert len(made) + planned.skipped <= count
    assert made == sorted(made)
    if policy is not Overlap.ALLOW_ALL:
        free = [one for one in planned.rounds if not one.behind]
        assert len(free) <= (0 if live else 1)  # never two at once
    if policy is Overlap.BUFFER_ONE:
        assert sum(task.waiting for task in live) + sum(bool(one.behind) for one in planned.rounds) <= max(
            1, sum(task.waiting for task in live)
        )
    seen = [task.id for task in live]
    for one in planned.rounds:  # nobody waits for what is not there yet
        assert set(one.behind) <= set(seen)
        seen.append(one.id)
    assert set(planned.cancel) <= {task.id for task in live}


def test_lined_up_rounds_run_at_most_so_many_at_once() -> None:
    planned = lined_up(times(5), list("abcde"), 2)
    assert behind(planned) == [(), (), ("a",), ("b",), ("c",)]
    assert behind(lined_up(times(2), list("ab"), 9)) == [(), ()]
    assert lined_up([], [], 1).rounds == ()


def test_what_is_lined_up_in_parts_is_one_line() -> None:
    whole = lined_up(times(7), list("abcdefg"), 3)
    first = lined_up(times(4), list("abcd"), 3)
    rest = lined_up(times(7)[4:], list("efg"), 3, ahead=list("bcd"))
    assert (*first.rounds, *rest.rounds) == whole.rounds
    assert behind(lined_up(times(3), list("abc"), 3, ahead=["z"])) == [(), (), ("z",)]
