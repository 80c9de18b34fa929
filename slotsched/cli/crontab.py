"""`schedule import-crontab`: job files out of a crontab."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slotsched import contract
from slotsched.cli.render import put, put_lines, say
from slotsched.cli.session import Session
from slotsched.errors import Refused, UsageError

if TYPE_CHECKING:
    from slotsched.crontab import Crontab, Entry

_LOCALTIME, _TIMEZONE = Path("/etc/localtime"), Path("/etc/timezone")


def schedule_import_crontab(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE|-", help="As `crontab -l` prints it.")],
    with_user: Annotated[
        bool, typer.Option("--user", help="Each line names a user before its command, as in /etc/crontab.")
    ] = False,
    folder: Annotated[
        str | None, typer.Option("--folder", metavar="NAME", help="Put the jobs in this sub-folder: NAME/backup.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the files, write nothing.")] = False,
) -> None:
    """Turn a crontab into command jobs that declare their times.

    Writes a file for each line into the jobs folder, and nothing if one of them is there already. An instance with
    these files makes the schedules. Lines that cannot be kept are named, and the exit code is 1 then.
    """
    from slotsched.crontab import parse_crontab

    jobs_dir = Session.of(context).settings.jobs_dir
    found = parse_crontab(_read(file), zone=machine_zone(), with_user=with_user, home_of=_home_of)
    files = _files(found.entries, jobs_dir, folder)
    _refuse_existing(files)
    if dry_run:
        for path, entry in files:
            put(f"# {path}")
            put(entry.to_toml())
    else:
        _write(files)
        put_lines(f"{path}  {entry.cron} {entry.timezone}  {entry.description}" for path, entry in files)
    _report(found, dry_run=dry_run)
    if found.problems:
        raise typer.Exit(contract.EXIT_FAILED)


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: {error}") from None


def _files(entries: Sequence[Entry], jobs_dir: Path, folder: str | None) -> list[tuple[Path, Entry]]:
    from slotsched.catalog import new_job

    names = [entry.name if folder is None else f"{folder}/{entry.name}" for entry in entries]
    return [(jobs_dir / new_job(name, "command").path, entry) for name, entry in zip(names, entries, strict=True)]


def _refuse_existing(files: Sequence[tuple[Path, Entry]]) -> None:
    """Also where the job is there as another file: two files of one name would break both."""
    for path, entry in files:
        there = sorted(path.parent.glob(f"{path.stem}.*")) + [path.with_suffix("")] * path.with_suffix("").is_file()
        if there:
            raise Refused(
                f"line {entry.line}: {there[0]} is there already; nothing was written. "
                "Move it away, or give --folder NAME"
            )


def _write(files: Sequence[tuple[Path, Entry]]) -> None:
    for path, entry in files:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as stream:
                stream.write(entry.to_toml())
        except OSError as error:
            raise Refused(f"cannot write {path}: {error.strerror or error}") from None


def _report(found: Crontab, *, dry_run: bool) -> None:
    count = len(found.entries)
    say(f"{count} job{'' if count == 1 else 's'} {'would be ' if dry_run else ''}made")
    for entry in found.entries:
        for note in entry.notes:
            say(f"line {entry.line}: {entry.name}: {note}", color="yellow")
    if any(entry.mail_to for entry in found.entries):
        say("mail goes out on failure only, by the mail command, with the task as JSON; logs: slotsched logs")
    if count:
        say("unlike under cron, a run is skipped while the last one goes on, and a missed one is caught up on once;")
        say('change that in a file with overlap = "allow_all", catch_up = "none"')
    for line, why in found.problems:
        say(f"line {line} is not kept: {why}", color="red")


def _home_of(user: str) -> str | None:
    import pwd

    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return None


def machine_zone(environ: str | None = None, localtime: Path = _LOCALTIME, named: Path = _TIMEZONE) -> str:
    """The name of this machine's time zone: of TZ, /etc/timezone, or where /etc/localtime leads; UTC otherwise."""
    from slotsched.errors import InvalidRecurrence
    from slotsched.recurrence import find_zone

    candidates = [os.environ.get("TZ", "") if environ is None else environ]
    try:
        candidates.append(named.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError):
        candidates.append("")
    candidates.append(str(localtime.resolve()).partition("zoneinfo/")[2])
    for name in candidates:
        try:
            found = find_zone(name.strip().removeprefix(":")).name
        except InvalidRecurrence:
            continue
        return "UTC" if found == "Etc/UTC" else found
    return "UTC"
