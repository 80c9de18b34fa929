"""Removing what an attempt leaves behind: its private folder at its end, its run directory once its log is safe.

Whose script it was may still be at work there, so every step goes by descriptor from the folder's parent: a link that
takes a folder's place while it is removed leads nowhere, and a mount is detached or left alone, never entered. The tree
may be deeper than a stack or a path may be long, and larger than memory: a few levels are open at a time, and what lies
below them is moved up to the top and removed from there.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from slotsched.process import linux
from slotsched.process.files import PRIVATE_FOLDER, insist

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LEVELS = 16  # open at once, with two descriptors each
# How mountinfo writes what would end a field. Not by a codec: every supervisor would import it anew, for 2 ms of CPU.
_ESCAPES = ((rb"\040", b" "), (rb"\011", b"\t"), (rb"\012", b"\n"), (rb"\134", b"\\"))


class _Level(NamedTuple):
    """A folder being emptied, and its name in the one above."""

    name: str
    fd: int
    entries: os._ScandirIterator[str]


def remove(folder: Path, last: Sequence[str] = ()) -> bool:
    """Remove `folder` with all that is in it; False when something is left (a mount, an immutable file).

    last: names of files in it that stay for as long as anything else does, then go in this order. Never raises OSError.
    """
    try:
        parent = insist(lambda: os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), folder.parent)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        _detach_mounts(parent, folder.name)
        _empty(parent, folder.name, last)
        os.rmdir(folder.name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except NotADirectoryError:  # a link or a file in its place
        return _done(os.unlink, folder.name, dir_fd=parent)
    except OSError:
        return False
    finally:
        os.close(parent)
    return True


def _open(name: str, parent: int) -> int:
    """Open the folder itself, never what a link names or what is mounted there. Raises OSError.

    A script may have taken the permissions of its own folders away.
    """
    pinned = os.open(name, os.O_PATH | _FOLDER, dir_fd=parent)
    try:
        found = os.fstat(pinned)
        if found.st_dev != os.fstat(parent).st_dev:
            raise OSError(errno.EXDEV, f"{name} is of another file system")
        if found.st_mode & PRIVATE_FOLDER != PRIVATE_FOLDER:
            with contextlib.suppress(OSError):
                Path(f"/proc/self/fd/{pinned}").chmod(PRIVATE_FOLDER)  # this very folder, whatever has the name now
        return os.open(".", os.O_RDONLY | _FOLDER, dir_fd=pinned)
    finally:
        os.close(pinned)


# --- mounts -----------------------------------------------------------------------------------------


def _detach_mounts(parent: int, name: str) -> None:
    """Detach what a script of root mounted at or below `name`, for its content is not ours. Raises OSError."""
    home = os.fsencode(Path(f"/proc/self/fd/{parent}").readlink()).rstrip(b"/") + b"/"
    for target in _mounts_below(home + os.fsencode(name)):
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            _unmount(parent, target.removeprefix(home).split(b"/"))


def _mounts_below(folder: bytes) -> list[bytes]:
    """Mount points at or below `folder`, the innermost first."""
    inside = folder + b"/"
    targets = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        target = line.split()[4]
        if b"\\" in target:
            for escape, character in _ESCAPES:
                target = target.replace(escape, character)
        if (target + b"/").startswith(inside):
            targets.append(target)
    return targets[::-1]


def _unmount(parent: int, steps: list[bytes]) -> None:
    """Detach the mount at the end of `steps`; a link among them is not followed, for it would lead to another mount."""
    fd = os.dup(parent)
    try:
        for step in steps:
            deeper = os.open(step, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = deeper
        linux.unmount(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


# --- what is in it ----------------------------------------------------------------------------------


def _empty(parent: int, name: str, last: Sequence[str]) -> None:
    """Remove what is in the folder. Raises OSError when something but `last` is left."""
    top = _open(name, parent)
    try:
        while _pass_through(top, last):
            pass  # what was moved up, and what a file system does not list while its neighbours go
        with os.scandir(top) as entries:
            if any(_is_folder(entry) or entry.name not in last for entry in entries):
                raise OSError(f"{name} cannot be emptied")
        for each in last:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(each, dir_fd=top)
    finally:
        os.close(top)


def _pass_through(top: int, keep: Collection[str]) -> bool:
    """Take away what can be, from the leaves up; True when that was anything, so that another pass may find more."""
    progress = False
    levels = [_level(".", top)]
    try:
        while levels:
            level = levels[-1]
            entry = _next(level)
            if entry is None:
                _close(levels.pop())
                progress |= bool(levels) and _done(os.rmdir, level.name, dir_fd=levels[-1].fd)
            elif not _is_folder(entry):
                kept = len(levels) == 1 and entry.name in keep
                progress |= not kept and _done(os.unlink, entry.name, dir_fd=level.fd)
            elif (below := _enter(entry.name, level.fd)) is None:
                continue
            elif len(levels) < _LEVELS:
                levels.append(below)
            else:
                _close(below)
                progress |= _done(os.rename, below.name, _fresh_name(), src_dir_fd=level.fd, dst_dir_fd=top)
    finally:
        for level in levels:
            _close(level)
    return progress


def _level(name: str, parent: int) -> _Level:
    """Raises OSError."""
    fd = _open(name, parent)
    try:
        return _Level(name, fd, os.scandir(fd))
    except OSError:
        os.close(fd)
        raise


def _enter(name: str, parent: int) -> _Level | None:
    """The folder `name`; None when it cannot be opened, or is no longer one of this file system."""
    try:
        return _level(name, parent)
    except OSError:
        return None


def _close(level: _Level) -> None:
    level.entries.close()
    os.close(level.fd)


def _next(level: _Level) -> os.DirEntry[str] | None:
    try:
        return next(level.entries, None)
    except OSError:  # a disk that cannot be read any further
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _fresh_name() -> str:
    return f".{os.urandom(12).hex()}"


def _done(operation: Callable[..., None], *names: str, **folders: int) -> bool:
    """Whether `operation` worked."""
    try:
        operation(*names, **folders)
    except OSError:
        return False
    return True
