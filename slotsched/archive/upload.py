"""Bringing the logs of ended attempts from the spool (the run directories) into the log store.

No thread in here: the owner calls `run_once` when `wait` says so. What was not stored stays where it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slotsched.archive.base import Archive, Stored
from slotsched.errors import ArchiveError, SlotschedError

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """`source` is in the log store, verified: the local copy may go."""

    source: Path
    key: str
    stored: Stored


@dataclass(frozen=True, kw_only=True)
class UploadFailed:
    """`source` is not in the log store. retry_in: seconds, or None where no later try can help (the file is gone)."""

    source: Path
    key: str
    error: str
    tries: int
    retry_in: float | None


@dataclass
class _Waiting:
    source: Path
    store: str
    key: str
    due: float
    tries: int = 0


def backoff(tries: int, draw: float) -> float:
    """Seconds before the next try after that many failures in a row: doubling, capped, and spread by `draw` (0 to 1)
    over the upper half, so that instances do not come back together when a store does."""
    longest: float = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(tries - 1, 16))
    return longest * (0.5 + 0.5 * draw)


class Uploader:
    """Uploads one log at a time, oldest due first.

    A log that cannot be stored waits by itself, so it never holds up the others. But a store that refused the last
    log is likely to refuse the next one too, so after each failure everything of that store waits a moment as well,
    for the longer the more failures came in a row: a store that is down costs one try a minute, not one per log.

    open_archive: the archive of a LogRef's store URL, kept by the owner. now: seconds on a clock that never steps.
    """

    def __init__(
        self,
        open_archive: Callable[[str], Archive],
        now: Callable[[], float],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._open = open_archive
        self._now = now
        self._draw = draw
        self._waiting: dict[Path, _Waiting] = {}
        self._rests: dict[str, tuple[int, float]] = {}  # store -> failures in a row, no try before

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, source: Path, store: str, key: str) -> None:
        """Take on a finished log; adding it again changes nothing."""
        self._waiting.setdefault(source, _Waiting(source=source, store=store, key=key, due=self._now()))

    def wait(self) -> float | None:
        """Seconds until `run_once` has something to do; None while there is nothing to upload."""
        if not self._waiting:
            return None
        return max(0.0, min(map(self._due, self._waiting.values())) - self._now())

    def run_once(self) -> Uploaded | UploadFailed | None:
        """Try the one log that has been due longest; None if none is due yet."""
        now = self._now()
        item = min(self._waiting.values(), key=self._due, default=None)
        if item is None or self._due(item) > now:
            return None
        try:
            stored = self._open(item.store).put(item.key, item.source)
        except FileNotFoundError:
            del self._waiting[item.source]
            return UploadFailed(
                source=item.source, key=item.key, error="the log file is gone", tries=item.tries + 1, retry_in=None
            )
        except (ArchiveError, SlotschedError, OSError) as error:
            return self._failed(item, error)
        del self._waiting[item.source]
        self._rests.pop(item.store, None)
        return Uploaded(source=item.source, key=item.key, stored=stored)

    def _failed(self, item: _Waiting, error: Exception) -> UploadFailed:
        failures = self._rests.get(item.store, (0, 0.0))[0] + 1
        now = self._now()  # the try itself may have taken long
        self._rests[item.store] = (failures, now + backoff(failures, self._draw()))
        item.tries += 1
        item.due = now + backoff(item.tries, self._draw())
        return UploadFailed(
            source=item.source, key=item.key, error=str(error), tries=item.tries, retry_in=self._due(item) - now
        )

    def _due(self, item: _Waiting) -> float:
        return max(item.due, self._rests.get(item.store, (0, 0.0))[1])
