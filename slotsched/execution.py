"""From a job and its arguments to what is executed, and from what the script left behind to values.

Shared by the scheduler and `slotsched run`. The environment is built from nothing: what the scheduler has in its
own (credentials among it) reaches a script only by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotsched import contract
from slotsched.catalog.arguments import variable_names
from slotsched.catalog.storable import refuse_unstorable
from slotsched.errors import InvalidArguments, InvalidJob
from slotsched.model import Job, Parameter, Progress

MAX_VARIABLE_BYTES = 100_000  # one string of 131,072 bytes or more in the environment fails the exec
MAX_MESSAGE_CHARACTERS = 500
_PROGRESS_TAIL_BYTES = 8192
_PROCESS = Path(__file__).parent / "process"
_UV_ENVIRONMENT = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to execute. env is complete except for what the supervisor knows; cwd None: a fresh private folder."""

    argv: list[str]
    env: dict[str, str]
    cwd: str | None = None


def build(
    job: Job,
    *,
    io: Path,
    args: Mapping[str, Any],
    identity: Mapping[str, str],
    python: str | None = None,
    pass_env: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Command:
    """The command of one attempt.

    io: the attempt's folder of args, progress, result and state. args: as `check_arguments` gave them. identity:
    `SLOTSCHED_TASK_*` variables. python: the interpreter of .py jobs that name none (default: this one).
    pass_env: further variables of `environ` (default: this process's) that scripts may see.
    Raises InvalidJob, InvalidArguments.
    """
    environ = os.environ if environ is None else environ
    variables = _argument_variables(job, args)
    hidden = next((name for name in variables if name in job.facts.env), None)
    if hidden is not None:
        raise InvalidArguments(f"env sets {hidden}, which is the variable of an argument")
    passed = {name: environ[name] for name in (*contract.PASSED_ENVIRONMENT, *pass_env) if name in environ}
    env = {
        **passed,
        **_home_of(job.facts.user),
        **job.facts.env,
        **variables,
        **_paths(io),
        contract.ENV_TRACEPARENT: _traceparent(identity),
        **identity,
    }
    types = _types(job.parameters or ())
    if types:
        env[contract.ENV_TYPES] = types
    argv = _argv(job, env, python=python, environ=environ)
    workdir = None if job.facts.workdir is None else str(_expanded(job.facts.workdir))
    return Command(argv=argv, env=env, cwd=workdir)


def with_defaults(job: Job, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments a script without a `main` sees: the declared defaults filled in."""
    if job.function:
        return dict(args)  # Python fills them in, from the file as it is then
    declared = {item.name: item.default for item in job.parameters or () if not item.required}
    return {**declared, **args}


# --- argv -------------------------------------------------------------------------------------------


def _argv(job: Job, env: dict[str, str], *, python: str | None, environ: Mapping[str, str]) -> list[str]:
    if job.path is None:
        return list(job.facts.command or ())
    if job.path.suffix != ".py":
        return [str(job.path)]
    mode = "main" if job.function else "script"
    words = [str(_PROCESS / "harness.py"), str(job.path), mode]
    uv = _find_uv(environ.get("PATH")) if job.facts.dependencies and job.facts.python is None else None
    if uv is not None:
        hidden = _uv_variables(environ, env)
        env.update(hidden)
        return [sys.executable, "-I", "-S", str(_PROCESS / "prepare.py"), uv, ",".join(hidden), *words]
    named = job.facts.python or python
    interpreter = sys.executable if named is None else _interpreter(named, job.path, env.get("PATH"))
    return [interpreter, *words, *job.facts.dependencies]


def _interpreter(given: str, script: Path, search: str | None) -> str:
    """The path of a `python` fact or setting: `~/...`, relative to the script's folder, or a bare name on PATH."""
    if "/" not in given:
        found = shutil.which(given, path=search)
    else:
        place = script.parent / _expanded(given)
        found = str(place) if os.access(place, os.X_OK) else None
    if found is None:
        raise InvalidJob(f"{script}:1: there is no Python interpreter at {given}")
    return found


def _expanded(text: str) -> Path:
    """The path with its `~` or `~user` resolved. Raises InvalidJob where that is nobody's home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InvalidJob(f"nobody knows the home folder that {text.partition('/')[0]} stands for in {text}") from None


def _find_uv(search: str | None) -> str | None:
    """uv on PATH, or beside this interpreter, where `pip install uv` put it."""
    return shutil.which("uv", path=search) or shutil.which("uv", path=str(Path(sys.executable).parent))


def _uv_variables(environ: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """What uv needs to reach a package index; prepare.py takes it away before the script starts."""
    names = [name for name in environ if name.startswith("UV_") or name.upper() in _UV_ENVIRONMENT]
    return {name: environ[name] for name in names if name not in env}


# --- environment ------------------------------------------------------------------------------------


def _argument_variables(job: Job, args: Mapping[str, Any]) -> dict[str, str]:
    """`ARG_<NAME>` for scripts that are not called with arguments. None is unset; so is what is too long for exec."""
    if job.function:
        return {}
    values = with_defaults(job, args)
    texts = {name: _text(value) for name, value in values.items() if value is not None}
    variables = variable_names(values)
    return {variables[name]: text for name, text in texts.items() if len(text.encode()) <= MAX_VARIABLE_BYTES}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _types(parameters: Sequence[Parameter]) -> str:
    """`folder=path days=list:date`: the arguments whose type JSON does not have."""
    special = ("path", "date", "datetime")
    words = [f"{item.name}={item.type}" for item in parameters if item.type in special]
    words += [f"{item.name}={item.type}:{item.item}" for item in parameters if item.item in special]
    return " ".join(word for word in words if word.split("=")[0].isidentifier())


def _home_of(user: str | None) -> dict[str, str]:
    try:
        return {} if user is None else {"HOME": pwd.getpwnam(user).pw_dir}
    except KeyError:
        return {}  # the supervisor says that there is no such user


def _paths(io: Path) -> dict[str, str]:
    return {
        contract.ENV_ARGS: str(io / contract.IO_ARGS),
        contract.ENV_PROGRESS: str(io / contract.IO_PROGRESS),
        contract.ENV_RESULT: str(io / contract.IO_RESULT),
        contract.ENV_STATE: str(io / contract.IO_STATE),
        contract.ENV_STATE_OUT: str(io / contract.IO_STATE_OUT),
    }


def _traceparent(identity: Mapping[str, str]) -> str:
    """W3C trace context: one trace per task, one span per claim, so that attempts are found from their task's id."""
    task = identity.get(contract.ENV_ID, "")
    span = f"{task}-{identity.get(contract.ENV_FENCE, '')}"
    return f"00-{hashlib.sha256(task.encode()).hexdigest()[:32]}-{hashlib.sha256(span.encode()).hexdigest()[:16]}-01"


# --- the io folder ----------------------------------------------------------------------------------


def write_io(io: Path, args: Mapping[str, Any], state: Any) -> None:
    """Write what the script reads. io: an existing folder; state: None = the series has saved none. Raises OSError."""
    (io / contract.IO_ARGS).write_text(json.dumps(args, ensure_ascii=False), encoding="utf-8")
    if state is not None:
        (io / contract.IO_STATE).write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")


def read_result(io: Path) -> tuple[Any, str | None]:
    """What the script gave as its result, and what is wrong with it (then the value is None)."""
    return _read_json(io / contract.IO_RESULT, "result")


def read_state_out(io: Path) -> Any:
    """What the script saved for the next run of its series; None for nothing, or nothing that can be stored."""
    return _read_json(io / contract.IO_STATE_OUT, "state")[0]


def read_progress(io: Path) -> Progress | None:
    """The last line of the progress file; None where there is none (also for a moment while it is rewritten)."""
    data = _read(io / contract.IO_PROGRESS, _PROGRESS_TAIL_BYTES, tail=True)
    lines = (data or b"").decode("utf-8", "replace").replace("\0", "").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), None)
    return None if last is None else parse_progress(last)


