"""Why a task is not running yet, in one sentence: pure, from the same facts a claim looks at.

Used by `why`, by the WHY column of `ps` and by the warning after an enqueue.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slotsched.model import Capacity, Instance, Needs, Reason, Status, Task
from slotsched.quantities import format_duration, format_size


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """What the store knows about who could run something.

    instances: those the store calls live. holders: job name -> ids of the instances that hold a usable copy of it.
    broken: job name -> what is wrong with its file, by instance id.
    """

    instances: Sequence[Instance] = ()
    holders: Mapping[str, Collection[str]] = field(default_factory=dict)
    disabled: Collection[str] = ()
    broken: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def why(task: Task, fleet: Fleet, now: dt.datetime) -> str:
    """One sentence on where the task stands at `now` (aware, the store's clock as far as known)."""
    if task.status is Status.PENDING:
        return _pending(task, fleet, now)
    if task.status is Status.SCHEDULED:
        return _scheduled(task, now)
    if task.status is Status.WAITING:
        return "waits for " + (", ".join(parent[-8:] for parent in task.parents) or "another task")
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
    cause = _cause(task)
    return f"{task.status.value}: {cause}" if cause else task.status.value


def _pending(task: Task, fleet: Fleet, now: dt.datetime) -> str:
    blocked = obstacle(task.job, task.needs, fleet)
    if blocked is not None:
        return blocked
    able = [
        instance
        for instance in fleet.instances
        if instance.id in fleet.holders.get(task.job, ())
        and not instance.draining
        and instance.capacity.fits(task.needs)
    ]
    free = max(able, key=_free)
    if _free(free) < task.needs.slots:
        count = "slot" if task.needs.slots == 1 else "slots"
        most = f"(most free: {max(0, _free(free))} on {free.name})"
        return f"no instance has {task.needs.slots} free {count} {most}" + _reserved(task, fleet, now)
    return "next in line" + _reserved(task, fleet, now)


def _scheduled(task: Task, now: dt.datetime) -> str:
    wait = (task.due_at - now).total_seconds()
    due = f"{local(task.due_at)} (in {format_duration(wait)})" if wait > 0 else f"{local(task.due_at)} (any moment)"
    last = task.last_attempt
    if last is None:
        return f"not due until {due}"
    cause = _reason_in_words(last.reason, last.exit_code, last.signal) or "ended"
    return f"attempt {last.number}: {cause}; next attempt at {due}"


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


def _free(instance: Instance) -> int:
    return instance.capacity.slots - instance.used


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


def _most(lack: Needs, instances: Sequence[Instance]) -> str:
    """` (largest: big-1, 1024)` for what can be counted, nothing for a tag."""
    if lack.tags:
        return ""

    def amount(capacity: Capacity) -> int:
        if lack.memory is not None:
            return capacity.memory or 0
        for name in lack.resources:
            return capacity.resources.get(name, 0)
        return capacity.slots

    largest = max(instances, key=lambda instance: amount(instance.capacity))
    most = amount(largest.capacity)
    return f" (largest: {largest.name}, {format_size(most) if lack.memory is not None else most})"


def _cause(task: Task) -> str | None:
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


def local(moment: dt.datetime, now: dt.datetime | None = None) -> str:
    """`2026-11-21 03:15:00 CET` in this machine's zone; only the time of day where that is the day of `now`."""
    here = moment.astimezone()
    if now is not None and here.date() == now.astimezone().date():
        return f"{here:%H:%M:%S}"
    return f"{here:%Y-%m-%d %H:%M:%S} {here.tzname() or here.strftime('%z')}"
