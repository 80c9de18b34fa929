"""`slotsched demo`: everything embedded in a temporary place, a handful of real tasks, and what became of them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from slotsched import contract
from slotsched.demo import inputs
from slotsched.demo.chart import LETTERS
from slotsched.demo.show import Part, chart, table, watch
from slotsched.demo.stage import INSTANCES, Progress, Stage, stage
from slotsched.errors import SlotschedError
from slotsched.model import TERMINAL, Status, Task

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
    with stage(examples(), keep=keep, progress=progress) as place:
        _print(_INTRODUCTION)
        parts = list(_cast(place))
        tasks = watch(parts, lambda: _look(place, parts), place.instances, terminal=terminal, limit=LIMIT_SECONDS)
        _print("\n".join(["", *chart(parts, tasks, place.instances), "", *table(parts, tasks), "", _READING]))
        _print("\n".join(_about_logs(place, parts, tasks, keep=keep)))
    unfinished = [task for task in tasks if task.status not in TERMINAL or task.status is Status.FAILED]
    return contract.EXIT_FAILED if unfinished else contract.EXIT_OK


def examples() -> Path:
    """The example jobs: packed into the wheel, or the checkout's `jobs/`."""
    package = Path(__file__).parents[1]
    for folder in (package / "_examples", package.parent / "jobs"):
        if (folder / "hello.py").is_file():
            return folder
    raise SlotschedError("the example jobs are not installed; install slotsched from its wheel or its checkout")


def _cast(place: Stage) -> Iterator[Part]:
    """Make each task's input and enqueue it, widest first, so that one sees the narrow ones fill the gaps."""
    data = place.folder / "data"
    uri_file = data / "mongodb-uri"
    pictures = inputs.pictures(data / "pictures")
    log = inputs.access_log(data / "access.log")
    documents = inputs.documents(data / "documents")
    place.client.store.upkeep.insert_sample("orders", inputs.orders())
    raise AssertionError(uri_file, pictures, log, documents)


def _look(place: Stage, parts: Sequence[Part]) -> list[Task]:
    return [place.client.get(part.id) for part in parts]


def _about_logs(place: Stage, parts: Sequence[Part], tasks: Sequence[Task], *, keep: bool) -> Iterator[str]:
    """Where the logs are, with the first lines of one."""
    yield f"Logs: one object per attempt below {place.logs}"
    for part, task in zip(parts, tasks, strict=True):
        lines = [str(line.get("msg", "")) for line in place.client.logs(task.id)]
        if len(lines) >= LOG_LINES_SHOWN:
            yield f"  {part.letter} {task.job}, {task.attempts[-1].log.key if task.attempts[-1].log else '-'}:"
            yield from (f"    {line}" for line in lines[:LOG_LINES_SHOWN])
            break
    if keep:
        yield f"Kept: {place.folder}. Remove it with: rm -r {place.folder}"
    else:
        yield "All of it is removed now; --keep leaves it for a look."
    yield "Next: slotsched up"


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201  the demo's answer
