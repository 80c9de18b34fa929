"""`job ls|show|new|check|enable|disable`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slotsched import contract
from slotsched.cli.complete import job_names
from slotsched.cli.options import JobArgument, OutputOption
from slotsched.cli.render import Output, pairs, put, say, show_object, show_rows
from slotsched.cli.session import Session
from slotsched.errors import NotFound, Refused, StoreError, UsageError
from slotsched.views.text import compact, slot_count, span

if TYPE_CHECKING:
    from slotsched.cli.columns import JobRow
    from slotsched.model import Job, Parameter
    from slotsched.views.explain import Fleet

JobsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="JOB", help="All without it.", autocompletion=job_names)
]

NamedJobs = Annotated[list[str], typer.Argument(metavar="JOB", help="Names of jobs.", autocompletion=job_names)]


def job_ls(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List the jobs of the local folder and those that instances hold."""
    from dataclasses import asdict

    from slotsched.cli.columns import job_columns

    session = Session.of(context)
    rows = _rows(session)
    show_rows(
        rows,
        job_columns(),
        output,
        to_object=lambda row: asdict(row) | {"state": row.state},
        to_id=lambda row: row.name,
    )


def _rows(session: Session) -> list[JobRow]:
    """Without a store: what the folder has, and a word about it."""
    from slotsched.cli.columns import JobRow
    from slotsched.views.explain import Fleet

    scan = session.client.folder.scan()
    fleet, published = Fleet(), {}
    try:
        fleet = session.client.fleet()
        names = set(session.client.store.catalogs.names()) - set(scan.jobs) - set(scan.broken)
        published = {name: session.client.store.catalogs.newest(name) for name in sorted(names)}
    except StoreError as error:
        say(f"only the local folder is shown: {error}", color="yellow")
    rows = [_row(job, fleet, local=True) for job in scan.jobs.values()]
    rows += [_row(job, fleet, local=False) for job in published.values() if job is not None]
    rows += [JobRow(name=bad.name, problem=str(bad)) for bad in scan.broken.values()]
    return sorted(rows, key=lambda row: row.name)


def _row(job: Job, fleet: Fleet, *, local: bool) -> JobRow:
    from slotsched.cli.columns import JobRow

    holders = fleet.holders.get(job.name, ())
    return JobRow(
        name=job.name,
        slots=job.facts.slots,
        max_time=job.facts.max_time,
        enabled=job.facts.enabled and job.name not in fleet.disabled,
        local=local,
        instances=tuple(sorted(instance.name for instance in fleet.instances if instance.id in holders)),
        description=job.facts.description,
    )


def job_show(context: typer.Context, job: JobArgument, output: OutputOption = Output.TABLE) -> None:
    """Show a job's facts and arguments."""
    from slotsched.model.task import jsonable

    session = Session.of(context)
    found = session.client.job(job)
    shown = jsonable(found) | {"path": None if found.path is None else str(found.path)}
    show_object(shown, output, identity=found.name, lines=lambda: _description(found, _copies(session, found)))


def _copies(session: Session, job: Job) -> str:
    from slotsched.cli.copies import copies

    try:
        here = session.client.folder.fresh(job.name).hash
    except NotFound:
        here = None
    try:
        return copies(session, job.name, here)
    except StoreError as error:
        say(f"what instances hold is not shown: {error}", color="yellow")
        return ""


