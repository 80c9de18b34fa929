"""The child's side of starting a script: from the fork to the exec, in the order the kernel wants it."""

from __future__ import annotations

import errno
import json
import os
import pwd
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from slotsched import contract
from slotsched.process.files import write_all
from slotsched.process.spec import Spec

LOG_FD = 3  # the log pipe's descriptor in the script; 0, 1 and 2 are the usual three
_SCRIPT_UMASK = 0o022
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_EXEC_FAILED = 127  # what a shell says for a command it cannot start
_SHOWN_CHARACTERS = 150  # of a path in a message, which has to fit into a status with two of them


class NotStarted(Exception):
    """Raised when the script cannot be started; the message is for the task's owner."""


class Failure(NamedTuple):
    """Why the child did not become the script: a sentence, and what the system answered, where it was the system."""

    message: str
    errno: int | None = None


@dataclass(frozen=True)
class Person:
    """The user a script runs as."""

    name: str
    uid: int
    gid: int


def look_up(name: str | None) -> Person | None:
    """The user to drop to; None when the script runs as whoever we are. Raises NotStarted."""
    if name is None:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise NotStarted(f'there is no user "{name}" on this machine') from None
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise NotStarted(f'the job wants to run as "{name}", which only a scheduler that runs as root can do')
    return Person(name, entry.pw_uid, entry.pw_gid)


def give_away(folders: list[Path], person: Person) -> None:
    """Make `folders` and what is in them the user's own. Called before any process of that user exists here."""
    for folder in folders:
        for parent, _, names in os.walk(folder):
            os.chown(parent, person.uid, person.gid)
            for name in names:
                os.chown(Path(parent, name), person.uid, person.gid, follow_symlinks=False)


def start(
    spec: Spec, env: dict[str, str], cwd: Path, person: Person | None, ends: dict[str, int], enter: Callable[[], None]
) -> tuple[int, int]:
    """Fork the script. Returns (pid, descriptor that tells why the exec failed, or ends when it succeeded).

    `ends` are the write ends of its pipes by stream name, `enter` moves the child into its containment.
    """
    answer, tell = os.pipe()
    os.set_blocking(answer, False)
    pid = os.fork()
    if pid == 0:
        try:
            _become(spec, env, cwd, person, ends, enter, tell)
        finally:
            os._exit(_EXEC_FAILED)
    os.close(tell)
    return pid, answer


def failure(report: bytes) -> Failure | None:
    """What the descriptor of `start` delivered; None when the exec succeeded."""
    if not report:
        return None
    try:
        return Failure(*json.loads(report))
    except (ValueError, TypeError):  # the child was killed while it told
        return Failure("cannot start: what went wrong was not told to the end")


def _become(
    spec: Spec,
    env: dict[str, str],
    cwd: Path,
    person: Person | None,
    ends: dict[str, int],
    enter: Callable[[], None],
    tell: int,
) -> None:
    step = "contain the script"
    try:
        os.setsid()
        enter()
        _wire(ends, keep=tell)
        if person is not None:
            step = f'become user "{person.name}"'
            os.initgroups(person.name, person.gid)
            os.setresgid(person.gid, person.gid, person.gid)
            os.setresuid(person.uid, person.uid, person.uid)
        os.umask(_SCRIPT_UMASK)
        step = f"enter its folder {_shown(str(cwd))}"
        os.chdir(cwd)
        step = "start"
        _reset_signals()
        _exec(spec.argv, env)
    except (OSError, ValueError, TypeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        write_all(tell, json.dumps(Failure(_sentence(step, spec.argv[0], error), number)).encode())


def _wire(ends: dict[str, int], keep: int) -> None:
    """Descriptors 0 to 3 as the script expects them, nothing else left open. Sources lie above 3 (see `spawner`)."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for target, source in enumerate((null, ends["stdout"], ends["stderr"], ends["log"])):
        os.dup2(source, target, inheritable=True)
    os.closerange(LOG_FD + 1, keep)
    os.closerange(keep + 1, max(null, *ends.values()) + 64)


def _reset_signals() -> None:
    """Ignored signals and a blocked mask survive an exec; handlers do not."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _exec(argv: list[str], env: dict[str, str]) -> None:
    """Replace this process. A name without a slash is looked up in the script's own PATH, not in ours."""
    if "/" in argv[0]:
        os.execve(argv[0], argv, env)  # noqa: S606 - that is the point
    worst: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in env.get("PATH", _DEFAULT_PATH).split(":"):
        try:
            os.execve(f"{folder or '.'}/{argv[0]}", argv, env)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            worst = error  # goes on: a later folder may have one that can be run
    raise worst


def _shown(path: str) -> str:
    """A path as a message has room for: its beginning and its end."""
    half = _SHOWN_CHARACTERS // 2
    return path if len(path) <= _SHOWN_CHARACTERS else f"{path[:half]}...{path[-half:]}"


def _sentence(step: str, program: str, error: Exception) -> str:
    """What to tell the task's owner, with the way out where there is one."""
    number = error.errno if isinstance(error, OSError) else None
    is_there = step == "start" and number == errno.ENOENT and "/" in program and Path(program).exists()
    program = _shown(program)
    if step != "start":
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return f"cannot {step}: {reason}"
    if is_there:
        return f"cannot start {program}: the interpreter named in its first line does not exist"
    if number == errno.ENOENT and "/" not in program:
        return f"cannot start {program}: there is no such program in PATH"
    if number == errno.ENOENT:
        return f"cannot start {program}: there is no such file"
    if number == errno.EACCES:
        return f"cannot start {program}: permission denied (is it executable? chmod +x {program})"
    if number == errno.ENOEXEC:
        return f"cannot start {program}: not a program (does a script lack its first line, such as #!/bin/sh?)"
    if number == errno.E2BIG:
        return f"cannot start {program}: an argument or environment value is too long (131,071 bytes each at most)"
    return f"cannot start {program}: {error.strerror if isinstance(error, OSError) else error}"


def environment(spec: Spec, work: Path, deadline: str) -> dict[str, str]:
    """The script's whole environment: the spec's and what only a supervisor knows."""
    return {
        **spec.env,
        contract.ENV_DEADLINE: deadline,
        contract.ENV_LOG_FD: str(LOG_FD),
        "TMPDIR": str(work),
    }
