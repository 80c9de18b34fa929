"""Where every setting comes from: flags > `SLOTSCHED_*` > ./slotsched.toml > XDG config > /etc > the default.

One table (`FIELDS`) names each setting once, with its parser; flags, environment and files all go through it.
pydantic-settings was tried and left: it costs 180 ms at import, cannot say where a value came from, and ignores a
mistyped variable.
"""

from __future__ import annotations

import difflib
import json
import os
import platform
import pwd
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from slotsched import failpoints
from slotsched.contract import TASK_PREFIX
from slotsched.errors import InvalidSettings
from slotsched.quantities import parse_duration, parse_size

PREFIX = "SLOTSCHED_"
FILE_NAME = "slotsched.toml"
UP_FILE = "up.json"
LEAST_KEEP_SECONDS = 60.0
LONGEST_KEEP_SECONDS = 36600 * 86400.0  # a century: what is still kept then began on a day that dates can say
DEFAULT_URI = "mongodb://127.0.0.1:27017"
LOCK_FD_VARIABLE = "SLOTSCHED_LOCK_FD"  # how a scheduler that re-execs in place hands its lock to itself
# Read by others than this module, the first by the embedded server.
OTHER_VARIABLES = frozenset({"SLOTSCHED_MONGOD", LOCK_FD_VARIABLE, failpoints.VARIABLE})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting, parsed. Durations are seconds, sizes bytes, None means decided by what uses it."""

    mongodb_uri: str = DEFAULT_URI
    database: str = "slotsched"
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    jobs_dir: Path = Path("jobs")
    state_dir: Path = Path("state")
    log_store: str = ""
    s3_endpoint: str | None = None
    s3_region: str | None = None
    s3_checksums: Literal["when_supported", "when_required"] | None = None
    s3_path_style: bool | None = None
    s3_encryption: str | None = None
    slots: int | None = None
    memory: int | None = None
    resources: Mapping[str, int] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    name: str = ""
    lease: float = 30.0
    grace: float = 5.0
    drain_timeout: float = 60.0
    python: str | None = None
    containment: str = "auto"
    pass_env: tuple[str, ...] = ()
    keep: float = 30 * 86400.0
    log_limit: int = 100 << 20
    log_level: str = "info"
    store_timeout: float = 5.0
    web_listen: str = "127.0.0.1:8686"
    web_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The settings, where each came from, and what looked wrong without being fatal."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a non-empty text")
    return value.strip()


def _path(value: Any) -> Path:
    return _expanded(_text(value))


def _expanded(text: str) -> Path:
    """The path with its `~` or `~user` resolved. ValueError where that is nobody's home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text!r}: nobody knows the home folder that {text.partition('/')[0]} stands for") from None


def _log_store(value: Any) -> str:
    """A URL as it is, a folder with its `~` resolved."""
    text = _text(value)
    folder = text.removeprefix("file://")
    return text if "://" in folder else str(_expanded(folder))


