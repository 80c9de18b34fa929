"""`doctor`: what works, what does not, and what to do about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import typer

from slotsched import contract
from slotsched.cli.options import OutputOption
from slotsched.cli.render import Output, columns_of, paint, put_lines, show_rows, use_color
from slotsched.cli.session import Session, now
from slotsched.errors import InvalidSettings, SlotschedError
from slotsched.views.text import width

CLOCK_WARN_SECONDS = 5.0
DISK_WARN_BYTES = 1 << 30


class Level(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, kw_only=True)
class Check:
    """advice: what to do about it, empty where nothing is to be done."""

    name: str
    level: Level
    text: str
    advice: str = ""


def doctor(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Check what this machine needs; exits 1 on FAIL.

    Settings, database, clock, instances, log store, containment, jobs, slots, disk.
    """
    session = Session.of(context)
    found: list[Check] = []
    for check in run_checks(session):
        found.append(check)
        if output in (Output.TABLE, Output.WIDE):
            put_lines(_lines(check))
            sys.stdout.flush()
    if output not in (Output.TABLE, Output.WIDE):
        show_rows(found, [], output, to_object=asdict, to_id=lambda check: check.name)
    if any(check.level is Level.FAIL for check in found):
        raise typer.Exit(contract.EXIT_FAILED)


def run_checks(session: Session) -> Iterator[Check]:
    """Every check in turn. One that breaks is a FAIL of its own and stops no other."""
    yield from _guarded("settings", lambda: _settings(session))
    if "loaded" not in session.__dict__:
        return
    yield from _guarded("store", lambda: _store(session))
    yield from _guarded("log store", lambda: _log_store(session))
    yield from _guarded("containment", lambda: _containment(session))
    yield from _guarded("jobs", lambda: _jobs(session))
    yield from _guarded("slots", lambda: _slots(session))
    yield from _guarded("disk", lambda: _disk(session))


def _guarded(name: str, check: Callable[[], Sequence[Check]]) -> Sequence[Check]:
    try:
        return check()
    except SlotschedError as error:
        text, _, advice = str(error).partition(" -> ")
        return [Check(name=name, level=Level.FAIL, text=text, advice=advice or _advice(name, error))]
    except OSError as error:
        return [Check(name=name, level=Level.FAIL, text=str(error))]


def _advice(name: str, error: SlotschedError) -> str:
    if name == "log store":
        profile = os.environ.get("AWS_PROFILE")
        now_set = f'now "{profile}"' if profile else "not set now"
        return f"check log_store, s3_endpoint and AWS_PROFILE ({now_set})"
    return "correct or remove it" if isinstance(error, InvalidSettings) else ""


def _settings(session: Session) -> list[Check]:
    from slotsched.settings import load

    loaded = load(session.flags)
    session.__dict__["loaded"] = loaded  # its warnings are said here, not on stderr
    sources = sorted({origin for origin in loaded.origins.values() if origin != "default"})
    checks = [Check(name="settings", level=Level.OK, text=f"from {', '.join(sources)}" if sources else "all defaults")]
    checks += [
        Check(name="settings", level=Level.WARN, text=warning, advice="correct or unset it")
        for warning in loaded.warnings
    ]
    return checks


def _store(session: Session) -> list[Check]:
    from slotsched.quantities import format_duration

    store = session.client.store
    info = store.check()
    streams, latency = "on" if info.change_streams else "off", f"{info.latency * 1000:.1f} ms"
    checks = [
        Check(
            name="store",
            level=Level.OK if info.change_streams else Level.WARN,
            text=f"mongodb {info.version}, replica set {info.set_name}, change streams {streams}, {latency}",
            advice="" if info.change_streams else "tasks start by polling, up to some seconds later",
        )
    ]
    before = now()
    server = store.now()
    skew = (server - (before + (now() - before) / 2)).total_seconds()
    level = Level.WARN if abs(skew) > CLOCK_WARN_SECONDS else Level.OK
    text = (
        f"{skew * -1000:+.0f} ms against the store"
        if abs(skew) < 1
        else f"{format_duration(abs(skew))} {'behind' if skew > 0 else 'ahead of'} the store"
    )
    advice = "no task is late or early by it, but times in logs are: run an NTP service" if level is Level.WARN else ""
    checks.append(Check(name="clock", level=level, text=text, advice=advice))
    live = store.instances.live()
    slots = sum(instance.capacity.slots for instance in live)
    if live:
        names = ", ".join(f"{instance.name} {instance.used}/{instance.capacity.slots}" for instance in live[:8])
        checks.append(
            Check(
                name="instances",
                level=Level.OK,
                text=f"{len(live)} up, {slots} slots ({names}{', ...' if len(live) > 8 else ''})",
            )
        )
    else:
        checks.append(
            Check(name="instances", level=Level.WARN, text="none is up; tasks wait", advice="slotsched scheduler run")
        )
    checks += [
        Check(name="instances", level=Level.WARN, text=f"{one.name} claims nothing: {one.hindrance}")
        for one in live
        if one.hindrance
    ]
    checks += [
        Check(name="instances", level=Level.WARN, text=f"{name}: {why}", advice="remove the document")
        for name, why in store.instances.unreadable().items()
    ]
    return checks