def parse_progress(line: str) -> Progress:
    """`0.38 12.png`, `38% 12.png`, `? 12.png`, or only a message that begins with none of these."""
    word, _, rest = line.partition(" ")
    if word == contract.PROGRESS_UNKNOWN:
        return Progress(message=rest.strip()[:MAX_MESSAGE_CHARACTERS])
    try:
        fraction = float(word[:-1]) / 100 if word.endswith("%") else float(word)
    except ValueError:
        return Progress(message=line[:MAX_MESSAGE_CHARACTERS])
    if not 0 <= fraction <= 1:
        return Progress(message=line[:MAX_MESSAGE_CHARACTERS])
    return Progress(fraction=fraction, message=rest.strip()[:MAX_MESSAGE_CHARACTERS])


def _read_json(path: Path, what: str) -> tuple[Any, str | None]:
    try:
        data = _read(path, contract.VALUE_BYTES + 1)
        if not data or not data.strip():
            return None, None
        if len(data) > contract.VALUE_BYTES:
            return None, f"the {what} is more than 1 MiB; put the data into a file and return its path"
        value = json.loads(data.decode("utf-8"))
        refuse_unstorable(value, what, InvalidArguments)
    except InvalidArguments as error:
        return None, f"the {what} cannot be stored: {error}"
    except (ValueError, RecursionError) as error:
        return None, f"the {what} is not JSON: {error}"
    return value, None


def _read(path: Path, limit: int, *, tail: bool = False) -> bytes | None:
    """At most `limit` bytes of a file that a script made: never through a link, never from a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        start = max(0, status.st_size - limit) if tail else 0
        return os.pread(descriptor, limit, start)
    finally:
        os.close(descriptor)
