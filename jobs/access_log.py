# /// script
# [tool.slotsched]
# slots = 1
# max_time = "1h"
# ///
"""Digest a web server's access log: what was asked for since the last run, how often, and how it was answered.

The place where a run stopped is kept as the task's state, so each run of a series reads only what is new: also
when the log was rotated, compressed or truncated in between.
"""

import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

from slotsched import log, task

LINE = re.compile(rb'\S+ \S+ \S+ \[(?P<time>[^\]]+)\] "\S+ (?P<path>[^ ?"]+)[^"]*" (?P<status>\d{3}) (?P<bytes>\d+|-)')
HEAD_BYTES = 512  # the beginning of a log tells it from its successors, whatever its name is by now


def main(
    file: Annotated[Path, "the log that is written now; rotated ones stand beside it as FILE.1, FILE.2.gz, ..."],
    top: Annotated[int, "how many paths to list"] = 10,
) -> dict:
    statuses: Counter[str] = Counter()
    paths: Counter[str] = Counter()
    times: list[str] = []
    sent = unknown = 0
    for line in new_lines(file):
        match = LINE.match(line)
        if match is None:
            unknown += 1
            continue
        statuses[match["status"].decode()] += 1
        paths[match["path"].decode("utf-8", "replace")] += 1
        sent += int(match["bytes"]) if match["bytes"] != b"-" else 0
        times = [*times[:1], match["time"].decode("utf-8", "replace")]
    if unknown:
        log.warn("lines that are not in the common log format", lines=unknown)
    return {
        "requests": statuses.total(),
        "unknown_lines": unknown,
        "bytes": sent,
        "statuses": dict(sorted(statuses.items())),
        "paths": [{"path": path, "requests": count} for path, count in paths.most_common(top)],
        "first": times[0] if times else None,
        "last": times[-1] if times else None,
    }


def new_lines(file: Path) -> Iterator[bytes]:
    """Every whole line since the last run, oldest first; then remember where this one stopped."""
    place = task.state()
    logs = unread_logs(file, place)
    size, done = sum(path.stat().st_size for path, _ in logs), 0
    for path, start in logs:
        with path.open("rb") as raw, opened(path, raw) as stream:
            head = stream.read(HEAD_BYTES)
            stream.seek(start)
            offset = start
            for number, line in enumerate(stream):
                if not line.endswith(b"\n"):
                    break  # still being written: the next run has it whole
                offset += len(line)
                if number % 10_000 == 0:
                    task.progress((done + raw.tell()) / max(1, size), path.name)
                yield line
        done += path.stat().st_size
        if head:
            place = {"head": hashlib.sha256(head).hexdigest(), "length": len(head), "offset": offset}
    task.state(place)
    task.progress(1.0)


def unread_logs(file: Path, place: dict | None) -> list[tuple[Path, int]]:
    """The logs with something new, oldest first, and where to go on in each."""
    rotated = re.compile(re.escape(file.name) + r"([.-][0-9-]+)?(\.gz)?")
    found = [path for path in file.parent.iterdir() if rotated.fullmatch(path.name)]
    newest_first = sorted(found, key=lambda path: (path == file, path.stat().st_mtime), reverse=True)
    for number, path in enumerate(newest_first if place else ()):
        with path.open("rb") as raw, opened(path, raw) as stream:
            head = stream.read(place["length"])
        if hashlib.sha256(head).hexdigest() == place["head"]:
            return [(path, place["offset"]), *((newer, 0) for newer in reversed(newest_first[:number]))]
    if place:
        log.warn("the log of the last run is gone; whatever it got after that run is missing here")
    return [(file, 0)]


def opened(path: Path, raw: BinaryIO) -> BinaryIO:
    return gzip.open(raw) if path.suffix == ".gz" else raw
