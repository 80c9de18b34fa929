"""A task, its attempts, and what a request for one holds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any

from slotsched.model.limits import key_digest
from slotsched.model.needs import Lane, Needs


class Status(StrEnum):
    WAITING = "waiting"  # for other tasks
    SCHEDULED = "scheduled"  # due in the future
    PENDING = "pending"  # due, ready to be claimed
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


WHENS = ("success", "failure", "any")  # how all the tasks that one waits for must end
UNIQUES = ("pending", "running")  # until when a job has at most one task with the same arguments: its start, its end
TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELED})
OPEN = frozenset(Status) - TERMINAL


class Reason(StrEnum):
    """Why a task is in its terminal status (or why its last attempt ended, while a retry is due)."""

    EXIT = "exit"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    LOST = "lost"  # orphan
    SHUTDOWN = "shutdown"  # drain limit
    CANCELED = "canceled"  # by a person
    CANCELED_BY_JOB = "canceled_by_job"  # exit 100
    UPSTREAM = "upstream"
    INVALID = "invalid"
    NOT_STARTED = "not_started"  # script missing, changed, not executable, bad header


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """limit: retries after the first attempt. delay, cap: seconds; exponential doubles the delay with jitter."""

    limit: int = 0
    delay: float = 10.0
    exponential: bool = True
    cap: float = 3600.0
    on: tuple[str, ...] = ("exit", "signal", "timeout", "memory", "lost", "shutdown")


@dataclass(frozen=True, kw_only=True)
class InstanceRef:
    id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class LogRef:
    """Where an attempt's log is. store: URL of the log store; key: the object; bytes: uncompressed length."""

    store: str
    key: str
    bytes: int = 0
    uploaded: bool = False
    truncated: bool = False


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One execution of a task. cpu_seconds and peak_memory (bytes) are the whole tree's."""

    number: int
    fence: int
    instance: InstanceRef
    started_at: dt.datetime
    ended_at: dt.datetime | None = None
    reason: Reason | None = None
    exit_code: int | None = None
    signal: int | None = None
    message: str | None = None
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    hash: str | None = None
    log: LogRef | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """fraction: 0 to 1, or None where the script only says what it does."""

    fraction: float | None = None
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Cancel:
    by: str
    kill: bool = False


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """A hint: instance `by` keeps slots for this task, which could start there at `start`, unless `until` passed."""

    by: str
    start: dt.datetime
    until: dt.datetime


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended, as the supervisor's status.json tells it.

    reason: the cause, in the order lost > memory > timeout > canceled > exit.
    ago: seconds between the end and now (the store subtracts them from its own clock).
    """

    reason: Reason
    exit_code: int | None = None
    signal: int | None = None
    message: str | None = None
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    ago: float = 0.0
    result: Any = None
    state: Any = None
    progress: Progress | None = None
    log_bytes: int = 0
    log_truncated: bool = False


@dataclass(frozen=True, kw_only=True)
class Task:
    """One request to run a job. Field names are the object shape shown by the store, the CLI and the API alike.

    parents: the tasks it was to wait for; after: those of them that have not ended yet; when: how they must end.
    """

    id: str
    job: str
    args: Mapping[str, Any]
    status: Status
    reason: Reason | None = None
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    needs: Needs = field(default_factory=Needs)
    priority: float = 0
    due_at: dt.datetime
    created_at: dt.datetime
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    attempt: int = 0
    attempts: tuple[Attempt, ...] = ()
    instance: InstanceRef | None = None
    fence: int = 0
    trigger: str = "manual"
    schedule: str | None = None
    nominal_at: dt.datetime | None = None
    parents: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    when: str | None = None
    result: Any = None
    progress: Progress | None = None
    owner: str | None = None
    tags: tuple[str, ...] = ()
    key: str | None = None
    retry_of: str | None = None
    max_time: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    keep: float | None = None
    cancel: Cancel | None = None
    reserved: Reservation | None = None
    unique: str | None = None
    concurrency_key: str | None = None

    @property
    def lane(self) -> Lane:
        return Lane(job=self.job, needs=self.needs, key=key_digest(self.concurrency_key))

    @property
    def last_attempt(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    def to_object(self) -> dict[str, Any]:
        """Plain JSON-ready values: dates as ISO 8601 UTC with `Z`, nested types as objects."""
        shown: dict[str, Any] = jsonable(self)
        return shown


@dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """What enqueue inserts. due_in: seconds from the server's now (None = at once); due_at: an absolute time instead.

    max_time: seconds, overrides the job file's. key_window: seconds for which `key` stays taken after enqueue.
    parents: full ids of the tasks to wait for; it is due once all of them have ended as `when` says (`success`:
    completed, `failure`: failed, `any`), and canceled as soon as one of them has ended otherwise.
    unique: `pending` or `running`: where the job has a task with the same arguments that has not started or has not
    ended, respectively, that one stands for this request.
    concurrency_key: what its limit of concurrency is shared by, `customer=acme`; None: the job.
    """

    job: str
    args: Mapping[str, Any] = field(default_factory=dict)
    needs: Needs = field(default_factory=Needs)
    priority: float = 0
    due_in: float | None = None
    due_at: dt.datetime | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_time: float | None = None
    trigger: str = "manual"
    owner: str | None = None
    tags: tuple[str, ...] = ()
    key: str | None = None
    key_window: float = 86400.0
    retry_of: str | None = None
    keep: float | None = None
    parents: tuple[str, ...] = ()
    when: str = "success"
    unique: str | None = None
    concurrency_key: str | None = None

    @property
    def lane(self) -> Lane:
        return Lane(job=self.job, needs=self.needs, key=key_digest(self.concurrency_key))


def jsonable(value: Any) -> Any:
    """Dates as ISO 8601 UTC (`...Z`), dataclasses as objects, tuples and sets as arrays; other values unchanged."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    return value
