"""Why a task is not running yet, in one sentence: pure, from the same facts a claim looks at.

Used by `why`, by the WHY column of `ps` and by the warning after an enqueue.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from slotsched.model import Capacity, Facts, Instance, Limit, Needs, Reason, Status, Task, concurrency_limit
from slotsched.quantities import format_duration, format_size
from slotsched.views.text import local

MOST_NAMED = 5  # tasks that a sentence names


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """What the store knows about who could run something.

    instances: those the store calls live. holders: job name -> ids of the instances that hold a usable copy of it.
    broken: job name -> what is wrong with its file, by instance id. facts: of the newest copy of the jobs looked at.
    held: permit -> id of the task that holds it. waits: seconds until a job may start again whose rate is used up.
    """

    instances: Sequence[Instance] = ()
    holders: Mapping[str, Collection[str]] = field(default_factory=dict)
    disabled: Collection[str] = ()
    broken: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    facts: Mapping[str, Facts] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    waits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A pending task's place in its lane. seconds: about how long until its turn, None where nothing tells."""

    ahead: int
    seconds: float | None = None


def why(
    task: Task,
    fleet: Fleet,
    now: dt.datetime,
    parents: Mapping[str, Task] | None = None,
    place: Place | None = None,
) -> str:
    """One sentence on where the task stands at `now` (aware, the store's clock as far as known).

    parents: the tasks it waits for, by id, as far as they were read. place: where it was looked up.
    """
    if task.status is Status.PENDING:
        return _pending(task, fleet, now, place)
    if task.status is Status.SCHEDULED:
        return _scheduled(task, now)
    if task.status is Status.WAITING:
        return _waiting(task, parents or {})
    if task.status is Status.RUNNING:
        return _running(task, now)
    return ended(task)


def obstacle(job: str, needs: Needs, fleet: Fleet) -> str | None:
    """What keeps every instance that is up from ever running this, whatever runs there now; None if one could."""
    if job in fleet.disabled:
        return f'job "{job}" is disabled'
    if not fleet.instances:
        return "no instance is up"
    able = [instance for instance in fleet.instances if instance.capacity.fits(needs)]
    if not able:
        return _nobody_has(needs, fleet.instances)
    holders = fleet.holders.get(job, ())
    holding = [instance for instance in fleet.instances if instance.id in holders]
    if not holding:
        return _unusable(job, fleet)
    able = [instance for instance in holding if instance.capacity.fits(needs)]
    if not able:
        return _nobody_has(needs, holding, f'no instance that is up and holds job "{job}"')
    if all(instance.draining for instance in able):
        names = ", ".join(sorted(instance.name for instance in able))
        return f"every instance that could run it is draining ({names})"
    ready = [instance for instance in able if not instance.draining]
    if all(instance.hindrance for instance in ready):
        return "; ".join(f"{instance.name} claims nothing: {instance.hindrance}" for instance in ready[:MOST_NAMED])
    return None


def _unusable(job: str, fleet: Fleet) -> str:
    """Nobody holds a usable copy: the file is broken wherever it is, or nowhere."""
    broken = fleet.broken.get(job, {})
    for instance in fleet.instances:
        if instance.id in broken:
            return f'job "{job}" is broken on {instance.name}: {broken[instance.id]}'
    return f'job "{job}" is on no instance that is up'


def ended(task: Task) -> str:
    """How an ended task ended: `failed: exit code 3`, `canceled by ann`, `completed`."""
    why_so = cause(task)
    if why_so is None:
        return task.status.value
    return why_so if why_so.startswith(task.status.value) else f"{task.status.value}: {why_so}"


def limit_of(task: Task, facts: Facts | None) -> Limit | None:
    """The limit of concurrency that a task comes under by the facts of its job."""
    if facts is None:
        return None
    per_key = facts.concurrency_key is not None
    return concurrency_limit(task.job, facts.concurrency, per_key=per_key, key=task.lane.key)


def _pending(task: Task, fleet: Fleet, now: dt.datetime, place: Place | None) -> str:
    blocked = obstacle(task.job, task.needs, fleet)
    if blocked is not None:
        return blocked
    reached = _limit_reached(task, fleet) or _rate_reached(task, fleet, now)
    if reached is not None:
        return reached + _placed(place)
    lacking = _no_room(task, fleet)
    if lacking is None:
        behind = place is not None and place.ahead > 0
        return ("in line" + _placed(place) if behind else "next in line") + _reserved(task, fleet, now)
    return lacking + _placed(place) + _reserved(task, fleet, now)


