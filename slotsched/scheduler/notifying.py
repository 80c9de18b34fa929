"""Telling people how a task ended: a command on this machine, or a web address, as its job file or schedule says.

Done by the instance that recorded the end, once, on threads that the loop never waits for. An instance that dies in
between tells nobody: `failed` in the store is the truth, this is a courtesy. A command is taken from the job file on
this machine only, never from the database: whoever can write there must not choose what runs here.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from slotsched import __version__, contract
from slotsched.errors import NotFound, StoreError
from slotsched.model import Reason, Status, Task, read_notify
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.run import RunRecord
from slotsched.store import TaskFilter

WORKERS = 2
MOST_WAITING = 1000  # ends to tell; more than this at once are not told
COMMAND_SECONDS = 30.0
ADDRESS_SECONDS = 10.0
ADDRESS_PAUSES_SECONDS = (1.0, 4.0)  # before another try, where the other side was not there
LOST_WINDOW = dt.timedelta(minutes=2)  # a rescue's ends are this old at most when they are looked up
_COMPLAINT_BYTES = 500  # of a command's stderr, for the log
_KINDS = {Status.FAILED: "failure", Status.COMPLETED: "success", Status.CANCELED: "canceled"}


class NotTold(Exception):
    """Raised when a command or an address did not take the message; the text says why, without the address."""


@dataclass(frozen=True)
class _End:
    """A task that has ended, and what its job file says about telling."""

    task_id: str
    of_file: Mapping[str, Any] | None


@dataclass(frozen=True)
class _Lost:
    """An instance whose tasks were taken."""

    instance_id: str


class Notifier:
    """`ended` and `lost` are called by the loop and return at once; the threads begin with the first call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: queue.Queue[_End | _Lost] = queue.Queue(MOST_WAITING)
        self._threads: list[threading.Thread] = []

    @property
    def pending(self) -> int:
        """How many are not told yet."""
        return self._waiting.unfinished_tasks

    def ended(self, record: RunRecord, status: Status | None) -> None:
        """This instance recorded this status for the run; ends that nobody asked about cost nothing."""
        of_file = self._declared(record.job)
        if status in _KINDS and (of_file is not None or record.schedule is not None):
            self._add(_End(record.task_id, of_file))

    def lost(self, instance_id: str) -> None:
        """This instance took the tasks of a dead one."""
        self._add(_Lost(instance_id))

    def _declared(self, job: str) -> Mapping[str, Any] | None:
        found = self._engine.scan.jobs.get(job)
        return None if found is None else found.facts.schedule.get("notify")

    def _add(self, item: _End | _Lost) -> None:
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._work, name=f"notify-{n}", daemon=True) for n in range(WORKERS)
            ]
            for thread in self._threads:
                thread.start()
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self._engine.log.warning("too many ends at once; nobody is told of this one", end=str(item))

    # --- on the threads -----------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            item = self._waiting.get()
            try:
                for end in self._ends(item):
                    self._tell(end)
            except NotFound:
                self._engine.log.debug("nobody is told: the task was removed meanwhile")
            except StoreError as error:
                self._engine.log.warning("nobody is told: the store does not answer", why=str(error))
            except Exception:  # one odd task must not end the thread that tells of the others
                self._engine.log.exception("telling how a task ended failed unexpectedly")
            finally:
                self._waiting.task_done()

    def _ends(self, item: _End | _Lost) -> list[_End]:
        if isinstance(item, _End):
            return [item]
        tasks = self._engine.store.tasks
        taken = TaskFilter(
            status=frozenset({Status.FAILED}),
            reason=Reason.LOST,
            instance=item.instance_id,
            since=self._engine.store.now() - LOST_WINDOW,
            order="ended",
        )
        return [_End(task.id, self._declared(task.job)) for task in tasks.find(taken, MOST_WAITING)]

    def _tell(self, end: _End) -> None:
        task = self._engine.store.tasks.get(end.task_id)
        notify = self._wanted(task, end.of_file)
        if notify is None or _KINDS.get(task.status) not in notify["on"]:
            return
        try:
            if "command" in notify:
                run_command(notify["command"], task)
            else:
                post(notify["url"], task)
        except NotTold as why:
            self._engine.log.warning("telling how a task ended failed", task=task.id, job=task.job, why=str(why))
        else:
            self._engine.log.info("told how a task ended", task=task.id, job=task.job, status=task.status.value)

    def _wanted(self, task: Task, of_file: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The schedule's own wish, as far as it is an address; else the job file's."""
        if task.schedule is not None:
            with suppress(NotFound):
                schedule = self._engine.store.schedules.get(task.schedule)
                if schedule.source.kind == "hand" and (asked := _address_of(schedule.notify)) is not None:
                    return asked
        return of_file


def _address_of(notify: Any) -> Mapping[str, Any] | None:
    try:
        read = read_notify(notify)
    except ValueError:
        return None
    return read if "url" in read else None


def body_of(task: Task) -> bytes:
    """What is told: the task's object as JSON, as `slotsched task show -o json` prints it."""
    return json.dumps(task.to_object(), ensure_ascii=False).encode()


def run_command(command: Sequence[str], task: Task, *, seconds: float = COMMAND_SECONDS) -> None:
    """Runs it with the task's object as its standard input, and without this scheduler's environment.

    Raises NotTold where it cannot be started, is not done in time (its process group is killed) or exits non-zero.
    """
    env = {name: os.environ[name] for name in contract.PASSED_ENVIRONMENT if name in os.environ}
    env |= {contract.ENV_ID: task.id, contract.ENV_JOB: task.job}
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                env=env,
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise NotTold(f"{command[0]}: {error}") from None
        try:
            process.communicate(body_of(task), timeout=seconds)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            raise NotTold(f"{command[0]} was not done after {seconds:g} s") from None
        if process.returncode:
            raise NotTold(f"{command[0]} ended with {process.returncode}: {_tail(complaints)}")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """The command is not reaped yet, so the group is still its own."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(complaints: IO[bytes]) -> str:
    complaints.seek(0, os.SEEK_END)
    complaints.seek(max(0, complaints.tell() - _COMPLAINT_BYTES))
    return complaints.read().decode("utf-8", "replace").strip()


def post(url: str, task: Task, *, seconds: float = ADDRESS_SECONDS, pauses: Sequence[float] | None = None) -> None:
    """Sends the task's object there, again where the other side was not there. Raises NotTold.

    Only the host is ever told to a log: the rest of such an address is often a secret.
    """
    host = urllib.parse.urlsplit(url).hostname
    headers = {"Content-Type": "application/json", "User-Agent": f"slotsched/{__version__}"}
    request = urllib.request.Request(url, data=body_of(task), headers=headers, method="POST")  # noqa: S310 - read_notify
    for pause in (*(ADDRESS_PAUSES_SECONDS if pauses is None else pauses), None):
        try:
            with _OPENER.open(request, timeout=seconds):
                return
        except urllib.error.HTTPError as error:
            error.close()
            complaint, is_final = f"{host} answered {error.code}", error.code < 500
        except (OSError, ValueError) as error:
            complaint, is_final = f"{host}: {getattr(error, 'reason', error)}", False
        if is_final or pause is None:
            raise NotTold(complaint)
        _pause(pause)


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def _opener() -> urllib.request.OpenerDirector:
    """Without redirects, so that an address cannot lead anywhere else, and without any other protocol."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER = _opener()
