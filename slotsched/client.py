"""Enqueue and query from programs; the command line goes through the same class.

    with Client() as client:
        handle = client.enqueue("resize", {"folder": "/pics"}, slots=4)
        task = client.wait([handle], timeout=600)[0]

Settings come from the same places as the command line's. The database driver loads with the first call.
"""

from __future__ import annotations

import datetime as dt
import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from slotsched.errors import InvalidBatch, InvalidJob, NotFound, Refused, UsageError
from slotsched.model import TERMINAL, Job, Status, Task, TaskRequest
from slotsched.request import build_request, refuse_unknown, user_name
from slotsched.settings import Settings, load
from slotsched.views.explain import MOST_NAMED, Fleet, why
from slotsched.views.fleet import fleet_of, place_of
from slotsched.waiting import changes

if TYPE_CHECKING:
    from slotsched.archive import Archive
    from slotsched.catalog import Folder
    from slotsched.schedules import Schedules
    from slotsched.store import Store


@dataclass(frozen=True)
class Handle:
    """A task that was enqueued. existed: it was there already: of its `key`, or the only one its job may have."""

    id: str
    status: Status
    existed: bool
    client: Client

    def __str__(self) -> str:
        return self.id

    def get(self) -> Task:
        """The task as it is now."""
        return self.client.get(self.id)

    def wait(self, timeout: float | None = None) -> Task:
        """The ended task. timeout: seconds, None = without limit; raises WaitTimeout."""
        return self.client.wait([self.id], timeout)[0]

    def cancel(self) -> Task:
        """Ask it to end: SIGTERM, then SIGKILL after its grace. Raises Refused once it has ended."""
        return self.client.cancel(self.id)

    def logs(self, *, follow: bool = False) -> Iterator[dict[str, Any]]:
        """Its log lines; see Client.logs."""
        return self.client.logs(self.id, follow=follow)


