"""What every log store offers, and the layout all of them share."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CONTENT_TYPE = "application/x-ndjson"  # and no Content-Encoding: clients would unpack behind our back
SUFFIX = ".ndjson.gz"
PAGE_KEYS = 1000  # S3's limit for one page of a listing, and for one DeleteObjects

_KEY = re.compile(r"(\d{4})/(\d{2})/(\d{2})/([0-9a-f]{24})/[0-9]+\.ndjson\.gz", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A verified object. bytes: length of the log; stored_bytes: of the gzipped object."""

    bytes: int
    stored_bytes: int


class Archive(Protocol):
    """A log store. Every failure is an errors.ArchiveError whose text says what to check; each is worth another try.

    One object serves one process; its methods may be called from several threads.
    """

    @property
    def url(self) -> str:
        """What `log_store` was set to: `s3://bucket/prefix`, or an absolute folder."""
        ...

    def put(self, key: str, source: Path) -> Stored:
        """Store the file `source` gzipped, and return only once what is stored was seen to be that file.

        Repeating it with the same file makes the same object. Memory stays bounded whatever the length.
        A missing `source` is the caller's error: FileNotFoundError.
        """
        ...

    def get(self, key: str) -> Iterator[bytes]:
        """The log's own (uncompressed) bytes in pieces. ObjectMissing before the first piece if there is none;
        ArchiveError at the end where the object is shorter or other than what was stored."""
        ...

    def check(self) -> None:
        """Store, read and delete a small object."""
        ...

    def logs_before(self, day: dt.date) -> Iterator[Mapping[str, str]]:
        """The logs of attempts started on UTC days before that one: pages of at most PAGE_KEYS keys, each with its
        task's id. Newer days are not listed; a page's keys may be deleted before the next is asked for.

        Only objects of `log_key`'s layout are found, whatever else lies under the prefix.
        """
        ...

    def delete(self, keys: Sequence[str]) -> int:
        """Delete logs, at most PAGE_KEYS; how many. One that is gone already counts."""
        ...

    def close(self) -> None:
        """Close connections; the archive may be used again afterwards."""
        ...


def log_key(task_id: str, attempt: int, started_at: dt.datetime) -> str:
    """`2026/11/21/<task id>/<attempt>.ndjson.gz`: ids only, so that no job name or argument leaks into a key.

    Computed once, from the attempt's start (its UTC day), and then kept in the attempt. ValueError for a naive time.
    """
    if started_at.tzinfo is None:
        raise ValueError("started_at needs a zone")
    return f"{started_at.astimezone(dt.UTC):%Y/%m/%d}/{task_id}/{attempt}{SUFFIX}"


def tasks_of(keys: Iterable[str]) -> dict[str, str]:
    """The keys with their tasks' ids, without those that `log_key` cannot have made."""
    return {key: task for key in keys if (task := _task_of(key)) is not None}


def _task_of(key: str) -> str | None:
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    try:
        dt.date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None
    return match[4]
