"""Every command in its place. The order here is the order of the help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from slotsched.cli import (
    completion,
    config,
    crontab,
    database,
    doctor,
    enqueue,
    foreground,
    instances,
    jobs,
    listing,
    logs,
    schedule_views,
    schedules,
    serve,
    tasks,
    web,
)
from slotsched.cli.base import CONTEXT, Command, Group, SchedulerCommand, WebCommand
from slotsched.cli.render import put
from slotsched.cli.session import PLACE_FLAGS, Session

_START: dict[str, Callable[..., Any]] = {"up": serve.up, "demo": serve.demo}
_TASKS: dict[str, Callable[..., Any]] = {
    "enqueue": enqueue.enqueue,
    "run": foreground.run,
    "ps": listing.ps,
    "logs": logs.logs,
    "why": tasks.why,
    "wait": tasks.wait,
    "cancel": tasks.cancel,
    "kill": tasks.kill,
    "retry": tasks.retry,
}
_GROUPS: dict[str, tuple[str, dict[str, Callable[..., Any]]]] = {
    "task": (
        "Look at tasks of any status, remove them.",
        {"ls": listing.task_ls, "show": tasks.task_show, "rm": tasks.task_rm},
    ),
    "job": (
        "Look at jobs, make and check their files, switch them.",
        {
            "ls": jobs.job_ls,
            "show": jobs.job_show,
            "new": jobs.job_new,
            "check": jobs.job_check,
            "enable": jobs.job_enable,
            "disable": jobs.job_disable,
        },
    ),
    "schedule": (
        "Run jobs over time: add, look, pause, run now, backfill.",
        {
            "add": schedules.schedule_add,
            "ls": schedule_views.schedule_ls,
            "show": schedule_views.schedule_show,
            "set": schedules.schedule_set,
            "pause": schedules.schedule_pause,
            "resume": schedules.schedule_resume,
            "run": schedules.schedule_run,
            "next": schedule_views.schedule_next,
            "history": schedule_views.schedule_history,
            "clear-history": schedules.schedule_clear_history,
            "backfill": schedules.schedule_backfill,
            "import-crontab": crontab.schedule_import_crontab,
            "rm": schedules.schedule_rm,
        },
    ),
    "instance": (
        "Look at instances, drain them, change their slots.",
        {
            "ls": instances.instance_ls,
            "drain": instances.instance_drain,
            "resume": instances.instance_resume,
            "slots": instances.instance_slots,
        },
    ),
    "scheduler": ("Run an instance on this machine.", {"run": serve.scheduler_run}),
    "token": (
        "Say who may use the web face.",
        {"add": web.token_add, "ls": web.token_ls, "rm": web.token_rm},
    ),
    "db": (
        "Prepare, measure and prune the database.",
        {"init": database.db_init, "stats": database.db_stats, "prune": database.db_prune},
    ),
    "config": ("Look at the settings.", {"show": config.config_show, "path": config.config_path}),
}
_LAST: dict[str, Callable[..., Any]] = {
    "web": web.web,
    "doctor": doctor.doctor,
    "completion": completion.completion,
}
_OF_SCHEDULERS = frozenset({serve.up, serve.scheduler_run, config.config_show, doctor.doctor})
_SECTIONS = {
    "Start here": list(_START),
    "Tasks": [*_TASKS, "task"],
    "Jobs and instances": ["job", "schedule", "instance", "scheduler"],
    "Administration": ["web", "token", "doctor", "db", "config", "completion"],
}


class Root(Group):
    """The top of the tree."""

    sections = _SECTIONS
    settings_flags = PLACE_FLAGS


def build() -> TyperGroup:
    """The whole command tree."""
    root = _app(Root)
    root.callback()(_root)
    for name, function in {**_START, **_TASKS}.items():
        _add(root, name, function)
    for name, (text, commands) in _GROUPS.items():
        group = _app(Group)
        group.callback(help=text)(_group)
        for command, function in commands.items():
            _add(group, command, function)
        root.add_typer(group, name=name)
    for name, function in _LAST.items():
        _add(root, name, function)
    built = typer.main.get_command(root)
    assert isinstance(built, TyperGroup)
    return built


def _app(cls: type[Group]) -> typer.Typer:
    return typer.Typer(
        cls=cls,
        add_completion=False,
        rich_markup_mode=None,
        context_settings=CONTEXT,
        pretty_exceptions_enable=False,
    )


def _add(app: typer.Typer, name: str, function: Callable[..., Any]) -> None:
    cls = WebCommand if function is web.web else SchedulerCommand if function in _OF_SCHEDULERS else Command
    app.command(name, cls=cls, context_settings=CONTEXT)(function)


def _group() -> None:
    """Groups have no options of their own."""


def _version(asked: bool) -> None:
    if asked:
        from slotsched import __version__

        put(f"slotsched {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    mongodb_uri: Annotated[
        str | None, typer.Option("--mongodb-uri", metavar="URI", help="The replica set that holds tasks.")
    ] = None,
    database: Annotated[str | None, typer.Option("--database", metavar="NAME", help="Default: slotsched.")] = None,
    jobs_dir: Annotated[Path | None, typer.Option("--jobs-dir", metavar="DIR", help="Default: ./jobs.")] = None,
    state_dir: Annotated[
        Path | None, typer.Option("--state-dir", metavar="DIR", help="Where a scheduler works.")
    ] = None,
    log_store: Annotated[
        str | None, typer.Option("--log-store", metavar="URL", help="s3://bucket/prefix, or a folder.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run job scripts in resource slots on machines of different sizes.

    These options, and others that say where things are, stand before or after the command. Every setting may come as
    SLOTSCHED_<NAME> or in slotsched.toml; see: slotsched config show.
    """
    del version
    given = {
        "mongodb_uri": mongodb_uri,
        "database": database,
        "jobs_dir": None if jobs_dir is None else str(jobs_dir),
        "state_dir": None if state_dir is None else str(state_dir),
        "log_store": log_store,
    }
    Session.of(context).flags |= {name: value for name, value in given.items() if value is not None}