class Client:
    """The way into slotsched for programs. One per process is enough; threads may share it.

    uri: of the MongoDB replica set. settings: any other setting by its name (`jobs_dir="..."`, `database="..."`).
    What is not given comes from SLOTSCHED_* variables, configuration files and defaults. Raises InvalidSettings.
    """

    def __init__(self, uri: str | None = None, **settings: Any) -> None:
        flags = {"mongodb_uri": uri, **settings}
        given = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
        self.settings = load({name: value for name, value in given.items() if value is not None}).settings

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """A client on settings that are already loaded."""
        client = cls.__new__(cls)
        client.settings = settings
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a client that never spoke has none."""
        if "store" in self.__dict__:
            self.store.close()

    @cached_property
    def store(self) -> Store:
        """The database, connected on first use. Raises StoreUnreachable, StoreUnsuitable."""
        from slotsched.opening import open_store

        return open_store(self.settings)

    @cached_property
    def folder(self) -> Folder:
        """The local job files."""
        from slotsched.catalog import Folder

        return Folder(self.settings.jobs_dir)

    @cached_property
    def schedules(self) -> Schedules:
        """What makes tasks over time."""
        from slotsched.schedules import Schedules

        return Schedules(self)

    # --- enqueue ------------------------------------------------------------------------------------

    def job(self, name: str) -> Job:
        """The job as tasks are checked against: the local file, else the newest published copy.

        Raises NotFound with the nearest name, InvalidJob for a local file that cannot be used.
        """
        try:
            return self.folder.fresh(name)
        except NotFound as missing:
            published = self.store.catalogs.newest(name)
            if published is None:
                raise self._no_job(name, missing) from None
            return published

    def request(self, job: Job | str, args: Mapping[str, Any] | None = None, **options: Any) -> TaskRequest:
        """What `enqueue` would store, checked but not stored; the same parameters and errors."""
        from slotsched.catalog.arguments import check_arguments

        found = self.job(job) if isinstance(job, str) else job
        checked = check_arguments(found.name, found.parameters, args or {})
        return build_request(found, checked, **self._with_ids(options))

    def _with_ids(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options with full ids where tasks are named in another way."""
        given = options.get("after")
        after = [given] if isinstance(given, (Handle, str)) else given
        if not isinstance(after, (list, tuple)) or not all(isinstance(task, (Handle, str)) for task in after):
            return options
        return options | {"after": [self._id(task) for task in after]}

    def enqueue(
        self,
        job: str,
        args: Mapping[str, Any] | None = None,
        *,
        at: dt.datetime | None = None,
        in_: float | str | None = None,
        slots: int | None = None,
        memory: int | str | None = None,
        max_time: float | str | None = None,
        priority: float | None = None,
        retries: int | None = None,
        key: str | None = None,
        tags: Sequence[str] = (),
        owner: str | None = None,
        after: Sequence[Handle | str] = (),
        when: str | None = None,
    ) -> Handle:
        """Store one task and return its handle.

        at: an aware time; in_: seconds or `10m`; neither: due at once. slots, memory (bytes or `512M`), max_time
        (seconds or `30m`), priority and retries replace the job's own. key: within 24 h a second task of the same
        key is not stored, the first one's handle is returned (KeyConflict where its arguments differ). after: tasks
        it waits for; when all of them have ended as `when` says (`success`, the default: completed; `failure`: failed;
        `any`) it is due, when one has ended otherwise it is canceled with the reason `upstream`.
        Raises NotFound, InvalidJob, InvalidArguments, UsageError, StoreError: then nothing was stored.
        """
        request = self.request(
            job,
            args,
            at=at,
            in_=in_,
            slots=slots,
            memory=memory,
            max_time=max_time,
            priority=priority,
            retries=retries,
            key=key,
            tags=tags,
            owner=owner,
            after=after,
            when=when,
        )
        return self.submit(request)

    def submit(self, request: TaskRequest) -> Handle:
        """Store a request that `request` has checked."""
        stored = self.store.tasks.enqueue(*self._not_past([request]))
        return Handle(stored.id, stored.status, stored.existed, self)

    def requests(self, items: Iterable[Mapping[str, Any]]) -> list[TaskRequest]:
        """Check many; each item has `job`, `args` and the options of `enqueue` by name (`in` may stand for `in_`).

        Raises InvalidBatch that names every bad one.
        """
        jobs: dict[str, Job | NotFound | InvalidJob] = {}
        checked: dict[int, TaskRequest] = {}
        problems: list[tuple[int, str]] = []
        for position, item in enumerate(items, 1):
            try:
                checked[position] = self._checked(item, jobs)
            except (UsageError, NotFound, InvalidJob) as error:
                problems.append((position, str(error)))
        missing = self.store.tasks.missing(parent for request in checked.values() for parent in request.parents)
        for position, request in checked.items():
            problems += [(position, f'no task "{one}" to wait for') for one in request.parents if one in missing]
        if problems:
            raise InvalidBatch(sorted(problems))
        return list(checked.values())

    def enqueue_many(
        self, items: Iterable[Mapping[str, Any]], on_batch: Callable[[int], None] | None = None
    ) -> list[Handle]:
        """Check all, then store all, in batches; nothing is stored where one is bad (InvalidBatch) or its key is that
        of a task with other arguments (KeyConflict).

        Each exists once its batch is acknowledged. An outage halfway (StoreUnreachable), or a key that another client
        takes in that moment, leaves some; with keys all can be sent again, and none is made twice.
        on_batch: called with the number stored so far. See `requests` for the items.
        """
        return self.submit_many(self.requests(items), on_batch)

    def submit_many(
        self, requests: Sequence[TaskRequest], on_batch: Callable[[int], None] | None = None
    ) -> list[Handle]:
        """Store requests that `requests` has checked."""
        stored = self.store.tasks.enqueue_many(self._not_past(requests), on_batch)
        return [Handle(one.id, one.status, one.existed, self) for one in stored]

    def _not_past(self, requests: Sequence[TaskRequest]) -> list[TaskRequest]:
        """Due at once instead of in the past, by the store's clock: a place in the queue is not had by asking for it.

        This machine's clock may be wrong; it must not make a task early.
        """
        now = self.store.now() if any(request.due_at is not None for request in requests) else None
        past = [now is not None and request.due_at is not None and request.due_at <= now for request in requests]
        return [replace(one, due_at=None) if due else one for one, due in zip(requests, past, strict=True)]

    def _checked(self, item: Any, jobs: dict[str, Job | NotFound | InvalidJob]) -> TaskRequest:
        if not isinstance(item, Mapping):
            raise UsageError("not a JSON object")
        options = dict(item)
        name, args = options.pop("job", None), options.pop("args", None)
        if "in" in options:
            if "in_" in options:
                raise UsageError("in and in_ are one option")
            options["in_"] = options.pop("in")
        if not isinstance(name, str):
            raise UsageError('"job" is missing')
        if args is not None and not isinstance(args, Mapping):
            raise UsageError('"args" is not an object')
        refuse_unknown(options)
        if name not in jobs:  # looking for a job that is not there is slow: a batch does it once
            try:
                jobs[name] = self.job(name)
            except (NotFound, InvalidJob) as error:
                jobs[name] = error
        job = jobs[name]
        if not isinstance(job, Job):
            raise job
        return self.request(job, args, **options)

    def _no_job(self, name: str, missing: NotFound) -> NotFound:
        """The folder's own message, unless only the published names have a better suggestion."""
        if "Did you mean" in str(missing):
            return missing
        near = difflib.get_close_matches(name, self.store.catalogs.names(), n=1)
        return NotFound(f'{missing} Did you mean "{near[0]}"?') if near else missing

    # --- query and control --------------------------------------------------------------------------

    def resolve(self, text: str) -> str:
        """The full id of a beginning or ending of at least 4 characters. Raises NotFound, Ambiguous."""
        return self.store.tasks.look_up(text)

    def get(self, task: Handle | str) -> Task:
        """The task as it is now. Raises NotFound."""
        return self.store.tasks.get(self._id(task))

    def watch(self, tasks: Iterable[Handle | str], timeout: float | None = None) -> Iterator[Task]:
        """Each task at once and again whenever it changed, until all have ended. Raises WaitTimeout, NotFound.

        timeout: seconds for all of them together, None = without limit.
        """
        return changes(self.store.tasks.get_many, [self._id(task) for task in tasks], timeout)

    def wait(self, tasks: Iterable[Handle | str], timeout: float | None = None) -> list[Task]:
        """The tasks, ended, in the order asked. timeout: seconds; raises WaitTimeout (they go on), NotFound."""
        ids = [self._id(task) for task in tasks]
        last = {task.id: task for task in self.watch(ids, timeout)}
        return [last[task_id] for task_id in ids]

    def cancel(self, task: Handle | str) -> Task:
        """Waiting: canceled at once. Running: SIGTERM, then SIGKILL after its grace. Refused once it has ended."""
        return self.store.tasks.cancel(self._id(task), by=self.owner, kill=False)

    def kill(self, task: Handle | str) -> Task:
        """Like cancel, but SIGKILL now."""
        return self.store.tasks.cancel(self._id(task), by=self.owner, kill=True)

    def retry(self, task: Handle | str) -> Handle:
        """A new task with the same arguments; the ended one stays. Raises Refused while it has not ended."""
        task_id = self._id(task)
        stored = self.store.tasks.retry(task_id, owner=self.owner)
        return Handle(stored.id, stored.status, stored.existed, self)

    def remove(self, task: Handle | str) -> None:
        """Delete an ended task. Raises Refused while it has not ended, NotFound."""
        task_id = self._id(task)
        if not self.store.tasks.remove([task_id]):
            status = self.get(task_id).status
            if status in TERMINAL:
                raise Refused(f"{task_id[-8:]} stays until the tasks that wait for it were told; try again in a moment")
            raise Refused(f"{task_id[-8:]} is {status}; only a task that has ended can be removed")

    def logs(self, task: Handle | str, *, follow: bool = False, attempt: int | None = None) -> Iterator[dict[str, Any]]:
        """The attempt's log lines as objects: `level`, `time` (ms), `msg` and more. attempt: None = the last one."""
        for line in self.log_lines(self._id(task), follow=follow, attempt=attempt):
            yield json.loads(line)

    def log_lines(
        self,
        task: Handle | str,
        *,
        follow: bool = False,
        attempt: int | None = None,
        last: int | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> Iterator[bytes]:
        """The same as stored: one pino-shaped JSON line each, with its newline.

        last: begin that many lines before the end of what is there. notify: gets sentences about delays and gaps.
        """
        from slotsched.views.log import Reading, read_log

        reading = Reading(attempt=attempt, follow=follow, last=last)
        if notify is not None:
            reading = replace(reading, notify=notify)
        yield from read_log(self.store, lambda log: self.open_archive(log.store), self._id(task), reading)

    def open_archive(self, url: str | None = None) -> Archive:
        """The log store of the settings, or another one reached with the same settings."""
        from slotsched.opening import open_log_store

        return open_log_store(self.settings, url)

    # --- why ----------------------------------------------------------------------------------------

    def fleet(self, jobs: Iterable[str] = (), pending: Sequence[Task] = ()) -> Fleet:
        """Who could run something now. jobs, pending: what to look at closely: switches, limits."""
        return fleet_of(self.store, jobs, pending)

    def why(self, task: Handle | str) -> str:
        """One sentence on why the task is where it is."""
        return self.explain(self.get(task))

    def explain(self, task: Task) -> str:
        """The same for a task as it was read before."""
        parents = self.store.tasks.get_many(task.after[:MOST_NAMED]) if task.after else {}
        if task.status is not Status.PENDING:
            return why(task, self.fleet([task.job]), self.store.now(), parents)
        fleet = self.fleet(pending=[task])
        return why(task, fleet, self.store.now(), place=place_of(self.store, task, fleet))

    @cached_property
    def owner(self) -> str:
        """Who enqueues: the user's name on this machine."""
        return user_name()

    def _id(self, task: Handle | str) -> str:
        if isinstance(task, Handle):
            return task.id
        return task if len(task) == 24 else self.resolve(task)
