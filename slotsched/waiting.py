"""Waiting for tasks to end by looking again and again: often while something happens, seldom while nothing does."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from slotsched.errors import NotFound, WaitTimeout
from slotsched.model import TERMINAL, Task

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0


def changes(
    look: Callable[[Sequence[str]], Mapping[str, Task]], ids: Sequence[str], timeout: float | None
) -> Iterator[Task]:
    """Each task at once and again whenever it changed, until all have ended.

    look: the tasks of these ids that are there. timeout: seconds for all of them together, None = without limit.
    Raises WaitTimeout (they go on), NotFound for one that was removed.
    """
    seen: dict[str, Task | None] = dict.fromkeys(ids)
    open_ones = list(seen)
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = FIRST_PAUSE_SECONDS
    while True:
        found = look(open_ones)
        changed = False
        for task_id in open_ones:
            if task_id not in found:
                raise NotFound(f"task {task_id} is gone: somebody removed it")
            if found[task_id] != seen[task_id]:
                seen[task_id], changed = found[task_id], True
                yield found[task_id]
        open_ones = [task_id for task_id in open_ones if not _ended(seen[task_id])]
        if not open_ones:
            return
        pause = FIRST_PAUSE_SECONDS if changed else min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        _sleep(pause, deadline, open_ones)


def _ended(task: Task | None) -> bool:
    return task is not None and task.status in TERMINAL


def _sleep(pause: float, deadline: float | None, open_ones: Collection[str]) -> None:
    if deadline is not None:
        left = deadline - time.monotonic()
        if left <= 0:
            count = len(open_ones)
            what = f"{next(iter(open_ones))[-8:]} has" if count == 1 else f"{count} tasks have"
            raise WaitTimeout(f"{what} not ended in time; {'it goes' if count == 1 else 'they go'} on")
        pause = min(pause, left)
    time.sleep(pause)
