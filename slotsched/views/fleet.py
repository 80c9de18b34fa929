"""What the store knows of who could run a task and what stands in front of it, gathered for `explain`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from slotsched.estimate import HISTORY_RUNS, starts_in
from slotsched.model import Capacity, Needs, Task
from slotsched.views.explain import Fleet, Place, limit_of

if TYPE_CHECKING:
    from slotsched.store import Store


def fleet_of(store: Store, jobs: Iterable[str] = (), pending: Sequence[Task] = ()) -> Fleet:
    """Who could run something now.

    jobs: names whose facts are looked at: the newest copy counts. pending: tasks whose limits are looked at.
    """
    catalogs = store.catalogs
    names = {*jobs, *(task.job for task in pending)}
    facts = {name: job.facts for name, job in (catalogs.newest_of(names) if names else {}).items()}
    limits = {limit for task in pending if (limit := limit_of(task, facts.get(task.job))) is not None}
    rates = {task.job: rate for task in pending if task.job in facts and (rate := facts[task.job].rate) is not None}
    return Fleet(
        instances=store.instances.live(),
        holders=catalogs.holders(),
        disabled=frozenset(catalogs.disabled() | {name for name, found in facts.items() if not found.enabled}),
        broken=catalogs.broken(),
        facts=facts,
        held=store.permits.holders(limits) if limits else {},
        waits={job: room.wait for job, room in store.rates.room(rates).items() if room.starts <= 0},
    )


def place_of(store: Store, task: Task, fleet: Fleet) -> Place:
    """How many tasks of its lane a pending task has in front of it, and after how long about its turn comes."""
    ahead = store.tasks.ahead(task.id)
    holders = fleet.holders.get(task.job, ())
    at_once = sum(_copies(one.capacity, task.needs) for one in fleet.instances if one.id in holders)
    facts = fleet.facts.get(task.job)
    limit = limit_of(task, facts)
    seconds = starts_in(
        ahead,
        min(at_once, limit.most) if limit is not None else at_once,
        store.queue.recent_runs(task.job, HISTORY_RUNS),
    )
    if seconds is not None and facts is not None and facts.rate is not None:
        seconds = max(seconds, ahead / facts.rate.starts * facts.rate.seconds)
    return Place(ahead=ahead, seconds=seconds)


def _copies(capacity: Capacity, needs: Needs) -> int:
    """How many tasks with these needs run beside each other there."""
    asked = needs.on(capacity)
    if not capacity.fits(asked):
        return 0
    copies = [capacity.slots // asked.slots]
    copies += [capacity.resources[name] // units for name, units in asked.resources.items()]
    if asked.memory and capacity.memory is not None:
        copies.append(capacity.memory // asked.memory)
    return min(copies)
