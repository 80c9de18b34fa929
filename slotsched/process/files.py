"""Small files that are either whole or absent, and ours to open."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
T = TypeVar("T")


def insist(operate: Callable[[], T], folder: Path, *names: str) -> T:
    """What `operate` returns. If it may not, our own `folder` and the files `names` in it are opened to us first.

    A script of our own user may have closed its run directory to us, and must not keep its slots by that.
    """
    try:
        return operate()
    except PermissionError:
        folder.chmod(PRIVATE_FOLDER)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).chmod(PRIVATE)
        return operate()


def write_whole(path: Path, data: bytes) -> None:
    """Replace `path` by `data` through a rename, readable by the owner only. Not fsynced."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)
    draft.rename(path)


def write_all(fd: int, data: bytes) -> None:
    """os.write until nothing is left; a short write is not an error but goes on."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_kernel(path: str | Path, text: str) -> None:
    """Write to a file under /proc or /sys in one write; buffered files lose the error that matters there."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, a file of ours; None when it is missing, is no file or holds anything else."""
    try:
        value = json.loads(insist(path.read_bytes, path.parent, path.name))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def boot_id() -> str:
    """The kernel's random id of this boot: CLOCK_BOOTTIME and process ids mean nothing beyond it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
