"""Reading files that anybody may have put into the jobs folder: bounded, and never waiting for a pipe."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

SOURCE_BYTES = 1 << 20  # a Python file is parsed whole: a second of work at most
HEAD_BYTES = 1 << 16  # of any other file, its header must be within these
PROGRAM_BYTES = 256 << 20  # of an executable, as it is hashed whole


@dataclass(frozen=True, kw_only=True)
class Content:
    """A file's beginning. data: None where it could not be read; complaint: why it cannot be used."""

    path: Path
    data: bytes | None = None
    whole: bool = True
    executable: bool = False
    complaint: str | None = None

    def feed(self, digest: hashlib._Hash) -> None:
        """Add all of the file's bytes to a digest. Raises OSError."""
        if self.whole:
            digest.update(self.data or b"")
            return
        with os.fdopen(_open(self.path), "rb") as file:
            while piece := file.read(HEAD_BYTES):
                digest.update(piece)


def read_content(path: Path) -> Content:
    """All of a Python or TOML file, the beginning of any other. Never raises, never blocks."""
    is_source = path.suffix in (".py", ".toml")
    try:
        with os.fdopen(_open(path), "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(SOURCE_BYTES if is_source else HEAD_BYTES)
            whole = not file.read(1)
    except OSError as error:
        return Content(path=path, complaint=f"cannot be read: {(error.strerror or str(error)).lower()}")
    complaint = None
    if not whole and is_source:
        complaint = "larger than 1 MiB; keep the job file small and import the rest"
    elif status.st_size > PROGRAM_BYTES:
        complaint = "larger than 256 MiB; let a small script start it"
    executable = bool(status.st_mode & 0o111)
    return Content(path=path, data=data, whole=whole, executable=executable, complaint=complaint)


def _open(path: Path) -> int:
    # Not following a last link: the caller has resolved the path and checked where it leads.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a regular file")
    return descriptor