def _description(job: Job, copies: str) -> Iterator[str]:
    from slotsched.quantities import format_size

    facts = job.facts
    needs = facts.needs
    retries = f"{facts.retry.limit}, on {', '.join(facts.retry.on)}" if facts.retry.limit else "0"
    yield from pairs(
        [
            ("Job", job.name),
            ("Description", facts.description),
            ("File", str(job.path or "")),
            ("Slots", str(needs.slots)),
            ("Memory", format_size(needs.memory) if needs.memory else ""),
            ("Resources", ", ".join(f"{units} {name}" for name, units in needs.resources.items())),
            ("Requires", ", ".join(needs.tags)),
            ("Max time", f"{span(facts.max_time)}, then {span(facts.grace)} grace"),
            ("Priority", f"{facts.priority:g}"),
            ("Retries", retries),
            ("Enabled", "" if facts.enabled else "no"),
            ("Runs", ", ".join(f"{name} {compact(value)}" for name, value in facts.schedule.items())),
            ("Dependencies", ", ".join(facts.dependencies)),
            ("Hash", job.hash),
            ("Copies", copies),
            ("Arguments", "\n".join(_parameter(parameter) for parameter in job.parameters or ())),
        ]
    )


def _parameter(parameter: Parameter) -> str:
    from slotsched.catalog.arguments import placeholder

    text = f"{parameter.name}={placeholder(parameter)}"
    if not parameter.required:
        text += f"  default {compact(parameter.default)}"
    return f"{text}  {parameter.description}".rstrip()


def job_check(context: typer.Context, jobs: JobsArgument = None) -> None:
    """Check job files without running them; exits 1 on a broken one."""
    from slotsched.catalog import check_scan

    session = Session.of(context)
    if not session.settings.jobs_dir.is_dir():
        raise NotFound(f"there is no folder {session.settings.jobs_dir}; set jobs_dir, or: slotsched job new hello")
    scan = session.client.folder.scan()
    for name in jobs or ():
        if name not in scan.jobs and name not in scan.broken:
            raise scan.unknown(name)
    wanted = set(jobs or [*scan.jobs, *scan.broken])
    if not wanted:
        say(f"no job files in {session.settings.jobs_dir}")
    for name in sorted(wanted & set(scan.jobs)):
        put(f"ok  {name}  {slot_count(scan.jobs[name].facts.slots)}")
    findings = [finding for finding in check_scan(scan) if finding.job in wanted]
    for finding in findings:
        put(str(finding))
    if any(finding.error for finding in findings):
        raise typer.Exit(contract.EXIT_FAILED)


def job_enable(context: typer.Context, jobs: NamedJobs) -> None:
    """Let instances start a job's tasks again."""
    _switch(context, jobs, enabled=True)


def job_disable(context: typer.Context, jobs: NamedJobs) -> None:
    """Keep instances from starting a job's tasks; they wait."""
    _switch(context, jobs, enabled=False)


def _switch(context: typer.Context, jobs: Sequence[str], *, enabled: bool) -> None:
    session = Session.of(context)
    catalogs = session.client.store.catalogs
    known = set(catalogs.names())
    for name in jobs:
        if name not in known:
            session.client.job(name)  # in the folder only, or nowhere: then this says so
    for name in jobs:
        catalogs.set_enabled(name, enabled)
        put(f"{name} {'enabled' if enabled else 'disabled'}")


def job_new(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="NAME", help="Lower case; reports/daily goes into a sub-folder.")],
    shell: Annotated[bool, typer.Option("--shell", help="A shell script instead of Python.")] = False,
    command: Annotated[bool, typer.Option("--command", help="A sidecar for a program that is there already.")] = False,
) -> None:
    """Write a small job file that runs as it is, to be changed."""
    from slotsched.catalog import new_job

    if shell and command:
        raise UsageError("--shell and --command exclude each other")
    session = Session.of(context)
    new = new_job(job, "shell" if shell else "command" if command else "python")
    try:
        taken = session.client.folder.fresh(job)
        raise Refused(f'job "{job}" exists: {taken.path or "a sidecar"}')
    except NotFound:
        pass
    path: Path = session.settings.jobs_dir / new.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(new.text)
        if new.executable:
            path.chmod(0o755)
    except OSError as error:
        raise Refused(f"cannot write {path}: {error.strerror or error}") from None
    put(str(path))
    say(f"try it here: slotsched run {job}    on an instance: slotsched enqueue {job} --follow")
