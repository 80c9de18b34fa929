"""`slotsched demo`: everything embedded in a temporary place, a handful of real tasks, and what became of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from slotsched import contract
from slotsched.demo import inputs
from slotsched.demo.chart import LETTERS
from slotsched.demo.show import Part, chart, table, watch
from slotsched.demo.stage import INSTANCES, Progress, Stage, stage
from slotsched.model import TERMINAL, Status, Task

__all__ = ["demo"]

LIMIT_SECONDS = 120.0
LOG_LINES_SHOWN = 3

_INTRODUCTION = f"""\
Two instances share one queue: {" and ".join(f"{name} has {slots} slots" for name, slots in INSTANCES.items())}.
Every row below is a slot, every letter a task; a task holds as many rows as its job asks for.
"""
_READING = """\
How to read it: the 4-slot tasks fit big only, one at a time, and wait for all of its slots; narrow tasks run beside
each other wherever slots are free. Nothing ever holds more rows than an instance has.
"""


def demo(*, keep: bool, progress: Progress) -> int:
    """Play it; the exit code. keep: leave the folder. progress: told while the database starts."""
    terminal = sys.stdout.isatty()
    with stage(keep=keep, progress=progress) as place:
        _print(_INTRODUCTION)
        _print("Making their input: pictures, web server logs, documents ...\n")
        parts = list(_cast(place))
        tasks = watch(parts, lambda: _look(place, parts), place.instances, terminal=terminal, limit=LIMIT_SECONDS)
        _print("\n".join(["", *chart(parts, tasks, place.instances), "", *table(parts, tasks), "", _READING]))
        _print("\n".join(_about_logs(place, parts, tasks, keep=keep)))
    failed = [task for task in tasks if task.status not in TERMINAL or task.status is Status.FAILED]
    return contract.EXIT_FAILED if failed else contract.EXIT_OK


def _cast(place: Stage) -> Iterator[Part]:
    """Make each task's input and enqueue it: wide ones among narrow ones, so that one sees who waits for what."""
    data = place.folder / "data"
    uri_file = data / "mongodb-uri"
    albums = [inputs.pictures(data / f"album-{number}") for number in (1, 2)]
    uri_file.write_text(place.client.settings.mongodb_uri, encoding="utf-8")
    logs = [inputs.access_log(data / f"access-{number}.log", seed=number) for number in (1, 2, 3)]
    documents = inputs.documents(data / "documents")
    (data / "empty").mkdir()
    export = {"database": place.client.settings.database, "collection": "tasks", "uri_file": str(uri_file)}
    script: list[tuple[str, dict[str, object]]] = [
        ("hello", {"name": "world", "times": 3}),
        ("access_log", {"file": str(logs[0])}),
        ("resize", {"folder": str(albums[0]), "width": 320}),
        ("access_log", {"file": str(logs[1])}),
        ("backup", {"source": str(documents), "target": str(data / "backups")}),
        ("resize", {"folder": str(albums[1]), "width": 640}),
        ("access_log", {"file": str(logs[2])}),
        ("export_collection", {**export, "target": str(data / "tasks.ndjson.gz")}),
        ("resize", {"folder": str(data / "empty")}),
        ("backup", {"source": str(albums[0]), "target": str(data / "backups")}),
    ]
    for letter, (job, args) in zip(LETTERS, script, strict=False):
        yield Part(letter, place.client.enqueue(job, args).id)


def _look(place: Stage, parts: Sequence[Part]) -> list[Task]:
    return [place.client.get(part.id) for part in parts]


def _about_logs(place: Stage, parts: Sequence[Part], tasks: Sequence[Task], *, keep: bool) -> Iterator[str]:
    """Where the logs are, with the first lines of one."""
    yield f"Logs: one object per attempt below {place.logs}"
    for part, task in zip(parts, tasks, strict=True):
        log = task.attempts[-1].log if task.attempts else None
        if log is not None:
            lines = [str(line.get("msg", "")) for line in place.client.logs(task.id)]
            yield f"  {part.letter} {task.job}: {log.key}"
            yield from (f"    {line}" for line in lines[:LOG_LINES_SHOWN])
            break
    if keep:
        yield f"Everything is kept in {place.folder}; remove it with: rm -r {place.folder}"
    else:
        yield "All of it is removed now; --keep leaves it for a look."
    yield "Next: slotsched up"


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201  the demo's answer
