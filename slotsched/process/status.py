"""`status.json`: how an attempt ended. Its existence means that nothing of the attempt's tree is left alive."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from slotsched import contract
from slotsched.process.files import PRIVATE, insist, read_object, write_all

# Which cause stands when several were seen; "exit" and "signal" are what is left when none was.
PRECEDENCE = {"lost": 5, "memory": 4, "timeout": 3, "canceled": 2, "shutdown": 2, "exit": 0, "signal": 0}

_RESERVED_BYTES = 4096
_MESSAGE_CHARACTERS = 500  # keeps the document within what was reserved, whatever is escaped in it


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended and what it used. Moments are CLOCK_BOOTTIME seconds of the boot `boot_id`."""

    cause: str  # exit, signal, timeout, memory, canceled, lost, shutdown, not_started
    exit_code: int | None
    signal: int | None
    message: str | None
    cpu_seconds: float
    peak_memory: int  # bytes: the largest sampled sum of the tree's resident memory, no less than its largest process
    started: float | None  # None: the script never ran
    ended: float
    boot_id: str
    log_bytes: int  # size of the log file
    log_truncated: bool  # something the script wrote is not in it
    errno: int | None = None  # of not_started: what the system answered; the machine's shortage or the job's mistake


_NAMES = {field.name for field in fields(Ending)}


class StatusFile:
    """The status file of one attempt, with its disk blocks taken before the script starts: a script that fills the
    disk must not be able to hide its own end.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / contract.RUN_STATUS
        self._draft = run_dir / f".{contract.RUN_STATUS}"
        self._fd = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        os.posix_fallocate(self._fd, 0, _RESERVED_BYTES)

    def write(self, ending: Ending) -> None:
        """Make `ending` the attempt's end: whole or not there, fsynced before the rename.

        The folder is not fsynced: a status that a power failure takes back belongs to an instance that is dead then.
        """
        document = asdict(ending)
        if ending.message is not None:
            document["message"] = ending.message[:_MESSAGE_CHARACTERS]
        data = json.dumps(document).encode()
        write_all(self._fd, data)
        os.ftruncate(self._fd, len(data))
        os.fchmod(self._fd, PRIVATE)  # whatever the script made of it
        os.fsync(self._fd)
        os.close(self._fd)
        insist(lambda: self._draft.rename(self._path), self._path.parent)


def read_ending(run_dir: Path) -> Ending | None:
    """How the attempt in `run_dir` ended; None while it has not (or when the file is not a status)."""
    document = read_object(run_dir / contract.RUN_STATUS)
    if document is None:
        return None
    try:
        return Ending(**{key: value for key, value in document.items() if key in _NAMES})
    except TypeError:
        return None
