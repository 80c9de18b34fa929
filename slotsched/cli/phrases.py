"""Sentences about one task that several commands say."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from slotsched import contract
from slotsched.cli.render import STATUS_COLORS, is_terminal, paint, say
from slotsched.cli.session import now
from slotsched.errors import UsageError
from slotsched.views.text import compact, plain, short, slot_count, span

if TYPE_CHECKING:
    from slotsched.model import Task, TaskRequest


def queued(task_id: str, request: TaskRequest, max_time: float, due: str) -> str:
    """`task 8c1d2e3f queued  resize  4 slots  max 30m`. due: in words, empty for at once."""
    state = f"scheduled for {due}" if due else "queued"
    if request.parents:
        first, *others = request.parents
        state = f"waits for {short(first)}" + (f" and {len(others)} more" if others else "")
    return "  ".join(
        [
            f"task {short(task_id)} {state}",
            request.job,
            slot_count(request.needs.slots),
            f"max {span(max_time)}",
        ]
    )


def ending(task: Task, *, color: bool = False) -> str:
    """`completed in 26.1s  result {"pictures": 40}`, `failed in 3.0s: exit code 7`, `canceled in 1.0s by ann`."""
    from slotsched.views.explain import ended
    from slotsched.views.words import ran

    status = task.status.value
    cause = plain(ended(task)).removeprefix(status)
    took = "" if task.started_at is None else f" in {ran(task, now())}"
    result = "" if task.result is None else f"  result {plain(compact(task.result))}"
    return paint(status, STATUS_COLORS.get(status), enabled=color) + took + cause + result


def worst(tasks: Iterable[Task]) -> int:
    """The exit code for several ended tasks: failed before canceled before completed."""
    from slotsched.model import Status

    found = {task.status for task in tasks}
    if Status.FAILED in found:
        return contract.EXIT_FAILED
    return contract.EXIT_CANCELED if Status.CANCELED in found else contract.EXIT_OK


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if a person says so, or `--yes` did. Raises UsageError where nobody can be asked."""
    import typer

    if yes:
        return
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise UsageError(f"{question} Nobody can be asked here; add --yes")
    if not typer.confirm(plain(question), err=True):
        raise typer.Exit(contract.EXIT_FAILED)


def say_rejoin(ids: Sequence[str], *, how: str) -> None:
    """After Ctrl-C: the tasks are not ended by it, and this is how to look again."""
    names = " ".join(short(task_id) for task_id in ids[:5]) + (" ..." if len(ids) > 5 else "")
    say(f"\n{'the task goes' if len(ids) == 1 else 'the tasks go'} on; rejoin with: slotsched {how} {names}")
