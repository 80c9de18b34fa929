"""`config show|path`: what is set, and where it came from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from slotsched.cli.options import OutputOption
from slotsched.cli.render import Column, Output, put, show_object, show_rows
from slotsched.cli.session import Session
from slotsched.views.text import span

_SECRET_OPTION = re.compile(r"(?<=password=)[^&]*|(?<=token:)[^&,]*", re.IGNORECASE)


def config_show(
    context: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Where each value came from.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show every setting as it is in force here, without passwords."""
    from slotsched.settings import FIELDS

    loaded = Session.of(context).loaded
    values = {name: _shown(name, getattr(loaded.settings, name)) for name in FIELDS}
    if output in (Output.JSON, Output.JSONL):
        shown = {
            name: {"value": value, "origin": loaded.origins[name]} if origin else value
            for name, value in values.items()
        }
        show_object(shown, output, identity="", lines=list)
        return
    columns = [
        Column[str](title="SETTING", cell=lambda name: name),
        Column[str](title="VALUE", cell=lambda name: _text(name, values[name])),
    ]
    if origin:
        columns.append(Column[str](title="ORIGIN", cell=lambda name: loaded.origins[name]))
    show_rows(list(FIELDS), columns, output, to_object=lambda name: name, to_id=lambda name: name)


def config_path(context: typer.Context) -> None:
    """Show where configuration is looked for, strongest first."""
    from slotsched.settings import config_files

    del context
    for path in reversed(config_files(os.environ, Path.cwd())):
        put(f"{'read  ' if path.is_file() else 'absent'}  {path}")


def _shown(name: str, value: Any) -> Any:
    """The JSON-ready value, a URI without its password."""
    if name == "mongodb_uri":
        return without_password(value)
    if isinstance(value, Path):
        return str(value)
    if value is None and name in ("slots", "memory"):
        return "auto"
    return list(value) if isinstance(value, tuple) else value


def without_password(uri: str) -> str:
    """`mongodb://ann:***@host/...` for a URI with a password; also those among its options."""
    scheme, slashes, rest = uri.partition("://")
    credentials, at, hosts = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    return f"{scheme}{slashes}{user}{':***' if colon else ''}{at}{_SECRET_OPTION.sub('***', hosts)}"


def _text(name: str, value: Any) -> str:
    from slotsched.quantities import format_size

    if value is None:
        return "-"
    if name in ("memory", "log_limit") and isinstance(value, int):
        return format_size(value)
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return ",".join(str(item) for item in value) or "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return span(value) if isinstance(value, float) else str(value)
