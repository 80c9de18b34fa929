"""The jobs folder: which files are jobs, found again cheaply, and never a file outside of it.

Sub-folders are walked; links to folders are not followed, links to files only within the jobs folder.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from slotsched.catalog.jobfile import NAME, Candidate, Reading, read_candidate
from slotsched.catalog.reading import Content, read_content
from slotsched.catalog.values import nearest, shown
from slotsched.errors import InvalidJob, NotFound
from slotsched.model import Broken, Job

MAX_DEPTH = 8  # of sub-folders
SETTLE_SECONDS = 0.1  # a file changed less long ago may change again within one tick of its time stamp
_IGNORED_ENDINGS = ("~", ".bak", ".orig", ".rej", ".swp", ".tmp", ".pyc", ".md", ".rst", ".txt", ".html")


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The jobs of a folder by name. path: of the folder; files: how many files are jobs or meant to be."""

    path: Path
    jobs: Mapping[str, Job] = field(default_factory=dict)
    broken: Mapping[str, Broken] = field(default_factory=dict)
    problems: tuple[Broken, ...] = ()  # every problem of every file; `broken` has the first of each name

    @property
    def files(self) -> int:
        return len(self.jobs) + len(self.broken)

    def unknown(self, name: str) -> NotFound:
        """The error for a name that no file has."""
        if not self.path.is_dir():
            return NotFound(f"no job {shown(name)}: there is no folder {self.path}")
        near = nearest(name, [*self.jobs, *self.broken])
        hint = f' Did you mean "{near}"?' if near else ""
        count = f"{self.files} file{'' if self.files == 1 else 's'}"
        return NotFound(f"no job {shown(name)} in {self.path.resolve().name}/ ({count}).{hint}")


Stamp = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class _File:
    """A regular file of the folder, links resolved. relative: as it is named, from the jobs folder."""

    relative: str
    real: Path
    stamp: Stamp
    changed: float
    executable: bool

    @property
    def stem(self) -> str:
        return _stem(self.relative)

    @property
    def runs(self) -> bool:
        return self.executable or self.relative.endswith(".py")


class Folder:
    """A jobs folder. Files whose size, times and inode have not changed are not read again."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._readings: dict[tuple[str | None, str | None], tuple[Stamp, Reading]] = {}

    def scan(self) -> Scan:
        """Every job and every broken file. A missing folder is an empty one; nothing in it can make this fail."""
        return self._scan_of(*self._walk(""), forget=True)

    def fresh(self, name: str) -> Job:
        """The job as its file is now, for the start of an attempt.

        Raises NotFound with the nearest name, InvalidJob (`file:line: message`) where the file cannot be used.
        """
        if NAME.fullmatch(name):
            scan = self._scan_of(*self._walk(name.rpartition("/")[0], only=name))
            if name in scan.broken:
                raise InvalidJob(str(scan.broken[name]))
            if name in scan.jobs:
                return scan.jobs[name]
        raise self.scan().unknown(name)

    # --- from files to jobs -------------------------------------------------------------------------

    def _scan_of(self, files: Iterable[_File], links: Iterable[Broken], *, forget: bool = False) -> Scan:
        readings: dict[str, list[tuple[Candidate, Reading]]] = {}
        seen = set()
        for script, sidecar in _pairs(files):
            candidate = _bare_candidate(self.path, script, sidecar)
            reading = self._reading(candidate, script, sidecar)
            seen.add((candidate.path, candidate.sidecar_path))
            if reading.job or reading.problems:
                readings.setdefault(candidate.name, []).append((candidate, reading))
        if forget:
            self._readings = {key: value for key, value in self._readings.items() if key in seen}
        return self._summary(readings, links)

    def _reading(self, candidate: Candidate, script: _File | None, sidecar: _File | None) -> Reading:
        key = (candidate.path, candidate.sidecar_path)
        stamp = tuple(file.stamp if file else None for file in (script, sidecar))
        known = self._readings.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        reading = read_candidate(_filled(candidate, script, sidecar))
        newest = max(file.changed for file in (script, sidecar) if file)
        if not 0 <= time.time() - newest < SETTLE_SECONDS:
            self._readings[key] = (stamp, reading)
        return reading

    def _summary(self, readings: Mapping[str, list[tuple[Candidate, Reading]]], links: Iterable[Broken]) -> Scan:
        jobs: dict[str, Job] = {}
        problems: list[Broken] = list(links)
        for name, found in readings.items():
            problems += (problem for _, reading in found for problem in reading.problems)
            if len(found) > 1:
                problems += _same_name(name, [candidate.shown_path for candidate, _ in found])
            elif found[0][1].job is not None:
                jobs[name] = found[0][1].job
        problems.sort(key=lambda problem: (problem.path, problem.line or 0))
        broken: dict[str, Broken] = {}
        for problem in problems:
            jobs.pop(problem.name, None)
            broken.setdefault(problem.name, problem)
        return Scan(path=self.path, jobs=jobs, broken=broken, problems=tuple(problems))

    # --- the folder's files -------------------------------------------------------------------------

    def _walk(self, start: str, *, only: str | None = None) -> tuple[list[_File], list[Broken]]:
        """Candidate files below a sub-folder, and the links that lead out. only: no sub-folders, one job's files."""
        files: list[_File] = []
        refused: list[Broken] = []
        root = os.path.realpath(self.path)
        pending = [start]
        while pending:
            folder = pending.pop()
            for entry in _entries(self.path / folder, root):
                relative = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if only is None and relative.count("/") < MAX_DEPTH:
                        pending.append(relative)
                elif only is None or _stem(relative) == only:
                    found = _file(entry, relative, root)
                    files += [found] if isinstance(found, _File) else []
                    refused += [found] if isinstance(found, Broken) else []
        return files, refused


