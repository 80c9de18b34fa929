"""A crontab as jobs that run a command on schedule: what its lines say, and what of them cannot be kept. Pure.

The grammar is that of Debian's and cronie's crontab(5): variables hold for the lines after them, `%` ends a command
and begins its standard input, CRON_TZ is the zone of the times, MAILTO is who is told.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from slotsched.errors import InvalidRecurrence
from slotsched.recurrence import find_zone, parse_cron

MAX_TIME = "1d"  # cron has no limit, and an hour is too short for a night's backup
LONGEST_NAME = 60
_SHELL = "/bin/sh"
_BOURNE = ("sh", "bash", "dash", "ash", "ksh", "zsh")  # shells in which a here-document can be the standard input
_VARIABLE = re.compile(r"""(?:"([^"]+)"|'([^']+)'|([A-Za-z_][A-Za-z0-9_]*))\s*=\s*(.*)""")
_USABLE_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_PASSED = frozenset({"SHELL", "MAILTO", "MAILFROM", "CRON_TZ", "RANDOM_DELAY", "CONTENT_TYPE", "HOME"})
_CONNECTORS = frozenset({"&&", "||", ";", "|", "&"})
_PREPARING = frozenset(
    {"cd", "test", "[", "[[", "export", "set", "sleep", "source", ".", "umask", "ulimit", "true", ":"}
)
_WRAPPERS = frozenset(
    {"sudo", "nice", "ionice", "nohup", "time", "timeout", "flock", "chronic", "env", "exec", "setsid", "stdbuf"}
)
_INTERPRETERS = re.compile(r"(?:python|perl|ruby|php|node|java|bash|sh|dash|zsh|ksh)[0-9.]*")
_SUFFIX = re.compile(r"\.(?:sh|bash|py|pl|rb|php|js|jar)$")
_FIGURE = re.compile(r"[0-9.]+[smhd]?")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a crontab as a job. cron: its times as written. notes: what is different from under cron."""

    line: int
    name: str
    cron: str
    timezone: str
    command: tuple[str, ...]
    description: str
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "~/"
    user: str | None = None
    mail_to: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_toml(self) -> str:
        """The text of its sidecar file."""
        facts: list[tuple[str, object]] = [
            ("description", self.description),
            ("command", list(self.command)),
            ("cron", self.cron),
            ("timezone", self.timezone),
            ("workdir", self.workdir),
            ("max_time", MAX_TIME),
            ("user", self.user),
        ]
        lines = [f"# From line {self.line} of a crontab.", "[tool.slotsched]"]
        lines += [f"{name} = {_toml(value)}" for name, value in facts if value is not None]
        if self.mail_to:
            told = ["mail", "-s", f"{self.name} failed", *self.mail_to]
            lines.append(f"notify = {{ command = {_toml(told)} }}")
        if self.env:
            lines += ["", "[tool.slotsched.env]"]
            lines += [f"{name} = {_toml(value)}" for name, value in self.env.items()]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class Crontab:
    """entries: what can be kept. problems: (line from 1, what of it cannot and why)."""

    entries: tuple[Entry, ...]
    problems: tuple[tuple[int, str], ...]


def parse_crontab(
    text: str, *, zone: str, with_user: bool = False, home_of: Callable[[str], str | None] = lambda _user: None
) -> Crontab:
    """zone: of the machine, for lines without a CRON_TZ. with_user: lines name a user before the command, as in
    /etc/crontab. home_of: the home of a user of this machine.
    """
    reader = _Reader(zone, with_user, home_of)
    for number, line in enumerate(text.splitlines(), 1):
        try:
            reader.read(number, line.strip())
        except _NotKept as why:
            reader.problems.append((number, str(why)))
    return Crontab(entries=tuple(reader.entries), problems=tuple(reader.problems))


class _NotKept(Exception):
    """Raised when a line cannot become a job; the message says why."""


class _Reader:
    """What holds for the next line."""

    def __init__(self, zone: str, with_user: bool, home_of: Callable[[str], str | None]) -> None:
        self.entries: list[Entry] = []
        self.problems: list[tuple[int, str]] = []
        self._zone: str | None = zone
        self._with_user = with_user
        self._home_of = home_of
        self._variables: dict[str, str] = {}
        self._comment = ""

    def read(self, number: int, line: str) -> None:
        if not line or line.startswith("#"):
            self._comment = line.lstrip("# \t")
            return
        comment, self._comment = self._comment, ""
        variable = _VARIABLE.fullmatch(line)
        if variable is not None:
            self._set(variable[1] or variable[2] or variable[3], _unquoted(variable[4]))
        else:
            self.entries.append(self._entry(number, line, comment))

    def _set(self, name: str, value: str) -> None:
        if name == "CRON_TZ":
            self._zone = None
            try:
                self._zone = find_zone(value).name
            except InvalidRecurrence as why:
                raise _NotKept(str(why)) from None
        elif not _USABLE_VARIABLE.fullmatch(name) or name.startswith("SLOTSCHED_TASK_"):
            raise _NotKept(f'"{name}" cannot be the name of a variable here')
        elif name == "RANDOM_DELAY" and value != "0":
            raise _NotKept("RANDOM_DELAY: use --jitter of slotsched schedule add instead")
        self._variables[name] = value

    def _entry(self, number: int, line: str, comment: str) -> Entry:
        if self._zone is None:
            raise _NotKept("the time zone before it is not known")
        cron, rest = _split_times(line.removeprefix("-"))
        try:
            parse_cron(cron, self._zone)
        except InvalidRecurrence as why:
            raise _NotKept(str(why)) from None
        user = None
        if self._with_user:
            user, _, rest = rest.partition(" ") if " " in rest else ("", "", "")
        if not rest.strip():
            raise _NotKept("there is no command" + (" after the user" if self._with_user else ""))
        command, stdin = _split_input(rest.strip())
        home, notes = self._home(user)
        return Entry(
            line=number,
            name=_unique(name_of(command), [entry.name for entry in self.entries]),
            cron=cron,
            timezone=self._zone,
            command=(self._shell(), "-c", self._with_input(command, stdin)),
            description=comment or command.splitlines()[0][:120],
            env={name: value for name, value in self._variables.items() if name not in _NOT_PASSED},
            workdir=home,
            user=user or None,
            mail_to=tuple(self._variables.get("MAILTO", "").replace(",", " ").split()),
            notes=notes,
        )

    def _shell(self) -> str:
        return self._variables.get("SHELL") or _SHELL

    def _home(self, user: str | None) -> tuple[str, tuple[str, ...]]:
        """Where cron would start the command."""
        named = self._variables.get("HOME", "")
        if named.startswith("/"):
            return named, ()
        if not user:
            return "~/", ()
        home = self._home_of(user)
        return (home, ()) if home else ("/", (f"there is no user {user} on this machine; it starts in /",))

    def _with_input(self, command: str, stdin: str | None) -> str:
        """A here-document around the whole command: what cron would have written to its standard input."""
        if stdin is None:
            return command
        if self._shell().rpartition("/")[2] not in _BOURNE:
            raise _NotKept(f"its standard input after % cannot be written for {self._shell()}")
        end = "END_OF_INPUT"
        while end in stdin:
            end += "_"
        return f"{{ {command}\n}} <<'{end}'\n{stdin.removesuffix(chr(10))}\n{end}\n"


def _split_times(line: str) -> tuple[str, str]:
    """The five fields or the `@word`, and what follows."""
    words = line.split(None, 1) if line.startswith("@") else line.split(None, 5)
    if words and words[0] == "@reboot":
        raise _NotKept("@reboot: nothing runs at a machine's start here; use a systemd unit")
    wanted = 2 if line.startswith("@") else 6
    if len(words) < wanted:
        raise _NotKept("neither a variable nor times with a command")
    return " ".join(words[: wanted - 1]), words[-1]


def _split_input(text: str) -> tuple[str, str | None]:
    """The command, and its standard input where a `%` that is not escaped begins it; each further one is a newline."""
    parts = [part.replace("\\%", "%") for part in re.split(r"(?<!\\)%", text)]
    return parts[0].strip(), "\n".join(parts[1:]) if len(parts) > 1 else None


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


# --- names ----------------------------------------------------------------------------------------
def name_of(command: str) -> str:
    """A job's name out of a command line: that of the script or program it is really about."""
    try:
        words = shlex.split(command.splitlines()[0])
    except (ValueError, IndexError):
        words = command.split()
    program = next(filter(None, map(_program, _segments(words))), "")
    stem = _SUFFIX.sub("", program.rstrip("/").rpartition("/")[2].lower())
    plain = re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")
    return plain[:LONGEST_NAME].rstrip("-_") or "command"