def _positive_int(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a whole number of at least 1")
    try:
        number = int(value)
        is_whole = number == float(value)
    except (TypeError, ValueError, OverflowError):  # the last for inf, and for what no float can hold
        number, is_whole = 0, False
    if number < 1 or not is_whole:
        raise ValueError(f"{value!r:.60} is not a whole number of at least 1")
    return number


def _slots(value: Any) -> int | None:
    if value == "auto":
        return None
    try:
        return _positive_int(value)
    except ValueError as error:
        raise ValueError(f"{error}, nor auto") from None


def _memory(value: Any) -> int | None:
    return None if value == "auto" else parse_size(value)


def _duration(minimum: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        seconds = parse_duration(value)
        if seconds < minimum:
            raise ValueError(f"{value!r} is less than the {minimum:g} s it must be")
        return seconds

    return parse


def parse_keep(value: Any, least: float = LEAST_KEEP_SECONDS) -> float:
    """How long what has ended is kept, in seconds from `least` to LONGEST_KEEP_SECONDS. ValueError otherwise."""
    seconds = parse_duration(value)
    if seconds < least:
        raise ValueError(f"{value!r} would delete what has just ended; it must be at least {least:g} s")
    if seconds > LONGEST_KEEP_SECONDS:
        raise ValueError(f"{value!r} is more than {LONGEST_KEEP_SECONDS / 86400:g} days")
    return seconds


def _words(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError(f"{value!r} is not a list of words (a,b,c)")
    return tuple(item.strip() for item in items if item.strip())


def _resources(value: Any) -> dict[str, int]:
    if isinstance(value, Mapping):
        return {_resource_name(str(name)): _units(units) for name, units in value.items()}
    pairs = [word.partition("=") for word in _words(value)]
    if not all(name and equals for name, equals, _ in pairs):
        raise ValueError(f"{value!r} is not a list of name=units (gpu=2,license=1)")
    return {_resource_name(name.strip()): _units(units) for name, _, units in pairs}


def _units(value: Any) -> int:
    """0 says that there is none of what would be found otherwise."""
    return 0 if str(value).strip() == "0" else _positive_int(value)


def _resource_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ValueError(f"{name!r} is not a name (letters, digits, _ and -)")
    return name


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def _one_of(*choices: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is none of {', '.join(choices)}")
        return str(value)

    return parse


FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "mongodb_uri": _text,
    "database": _text,
    "tls_ca": _path,
    "tls_cert": _path,
    "tls_key": _path,
    "jobs_dir": _path,
    "state_dir": _path,
    "log_store": _log_store,
    "s3_endpoint": _text,
    "s3_region": _text,
    "s3_checksums": _one_of("when_supported", "when_required"),
    "s3_path_style": _switch,
    "s3_encryption": _text,
    "slots": _slots,
    "memory": _memory,
    "resources": _resources,
    "tags": _words,
    "name": _text,
    "lease": _duration(1.0),
    "grace": _duration(0.0),
    "drain_timeout": _duration(0.0),
    "python": _text,
    "containment": _one_of("auto", "pidns", "userns", "cgroup", "subreaper"),
    "pass_env": _words,
    "keep": parse_keep,
    "log_limit": parse_size,
    "log_level": _one_of("trace", "debug", "info", "warn", "error"),
    "store_timeout": _duration(0.1),
    "web_listen": _text,
    "web_hosts": _words,
}
_PATHS = frozenset({"tls_ca", "tls_cert", "tls_key", "jobs_dir", "state_dir"})


def load(
    flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Loaded:
    """Settle every setting from its sources. Raises InvalidSettings naming the source, the value and a way out."""
    environ = os.environ if environ is None else environ
    cwd = Path.cwd() if cwd is None else cwd
    values, origins = _defaults(environ), dict.fromkeys(FIELDS, "default")
    warnings: list[str] = []
    for origin, found in _sources({k: v for k, v in (flags or {}).items() if v is not None}, environ, cwd, warnings):
        for name, value in found.items():
            values[name] = _parse(name, value, origin)
            origins[name] = origin
    settings = replace(Settings(**values), jobs_dir=cwd / values["jobs_dir"], state_dir=cwd / values["state_dir"])
    return _with_running_up(settings, origins, tuple(warnings))


def config_files(environ: Mapping[str, str], cwd: Path) -> list[Path]:
    """The configuration files that are looked for, weakest first."""
    xdg = Path(environ.get("XDG_CONFIG_HOME") or home(environ) / ".config")
    return [Path("/etc/slotsched") / FILE_NAME, xdg / "slotsched" / FILE_NAME, cwd / FILE_NAME]


def home(environ: Mapping[str, str]) -> Path:
    """This user's home, also where nobody set HOME (services, cron)."""
    try:
        return Path(environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a user without a name, as in containers
        return Path("/")


def _defaults(environ: Mapping[str, str]) -> dict[str, Any]:
    state = Path(environ.get("XDG_STATE_HOME") or home(environ) / ".local" / "state") / "slotsched"
    data = Path(environ.get("XDG_DATA_HOME") or home(environ) / ".local" / "share") / "slotsched"
    return {"state_dir": state, "jobs_dir": Path("jobs"), "log_store": str(data / "logs"), "name": platform.node()}


def _sources(
    flags: Mapping[str, Any], environ: Mapping[str, str], cwd: Path, warnings: list[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    files = [(str(path), _read_file(path)) for path in config_files(environ, cwd) if path.is_file()]
    variables = _read_environment(environ, warnings)
    return [*files, *variables, *((f"--{name.replace('_', '-')}", {name: value}) for name, value in flags.items())]


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            found = tomllib.load(stream)
    except UnicodeDecodeError as error:
        raise InvalidSettings(f"{path}: not UTF-8: {error.reason} at byte {error.start + 1}") from error
    except RecursionError as error:
        raise InvalidSettings(f"{path}: nested too deeply") from error
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"{path}: {error}") from error
    for name in found:
        if name not in FIELDS:
            raise InvalidSettings(f'{path}: unknown setting "{name}"{_did_you_mean(name)}')
    return {name: _anchored(name, value, path.parent) for name, value in found.items()}


def _anchored(name: str, value: Any, folder: Path) -> Any:
    """A relative path in a file means relative to that file, wherever the command is run."""
    if not isinstance(value, str) or value.startswith("~"):
        return value
    return str(folder / value) if name in _PATHS or (name == "log_store" and "://" not in value) else value


def _read_environment(environ: Mapping[str, str], warnings: list[str]) -> list[tuple[str, Mapping[str, Any]]]:
    found: list[tuple[str, Mapping[str, Any]]] = []
    for variable, value in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable.startswith(TASK_PREFIX) or variable in OTHER_VARIABLES:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in FIELDS:
            found.append((variable, {name: value}))
        elif name.removesuffix("_file") in FIELDS:
            found.append((variable, {name.removesuffix("_file"): _read_secret(variable, value)}))
        else:
            hint = difflib.get_close_matches(name, FIELDS, n=1)
            meant = f", did you mean {PREFIX}{hint[0].upper()}?" if hint else ""
            warnings.append(f"{variable} is no setting{meant}")
    return found


def _read_secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidSettings(f"{variable}: cannot read {path}: {why}") from error


def _parse(name: str, value: Any, origin: str) -> Any:
    if name not in FIELDS:
        raise InvalidSettings(f'unknown setting "{name}"{_did_you_mean(name)}')
    try:
        return FIELDS[name](value)
    except (TypeError, ValueError, AttributeError) as error:
        named = origin.startswith(("--", PREFIX))  # a flag or a variable says it itself
        raise InvalidSettings(f"{origin}: {error}" if named else f"{origin}: {name}: {error}") from error


def _did_you_mean(name: str) -> str:
    hint = difflib.get_close_matches(name, FIELDS, n=1)
    return f', did you mean "{hint[0]}"?' if hint else f" (known: {', '.join(FIELDS)})"


def _with_running_up(settings: Settings, origins: dict[str, str], warnings: tuple[str, ...]) -> Loaded:
    """Where nothing names a store, the one that `slotsched up` runs on this machine is meant."""
    if origins["mongodb_uri"] == "default":
        try:
            found = json.loads((settings.state_dir / UP_FILE).read_text(encoding="utf-8"))
            settings = replace(settings, mongodb_uri=str(found["mongodb_uri"]))
            origins["mongodb_uri"] = "slotsched up"
            if origins["log_store"] == "default":
                settings = replace(settings, log_store=str(found["log_store"]))
                origins["log_store"] = "slotsched up"
            if origins["jobs_dir"] == "default" and not settings.jobs_dir.is_dir():
                settings = replace(settings, jobs_dir=Path(found["jobs_dir"]))
                origins["jobs_dir"] = "slotsched up"
        except (OSError, ValueError, KeyError):
            pass  # no `up` on this machine, or one that is just writing: the default stands
    return Loaded(settings=settings, origins=origins, warnings=warnings)
