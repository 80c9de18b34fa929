"""`web` and `token`: the web face, and who gets in."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from slotsched.cli.options import OutputOption, YesOption, duration
from slotsched.cli.phrases import confirm
from slotsched.cli.render import Column, Output, is_terminal, put, say, show_rows
from slotsched.cli.session import Session

TokenName = Annotated[
    str, typer.Argument(metavar="NAME", help="Whom it stands for: the owner of the tasks it enqueues.")
]


def web(context: typer.Context) -> None:
    """Serve the pages and the API until Ctrl-C.

    On this machine only, unless --web-listen says otherwise; then a token is needed (token add NAME).
    """
    settings = Session.of(context).settings
    from slotsched.web.server import serve

    raise typer.Exit(serve(settings))


def token_add(
    context: typer.Context,
    name: TokenName,
    read_only: Annotated[bool, typer.Option("--read-only", help="It may look, and change nothing.")] = False,
    expires: Annotated[str | None, typer.Option("--expires", metavar="D", help="In so long; default: never.")] = None,
) -> None:
    """Make a token for the web face and print it, once.

    From the first one on, nobody uses the web face without.
    """
    secret = Session.of(context).client.store.tokens.add(
        name, read_only=read_only, lifetime=duration("--expires", expires)
    )
    put(secret)
    if is_terminal(sys.stdout):
        say("Only its hash is stored: keep it. Programs send it as Authorization: Bearer.")


def token_ls(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List the tokens, without their secrets."""
    from slotsched.model import Token
    from slotsched.model.task import jsonable
    from slotsched.views.text import moment

    store = Session.of(context).client.store
    at = store.now()  # whose clock decides who gets in

    def state(token: Token) -> str:
        return "expired" if token.expires_at is not None and token.expires_at <= at else "good"

    columns = [
        Column[Token](title="NAME", cell=lambda token: token.name),
        Column[Token](title="MAY", cell=lambda token: "look" if token.read_only else "everything"),
        Column[Token](title="MADE", cell=lambda token: moment(token.created_at)),
        Column[Token](title="EXPIRES", cell=lambda token: moment(token.expires_at)),
        Column[Token](title="STATE", cell=state, color=lambda token: "red" if state(token) == "expired" else None),
    ]
    show_rows(store.tokens.find(), columns, output, to_object=jsonable, to_id=lambda token: token.name)


def token_rm(context: typer.Context, name: TokenName, yes: YesOption = False) -> None:
    """Remove a token, and sign out the browsers that used it.

    Who has it is out at once. Without any token everybody on the web face's machine gets in, so the last one is asked
    for.
    """
    tokens = Session.of(context).client.store.tokens
    if [token.name for token in tokens.find()] == [name]:
        confirm(f"{name} is the last token: without any, whoever is on this machine gets in. Remove it?", yes=yes)
    tokens.remove(name)
    put(f"{name} is removed")
