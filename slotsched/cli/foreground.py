"""`run`: a job here and now, without a database, in the caller's folder.

The script has its own process group: max time, Ctrl-C and a normal exit end all of it, as far as it stays in the
group. What holds a tree for good (namespaces, memory limits, users) belongs to instances.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slotsched import contract
from slotsched.cli.complete import argument_words
from slotsched.cli.enqueue import read_args
from slotsched.cli.options import JobArgument, duration
from slotsched.cli.render import say
from slotsched.cli.screen import Screen, open_screen
from slotsched.cli.session import Session
from slotsched.errors import InvalidJob, UsageError
from slotsched.views.text import compact, plain

if TYPE_CHECKING:
    from slotsched.execution import Command
    from slotsched.model import Job
    from slotsched.settings import Settings

TICK_SECONDS = 0.1  # how often progress is read
NO_TASK = "0" * 24


def run(
    context: typer.Context,
    job: JobArgument,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="The job's arguments.", autocompletion=argument_words),
    ] = None,
    args: Annotated[
        str | None, typer.Option("--args", metavar="JSON|@FILE|-", help="Arguments as one JSON object.")
    ] = None,
    max_time: Annotated[str | None, typer.Option("--max-time", metavar="D", help="Instead of the job's.")] = None,
) -> None:
    """Run a job here and now, without a database.

    What the script prints passes through; its result follows on stderr. Exits 0 completed, 1 failed, 100 canceled.
    """
    from slotsched.catalog.arguments import check_arguments, read_words

    session = Session.of(context)
    found = session.client.folder.fresh(job)
    given = (read_args(args) if args is not None else {}) | read_words(found.parameters, words or ())
    checked = check_arguments(found.name, found.parameters, given)
    limit = _limit(max_time, found.facts.max_time)
    with _deferred_signals() as asked, tempfile.TemporaryDirectory(prefix="slotsched-run-") as folder:
        raise typer.Exit(_run_in(Path(folder), found, checked, limit, session.settings, asked))


def _limit(text: str | None, default: float) -> float:
    """Seconds of `--max-time`, no more than a job file may say. Raises UsageError."""
    from slotsched.catalog.facts import MAX_TIME_SECONDS

    wanted = duration("--max-time", text)
    if wanted is None:
        return default
    if wanted == 0:
        raise UsageError("--max-time: must be more than 0; no task runs without limit")
    if wanted > MAX_TIME_SECONDS:
        raise UsageError(f"--max-time: {text} is more than {MAX_TIME_SECONDS / 86400:g} days")
    return wanted


def _run_in(io: Path, job: Job, args: Mapping[str, Any], limit: float, settings: Settings, asked: _Asked) -> int:
    from slotsched import execution

    execution.write_io(io, execution.with_defaults(job, args), None)
    command = execution.build(
        job,
        io=io,
        args=args,
        identity=_identity(job, limit),
        python=settings.python,
        pass_env=settings.pass_env,
    )
    begun = time.monotonic()
    ending = _supervise(command, io, limit, job.facts.grace, asked)
    result, problem = execution.read_result(io)
    if problem is not None:
        say(problem, color="yellow")
    return _conclude(ending, time.monotonic() - begun, result)


def _identity(job: Job, limit: float) -> dict[str, str]:
    from slotsched.model.needs import resource_variable

    deadline = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=limit)
    return {
        contract.ENV_ID: NO_TASK,
        contract.ENV_JOB: job.name,
        contract.ENV_ATTEMPT: "1",
        contract.ENV_FENCE: "1",
        contract.ENV_TRIGGER: "manual",
        contract.ENV_SLOTS: str(job.facts.slots),
        contract.ENV_DEADLINE: deadline.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        contract.ENV_INSTANCE: "",
        **{resource_variable(name): _first(units) for name, units in job.facts.resources.items()},
        contract.ENV_LAST_COMPLETED_AT: "",
        contract.ENV_LAST_STARTED_AT: "",
    }


def _first(units: int) -> str:
    """Here nobody else is asked which units are free."""
    return ",".join(map(str, range(units)))


class _Asked:
    """Counts the signals that ask for an end."""

    def __init__(self) -> None:
        self.times = 0
        self.by_keyboard = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.times += 1
        self.by_keyboard = number == signal.SIGINT


@contextlib.contextmanager
def _deferred_signals() -> Iterator[_Asked]:
    """Ctrl-C, SIGTERM and a terminal that is closed are passed on to the script instead of ending us before it."""
    asked = _Asked()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # else nohup's
        numbers.append(signal.SIGHUP)
    kept = {number: signal.signal(number, asked) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in kept.items():  # once asked, we are about to end: asking again must not cut that short
            signal.signal(number, signal.SIG_IGN if asked.times else handler)


@dataclass(frozen=True)
class _Ending:
    """returncode: as of subprocess. cause: `exit`, `timeout`, `canceled` or `interrupted`."""

    returncode: int
    cause: str


def _supervise(command: Command, io: Path, limit: float, grace: float, asked: _Asked) -> _Ending:
    """Run the command to its end. Raises InvalidJob when it cannot be started."""
    try:
        process = subprocess.Popen(
            command.argv, env=command.env, cwd=command.cwd, stdin=subprocess.DEVNULL, process_group=0
        )
    except OSError as error:
        raise InvalidJob(f"{command.argv[0]} cannot be started: {error.strerror or error}") from None
    cause, kill_at = "exit", None
    deadline = time.monotonic() + limit
    descriptor = os.pidfd_open(process.pid)
    try:
        with open_screen() as screen:
            while not _ended(descriptor, io, screen, deadline):
                now = time.monotonic()
                if kill_at is None and (asked.times or now >= deadline):
                    cause = _cause(asked)
                    kill_at = now + grace
                    _signal(process, signal.SIGTERM)
                if kill_at is not None and (now >= kill_at or asked.times > 1):
                    _signal(process, signal.SIGKILL)
    finally:
        _signal(process, signal.SIGKILL)  # what it left behind in its group; not reaped yet, so the group is its own
        process.wait()
        os.close(descriptor)
    return _Ending(process.returncode, cause)


def _cause(asked: _Asked) -> str:
    if not asked.times:
        return "timeout"
    return "interrupted" if asked.by_keyboard else "canceled"


def _ended(descriptor: int, io: Path, screen: Screen, deadline: float) -> bool:
    """Wait a tick for the process's end, without reaping it; show the progress made."""
    from slotsched.execution import read_progress

    left = deadline - time.monotonic()
    if select.select([descriptor], [], [], min(TICK_SECONDS, left) if left > 0 else TICK_SECONDS)[0]:
        return True
    made = read_progress(io)
    if made is not None:
        screen.progress(made.fraction, made.message)
    return False


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _conclude(ending: _Ending, seconds: float, result: Any) -> int:
    """Say how it ended; the exit code."""
    from slotsched.quantities import format_duration
    from slotsched.views.explain import signal_name

    sys.stdout.flush()
    took = format_duration(seconds)
    shown = "" if result is None else f"  result {plain(compact(result))}"
    code = ending.returncode
    if ending.cause == "timeout":
        say(f"failed in {took}: max time reached{shown}")
        return contract.EXIT_FAILED
    if ending.cause != "exit" or code == contract.SCRIPT_CANCELED:
        say(f"canceled in {took}{shown}")
        return contract.EXIT_INTERRUPTED if ending.cause == "interrupted" else contract.EXIT_CANCELED
    if code == contract.SCRIPT_COMPLETED:
        say(f"completed in {took}{shown}")
        return contract.EXIT_OK
    say(f"failed in {took}: {f'exit code {code}' if code > 0 else f'signal {signal_name(-code)}'}{shown}")
    return contract.EXIT_FAILED
