"""`db init|stats|prune`."""

from __future__ import annotations

from typing import Annotated

import typer

from slotsched.cli.options import OutputOption, parsed
from slotsched.cli.render import Output, pairs, put, show_object
from slotsched.cli.session import Session
from slotsched.views.text import span

LEAST_BY_HAND_SECONDS = 1.0  # a person who asks may have less kept than the setting can say


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
    from slotsched.retention import prune
    from slotsched.settings import parse_keep

    session = Session.of(context)
    asked: float | None = parsed("--older-than", lambda text: parse_keep(text, LEAST_BY_HAND_SECONDS), older_than)
    seconds = session.settings.keep if asked is None else asked
    store, archive = session.client.store, session.client.open_archive()
    passes = [prune(store, archive, seconds)]
    while passes[-1].more:
        passes.append(prune(store, archive, seconds))
    tasks, logs = sum(one.tasks for one in passes), sum(one.logs for one in passes)
    put(f"{tasks} tasks and {logs} logs deleted that ended more than {span(seconds)} ago")
