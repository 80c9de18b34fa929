"""The options of a schedule, declared once for `schedule add` and `schedule set`."""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from slotsched.cli.complete import argument_words, schedule_names
from slotsched.cli.options import parsed
from slotsched.cli.session import now
from slotsched.errors import UsageError
from slotsched.views.text import parse_moment

KINDS = ("cron", "every", "at", "after")
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The schedule's name.", autocompletion=schedule_names)
]
NamesArgument = Annotated[
    list[str], typer.Argument(metavar="NAME", help="Names of schedules.", autocompletion=schedule_names)
]
WordsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="The job's arguments.", autocompletion=argument_words),
]
ArgsOption = Annotated[str | None, typer.Option("--args", metavar="JSON|@FILE|-", help="Arguments as one JSON object.")]
# What a schedule may be told, by the name of the field; an option that is not given is None.
_WISHES: dict[str, Any] = {
    "cron": Annotated[
        list[str] | None,
        typer.Option("--cron", metavar="C", help='"15 3 * * *", @daily; a sixth field is seconds. May be repeated.'),
    ],
    "every": Annotated[str | None, typer.Option("--every", metavar="D", help="From --start-at or now on: 10s, 1h30m.")],
    "at": Annotated[str | None, typer.Option("--at", metavar="T", help="Once: 03:15, 2026-11-21T03:15[Z].")],
    "after": Annotated[
        list[str] | None,
        typer.Option(
            "--after", metavar="NAME", help="After each round of this schedule, or of this job's. May be repeated."
        ),
    ],
    "when": Annotated[
        str | None,
        typer.Option("--when", metavar="W", help="How that round must end: success (default), failure, any."),
    ],
    "timezone": Annotated[
        str | None,
        typer.Option("--timezone", "-z", metavar="ZONE", help="Of crons and times: Europe/Paris. Default: UTC."),
    ],
    "overlap": Annotated[
        str | None,
        typer.Option(
            "--overlap",
            metavar="P",
            help="While the last one runs: skip (default), buffer_one, buffer_all, cancel_other, allow_all.",
        ),
    ],
    "catch_up": Annotated[
        str | None,
        typer.Option(
            "--catch-up", metavar="P", help="Times that passed while all was down: once (default), all, none."
        ),
    ],
    "catch_up_window": Annotated[
        str | None, typer.Option("--catch-up-window", metavar="D", help="With all: how far back. Default: 1d.")
    ],
    "jitter": Annotated[
        str | None, typer.Option("--jitter", metavar="D", help="Later by up to this, differently each time.")
    ],
    "start_at": Annotated[str | None, typer.Option("--start-at", metavar="T", help="Nothing fires before this time.")],
    "end_at": Annotated[str | None, typer.Option("--end-at", metavar="T", help="Nothing fires after this time.")],
    "max_runs": Annotated[int | None, typer.Option("--max-runs", metavar="N", min=1, help="Done after so many.")],
    "pause_on_failure": Annotated[
        int | None,
        typer.Option("--pause-on-failure", metavar="N", min=1, help="Pause after so many failures in a row."),
    ],
    "priority": Annotated[
        float | None, typer.Option("--priority", metavar="N", help="Higher first; a point is 10 minutes of waiting.")
    ],
    "slots": Annotated[int | None, typer.Option("--slots", metavar="N", help="Instead of the job's.")],
    "memory": Annotated[str | None, typer.Option("--memory", metavar="M", help="Instead of the job's: 512M.")],
    "max_time": Annotated[str | None, typer.Option("--max-time", metavar="D", help="Instead of the job's: 30m.")],
    "retries": Annotated[int | None, typer.Option("--retries", metavar="N", help="Instead of the job's.")],
    "label": Annotated[str | None, typer.Option("--label", "-l", metavar="TEXT", help="What people call it.")],
    "owner": Annotated[str | None, typer.Option("--owner", metavar="NAME", help="Whose it is. Default: you.")],
    "notify": Annotated[
        str | None,
        typer.Option(
            "--notify", metavar="URL|JSON", help='On failure: https://..., or {"url": ..., "on": ["success"]}.'
        ),
    ],
}


_TIMES = ("at", "start_at", "end_at")


def with_wishes(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each wish behind its `--args`; it gets those that were given as `wishes`."""
    own = inspect.signature(command, eval_str=True).parameters
    places = [one for name, one in own.items() if name != "wishes"]
    middle = next(place for place, one in enumerate(places, 1) if one.name == "args")
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    added = [inspect.Parameter(name, kind, default=None, annotation=option) for name, option in _WISHES.items()]

    @functools.wraps(command)
    def called(**values: Any) -> None:
        given = {name: value for name in _WISHES if (value := values.pop(name)) not in (None, [])}
        command(**values, wishes=_read(given))

    called.__signature__ = inspect.Signature([*places[:middle], *added, *places[middle:]])  # type: ignore[attr-defined]
    called.__annotations__ = {}  # those of the signature count
    return called


def _read(given: dict[str, Any]) -> dict[str, Any]:
    """Times that were typed as moments; what excludes each other is refused before anything is asked of the store."""
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) > 1:
        raise UsageError(f"--{kinds[0]} and --{kinds[1]} exclude each other")
    times = {
        name: moment_in(f"--{name.replace('_', '-')}", given[name], given.get("timezone"))
        for name in _TIMES
        if name in given
    }
    return {**given, **times, **({"notify": notify_of(given["notify"])} if "notify" in given else {})}


def moment_in(name: str, text: str, zone: str | None) -> dt.datetime | str:
    """A time that was typed: without an offset it is in the zone given, else this machine's."""
    if zone is not None and "T" in text.upper():
        return text  # read in that zone, with everything else that zone decides
    moment: dt.datetime = parsed(name, lambda given: parse_moment(given, now()), text)
    return moment


def notify_of(text: str) -> Any:
    """The address, or the JSON object. Raises UsageError."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--notify: not JSON: {error}") from None