def _segments(words: Sequence[str]) -> Iterator[list[str]]:
    """The simple commands of a line, as far as spaces tell."""
    segment: list[str] = []
    for word in words:
        if word in _CONNECTORS:
            yield segment
            segment = []
        else:
            segment.append(word.rstrip(";"))
            if word.endswith(";"):
                yield segment
                segment = []
    yield segment


def _program(words: Sequence[str]) -> str:
    """What a simple command is about; empty where it only prepares another."""
    rest = [word for word in words if word not in ("(", ")", "{", "}", "!", "")]
    while rest:
        base = rest[0].lstrip("(").rpartition("/")[2]
        if re.match(r"[A-Za-z_][A-Za-z0-9_]*=", rest[0]):
            rest = rest[1:]
        elif base in _WRAPPERS:
            rest = _unwrapped(base, rest[1:])
        elif _INTERPRETERS.fullmatch(base):
            return _script(rest[1:]) or base
        else:
            return "" if base in _PREPARING else rest[0].lstrip("(")
    return ""


def _unwrapped(wrapper: str, words: list[str]) -> list[str]:
    while words and (words[0].startswith("-") or _FIGURE.fullmatch(words[0])):
        takes_one = wrapper == "sudo" and words[0] in ("-u", "-g")
        words = words[2:] if takes_one else words[1:]
    return words[1:] if wrapper == "flock" else words  # its lock file


def _script(words: Sequence[str]) -> str:
    """What an interpreter is given to run."""
    for place, word in enumerate(words):
        if word in ("-m", "-jar"):
            return words[place + 1] if place + 1 < len(words) else ""
        if word in ("-c", "-e"):
            return ""
        if not word.startswith("-"):
            return word
    return ""


def _unique(name: str, taken: Sequence[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _toml(value: object) -> str:
    """A text or a list of texts; TOML's basic strings are JSON's, but DEL is escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
