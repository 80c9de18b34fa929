"""What every command starts from: settings, the client, how to print. Loaded on first use, so `--help` is fast."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slotsched.cli.render import say
from slotsched.errors import NotFound

if TYPE_CHECKING:
    from typer._click.core import Context

    from slotsched.client import Client
    from slotsched.settings import Loaded, Settings

LAST = "@last"
# Settings that every command takes as flags; they say where things are.
PLACE_FLAGS = (
    "mongodb_uri",
    "database",
    "jobs_dir",
    "state_dir",
    "log_store",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "s3_endpoint",
    "s3_region",
    "s3_checksums",
    "s3_path_style",
    "s3_encryption",
    "store_timeout",
)
# Settings of a scheduler, taken by the commands that run one or look at its settings.
SCHEDULER_FLAGS = (
    "slots",
    "memory",
    "resources",
    "tags",
    "name",
    "lease",
    "grace",
    "drain_timeout",
    "python",
    "containment",
    "pass_env",
    "keep",
    "log_limit",
    "log_level",
)
WEB_FLAGS = ("web_listen", "web_hosts", "log_level")


class Session:
    """One run of the command. flags: settings given on the command line, by name."""

    def __init__(self) -> None:
        self.flags: dict[str, Any] = {}

    @classmethod
    def of(cls, context: Context) -> Session:
        """The session of a command's context."""
        found = context.find_root().obj
        assert isinstance(found, cls)
        return found

    @cached_property
    def loaded(self) -> Loaded:
        """The settings with their origins; what looked wrong in them is said once."""
        from slotsched.settings import load

        loaded = load(self.flags)
        for warning in loaded.warnings:
            say(f"warning: {warning}", color="yellow")
        return loaded

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    @cached_property
    def client(self) -> Client:
        """The client on these settings; it connects with its first question."""
        from slotsched.client import Client

        return Client.of(self.settings)

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()

    def resolve(self, text: str) -> str:
        """The full id of what a person typed: a part of an id, or `@last`. Raises NotFound, Ambiguous."""
        if text != LAST:
            return self.client.resolve(text)
        try:
            return _last_file().read_text(encoding="ascii").strip()
        except OSError:
            raise NotFound(f"{LAST}: you have not enqueued anything on this machine yet") from None

    def resolve_all(self, texts: Iterable[str]) -> list[str]:
        """The full ids, each once, in order."""
        return list(dict.fromkeys(self.resolve(text) for text in texts))

    def remember(self, task_id: str) -> None:
        """Make a task `@last`. A home that cannot be written to costs only that."""
        path = _last_file()
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(f"{task_id}\n", encoding="ascii")
            temporary.replace(path)
        except OSError as error:
            say(f"warning: {LAST} is not kept: {error}", color="yellow")


def now() -> dt.datetime:
    """This machine's wall clock, for what people read."""
    return dt.datetime.now(dt.UTC)


def _last_file() -> Path:
    """Beside the state of this user, whatever `state_dir` a scheduler on this machine has."""
    from slotsched.settings import home

    state = os.environ.get("XDG_STATE_HOME") or home(os.environ) / ".local" / "state"
    return Path(state) / "slotsched" / "last-task"
