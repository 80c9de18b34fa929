"""What becomes of due rounds while earlier rounds of the series have not ended. Pure.

A round that must wait is a task behind its predecessors: they all have to end first, however they end.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from slotsched.model import Overlap


@dataclass(frozen=True, kw_only=True)
class LiveTask:
    """A task of the series that has not ended. waiting: it is itself behind others."""

    id: str
    waiting: bool = False


@dataclass(frozen=True, kw_only=True)
class Round:
    """A task to create. nominal_at: None for one that a person asked for. behind: tasks whose end it waits for."""

    id: str
    nominal_at: dt.datetime | None
    behind: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """rounds: to create, in order. cancel: live tasks to cancel. skipped: rounds that are left out."""

    rounds: tuple[Round, ...] = ()
    cancel: tuple[str, ...] = ()
    skipped: int = 0


def plan_rounds(
    policy: Overlap,
    times: Sequence[dt.datetime | None],
    ids: Sequence[str],
    live: Sequence[LiveTask],
    *,
    late: bool = False,
    room: int | None = None,
) -> Plan:
    """What to do about the rounds of `times`, given the series' live tasks, oldest first.

    ids: as many as times, fresh. room: how many rounds may still be created, None = any number. late: the rounds
    catch up on missed times. Then `skip` lets several follow one another instead: they are due together only
    because nobody could start them one by one, and leaving out all but the first would not be catching up.
    """
    if policy is Overlap.CANCEL_OTHER:
        return _cancel_other(times, ids, live, room)
    if policy is Overlap.SKIP and late and len(times) > 1:
        policy = Overlap.BUFFER_ALL
    ahead = list(live)
    rounds: list[Round] = []
    skipped = 0
    for nominal_at, task_id in zip(times, ids, strict=True):
        if room is not None and len(rounds) >= room:
            break
        if not _may_start(policy, ahead):
            skipped += 1
            continue
        behind = () if policy is Overlap.ALLOW_ALL else _last_of(ahead)
        rounds.append(Round(id=task_id, nominal_at=nominal_at, behind=behind))
        ahead.append(LiveTask(id=task_id, waiting=bool(behind)))
    return Plan(rounds=tuple(rounds), skipped=skipped)


def _may_start(policy: Overlap, ahead: Sequence[LiveTask]) -> bool:
    if policy is Overlap.SKIP:
        return not ahead
    if policy is Overlap.BUFFER_ONE:
        return not any(task.waiting for task in ahead)
    return True


def _last_of(ahead: Sequence[LiveTask]) -> tuple[str, ...]:
    """Whom the next one waits for: all that do not wait themselves, and the last of those that do.

    The last waiting one is behind all that waited before it, so a long queue is a chain and not a web.
    """
    first = [task.id for task in ahead if not task.waiting]
    waiting = [task.id for task in ahead if task.waiting]
    return (*first, *waiting[-1:])


def _cancel_other(
    times: Sequence[dt.datetime | None], ids: Sequence[str], live: Sequence[LiveTask], room: int | None
) -> Plan:
    """Only the latest round counts: it would have canceled those before it."""
    if not times or room == 0:
        return Plan()
    others = tuple(task.id for task in live)
    last = Round(id=ids[-1], nominal_at=times[-1], behind=others)
    return Plan(rounds=(last,), cancel=others, skipped=len(times) - 1)


def lined_up(times: Sequence[dt.datetime], ids: Sequence[str], at_once: int, ahead: Sequence[str] = ()) -> Plan:
    """A round for each time, in order, of which at most `at_once` (positive) run at the same time.

    ahead: the last rounds, at most `at_once`, of those that are lined up before these.
    """
    behind = [*[()] * (at_once - len(ahead)), *((one,) for one in (*ahead, *ids))]
    return Plan(
        rounds=tuple(
            Round(id=task_id, nominal_at=time, behind=before)
            for time, task_id, before in zip(times, ids, behind[: len(ids)], strict=True)
        )
    )