def _entries(folder: Path, root: str) -> Iterator[os.DirEntry[str]]:
    """What may matter in a folder, in order of name; nothing of a folder that is not really below root."""
    real = os.path.realpath(folder)
    if real != root and not real.startswith(f"{root}/"):
        return
    try:
        with os.scandir(real) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name[0] not in "_.#" and not entry.name.endswith(_IGNORED_ENDINGS):
            yield entry


def _file(entry: os.DirEntry[str], relative: str, root: str) -> _File | Broken | None:
    """The file behind an entry; what is wrong with it where it is a link out of the folder; None for all else."""
    link = entry.is_symlink()
    real = os.path.realpath(entry.path) if link else entry.path
    if link and not real.startswith(f"{root}/"):
        if os.path.isdir(real):  # noqa: PTH112 - plain text paths: a Path per file would double a scan's time
            return None  # folders are not followed through links, wherever they lead
        message = "a symbolic link that leads out of the jobs folder"
        return Broken(name=_stem(relative), path=relative, line=None, message=message)
    try:
        status = entry.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    stamp = (real, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)
    return _File(
        relative=relative,
        real=Path(real),
        stamp=stamp,
        changed=max(status.st_mtime, status.st_ctime),
        executable=bool(status.st_mode & 0o111),
    )


def _stem(relative: str) -> str:
    return relative.removesuffix(PurePosixPath(relative).suffix)


def _pairs(files: Iterable[_File]) -> Iterator[tuple[_File | None, _File | None]]:
    """(script, sidecar) of each candidate. A sidecar belongs to the scripts of its stem, else stands alone."""
    scripts: dict[str, list[_File]] = {}
    sidecars: dict[str, _File] = {}
    for file in files:
        if file.relative.endswith(".toml"):
            sidecars[file.stem] = file
        else:
            scripts.setdefault(file.stem, []).append(file)
    for stem, found in scripts.items():
        for file in found:
            yield file, sidecars.get(stem) if file.runs else None
    for stem, sidecar in sidecars.items():
        if not any(file.runs for file in scripts.get(stem, ())):
            yield None, sidecar


def _bare_candidate(root: Path, script: _File | None, sidecar: _File | None) -> Candidate:
    named = script or sidecar
    assert named is not None
    return Candidate(
        name=named.stem,
        root=Path(os.path.abspath(root)),  # noqa: PTH100 - links in the folder's own path stay as they are
        path=script.relative if script else None,
        sidecar_path=sidecar.relative if sidecar else None,
    )


def _filled(candidate: Candidate, script: _File | None, sidecar: _File | None) -> Candidate:
    def content(file: _File | None) -> Content | None:
        return read_content(file.real) if file else None

    return Candidate(
        name=candidate.name,
        root=candidate.root,
        path=candidate.path,
        sidecar_path=candidate.sidecar_path,
        content=content(script),
        sidecar=content(sidecar),
    )


def _same_name(name: str, paths: list[str]) -> Iterator[Broken]:
    for path in paths:
        others = " and ".join(other for other in paths if other != path)
        yield Broken(name=name, path=path, line=None, message=f'"{name}" is the name of {others} too; rename one')
