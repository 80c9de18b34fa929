"""`up`, `demo`, `scheduler run`: what goes on until Ctrl-C. The work is elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slotsched.cli.render import pairs, say_lines
from slotsched.cli.session import PLACE_FLAGS, WEB_FLAGS, Session

if TYPE_CHECKING:
    from slotsched.settings import Settings

SlotsOption = Annotated[
    str | None, typer.Option("--slots", metavar="N|auto", help="What this instance offers; auto: one per usable CPU.")
]
NameOption = Annotated[str | None, typer.Option("--name", metavar="X", help="The instance's name; default: host name.")]
DrainOption = Annotated[
    str | None, typer.Option("--drain-timeout", metavar="D", help="How long tasks may go on after SIGTERM.")
]


def up(
    context: typer.Context, slots: SlotsOption = None, name: NameOption = None, drain_timeout: DrainOption = None
) -> None:
    """Run everything on this machine until Ctrl-C, which drains.

    A database unless one is set, a folder for logs, a scheduler with its slots, the web face.

    Every setting may be given as a flag: --memory, --resources gpu=1, --tags ssd, --lease, --containment, ...
    """
    session = Session.of(context)
    session.flags |= _given(slots=slots, name=name, drain_timeout=drain_timeout)
    from slotsched.children import program
    from slotsched.cli.screen import bar_until_done
    from slotsched.standalone import Standalone

    flags = {name: value for name, value in session.flags.items() if name in PLACE_FLAGS + WEB_FLAGS}
    web = [*program(), "web", *(f"--{name.replace('_', '-')}={flags[name]}" for name in flags)]
    everything = Standalone(session.loaded, web)
    everything.lock()
    try:
        with bar_until_done() as progress:
            settings = everything.start(progress)
        say_lines(_introduction(session, settings, everything.data))
        code = everything.run()
    finally:
        everything.stop()
    raise typer.Exit(code)


def _introduction(session: Session, settings: Settings, data: Path | None) -> Iterator[str]:
    """Where everything is, and what to type next."""
    from slotsched.cli.config import without_password
    from slotsched.machine import usable_cpus

    jobs = sorted(session.client.folder.scan().jobs)
    example = next((name for name in jobs if name == "hello"), jobs[0] if jobs else None)
    following = f"slotsched enqueue {example} --follow" if example else "slotsched job new hello"
    yield from pairs(
        [
            ("store", without_password(settings.mongodb_uri) + (f"  (data in {data})" if data else "")),
            ("logs", settings.log_store),
            ("jobs", f"{settings.jobs_dir}  ({', '.join(jobs[:6]) or 'none yet'}{', ...' if len(jobs) > 6 else ''})"),
            ("slots", str(settings.slots or usable_cpus())),
            ("web", f"http://{settings.web_listen}/"),
            ("next", f"{following}    in another terminal; Ctrl-C here finishes what runs and ends"),
        ]
    )


def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Leave its folder for a look.")] = False,
) -> None:
    """Show slots at work in a temporary place.

    A database, two instances of different size, a few real tasks, a table of what they did; then all is gone.
    """
    del context
    from slotsched.cli.screen import bar_until_done
    from slotsched.demo import demo as show

    with bar_until_done() as progress:
        raise typer.Exit(show(keep=keep, progress=progress))


def scheduler_run(
    context: typer.Context,
    slots: SlotsOption = None,
    name: NameOption = None,
    drain_timeout: DrainOption = None,
    once: Annotated[bool, typer.Option("--once", help="Run what is due now, then drain and end.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only see whether it could start.")] = False,
) -> None:
    """Run this machine's instance until SIGTERM.

    SIGTERM drains it, a second one ends it at once; SIGHUP re-executes it without ending a task, once the new
    program has been tried with --check.

    Every setting may be given as a flag: --memory, --resources gpu=1, --tags ssd, --lease, --containment, ...
    """
    session = Session.of(context)
    session.flags |= _given(slots=slots, name=name, drain_timeout=drain_timeout)
    settings = session.settings
    from slotsched import scheduler

    if check:
        scheduler.check(settings)
    else:
        raise typer.Exit(scheduler.run(settings, once=once))


def _given(**flags: str | None) -> dict[str, str]:
    return {name: value for name, value in flags.items() if value is not None}
