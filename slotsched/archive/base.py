"""What every log store offers, and the layout all of them share."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CONTENT_TYPE = "application/x-ndjson"  # and no Content-Encoding: clients would unpack behind our back
SUFFIX = ".ndjson.gz"

_KEY = re.compile(r"(\d{4})/(\d{2})/(\d{2})/([A-Za-z0-9-]+)/(\d+)\.ndjson\.gz")


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

    def prune(self, before: dt.date) -> int:
        """Delete the logs of attempts started on UTC days before that one; the number of deleted logs.

        Only objects of `log_key`'s layout are touched, whatever else lies under the prefix.
        """
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


def day_of(key: str) -> dt.date | None:
    """The UTC day in a key; None for anything that `log_key` cannot have made."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    try:
        return dt.date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None