def _limit_reached(task: Task, fleet: Fleet) -> str | None:
    """`concurrency limit 3 reached (held by 8c1d2e3f, 8c1d2e4a, 8c1d2e4b)`."""
    limit = limit_of(task, fleet.facts.get(task.job))
    if limit is None or not all(permit in fleet.held for permit in limit.permits):
        return None
    holders = [fleet.held[permit][-8:] for permit in limit.permits]
    more = f" and {len(holders) - MOST_NAMED} more" if len(holders) > MOST_NAMED else ""
    whose = f" for {task.concurrency_key}" if limit.scope.startswith("key:") and task.concurrency_key else ""
    return f"concurrency limit {limit.most}{whose} reached (held by {', '.join(holders[:MOST_NAMED])}{more})"


def _rate_reached(task: Task, fleet: Fleet, now: dt.datetime) -> str | None:
    facts = fleet.facts.get(task.job)
    if facts is None or facts.rate is None or task.job not in fleet.waits:
        return None
    start = now + dt.timedelta(seconds=fleet.waits[task.job])
    return f"start rate {facts.rate} reached; the next start is at {local(start, now)}"


def _no_room(task: Task, fleet: Fleet) -> str | None:
    """What every instance that could run it has too little of now; None where one has room."""
    needs = task.needs
    able = [
        instance
        for instance in fleet.instances
        if instance.id in fleet.holders.get(task.job, ())
        and not (instance.draining or instance.hindrance)
        and instance.capacity.fits(needs)
    ]
    roomy = [instance for instance in able if _free(instance).fits(needs.on(instance.capacity))]
    if roomy:
        return _kept(task, roomy)
    most = max(able, key=lambda instance: _free(instance).slots)
    if needs.exclusive:
        return f"waits to be alone on a machine (least in use: {most.name}, {most.used} of {most.capacity.slots} slots)"
    wide = [instance for instance in able if _free(instance).slots >= needs.slots]
    if not wide:
        count = "slot" if needs.slots == 1 else "slots"
        return f"no instance has {needs.slots} free {count} (most free: {max(0, _free(most).slots)} on {most.name})"
    for lack, text in _needs_in_words(replace(needs, slots=0)):
        if not any(_free(instance).fits(lack) for instance in wide):
            return f"waits for {text}{_most(lack, wide, free=True)}"
    return "waits for an instance that has all it needs free at the same time"


def _kept(task: Task, roomy: Sequence[Instance]) -> str | None:
    """`big-1 keeps its free slots for 8c1d2e3f`: all that have room keep it for a task in front of this one."""
    if any(instance.keeps_for in (None, task.id) for instance in roomy):
        return None
    kept = [f"{one.name} keeps its free slots for {(one.keeps_for or '')[-8:]}" for one in roomy[:MOST_NAMED]]
    return "; ".join(kept)


def _placed(place: Place | None) -> str:
    """`; number 13 in its lane, about 5m00s`; nothing for the first one without a history."""
    if place is None or (place.ahead == 0 and place.seconds is None):
        return ""
    about = "" if place.seconds is None else f", about {format_duration(place.seconds)}"
    return f"; number {place.ahead + 1} in its lane{about}"


def _scheduled(task: Task, now: dt.datetime) -> str:
    wait = (task.due_at - now).total_seconds()
    due = f"{local(task.due_at)} (in {format_duration(wait)})" if wait > 0 else f"{local(task.due_at)} (any moment)"
    last = task.last_attempt
    if last is None:
        return f"not due until {due}"
    cause = _reason_in_words(last.reason, last.exit_code, last.signal) or "ended"
    return f"attempt {last.number}: {cause}; next attempt at {due}"


def _waiting(task: Task, parents: Mapping[str, Task]) -> str:
    """`waits for 8c1d2e3f resize (running) to complete`."""
    missing = task.after or task.parents
    if not missing:
        return "waits for another task"
    named = [_named(parent, parents.get(parent)) for parent in missing[:MOST_NAMED]]
    more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
    of = f"{len(missing)} of {len(task.parents)} tasks: " if len(task.parents) > 1 else ""
    end = {"failure": "fail", "any": "end"}.get(task.when or "", "complete")
    return f"waits for {of}{', '.join(named)}{more} to {end}"


def _named(task_id: str, task: Task | None) -> str:
    return task_id[-8:] if task is None else f"{task_id[-8:]} {task.job} ({task.status.value})"