def _log_store(session: Session) -> list[Check]:
    archive = session.client.open_archive()
    archive.check()
    archive.close()
    return [Check(name="log store", level=Level.OK, text=f"{archive.url}: written, read and deleted")]


def _containment(session: Session) -> list[Check]:
    """By the spawner itself, as a scheduler would: what works is found by trying."""
    from slotsched.process import try_containment

    found = try_containment(session.settings.containment)
    if found.full:
        return [
            Check(name="containment", level=Level.OK, text=f"{found.name}: whatever ends, ends with its whole tree")
        ]
    detail = f" ({found.detail})" if found.detail else ""
    return [
        Check(
            name="containment",
            level=Level.WARN,
            text=f"{found.name} only{detail}",
            advice="run as root, allow user namespaces, or Delegate=yes in the unit",
        )
    ]


def _jobs(session: Session) -> list[Check]:
    scan = session.client.folder.scan()
    where = session.settings.jobs_dir
    checks = []
    if not where.is_dir():
        checks.append(
            Check(
                name="jobs",
                level=Level.WARN,
                text=f"{where} does not exist",
                advice="slotsched job new hello, or set jobs_dir",
            )
        )
    elif not scan.problems:
        checks.append(Check(name="jobs", level=Level.OK, text=f"{len(scan.jobs)} in {where}"))
    checks += [
        Check(name="jobs", level=Level.FAIL, text=str(problem), advice="slotsched job check")
        for problem in scan.problems
    ]
    return checks


def _slots(session: Session) -> list[Check]:
    from slotsched.machine import usable_cpus, usable_memory, usable_resources
    from slotsched.quantities import format_size

    settings = session.settings
    cpus = usable_cpus()
    slots = f"{cpus}, one per usable CPU"
    if settings.slots is not None:
        slots = f"{settings.slots}, as set ({cpus} usable CPUs)"
    units = [f"{count} {name}" for name, count in sorted(usable_resources(settings.resources).items())]
    offered = [slots, f"memory {format_size(settings.memory or usable_memory())}", *units, *settings.tags]
    return [Check(name="slots", level=Level.OK, text="; ".join(offered))]


def _disk(session: Session) -> list[Check]:
    from slotsched.machine import space_at
    from slotsched.quantities import format_size

    folder = session.settings.state_dir
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    space = space_at(existing)
    text = f"{format_size(space.free)} free for {folder}"
    if not os.access(existing, os.W_OK):
        return [Check(name="disk", level=Level.FAIL, text=f"{folder} cannot be written to", advice="set state_dir")]
    if space.low:
        full = space.free < space.floor
        text += f"; below {format_size(space.floor)} nothing is claimed" if full else ", but no more files can be made"
        return [Check(name="disk", level=Level.FAIL, text=text, advice="free space, or set state_dir")]
    if space.free < DISK_WARN_BYTES:
        return [Check(name="disk", level=Level.WARN, text=text, advice="logs wait there until they are uploaded")]
    return [Check(name="disk", level=Level.OK, text=text)]


def _lines(check: Check) -> Iterator[str]:
    """`FAIL  log store    s3://...: 403  -> check ...`; the advice on its own line on a narrow terminal."""
    color = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}[check.level]
    head = f"{paint(f'{check.level.value:<4}', color, enabled=use_color(sys.stdout))}  {check.name:<12}"
    text = check.text
    if not check.advice:
        yield f"{head}  {text}"
        return
    limit = columns_of(sys.stdout)
    whole = f"{text:<50}  -> {check.advice}"
    if limit is None or 20 + width(whole) <= limit:
        yield f"{head}  {whole}"
        return
    yield f"{head}  {text}"
    yield f"{'':<18}  -> {check.advice}"
