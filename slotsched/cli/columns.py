"""What the tables of tasks, instances and jobs show."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from slotsched.cli.render import STATUS_COLORS, Column
from slotsched.model import Instance, Task
from slotsched.quantities import format_duration, format_size
from slotsched.views.explain import Fleet
from slotsched.views.text import moment, short, span
from slotsched.views.words import NONE, progress_words, ran, waited, why_words


def task_columns(fleet: Fleet, now: dt.datetime) -> list[Column[Task]]:
    """now: aware; waits and runs of unfinished tasks are counted up to it."""
    return [
        Column(title="ID", cell=lambda task: short(task.id)),
        Column(title="JOB", cell=lambda task: task.job, flexible=True),
        Column(title="STATUS", cell=lambda task: task.status.value, color=status_color),
        Column(title="SLOTS", cell=lambda task: str(task.needs.slots), right=True),
        Column(title="INSTANCE", cell=lambda task: task.instance.name if task.instance else NONE),
        Column(title="PROGRESS", cell=progress_words, flexible=True, most=24),
        Column(title="WAITED", cell=lambda task: waited(task, now)),
        Column(title="RAN", cell=lambda task: ran(task, now)),
        Column(title="ATTEMPT", cell=lambda task: str(task.attempt), right=True, wide=True),
        Column(title="PRIORITY", cell=lambda task: f"{task.priority:g}", right=True, wide=True),
        Column(title="OWNER", cell=lambda task: task.owner or NONE, wide=True),
        Column(title="TRIGGER", cell=lambda task: task.trigger, wide=True),
        Column(title="TAGS", cell=lambda task: ",".join(task.tags) or NONE, wide=True),
        Column(title="ENQUEUED", cell=lambda task: moment(task.created_at), wide=True),
        Column(title="WHY", cell=lambda task: why_words(task, fleet, now), flexible=True),
    ]


def status_color(task: Task) -> str | None:
    """The colour of its status."""
    return STATUS_COLORS.get(task.status.value)


def instance_state(instance: Instance) -> str:
    """`up`, `draining`, `hindered` (up, and claims nothing) or `down`."""
    if not instance.live:
        return "down"
    if instance.draining:
        return "draining"
    return "hindered" if instance.hindrance else "up"


def containment(instance: Instance) -> str:
    """`pidns`, `subreaper (degraded)`: there a killed supervisor may leave processes behind."""
    name = str(instance.containment.get("name", NONE))
    return name if instance.containment.get("full", True) else f"{name} (degraded)"


def instance_columns(now: dt.datetime) -> list[Column[Instance]]:
    colors = {"up": "green", "draining": "yellow", "hindered": "red", "down": "red"}
    return [
        Column(title="NAME", cell=lambda instance: instance.name),
        Column(title="STATE", cell=instance_state, color=lambda instance: colors[instance_state(instance)]),
        Column(title="SLOTS", cell=lambda instance: str(instance.capacity.slots), right=True),
        Column(title="USED", cell=lambda instance: str(instance.used) if instance.live else NONE, right=True),
        Column(title="MEMORY", cell=_memory, right=True),
        Column(title="RESOURCES", cell=_resources, flexible=True),
        Column(title="TAGS", cell=lambda instance: ",".join(instance.capacity.tags) or NONE, flexible=True),
        Column(title="RENEWED", cell=lambda instance: _age(now, instance.renewed_at)),
        Column(title="UP FOR", cell=lambda instance: _since(now, instance)),
        Column(title="CONTAINMENT", cell=containment),
        Column(title="VERSION", cell=lambda instance: instance.version, wide=True),
        Column(title="HOST", cell=lambda instance: instance.host, wide=True),
        Column(title="PID", cell=lambda instance: str(instance.pid), right=True, wide=True),
        Column(title="ID", cell=lambda instance: instance.id, wide=True),
        Column(title="HINDRANCE", cell=lambda instance: instance.hindrance or NONE, wide=True),
    ]


def _memory(instance: Instance) -> str:
    return NONE if instance.capacity.memory is None else format_size(instance.capacity.memory)


def _resources(instance: Instance) -> str:
    return ",".join(f"{name}={units}" for name, units in sorted(instance.capacity.resources.items())) or NONE


def _since(now: dt.datetime, instance: Instance) -> str:
    return format_duration((now - instance.started_at).total_seconds()) if instance.live else NONE


def _age(now: dt.datetime, then: dt.datetime) -> str:
    return f"{format_duration((now - then).total_seconds())} ago"


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """One line of `job ls`. problem: what makes its file unusable. instances: names of those that hold it."""

    name: str
    slots: int | None = None
    max_time: float | None = None
    enabled: bool = True
    local: bool = True
    instances: tuple[str, ...] = ()
    description: str = ""
    problem: str | None = None

    @property
    def state(self) -> str:
        if self.problem is not None:
            return "broken"
        return "enabled" if self.enabled else "disabled"


def job_columns() -> list[Column[JobRow]]:
    colors = {"broken": "red", "disabled": "yellow"}
    return [
        Column(title="JOB", cell=lambda row: row.name),
        Column(title="STATE", cell=lambda row: row.state, color=lambda row: colors.get(row.state)),
        Column(title="SLOTS", cell=lambda row: NONE if row.slots is None else str(row.slots), right=True),
        Column(title="MAX TIME", cell=lambda row: NONE if row.max_time is None else span(row.max_time)),
        Column(title="HERE", cell=lambda row: "yes" if row.local else "no"),
        Column(title="INSTANCES", cell=lambda row: ",".join(row.instances) or NONE, flexible=True),
        Column(title="DESCRIPTION", cell=lambda row: row.problem or row.description or NONE, flexible=True),
    ]
