"""Schedules as documents and back. Field names are the object shape's, but `_id` for the name; None is not stored."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, TypeVar

from slotsched.model import CatchUp, Counters, Overlap, Overrides, Schedule, ScheduleStatus, Source
from slotsched.model.limits import LARGEST_SIZE
from slotsched.store.connection import Document
from slotsched.store.reading import Reader, Unreadable

LARGEST_REV = 2**53
_Word = TypeVar("_Word", bound=StrEnum)


def schedule_to_document(schedule: Schedule) -> Document:
    """The document to insert or to put in place of another."""
    document = {item.name: _plain(getattr(schedule, item.name)) for item in fields(schedule) if item.name != "name"}
    empty = [name for name in ("cron", "after", "overrides") if not document[name]]
    return {"_id": schedule.name} | {
        name: value for name, value in document.items() if value is not None and name not in empty
    }


def read_schedule(document: Mapping[str, Any]) -> Schedule:
    """The schedule of a document. Raises Unreadable."""
    schedule = Reader(document)
    return Schedule(
        name=schedule.text("_id"),
        job=schedule.text("job"),
        args=schedule.mapping("args"),
        cron=schedule.texts("cron"),
        every=schedule.maybe_seconds("every"),
        at=schedule.maybe_date("at"),
        after=schedule.texts("after"),
        when=schedule.maybe_text("when") or "success",
        timezone=schedule.maybe_text("timezone") or "UTC",
        overlap=_word(schedule, "overlap", Overlap, Overlap.SKIP),
        catch_up=_word(schedule, "catch_up", CatchUp, CatchUp.ONCE),
        catch_up_window=schedule.seconds("catch_up_window"),
        jitter=schedule.seconds("jitter"),
        start_at=schedule.maybe_date("start_at"),
        end_at=schedule.maybe_date("end_at"),
        max_runs=schedule.maybe_count("max_runs", least=1),
        pause_on_failure=schedule.maybe_count("pause_on_failure", least=1),
        priority=schedule.maybe_number("priority"),
        overrides=_read_overrides(schedule.inner("overrides")) if schedule.has("overrides") else Overrides(),
        owner=schedule.maybe_text("owner"),
        label=schedule.maybe_text("label"),
        notify=document.get("notify"),
        source=_read_source(schedule.inner("source")) if schedule.has("source") else Source(),
        status=_word(schedule, "status", ScheduleStatus, None),
        why=schedule.maybe_text("why"),
        next_at=schedule.maybe_date("next_at"),
        next_nominal_at=schedule.maybe_date("next_nominal_at"),
        anchor_at=schedule.maybe_date("anchor_at"),
        rev=schedule.count("rev", largest=LARGEST_REV),
        runs=_figure(schedule, "runs"),
        failures=_figure(schedule, "failures"),
        live=schedule.texts("live"),
        counters=_read_counters(schedule.inner("counters")) if schedule.has("counters") else Counters(),
        last_nominal_at=schedule.maybe_date("last_nominal_at"),
        last_completed_at=schedule.maybe_date("last_completed_at"),
        last_started_at=schedule.maybe_date("last_started_at"),
        state=document.get("state"),
        created_at=schedule.maybe_date("created_at"),
        updated_at=schedule.maybe_date("updated_at"),
    )


def show_schedule(document: Mapping[str, Any]) -> Schedule:
    """The schedule of a document; for one that cannot be read, a broken stand-in that says why."""
    try:
        return read_schedule(document)
    except Unreadable as why:
        job = document.get("job")
        return Schedule(
            name=str(document.get("_id")),
            job=job if isinstance(job, str) else "?",
            status=ScheduleStatus.BROKEN,
            why=f"this document cannot be read: {why}",
        )


def _read_overrides(overrides: Reader) -> Overrides:
    return Overrides(
        slots=overrides.maybe_count("slots", least=1),
        memory=overrides.maybe_count("memory", least=1, largest=LARGEST_SIZE),
        max_time=overrides.maybe_seconds("max_time"),
        retries=overrides.maybe_count("retries"),
    )


def _read_source(source: Reader) -> Source:
    return Source(kind=source.text("kind"), hash=source.maybe_text("hash"), gone=source.flag("gone"))


def _read_counters(counters: Reader) -> Counters:
    return Counters(**{item.name: _figure(counters, item.name) for item in fields(Counters)})


def _figure(document: Reader, name: str) -> int:
    return document.maybe_count(name, largest=LARGEST_REV) or 0


def _word(document: Reader, name: str, words: type[_Word], default: _Word | None) -> _Word:
    if default is not None and not document.has(name):
        return default
    text = document.text(name)
    if text not in set(words):
        raise Unreadable(f"{name}: {text!r:.60} is none of {', '.join(words)}")
    return words(text)


def _plain(value: Any) -> Any:
    """Dataclasses as objects without what is None, words as texts, tuples as lists; a date as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
        return {name: item for name, item in inner.items() if item is not None}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC)
    return value
