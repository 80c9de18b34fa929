"""What is forgotten: tasks that ended long ago, and the logs of tasks that are no more.

The one rule of what is old, for the thread of every instance and for `slotsched db prune`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slotsched.archive import Archive
    from slotsched.store import Store


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What one pass removed. more: it ended before all was gone that is old; another pass goes on."""

    tasks: int
    logs: int
    more: bool


def prune(store: Store, archive: Archive, keep: float) -> Removed:
    """One pass: the tasks that ended `keep` seconds ago, or as long ago as their own `keep` says; then, in the pass
    that leaves no such task, the logs of attempts that began on days before that and whose task is gone.

    A log's age alone says nothing: its task may be kept for longer, or have run for that long. All of it is by the
    store's clock; this machine's may be a year ahead. Raises StoreError, ArchiveError.
    """
    # Before anything is deleted: a keep that goes back beyond all dates is an error, not a half of a pass.
    before = (store.now() - dt.timedelta(seconds=keep)).date()
    pruned = store.upkeep.prune(keep)
    logs = 0
    if not pruned.more:
        logs = sum(archive.delete(_left_behind(store, page)) for page in archive.logs_before(before))
    return Removed(tasks=pruned.tasks, logs=logs, more=pruned.more)


def _left_behind(store: Store, logs: Mapping[str, str]) -> list[str]:
    """The keys of a page (key: task id) whose task is gone; one that goes after the question is for the next pass."""
    gone = store.tasks.missing(logs.values())
    return [key for key, task in logs.items() if task in gone]