def _running(task: Task, now: dt.datetime) -> str:
    where = task.instance.name if task.instance else "an instance"
    since = f" for {format_duration((now - task.started_at).total_seconds())}" if task.started_at else ""
    if task.cancel is None:
        return f"running on {where}{since}"
    how = "killed" if task.cancel.kill else "canceled"
    return f"being {how} by {task.cancel.by}; still running on {where}{since}"


def _reserved(task: Task, fleet: Fleet, now: dt.datetime) -> str:
    hint = task.reserved
    if hint is None or hint.until <= now:
        return ""
    name = next((instance.name for instance in fleet.instances if instance.id == hint.by), None)
    return f"; reserved on {name} from {local(hint.start, now)}" if name else ""


def _free(instance: Instance) -> Capacity:
    if instance.free is not None:
        return instance.free
    return replace(instance.capacity, slots=instance.capacity.slots - instance.used)


def _nobody_has(needs: Needs, instances: Sequence[Instance], who: str = "no instance that is up") -> str:
    """The first need that no instance meets alone, or that they do not meet together."""
    for lack, text in _needs_in_words(needs):
        alone = [instance for instance in instances if instance.capacity.fits(lack)]
        if not alone:
            return f"{who} has {text}{_most(lack, instances)}"
    wanted = ", ".join(text for _, text in _needs_in_words(needs))
    return f"{who} has {wanted} together"


def _needs_in_words(needs: Needs) -> Iterable[tuple[Needs, str]]:
    """Each need by itself with its words. Slots come first: every task needs some, most need nothing else."""
    yield Needs(slots=needs.slots), f"{needs.slots} slot{'' if needs.slots == 1 else 's'}"
    if needs.memory is not None:
        yield Needs(slots=0, memory=needs.memory), f"{format_size(needs.memory)} of memory"
    for name, units in sorted(needs.resources.items()):
        yield Needs(slots=0, resources={name: units}), f"{units} {name}"
    for tag in needs.tags:
        yield Needs(slots=0, tags=(tag,)), f"the tag {tag}"


def _most(lack: Needs, instances: Sequence[Instance], *, free: bool = False) -> str:
    """` (largest: big-1, 1024)` or ` (most free: 4 on big-1)` for what can be counted, nothing for a tag."""
    if lack.tags:
        return ""

    def amount(capacity: Capacity) -> int:
        if lack.memory is not None:
            return capacity.memory or 0
        for name in lack.resources:
            return capacity.resources.get(name, 0)
        return capacity.slots

    def there(instance: Instance) -> int:
        return amount(_free(instance) if free else instance.capacity)

    largest = max(instances, key=there)
    most = format_size(there(largest)) if lack.memory is not None else str(there(largest))
    return f" (most free: {most} on {largest.name})" if free else f" (largest: {largest.name}, {most})"


def cause(task: Task) -> str | None:
    """What ended a task, in words: `exit code 3`, `canceled by ann`; None where there is nothing to say."""
    if task.reason is None or task.status is Status.COMPLETED:
        return task.message
    if task.reason is Reason.CANCELED and task.cancel is not None:
        return f"{'killed' if task.cancel.kill else 'canceled'} by {task.cancel.by}"
    words = _reason_in_words(task.reason, task.exit_code, task.signal)
    if task.message and task.message != words:
        return f"{words} ({task.message})" if words else task.message
    return words


_WORDS: Mapping[Reason, str] = {
    Reason.TIMEOUT: "max time reached",
    Reason.MEMORY: "memory limit reached",
    Reason.LOST: "its instance was lost",
    Reason.SHUTDOWN: "its instance shut down before it was done",
    Reason.CANCELED: "canceled",
    Reason.CANCELED_BY_JOB: "the job canceled itself",
    Reason.UPSTREAM: "a task it waited for cannot satisfy it any more",
    Reason.INVALID: "invalid",
    Reason.NOT_STARTED: "could not be started",
}


def _reason_in_words(reason: Reason | None, exit_code: int | None, signal: int | None) -> str | None:
    if reason is Reason.EXIT:
        return f"exit code {exit_code}"
    if reason is Reason.SIGNAL:
        return f"signal {signal_name(signal)}"
    return _WORDS.get(reason) if reason is not None else None


def signal_name(number: Any) -> str:
    """`SIGKILL` for 9; the number itself where this machine has no name for it."""
    import signal

    try:
        return signal.Signals(number).name
    except (ValueError, TypeError):
        return str(number)
