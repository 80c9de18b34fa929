"""Removing what a script left: however deep, closed, linked or mounted, and while it still changes it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from slotsched.process import workdir

DEEP = 1200


def make_deep(folder: Path, levels: int = DEEP) -> None:
    """Nested folders with a file in each, deeper than any path may be long."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.close(os.open("file", os.O_CREAT, dir_fd=fd))
        os.mkdir("folder", dir_fd=fd)
        below = os.open("folder", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_everything_is_removed_and_nothing_that_a_link_names(work: Path, tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "kept").touch()
    (work / "a" / "b").mkdir(parents=True)
    (work / "a" / "out").symlink_to(treasure)
    (work / "a" / "b" / "file").touch()
    os.mkfifo(work / "pipe")
    assert workdir.remove(work) is True
    assert [each.name for each in tmp_path.iterdir()] == ["treasure"]
    assert (treasure / "kept").exists()
    assert workdir.remove(work) is True
    assert workdir.remove(work / "gone" / "too") is True


def test_a_link_in_its_place_is_removed_and_not_what_it_names(work: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(work)
    assert workdir.remove(link) is True
    assert not link.is_symlink()
    assert work.exists()


def test_folders_may_be_nested_deeper_than_a_stack_or_a_path_allows(work: Path) -> None:
    make_deep(work)
    assert workdir.remove(work) is True
    assert not work.exists()


def test_many_levels_of_many_folders_need_few_descriptors(work: Path) -> None:
    for number in range(10):
        (work / str(number)).mkdir()
        make_deep(work / str(number), 40)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, before[1]))  # noqa: PTH208
    try:
        assert workdir.remove(work) is True
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_folder_that_becomes_a_link_while_it_is_removed_leads_nowhere(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a script of another user could do to a supervisor of root: /etc would be changed and emptied."""
    treasure = tmp_path / "treasure"
    (treasure / "sub").mkdir(parents=True)
    (treasure / "sub" / "kept").touch()
    for folder in (treasure, treasure / "sub"):
        folder.chmod(0o755)
    (work / "folder" / "sub").mkdir(parents=True)
    opened = os.open

    def swap_and_open(path, *args, **options):  # type: ignore[no-untyped-def]
        if os.path.basename(os.fspath(path)) == "sub" and not (work / "folder").is_symlink():  # noqa: PTH119
            (work / "folder").rename(work / "aside")
            (work / "aside" / "sub").rmdir()
            (work / "folder").symlink_to(treasure)
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "open", swap_and_open)
    workdir.remove(work)
    monkeypatch.undo()
    assert (treasure / "sub" / "kept").exists()
    assert [folder.stat().st_mode & 0o777 for folder in (treasure, treasure / "sub")] == [0o755, 0o755]
    assert workdir.remove(work) is True


def test_what_is_named_goes_last_and_only_after_all_else(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("record", "log", "status"):
        (work / name).touch()
    (work / "folder").mkdir()
    (work / "folder" / "record").touch()
    (work / "settled" / "in the way").mkdir(parents=True)
    removed: list[str] = []
    unlink = os.unlink

    def note(path, **options):  # type: ignore[no-untyped-def]
        removed.append(path)
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", note)
    assert workdir.remove(work, last=("status", "missing", "settled", "record")) is True
    monkeypatch.undo()
    assert not work.exists()
    assert sorted(removed[:2]) == ["log", "record"]
    assert removed[2:] == ["status", "missing", "settled", "record"]


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED HERE: needs root")
def test_what_is_mounted_inside_is_detached_before_and_a_link_on_the_way_to_it_is_not_followed(
    work: Path, tmp_path: Path
) -> None:
    """In a mount namespace of the test's own: a bind mount, one on it, and one over the folder itself."""
    treasure, elsewhere = tmp_path / "treasure with blanks ü", tmp_path / "elsewhere"
    (treasure / "deeper").mkdir(parents=True)
    (treasure / "kept").touch()
    (work / "a b").mkdir()
    (elsewhere / "there").mkdir(parents=True)
    program = f"""
import os, subprocess
from pathlib import Path
from slotsched.process import linux, workdir
work, treasure, elsewhere = Path({str(work)!r}), Path({str(treasure)!r}), Path({str(elsewhere)!r})
def mount(source, target): subprocess.run(["mount", "--bind", source, target], check=True)
mount(treasure, work / "a b")
mount(treasure, work / "a b" / "deeper")
assert workdir.remove(work) is True
assert not work.exists()
work.mkdir()
mount(treasure, work)
assert workdir.remove(work) is True
assert not work.exists()
work.mkdir()
unmount = linux.unmount
def refuse(target): raise PermissionError(target)
linux.unmount = refuse
mount(treasure, work)
assert workdir.remove(work) is False
subprocess.run(["umount", work], check=True)
linux.unmount = unmount
mount(treasure, elsewhere / "there")
(work / "here").symlink_to(elsewhere)
workdir._mounts_below = lambda folder: [os.fsencode(work / "here" / "there")]  # it was a folder a moment ago
workdir.remove(work)
assert (elsewhere / "there" / "kept").exists()
workdir._mounts_below = lambda folder: []  # mounted after that was asked
(work / "fs").mkdir(parents=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0", "none", work / "fs"], check=True)
(work / "fs" / "kept").touch()
assert workdir.remove(work) is False
assert (work / "fs" / "kept").exists()
assert (work / "fs").stat().st_mode & 0o777 == 0
"""
    subprocess.run(["unshare", "-m", sys.executable, "-c", program], check=True, timeout=30)
    assert (treasure / "kept").exists()
