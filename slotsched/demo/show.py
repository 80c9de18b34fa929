"""What the demo shows: a picture that moves on a terminal, a line per event elsewhere; a table at the end."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from slotsched.demo.chart import Bar, draw
from slotsched.model import TERMINAL, Status, Task
from slotsched.quantities import format_duration

PAUSE_SECONDS = 0.1
CHART_COLUMNS = 60
RESULT_COLUMNS = 44


@dataclass(frozen=True)
class Part:
    """One task of the demo: its letter in the chart, and its id."""

    letter: str
    id: str


Look = Callable[[], Sequence[Task]]


def watch(
    parts: Sequence[Part], look: Look, instances: Mapping[str, int], *, terminal: bool, limit: float
) -> list[Task]:
    """Show the tasks until all have ended, or for `limit` seconds; the tasks as they were last."""
    with _moving(terminal) as update:
        deadline = time.monotonic() + limit
        seen: dict[str, Status] = {}
        while True:
            tasks = list(look())
            update("\n".join(picture(parts, tasks, instances)), list(_events(parts, tasks, seen)))
            if all(task.status in TERMINAL for task in tasks) or time.monotonic() > deadline:
                return tasks
            time.sleep(PAUSE_SECONDS)


def picture(parts: Sequence[Part], tasks: Sequence[Task], instances: Mapping[str, int]) -> list[str]:
    """The chart of slots over time, and a line per task beneath it."""
    return [*chart(parts, tasks, instances), "", *table(parts, tasks)]


def chart(parts: Sequence[Part], tasks: Sequence[Task], instances: Mapping[str, int]) -> list[str]:
    starts = [task.started_at for task in tasks if task.started_at]
    if not starts:
        return draw(list(instances.items()), [], CHART_COLUMNS)
    zero, letters = min(starts), {part.id: part.letter for part in parts}
    latest = max([task.ended_at for task in tasks if task.ended_at] + starts)
    if any(task.status is Status.RUNNING for task in tasks):
        latest = max(latest, dt.datetime.now(dt.UTC))  # the demo's database runs on this machine's clock
    bars = [
        Bar(
            letter=letters[task.id],
            instance=task.attempts[-1].instance.name,
            slots=task.needs.slots,
            start=(task.started_at - zero).total_seconds(),
            end=((task.ended_at or latest) - zero).total_seconds(),
        )
        for task in tasks
        if task.started_at and task.attempts
    ]
    return draw(list(instances.items()), bars, CHART_COLUMNS)


def table(parts: Sequence[Part], tasks: Sequence[Task]) -> list[str]:
    """One line per task: what it holds, where it ran, how long it waited and ran, what came out."""
    parts_by_id = {part.id: part for part in parts}
    rows: list[tuple[str, ...]] = [("", "JOB", "SLOTS", "STATUS", "INSTANCE", "WAITED", "RAN", "RESULT")]
    rows += [_row(parts_by_id[task.id], task) for task in tasks]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(part: Part, task: Task) -> tuple[str, ...]:
    waited = (task.started_at - task.due_at).total_seconds() if task.started_at else None
    ran = (task.ended_at - task.started_at).total_seconds() if task.ended_at and task.started_at else None
    return (
        part.letter,
        task.job,
        str(task.needs.slots),
        task.status.value,
        task.attempts[-1].instance.name if task.attempts else "-",
        "-" if waited is None else format_duration(waited),
        "-" if ran is None else format_duration(ran),
        _result(task),
    )


def _result(task: Task) -> str:
    if task.status not in TERMINAL:
        made = task.progress
        done = "" if made is None or made.fraction is None else f"{made.fraction * 100:.0f} % "
        return (done + (made.message if made else ""))[:RESULT_COLUMNS]
    text = json.dumps(task.result) if task.result is not None else task.reason.value if task.reason else ""
    return text if len(text) <= RESULT_COLUMNS else text[: RESULT_COLUMNS - 3] + "..."


def _events(parts: Sequence[Part], tasks: Sequence[Task], seen: dict[str, Status]) -> Iterator[str]:
    """A line for every task whose status is not the one seen before."""
    parts_by_id = {part.id: part for part in parts}
    for task in tasks:
        if seen.get(task.id) == task.status:
            continue
        seen[task.id] = task.status
        part = parts_by_id[task.id]
        where = f" on {task.attempts[-1].instance.name}" if task.attempts else ""
        slots = f"{task.needs.slots} slot{'s' if task.needs.slots != 1 else ''}"
        yield f"{part.letter}  {task.job:<18} {slots:<8} {task.status.value}{where}"


@contextlib.contextmanager
def _moving(terminal: bool) -> Iterator[Callable[[str, list[str]], None]]:
    """Something to hand each new picture and its events to."""
    if not terminal:
        yield lambda _picture, events: _print_lines(events)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(highlight=False), auto_refresh=False, transient=True) as live:
        yield lambda shown, _events: live.update(Text(shown), refresh=True)


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, flush=True)  # noqa: T201  the demo's answer
