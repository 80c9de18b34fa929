"""`instance ls|drain|resume|slots`."""

from __future__ import annotations

from typing import Annotated

import typer

from slotsched.cli.options import OutputOption
from slotsched.cli.render import Output, put, show_rows
from slotsched.cli.session import Session
from slotsched.views.text import slot_count

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The instance's name, or its id.")]


def instance_ls(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", "-a", help="Those that are down, too.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the instances with their slots."""
    from slotsched.cli.columns import instance_columns
    from slotsched.model.task import jsonable

    instances = Session.of(context).client.store.instances
    found = sorted(instances.all() if every else instances.live(), key=lambda instance: (instance.name, instance.id))
    columns = instance_columns(Session.of(context).client.store.now())
    show_rows(found, columns, output, to_object=jsonable, to_id=lambda instance: instance.id)


def instance_drain(context: typer.Context, name: NameArgument) -> None:
    """Let an instance finish what it runs and start nothing more."""
    Session.of(context).client.store.instances.set_draining(name, True)
    put(f"{name} drains: it finishes what it runs and takes nothing more")


def instance_resume(context: typer.Context, name: NameArgument) -> None:
    """Let a drained instance start tasks again."""
    Session.of(context).client.store.instances.set_draining(name, False)
    put(f"{name} takes tasks again")


def instance_slots(
    context: typer.Context,
    name: NameArgument,
    slots: Annotated[int, typer.Argument(metavar="N", min=1, help="From now on, until it ends.")],
) -> None:
    """Change how many slots an instance offers.

    Running tasks keep theirs. It lasts until the instance ends in order (SIGTERM) and is started anew; neither a crash
    nor SIGHUP undoes it.
    """
    Session.of(context).client.store.instances.set_slots(name, slots)
    put(f"{name} will offer {slot_count(slots)}")
