"""`db init|stats|prune`."""

from __future__ import annotations

from typing import Annotated

import typer

from slotsched.cli.options import OutputOption, duration
from slotsched.cli.render import Output, pairs, put, show_object
from slotsched.cli.session import Session, now
from slotsched.errors import UsageError
from slotsched.views.text import span


def db_init(context: typer.Context) -> None:
    """Create the collections' indexes; does nothing where they are. Schedulers do it themselves."""
    session = Session.of(context)
    session.client.store.check()
    session.client.store.init()
    put(f"{session.client.store.uri} {session.settings.database}: ready")


def db_stats(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Count what is stored."""
    from slotsched.model.task import jsonable

    stats = jsonable(Session.of(context).client.store.upkeep.stats())
    show_object(
        stats, output, identity="", lines=lambda: pairs((str(name), _shown(value)) for name, value in stats.items())
    )


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {number}" for name, number in value.items()) or "-"
    return str(value)


def db_prune(
    context: typer.Context,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="D", help="Ended longer ago than this; default: setting keep.")
    ] = None,
) -> None:
    """Delete finished tasks and their logs when they are old enough."""
    import datetime as dt

    session = Session.of(context)
    seconds = session.settings.keep if older_than is None else duration("--older-than", older_than)
    if not seconds:
        raise UsageError("--older-than: 0 would delete what has just ended")
    tasks = session.client.store.upkeep.prune(seconds)
    logs = session.client.open_archive().prune((now() - dt.timedelta(seconds=seconds)).date())
    put(f"{tasks} tasks and {logs} logs deleted that ended more than {span(seconds)} ago")
