"""cgroup files as the kernel lays them out; a machine with a delegated memory controller is not always at hand."""

from __future__ import annotations

import os

import pytest

from slotsched.process import cgroups
from slotsched.process.tree import LimitedTree, Tree


@pytest.fixture
def group(tmp_path):
    folder = tmp_path / "group"
    folder.mkdir()
    for name in ("cgroup.procs", "cgroup.kill", "memory.max", "memory.oom.group", "memory.swap.max"):
        (folder / name).touch()
    (folder / "memory.events").write_text("low 0\noom 0\noom_kill 0\n")
    return folder


def test_the_kernel_keeps_the_memory_limit_where_it_can(group):
    tree = LimitedTree(Tree(), group, 5000)
    tree.enter()
    assert (group / "memory.max").read_text() == "5000"
    assert (group / "memory.oom.group").read_text() == "1"
    assert (group / "cgroup.procs").read_text() == str(os.getpid())
    assert not tree.out_of_memory()
    (group / "memory.events").write_text("low 0\noom 3\noom_kill 1\n")
    assert tree.out_of_memory()


def test_a_group_without_the_controller_is_no_limit(tmp_path):
    with pytest.raises(FileNotFoundError):
        LimitedTree(Tree(), tmp_path / "group", 5000)
    assert not (tmp_path / "group").exists()
    assert not cgroups.out_of_memory(tmp_path)


def test_the_controller_has_to_be_handed_down_by_our_group_or_the_one_above(tmp_path, monkeypatch):
    own = tmp_path / "service" / "main"
    own.mkdir(parents=True)
    monkeypatch.setattr(cgroups, "base", lambda: own)
    assert cgroups.memory_parent() is None
    (own.parent / "cgroup.subtree_control").write_text("cpu memory\n")
    assert cgroups.memory_parent() == own.parent
    (own / "cgroup.subtree_control").write_text("memory\n")
    assert cgroups.memory_parent() == own


def test_members_and_kill_reach_groups_a_script_made_below(group):
    (group / "below").mkdir()
    (group / "cgroup.procs").write_text("1\n2\n")
    (group / "below" / "cgroup.procs").write_text("3\n")
    assert sorted(cgroups.members(group)) == [1, 2, 3]
    cgroups.kill(group)
    assert (group / "cgroup.kill").read_text() == "1"
    cgroups.kill(group / "gone")
