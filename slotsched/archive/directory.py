"""A folder as the log store: the same layout as in a bucket, each file there whole or not at all."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from slotsched.archive.base import PAGE_KEYS, Stored, tasks_of
from slotsched.archive.packing import CHUNK_BYTES, Digests, Packed, pack, unpack
from slotsched.errors import ArchiveError, InvalidSettings, ObjectMissing

_TEMPORARY = ".part-"
_DAYS = "[0-9][0-9][0-9][0-9]/[0-9][0-9]/[0-9][0-9]"


class DirectoryArchive:
    """Logs in a folder of this machine (or of a shared file system)."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    @property
    def url(self) -> str:
        return str(self._root)

    def put(self, key: str, source: Path) -> Stored:
        target = self._path(key)
        with source.open("rb"), self._translated(f"cannot write {target}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            packed = _write_aside(source, target)
            _sync_folder(target.parent)
        return Stored(bytes=packed.length, stored_bytes=packed.stored_bytes)

    def get(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        with self._translated(f"cannot read {path}"):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                raise ObjectMissing(f"{self.url}: no object {key}") from None
            with file:
                yield from unpack(iter(lambda: file.read(CHUNK_BYTES), b""), str(path))

    def check(self) -> None:
        with self._translated("cannot use the folder"):
            self._root.mkdir(parents=True, exist_ok=True)
            probe = _aside(self._root / "probe")
            probe.write_bytes(b"probe")
            read = probe.read_bytes()
            probe.unlink()
        if read != b"probe":
            raise ArchiveError(f"{self.url}: what was written does not read back -> check the file system")

    def logs_before(self, day: dt.date) -> Iterator[Mapping[str, str]]:
        with self._translated("cannot look for old logs"):
            keys = (key for folder in self._days(day) for key in self._keys_of(folder))
            while page := list(itertools.islice(keys, PAGE_KEYS)):
                yield tasks_of(page)

    def delete(self, keys: Sequence[str]) -> int:
        with self._translated("cannot delete old logs"):
            for path in map(self._path, keys):
                path.unlink(missing_ok=True)
                for left_by_a_crash in path.parent.glob(f"{_TEMPORARY}*"):
                    left_by_a_crash.unlink(missing_ok=True)
                self._remove_empty_folders(path)
        return len(keys)

    def _keys_of(self, day: Path) -> Iterator[str]:
        for task in _listed(day):
            for file in _listed(Path(task.path)):
                yield Path(file.path).relative_to(self._root).as_posix()

    def _days(self, before: dt.date) -> list[Path]:
        """Folders `2026/11/20` before that day. What newer ones hold, maybe millions of logs, is never listed."""
        oldest_kept = f"{before:%Y/%m/%d}"
        days = self._root.glob(_DAYS)
        return sorted(day for day in days if day.relative_to(self._root).as_posix() < oldest_kept)

    def close(self) -> None:
        """Nothing is held open."""

    def _remove_empty_folders(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # not empty, or another instance was faster
            for folder in path.relative_to(self._root).parents[:-1]:
                (self._root / folder).rmdir()

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or ".." in parts or "\0" in key:
            raise InvalidSettings(f"{key!r} is no key of a log")
        return self._root.joinpath(*parts)

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "check its owner, mode and free space, or set log_store to another folder"
            raise ArchiveError(f"{self.url}: {doing} ({error.strerror or error}) -> {hint}") from error


def _listed(folder: Path) -> Iterator[os.DirEntry[str]]:
    """A folder's entries as they are read, however many; none of what is no folder, or gone: others prune, too."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        yield from entries


def _write_aside(source: Path, target: Path) -> Packed:
    """Pack into a file beside the target, read it back, and only then give it its name."""
    aside = _aside(target)
    try:
        with aside.open("x+b") as file:
            packed = pack(source, file)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            _compare(file, packed, target)
        aside.rename(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return packed


def _compare(file: BinaryIO, packed: Packed, target: Path) -> None:
    seen = Digests()
    while piece := file.read(CHUNK_BYTES):
        seen.write(piece)
    if (seen.count, seen.sha256.digest()) != (packed.stored_bytes, packed.sha256):
        raise ArchiveError(f"{target}: what was written does not read back -> check the file system")


def _aside(target: Path) -> Path:
    """A name of its own beside the target. Not mkstemp: its 0600 would shut out readers whom the umask lets in."""
    return target.with_name(f"{_TEMPORARY}{target.name}-{secrets.token_hex(8)}")


def _sync_folder(folder: Path) -> None:
    """A renamed file survives a power cut only once its folder's entry is on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
